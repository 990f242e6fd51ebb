"""Negatives: items drawn beside every event of a log in which all events are positives.

They are asked about where the event was, and nothing else: no timeline ever holds one. An item is
drawn whether or not the user has it, since leaving those out would bias what is learned.

Whatever the draw, the same is learned: an item drawn with probability q looks the less surprising
the larger q is, so that log(N q) is taken from its logit while training (the correction of Yi et
al., RecSys 2019). A served probability p therefore reads: this item, rather than one of K drawn
uniformly.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from models.events import UNKNOWN, EventTable
from models.sequences import Batch

Array = np.ndarray[Any, Any]
SAMPLINGS = ("uniform", "popularity")


class NotPositives(ValueError):
    """Events that need no negatives, or cannot have any."""


class Asked(NamedTuple):
    """What is asked of a batch: its own events, then K negatives for each of them."""

    others: Array  # (B, K * T) int64: item rows
    visible: Array  # (B, (1 + K) * T) int64: where each one's history ends
    labels: Array  # (B, (1 + K) * T, tasks) int8, UNKNOWN where nothing is asked
    shift: Array  # (B, (1 + K) * T) float32, to be taken from the logits


@dataclass(frozen=True, slots=True, eq=False)
class Negatives:
    """How many are drawn for an event, and with which chances."""

    per_event: int
    chances: Array  # (items,) cumulative, ends at 1
    log_ratio: Array  # (items,) float32: log(N q)

    @classmethod
    def of(cls, table: EventTable, per_event: int, sampling: str = "uniform") -> Negatives:
        """`popularity` draws an item as often as it occurs. `NotPositives` if a label is 0."""
        has_zeros = (table.labels == 0).any(axis=0)
        if per_event and has_zeros.any():
            zeros = [table.tasks[place] for place in np.flatnonzero(has_zeros)]
            raise NotPositives(
                f"negatives are drawn for events that are all positives, but {zeros[0]} has zeros"
            )
        counts = np.ones(len(table.item_ids))
        if sampling == "popularity":
            counts = np.maximum(np.bincount(table.items, minlength=len(counts)), 1).astype(float)
        shares = counts / counts.sum()
        ratio = np.log(shares * len(shares)).astype(np.float32)
        return cls(per_event, np.cumsum(shares), ratio)

    def draw(self, count: int, random: np.random.Generator) -> Array:
        """(count,) int64 item rows."""
        found = np.searchsorted(self.chances, random.random(count), "right")
        return np.minimum(found, len(self.chances) - 1)

    def beside(self, batch: Batch, visible: Array, random: np.random.Generator) -> Asked:
        """The batch's events and their negatives; `visible` (B, T) is where histories end."""
        B, T = batch.items.shape
        others = self.draw(B * T * self.per_event, random).reshape(B, -1)
        own = np.where(batch.is_target[..., None], batch.feedback, UNKNOWN)
        nothing = np.where(own == 1, 0, UNKNOWN).astype(np.int8)
        shown = np.concatenate([batch.items, others], axis=1)
        return Asked(
            others,
            np.tile(visible, (1, 1 + self.per_event)),
            np.concatenate([own, *[nothing] * self.per_event], axis=1),
            self.log_ratio[shown] if self.per_event else np.zeros((B, T), np.float32),
        )


def with_negatives(table: EventTable, per_event: int, seed: int) -> EventTable:
    """Every user's events with uniform negatives among them, for fits that know no order."""
    if not per_event:
        return table
    random = np.random.default_rng(seed)
    drawn = random.integers(0, len(table.item_ids), len(table) * per_event)
    users = np.concatenate([table.users, np.repeat(table.users, per_event)])
    order = np.argsort(users, kind="stable")
    zeros = np.where(np.repeat(table.labels, per_event, axis=0) == UNKNOWN, UNKNOWN, 0)
    return dataclasses.replace(
        table,
        offsets=table.offsets * (1 + per_event),
        items=np.concatenate([table.items, drawn])[order],
        timestamps=np.concatenate([table.timestamps, np.repeat(table.timestamps, per_event)])[
            order
        ],
        labels=np.concatenate([table.labels, zeros.astype(np.int8)])[order],
        feedback_timestamps=np.concatenate(
            [table.feedback_timestamps, np.repeat(table.feedback_timestamps, per_event, axis=0)]
        )[order],
    )
