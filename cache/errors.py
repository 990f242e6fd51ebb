"""What can go wrong in a store.

CacheError
├── BadCacheUrl         the URL names no store we know
├── CacheMismatch       the store was filled under other settings
├── CacheUnavailable    the store is away, slow or full: try again later
├── DumpError           a dump of timelines is damaged, cut short or of a later format
└── StaleVersion        somebody else wrote this user first: read again, then write

"Not there" is no error: an unknown user has an empty timeline.
"""

from __future__ import annotations


class CacheError(Exception):
    """Anything a store answers instead of data."""


class BadCacheUrl(CacheError):
    """The cache URL does not parse or names an unknown store."""


class CacheMismatch(CacheError):
    """The store remembers other settings than it was opened with."""


class CacheUnavailable(CacheError):
    """The store did not answer, or could not take a write; nothing was stored."""


class StaleVersion(CacheError):
    """The user's timeline changed between the read and the write; nothing was stored."""


class DumpError(CacheError):
    """A dump of timelines cannot be read from some line on."""
