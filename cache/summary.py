"""What the first events of a timeline come to, as one value that is replaced as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import xxhash

from cache.timeline import UNKNOWN, Timeline


@dataclass(frozen=True, slots=True)
class Summary:
    """One value for the first `covers` events, which ends with one that it names.

    It is true as long as those events are what they were. Whoever changes one of them removes it,
    under every fingerprint, but for feedback of the newest event of all, which spoils nobody's
    rows: so the last event is held against its digest wherever it is seen.
    """

    row: npt.NDArray[Any]  # () of Layout.summary, read-only
    covers: int
    last: bytes  # order key of the last covered event
    digest: int
    written_at_s: float = 0.0
    expires_at_s: float = 0.0

    @classmethod
    def upto(cls, timeline: Timeline, count: int, row: npt.NDArray[Any], covers: int) -> Summary:
        """Of the first `covers` events of all, the first `count` of this part of them included."""
        return cls(row, covers, timeline.key(count - 1), digest_of(timeline, count - 1))

    def end_in(self, timeline: Timeline) -> int | None:
        """How many events of a part of the timeline are covered, if its last one is among them."""
        at = timeline.before(self.last)
        if at == len(timeline) or timeline.key(at) != self.last:
            return None
        return at + 1 if digest_of(timeline, at) == self.digest else None


def digest_of(timeline: Timeline, index: int) -> int:
    """An event as models see it: what, when, and its feedback."""
    marks = sorted(
        (name, int(column.values[index]))
        for name, column in timeline.feedback.items()
        if column.values[index] != UNKNOWN
    )
    said = "".join(f"\0{name}\0{value}" for name, value in marks).encode()
    return xxhash.xxh3_64_intdigest(timeline.key(index) + said)
