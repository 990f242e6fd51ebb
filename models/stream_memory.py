"""What streaming training asks of a memory: past events with their records, and room for new ones.

The cache itself is another room's; what fits here is found by name (`marmot.memories`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

Array = np.ndarray[Any, Any]


class Coming(NamedTuple):
    """One user's next events, in time order, later than all that the memory has of the user."""

    user_id: str
    item_ids: list[str]
    timestamps: Array  # (T,) int64 seconds
    labels: Array  # (T, tasks) int8, -1 unknown
    said_at: Array  # (T, tasks) int64: when each label was said


class Known(NamedTuple):
    """The newest events of one user, oldest first, and their records where there are any."""

    item_ids: Sequence[str]
    timestamps: Array  # (R,) int64
    feedback: Array  # (R, tasks) int8
    rows: Array  # (R,) of the spec's row
    valid: Array  # (R,) bool: whose row is there

    def last(self, count: int) -> Known:
        """The newest `count` of them."""
        times, feedback = self.timestamps[-count:], self.feedback[-count:]
        return Known(
            self.item_ids[-count:], times, feedback, self.rows[-count:], self.valid[-count:]
        )


@dataclass(slots=True)
class Traffic:
    """What went to and from the store."""

    reads: int = 0
    read_bytes: int = 0
    writes: int = 0
    written_bytes: int = 0

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


class Memory(Protocol):
    """Timelines and records of many users."""

    traffic: Traffic

    def is_empty(self) -> bool:
        """Whether there is nobody in it."""
        ...

    def read(self, coming: Sequence[Coming]) -> list[Known]:
        """What is known of these users, different ones, before what is coming."""
        ...

    def write(self, coming: Sequence[Coming], rows: Sequence[Array]) -> None:
        """Remembers these events and their records; the store has them after `flush`."""
        ...

    def pending(self) -> list[tuple[Coming, Array]]:
        """What the store does not have yet, with its records."""
        ...

    def restore(self, pending: Sequence[tuple[Coming, Array]]) -> None:
        """Stores what a checkpoint says was pending, or finds it stored."""
        ...

    def flush(self) -> None:
        """Stores what is pending. Doing it again changes nothing."""
        ...

    def join(self, lineage: str) -> None:
        """Lets servers of the same lineage borrow these records."""
        ...
