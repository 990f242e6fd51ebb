"""Every key of both stores is made here.

    Redis                                    LMDB
    marmot:keep                              s keep           how many events a timeline keeps
    marmot:note:NAME                         s note:NAME      what processes tell each other
    marmot:{bucket}:floor                    s floor          no version was ever given above it
    marmot:{bucket}:t:USER  (hash)           v h t USER 0     version, head, chunks by bound
    marmot:{bucket}:i:USER  (sorted set)                      the bounds in order
    marmot:{bucket}:r:FP8:USER  (hash)       r USER 0 FP8     row chunks by bound, then a summary
    marmot:{bucket}:q:USER  (set)            q USER 0         damaged timelines, put aside

The bucket is a hash of the user, in braces: a cluster keeps all keys of one user together, and
braces in an id mean nothing. LMDB keys begin with one letter and hold the id up to a zero byte,
which no id contains.
"""

from __future__ import annotations

import xxhash

KEEP = b"marmot:keep"
NOTE = b"marmot:note:"
SUMMARY = b"\xff"
"""In place of a bound: the summary. It sorts behind every bound, and is removed where rows are."""

FINGERPRINT_DIGITS = 8
MAX_ID_BYTES = 200  # LMDB keys end at 511 bytes; a chunk's key holds a user's and an item's id
BUCKETS = 16384
TIMELINES = b"marmot:{????}:t:*"
"""Matches the timelines of all users, and no other key of ours."""

LMDB_KEEP = b"skeep"
LMDB_NOTE = b"snote:"
LMDB_FLOOR = b"sfloor"
LMDB_ROWS = b"r"
LMDB_HEADS = b"h"


def owner_of(user_id: str) -> bytes:
    """The id as it stands in keys and values; the service refused long before what does not fit."""
    owner = user_id.encode()
    if not 0 < len(owner) <= MAX_ID_BYTES or b"\0" in owner:
        raise ValueError(f"This is a bug: an id of {len(owner)} bytes, or with a zero, came in.")
    return owner


def owner_of_head(key: bytes) -> bytes:
    """Whose head lies there, in LMDB."""
    return key[len(LMDB_HEADS) : -1]


def owner_of_timeline(key: bytes) -> bytes:
    """Whose timeline lies there, in Redis."""
    return key[len(TIMELINES) - 1 :]


def rows_of_all(fingerprint: str) -> bytes:
    """Matches the rows of every user under one fingerprint in Redis."""
    return b"marmot:{????}:r:" + short(fingerprint).encode() + b":*"


def is_rows_of(key: bytes, fingerprint: str) -> bool:
    """Whether rows of that fingerprint lie there, in LMDB."""
    rest = key.partition(b"\0")[2]
    return rest.startswith(short(fingerprint).encode())


def short(fingerprint: str) -> str:
    """The digits of a fingerprint that stand in record keys."""
    return fingerprint[:FINGERPRINT_DIGITS].ljust(FINGERPRINT_DIGITS, "0")


class RedisKeys:
    """The keys of one user in Redis; all in one hash slot."""

    __slots__ = ("_owner", "_tag", "floor", "index", "quarantine", "timeline")

    def __init__(self, owner: bytes) -> None:
        tag = b"marmot:{%04x}:" % (xxhash.xxh32_intdigest(owner) % BUCKETS)
        self._owner, self._tag = owner, tag
        self.timeline = tag + b"t:" + owner
        self.index = tag + b"i:" + owner
        self.quarantine = tag + b"q:" + owner
        self.floor = tag + b"floor"

    @property
    def forgotten(self) -> tuple[bytes, ...]:
        """What a forget is about, but for rows and what was put aside; the floor stays."""
        return self.timeline, self.index, self.quarantine, self.floor

    def rows(self, fingerprint: str) -> bytes:
        return self._tag + b"r:" + short(fingerprint).encode() + b":" + self._owner

    def aside(self, number: int) -> tuple[bytes, bytes]:
        """Where a damaged timeline and its index go."""
        name = b"%d:" % number + self._owner
        return self._tag + b"qt:" + name, self._tag + b"qi:" + name

    @property
    def rows_pattern(self) -> bytes:
        """Matches all row keys of the bucket, this user's among them."""
        return self._tag + b"r:" + b"?" * FINGERPRINT_DIGITS + b":*"

    def is_rows(self, key: bytes) -> bool:
        start = len(self._tag) + 2 + FINGERPRINT_DIGITS + 1
        return key[start:] == self._owner


class LmdbKeys:
    """The keys of one user in LMDB."""

    __slots__ = ("_end", "all_rows", "chunks", "head", "quarantine", "version")

    def __init__(self, owner: bytes) -> None:
        self._end = end = owner + b"\0"
        self.version = b"v" + end
        self.head = b"h" + end
        self.chunks = b"t" + end
        self.all_rows = b"r" + end
        self.quarantine = b"q" + end

    def chunk(self, bound: bytes) -> bytes:
        return self.chunks + bound

    def rows(self, fingerprint: str) -> bytes:
        """The prefix of one fingerprint's row chunks."""
        return self.all_rows + short(fingerprint).encode()

    def aside(self, number: int) -> bytes:
        """The prefix under which a damaged timeline goes, its first letters kept."""
        return self.quarantine + number.to_bytes(8, "big")
