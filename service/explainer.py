"""`Explainer.explain`: what each event does to the scores, and where each layer looks.

An event's effect is the score with it minus the score of the same timeline without it. Records do
not depend on what comes later, so without an event only the records behind it are computed anew.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from cache.base import Cache
from cache.errors import CacheMismatch, CacheUnavailable
from cache.timeline import Event, Timeline
from models.bundle import EXPLAIN
from service.errors import DeadlineExceeded, StoreAway, UnknownModel
from service.events import history_events
from service.features import History
from service.job import Array, Job, Lane
from service.rebuild import Plan, fields_of, rebuild
from service.registry import Model, Registry
from service.schemas import ExplainRequest
from service.summaries import Adding, fed
from service.timings import Timings

MOST_EVENTS = 10_000
"""A summary of more events is not made again without each of them."""

AT_ONCE = 8
"""Runs of one explanation that wait together: ranking goes first, and has room."""

TRIMMED, QUARANTINED, NO_ATTENTION = "history-trimmed", "history-quarantined", "attention-missing"


@dataclass(frozen=True, slots=True)
class _Known:
    """A user's newest events, one more than can move a score."""

    timeline: Timeline
    state: str
    version: int
    degraded: list[str]


@dataclass(frozen=True, slots=True)
class _Case:
    """One explanation while it is made."""

    model: Model
    candidates: Array
    timestamp: int
    deadline: float
    timings: Timings

    async def run(self, graph: str, history: History, rows: Array) -> dict[str, Array]:
        """A graph that lets the candidates look at what a request reads of a history."""
        newest = slice(max(0, len(history) - self.model.spec.reads), len(history))
        shown = history[newest]
        feed = {
            "candidates": self.candidates,
            "timestamp": np.asarray(self.timestamp),
            **shown.feed(),
            **fields_of(rows[newest]),
            **await self._summary(history),
        }
        sizes = {"candidates": len(self.candidates), "records": len(shown)}
        job = Job(graph, feed, sizes, Lane.REBUILD, self.deadline)
        outputs = await self.model.batcher.submit(job)
        self.timings.queue += job.queue_s
        self.timings.run += job.run_s
        return outputs

    async def _summary(self, history: History) -> dict[str, Array]:
        """What stands for the first events of a history, in the families that summarise."""
        if not self.model.spec.summary:
            return {}
        adding = Adding(self.model, Lane.REBUILD, self.deadline, self.timings)
        covered = adding.whole(len(history))
        row = await adding.add(None, history[slice(0, covered)], 0) if covered else None
        return fed(self.model.spec, row, covered)

    async def build(self, plan: Plan, history: History, rows: Array) -> Array:
        """`rows` with those that the plan computes in their place; the rest may be anything."""
        if plan.is_empty or not self.model.spec.cached_depths:
            return rows
        rows = rows.copy()
        rows[plan.first : plan.end] = await rebuild(
            plan, history, rows, batcher=self.model.batcher, spec=self.model.spec,
            lane=Lane.REBUILD, deadline=self.deadline, timings=self.timings,
        )  # fmt: skip
        return rows


class Explainer:
    """Explains scores by computing them again; keeps nothing."""

    def __init__(
        self,
        cache: Cache,
        registry: Registry,
        *,
        default_deadline_ms: float = 10_000.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cache = cache
        self._registry = registry
        self._default_deadline_ms = default_deadline_ms
        self._clock = clock

    async def explain(self, request: ExplainRequest, timings: Timings) -> dict[str, Any]:
        """The answer to a request."""
        version = request.model.version if request.model else None
        model = self._registry.pick(version, str(request.user_id))
        if model.spec.search:
            raise UnknownModel("The model searches in long histories; windows alone are explained")
        with model.use:
            return await self._explain(model, request, timings)

    async def _explain(
        self, model: Model, request: ExplainRequest, timings: Timings
    ) -> dict[str, Any]:
        given_ms = request.deadline_ms
        deadline_ms = self._default_deadline_ms if given_ms is None else given_ms
        asked = model.lexicon.look_up(request.candidates)
        timestamp = int(self._clock()) if request.timestamp is None else request.timestamp
        case = _Case(model, asked.rows, timestamp, timings.began + deadline_ms / 1e3, timings)
        _check(case)
        known = await self._known(request, case)
        history = History.of(known.timeline, model.bundle.vocabulary, model.spec.tasks)
        whole = Plan(0, 0, len(history))
        rows = await case.build(whole, history, np.zeros(len(history), model.spec.row))
        scores = (await case.run("rank", history, rows))["scores"]  # (C, tasks)
        newest = range(len(history) - min(request.events, len(history)), len(history))
        effects = scores - await _without_each(case, history, rows, newest)  # (E, C, tasks)
        attention, missing = await _attention(case, history, rows)
        return {
            "user_id": request.user_id,
            "model": model.name,
            "timestamp": timestamp,
            "candidates": request.candidates,
            "scores": _by_task(model, scores),
            "events": [
                {**_shown(event), "effect": _by_task(model, effect)}
                for event, effect in zip(
                    known.timeline[newest.start : newest.stop].events(), effects, strict=True
                )
            ],
            "attention": attention,
            "unknown_items": asked.unknown,
            "cache": {"state": known.state, "version": known.version},
            "degraded": [*known.degraded, *missing],
        }

    async def _known(self, request: ExplainRequest, case: _Case) -> _Known:
        """Without one of them there must still be as many as can move a score."""
        field, has_summary = case.model.spec.receptive_field, case.model.spec.summary
        most = (min(field, MOST_EVENTS) if has_summary else field) + 1
        if request.history is not None:
            timeline = Timeline.of(history_events(request.history)).upto(case.timestamp)
            return _Known(timeline.last(most), "inline", 0, [])
        began = perf_counter()
        try:
            found = await self._cache.fetch(
                str(request.user_id), limit=most, upto=case.timestamp, layout=case.model.layout
            )
        except (CacheUnavailable, CacheMismatch) as error:
            raise StoreAway("The store is not reachable") from error
        finally:
            case.timings.cache += perf_counter() - began
        degraded = [QUARANTINED] if found.quarantined else []
        is_cut = most <= field and not found.complete
        if is_cut or (found.trimmed and len(found.timeline) < most):
            degraded.append(TRIMMED)
        timeline = found.timeline.last(most)
        return _Known(timeline, "stored" if found.version else "cold", found.version, degraded)


def _check(case: _Case) -> None:
    """Work nobody waits for is not begun."""
    if perf_counter() > case.deadline:
        raise DeadlineExceeded


async def _without_each(case: _Case, history: History, rows: Array, places: range) -> Array:
    """Scores without the event at each place: (events, candidates, tasks)."""
    found: list[Array] = []
    for first in range(0, len(places), AT_ONCE):
        _check(case)
        group = places[first : first + AT_ONCE]
        outcomes = await asyncio.gather(
            *(_without(case, history, rows, place) for place in group), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            found.append(outcome)
    shape = (len(places), len(case.candidates), len(case.model.spec.tasks))
    return np.stack(found) if found else np.zeros(shape, np.float32)


async def _without(case: _Case, history: History, rows: Array, place: int) -> Array:
    left, kept = history.without(place), np.delete(rows, place)
    # Records at `place` and behind it saw the event, directly or through others.
    start = max(0, place - case.model.spec.window)
    behind = Plan(start, place, len(left), on_rows=place > 0)
    rebuilt = await case.build(behind, left, kept)
    scores: Array = (await case.run("rank", left, rebuilt))["scores"]
    return scores


async def _attention(
    case: _Case, history: History, rows: Array
) -> tuple[dict[str, Any] | None, list[str]]:
    """Weights of the newest window's events and of no event, by layer; or what is missing."""
    model = case.model
    if EXPLAIN not in model.bundle.graphs:
        return None, [NO_ATTENTION] if model.spec.depth else []
    await asyncio.to_thread(model.engine.open, EXPLAIN)
    outputs = await case.run(EXPLAIN, history, rows)
    return {"events": outputs["attention"], "nothing": outputs["nothing"]}, []


def _by_task(model: Model, values: Array) -> dict[str, Array]:
    """(candidates, tasks) as a row per task."""
    return dict(zip(model.spec.tasks, np.ascontiguousarray(values.T), strict=True))


def _shown(event: Event) -> dict[str, Any]:
    return {
        "item_id": event.item_id,
        "timestamp": event.timestamp,
        "feedback": {task: mark.value for task, mark in event.feedback.items()},
    }
