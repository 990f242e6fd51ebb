"""A timeline is stored in chunks, so that an append touches one and a fetch reads few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from cache.timeline import Timeline

CHUNK_EVENTS = 32
"""Appends fill the last chunk up to this; late events may grow another to twice as many."""

LEAST_EVENTS = 27
"""In every chunk but the first and the last: 81 events are the first to be cut into three."""


def chunks_for(events: int) -> int:
    """In how many chunks so many consecutive events lie, at most."""
    return events // LEAST_EVENTS + 3


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some consecutive events, addressed by the order key of the first."""

    bound: bytes
    timeline: Timeline

    def __len__(self) -> int:
        return len(self.timeline)


def chunks_of(bounds: Sequence[bytes], counts: Sequence[int], timeline: Timeline) -> list[Chunk]:
    """Cuts a timeline into its stored chunks, as views."""
    stops = list(accumulate(counts, initial=0))
    spans = zip(bounds, stops, stops[1:], strict=False)
    return [Chunk(bound, timeline[start:stop]) for bound, start, stop in spans]


def pieces(timeline: Timeline, *, is_last: bool) -> list[Chunk]:
    """Cuts a grown chunk; the last one is cut full, so that appends never move a bound."""
    count = len(timeline)
    if is_last:
        cuts = [*range(0, count, CHUNK_EVENTS), count]
    elif count <= 2 * CHUNK_EVENTS:
        cuts = [0, count]
    else:
        parts = round(count / CHUNK_EVENTS)
        cuts = [count * part // parts for part in range(parts + 1)]
    spans = [timeline[low:high] for low, high in pairwise(cuts) if low < high]
    return [Chunk(span.key(0), span) for span in spans]
