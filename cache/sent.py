"""Events on their way into a timeline: one by one, in the order they came, or as columns."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from cache.timeline import Event, Timeline

Sent = Sequence[Event] | Timeline
"""A timeline says more: each event once, and in order. Nobody has to make them one by one then."""


def order_keys(sent: Sent) -> list[bytes]:
    """Their order keys, ascending, each once."""
    if isinstance(sent, Timeline):
        return sent.keys()
    return sorted({event.key for event in sent})


def events_of(sent: Sent, stop: int) -> Iterator[Event]:
    """The first `stop` of them, one by one."""
    return sent[:stop].events() if isinstance(sent, Timeline) else iter(sent[:stop])


def run_of(sent: Sent, start: int) -> Timeline:
    """All from `start` on, which must be a run."""
    return sent[start:] if isinstance(sent, Timeline) else Timeline.of_sorted(sent[start:])


def run_behind(end: bytes, sent: Sent) -> int:
    """Where the run begins: events at the end of `sent` that follow one another, each of them
    behind the order key `end` and behind everything that was sent before it.
    """
    if isinstance(sent, Timeline):
        at = sent.before(end)
        return at + (at < len(sent) and sent.key(at) == end)
    keys = [event.key for event in sent]
    start = len(keys) - 1
    while start > 0 and keys[start - 1] < keys[start]:
        start -= 1
    return bisect_right(keys, max(end, max(keys[:start], default=b"")), start) if keys else 0
