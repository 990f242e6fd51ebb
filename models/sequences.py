"""Timelines as padded batches: what training and full evaluation feed to `Marm.forward_full`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.events import UNKNOWN, EventTable

Array = np.ndarray[Any, Any]

#: Later than every event, so that padding is in the future of every target.
NEVER_S = np.iinfo(np.int64).max
#: Longer timelines are cut, each piece led in by events that only serve as history.
LONGEST_PIECE = 1_024


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A stretch of one user's events; targets count from `first_target` on."""

    user: int
    start: int  # row of the table
    stop: int
    first_target: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Pieces of about equal length, padded on the right to T events."""

    items: Array  # (B, T) int64
    timestamps: Array  # (B, T) int64 seconds
    feedback: Array  # (B, T, tasks) int8
    is_target: Array  # (B, T) bool
    lengths: Array  # (B,) int64
    users: Array  # (B,) int64


def pieces(
    table: EventTable,
    users: Array,
    ends: Array,
    receptive_field: int,
    longest: int = LONGEST_PIECE,
) -> list[Piece]:
    """The events of `users` before their `ends` (relative to each one's first), cut if long.

    A piece is at least as long as what leads in the next one, or most of the work were that.
    """
    longest = max(longest, receptive_field)
    found = []
    for user in users:
        first, last = int(table.offsets[user]), int(table.offsets[user] + ends[user])
        target = first
        while target < last:
            start = max(first, target - receptive_field) if target > first else first
            stop = min(last, max(start + longest, target + LONGEST_PIECE // 4))
            found.append(Piece(int(user), start, stop, target))
            target = stop
    return found


def batches(parts: Sequence[Piece], events_per_batch: int) -> list[list[Piece]]:
    """Pieces of about equal length together, `events_per_batch` padded events at most."""
    groups: list[list[Piece]] = []
    for piece in sorted(parts, key=len):
        if not groups or (len(groups[-1]) + 1) * len(piece) > events_per_batch:
            groups.append([])
        groups[-1].append(piece)
    return groups


def padded(table: EventTable, group: Sequence[Piece]) -> Batch:
    """The events of a group of pieces as one batch."""
    B, T = len(group), max(len(piece) for piece in group)
    batch = Batch(
        items=np.zeros((B, T), np.int64),
        timestamps=np.full((B, T), NEVER_S, np.int64),
        feedback=np.full((B, T, len(table.tasks)), UNKNOWN, np.int8),
        is_target=np.zeros((B, T), bool),
        lengths=np.array([len(piece) for piece in group], np.int64),
        users=np.array([piece.user for piece in group], np.int64),
    )
    for row, piece in enumerate(group):
        source, n = slice(piece.start, piece.stop), len(piece)
        batch.items[row, :n] = table.items[source]
        batch.timestamps[row, :n] = table.timestamps[source]
        batch.feedback[row, :n] = table.labels[source]
        batch.is_target[row, piece.first_target - piece.start : n] = True
    return batch


def sessions(batch: Batch, random: np.random.Generator, longest: int) -> Array:
    """Where each target's history ends, (B, T) int64: timelines cut in stretches of random length.

    All targets of a stretch see what came before it, as the candidates of one request do. A
    model that always sees the event right before its target learns from company that no request
    will give it. Lengths are log-uniform in 1 … `longest`.
    """
    visible = np.tile(np.arange(batch.items.shape[1]), (len(batch.items), 1))
    for row, length in enumerate(batch.lengths):
        for start, stop in stretches(int(length), random, longest):
            visible[row, start:stop] = start
    return visible


def stretches(length: int, random: np.random.Generator, longest: int) -> Iterator[tuple[int, int]]:
    """Where stretches of random length start and stop; log-uniform in 1 … `longest`."""
    start = 0
    while start < length:
        stop = start + int(np.exp(random.uniform(0, np.log(longest + 1))))
        yield start, stop
        start = stop
