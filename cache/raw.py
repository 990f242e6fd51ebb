"""What crosses the border to a store: questions, answers and writes, all as bytes.

Stores move these; what they mean is decided in `reading.py` and `writing.py`, once for all stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cache.keys import owner_of
from cache.layout import Layout
from cache.sent import Sent, order_keys

Seal = tuple[bytes, ...]
"""Shows later whether anything has changed; only the store that made it knows how."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a fetch wants to see of one user."""

    user_id: str
    owner: bytes
    limit: int
    upto: int | None
    layout: Layout | None
    sent: Sent  # events about to be merged
    rows: bool = True  # whether to read the rows too

    @classmethod
    def about(
        cls,
        user_id: str,
        limit: int,
        upto: int | None,
        layout: Layout | None,
        around: Sent,
        *,
        rows: bool = True,
    ) -> Question:
        if around and upto is not None:
            raise ValueError("This is a bug: events are merged into a whole timeline.")
        return cls(user_id, owner_of(user_id), limit, upto, layout, around, rows)

    @property
    def around(self) -> list[bytes]:
        """The order keys of what will be merged, ascending."""
        return order_keys(self.sent)

    @property
    def least(self) -> int:
        """Events to read: a write must also see where rows fall out of reach."""
        return max(self.limit, self.reach if self.sent else 0, 1)

    @property
    def reach(self) -> int:
        """Newest events with rows, as far as it has to be known: 0 where rows leave with events."""
        return (self.layout.reach or 0) if self.layout else 0

    @property
    def end(self) -> bytes | None:
        """The first key that is too new."""
        return None if self.upto is None else (self.upto + 1).to_bytes(8, "big")

    @property
    def wants_rows(self) -> bool:
        return self.rows and self.layout is not None and self.layout.row.itemsize > 0

    @property
    def wants_summary(self) -> bool:
        return self.layout is not None and self.layout.summary.itemsize > 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a store has: values by bound, not looked into."""

    version: bytes | None = None
    head: bytes | None = None
    is_quarantined: bool = False
    first: bytes = b""  # bound of the first chunk of all
    newer: int = 0  # events in chunks behind the tail; at least `reach` if that many
    tail: Sequence[tuple[bytes, bytes | None]] = ()  # newest first
    elsewhere: Sequence[tuple[bytes, bytes | None]] = ()  # in any order
    rows: Sequence[bytes | None] = ()  # along `tail`; may be missing altogether
    summary: bytes | None = None
    seal: Seal = ()  # what shows later that nothing has changed


@dataclass(frozen=True, slots=True)
class Writes:
    """One atomic step; refused if the user is not at version `base` any more."""

    user_id: str
    owner: bytes
    base: int
    wipe: bool = False  # remove what is left of an earlier timeline first
    head: bytes | None = None  # None: timeline and version stay as they are
    put_chunks: Sequence[tuple[bytes, bytes]] = ()
    drop_chunks: Sequence[bytes] = ()
    expires_at_s: float = 0.0  # the timeline; 0 = never
    fingerprint: str | None = None  # whose rows are written
    reset_rows: bool = False  # remove all of its rows first
    put_rows: Sequence[tuple[bytes, bytes]] = ()
    drop_rows: Sequence[bytes] = ()
    untrue_keys: Sequence[bytes] = ()  # rows in so many chunks from that of each key on are untrue
    untrue_chunks: int = 0
    oldest_rows: bytes = b""  # rows of chunks before this bound are out of reach
    most_rows: int = 0  # row chunks there are at most, when none is out of reach
    drop_fingerprints: Sequence[str] = ()
