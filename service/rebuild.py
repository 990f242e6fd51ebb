"""Which rows are missing, and from what they can be computed exactly. A pure plan, a short run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.spec import Spec
from service.batcher import Batcher
from service.features import History
from service.job import Array, Job, Lane
from service.timings import Timings

#: Rows that one run of a graph computes, or a window's worth; more would mostly be attention that
#: is masked, and fewer would make the same keys again too often.
LEAST_AT_ONCE = 128


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows [first, end) from the events [start, end), on the rows [start, first) or on none.

    `is_exact` is False when events before the snapshot would be needed.
    """

    start: int
    first: int
    end: int
    on_rows: bool = False
    is_exact: bool = True

    @property
    def is_empty(self) -> bool:
        return self.first == self.end

    @property
    def count(self) -> int:
        return self.end - self.first

    def fill(self, rows: Array, valid: Array, built: Array) -> tuple[Array, Array]:
        """A snapshot's rows and mask with the built ones among them."""
        if self.count == len(rows):
            return built, np.ones(len(rows), np.bool_)
        rows, valid = rows.copy(), valid.copy()
        rows[self.first : self.end] = built
        valid[self.first : self.end] = True
        return rows, valid


def plan_rebuild(valid: Array, *, need_from: int, begins: bool, spec: Spec) -> Plan:
    """What makes every row from `need_from` on valid.

    `valid` says which events of a snapshot have their row; `begins` that its first event is the
    first there ever was. One row needs the window of rows before it (append), or, if those are
    missing too, the ids of `depth - 1` windows before it (encode).
    """
    events = len(valid)
    missing = np.flatnonzero(~valid[need_from:]) + need_from
    if not spec.cached_depths or not len(missing):
        return Plan(events, events, events)
    first, end = int(missing[0]), int(missing[-1]) + 1
    before = first - spec.window
    if first and (before >= 0 or begins) and valid[max(before, 0) : first].all():
        return Plan(max(before, 0), first, end, on_rows=True)
    start = first - spec.cached_depths * spec.window
    return Plan(max(start, 0), first, end, is_exact=start >= 0 or begins)


async def rebuild(
    plan: Plan,
    history: History,
    rows: Array,
    *,
    batcher: Batcher,
    spec: Spec,
    lane: Lane,
    deadline: float | None = None,
    timings: Timings | None = None,
) -> Array:
    """The rows [first, end) of the plan, computed by the engine."""
    built: np.ndarray[Any, Any] = np.empty(plan.end, spec.row)
    most = max(spec.window, LEAST_AT_ONCE)
    if plan.count > most:  # later parts stand on what earlier ones have built
        built[plan.start : plan.first] = rows[plan.start : plan.first]
        rows = built
    for part in _parts(plan, most, spec.window):
        job = _job(part, history, rows, lane, deadline)
        outputs = await batcher.submit(job)
        if timings is not None:
            timings.queue += job.queue_s
            timings.run += job.run_s
        into = built[part.first : part.end]
        # A graph cannot call an output like an input, so the fields are told by their order.
        for name, output in zip(spec.row.names or (), outputs.values(), strict=True):
            into[name] = output[-part.count :]
    return built[plan.first :]


def _parts(plan: Plan, most: int, window: int) -> Iterator[Plan]:
    """The plan in steps of `most` rows: a graph's attention grows with the square of its events."""
    end = min(plan.first + most, plan.end)
    yield replace(plan, end=end)
    for first in range(end, plan.end, most):
        start = max(first - window, 0)
        yield Plan(start, first, min(first + most, plan.end), on_rows=True)


def _job(plan: Plan, history: History, rows: Array, lane: Lane, deadline: float | None) -> Job:
    if not plan.on_rows:
        given = history[plan.start : plan.end]
        return Job("encode", given.feed(), {"events": len(given)}, lane, deadline)
    span = slice(plan.start, plan.first)
    feed = {
        **history[span].feed(),
        **fields_of(rows[span]),
        **history[plan.first : plan.end].feed("new_"),
    }
    sizes = {"records": plan.first - plan.start, "events": plan.count}
    return Job("append", feed, sizes, lane, deadline)


def fields_of(rows: Array) -> dict[str, Array]:
    """The fields of a structured array as arrays of their own, contiguous as the runtime wants."""
    return {name: np.ascontiguousarray(rows[name]) for name in rows.dtype.names or ()}
