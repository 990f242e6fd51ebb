"""A piece of work for the engine, with what the batcher needs to know about it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from time import perf_counter
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Lane(IntEnum):
    """Who goes first: a caller who waits for scores, an event, a rebuild."""

    RANK = 0
    EVENT = 1
    REBUILD = 2


@dataclass(slots=True, eq=False)
class Job:
    """One run's worth of inputs, without the batch axis. `sizes` names its dynamic axes.

    With `rows` it is a batch by itself: its arrays begin with so many rows, and nobody joins it.
    `cost` counts query-key pairs, the unit in which runs are compared and the queue is bounded.
    """

    graph: str
    feed: Mapping[str, Array]
    sizes: Mapping[str, int]
    lane: Lane = Lane.RANK
    deadline: float | None = None
    rows: int = 0
    queued_at: float = field(default_factory=perf_counter)
    queue_s: float = 0.0
    run_s: float = 0.0
    future: asyncio.Future[dict[str, Array]] | None = None
    #: Query-key pairs; what runs over more than its sizes tell says how many.
    cost: int = 0

    def __post_init__(self) -> None:
        self.cost = (self.cost or cost_of(self.sizes)) * (self.rows or 1)

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.future is not None and self.future.done()


def cost_of(sizes: Mapping[str, int]) -> int:
    """Work of a run of these sizes: every query once by itself and once per record."""
    queries = sizes.get("candidates", 0) + sizes.get("events", 0)
    keys = sizes.get("records", sizes.get("events", 0))
    return queries * (keys + QUERY_COST)


#: What a query costs apart from attention (projections, feed-forward), in keys.
QUERY_COST = 100
