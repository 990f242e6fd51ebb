"""`Ranker.rank`: remember the user, score the candidates, sort. The whole story of a request."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from cache.base import Cache
from cache.errors import CacheMismatch, CacheUnavailable
from cache.snapshot import Snapshot
from cache.timeline import Timeline
from service.caller import Caller
from service.chores import Chores
from service.errors import DeadlineExceeded
from service.events import history_events
from service.features import History
from service.job import Array, Job, Lane
from service.keeper import keep_rows
from service.metrics import Metrics
from service.rebuild import fields_of, plan_rebuild, rebuild
from service.registry import Model, Registry
from service.schemas import RankRequest
from service.timings import Timings

TRIMMED, QUARANTINED, AWAY = "history-trimmed", "history-quarantined", "cache-away"


@dataclass(slots=True)
class Memory:
    """What is known of the user at the time of the request, and how it came to be known."""

    state: str
    history: History
    rows: Array
    recomputed: int = 0
    version: int = 0
    age_s: float | None = None
    degraded: list[str] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """The `cache` of an answer."""
        return {
            "state": self.state,
            "records": len(self.history),
            "recomputed": self.recomputed,
            "version": self.version,
            "age_s": self.age_s,
        }


@dataclass(frozen=True, slots=True)
class Question:
    """A request with everything that was left open filled in."""

    request: RankRequest
    user_id: str
    timestamp: int
    deadline: float
    model: Model
    caller: Caller
    timings: Timings

    def check_deadline(self) -> None:
        """Work nobody waits for is not begun."""
        if perf_counter() > self.deadline:
            raise DeadlineExceeded


class Ranker:
    """Scores candidates for a user from cached rows; goes on without them if it must."""

    def __init__(
        self,
        cache: Cache,
        registry: Registry,
        chores: Chores,
        metrics: Metrics,
        *,
        default_deadline_ms: float = 10_000.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cache = cache
        self._registry = registry
        self._chores = chores
        self._metrics = metrics
        self._default_deadline_ms = default_deadline_ms
        self._clock = clock

    async def rank(self, request: RankRequest, caller: Caller, timings: Timings) -> dict[str, Any]:
        """The answer to a request."""
        question = self._understand(request, caller, timings)
        question.check_deadline()
        memory = await self._remember(question)
        candidates, unknown = question.model.lexicon.rows(request.candidates)
        scores = await self._score(question, memory, candidates)  # (candidates, tasks)
        question.check_deadline()
        order = np.argsort(-scores[:, 0], kind="stable")[: request.top_k].tolist()
        self._metrics.ranked(memory.state, memory.degraded, memory.recomputed)
        return {
            "user_id": request.user_id,
            "model": question.model.name,
            "scores": dict(
                zip(question.model.spec.tasks, np.ascontiguousarray(scores.T), strict=True)
            ),
            "ranking": [request.candidates[place] for place in order],
            "unknown_items": unknown,
            "cache": memory.report(),
            "degraded": memory.degraded,
        }

    def _understand(self, request: RankRequest, caller: Caller, timings: Timings) -> Question:
        given_ms = request.deadline_ms
        deadline_ms = self._default_deadline_ms if given_ms is None else given_ms
        return Question(
            request,
            str(request.user_id),
            int(self._clock()) if request.timestamp is None else request.timestamp,
            timings.began + deadline_ms / 1e3,
            self._registry.pick(request.model.version if request.model else None),
            caller,
            timings,
        )

    async def _remember(self, question: Question) -> Memory:
        model, request = question.model, question.request
        if request.history is not None:
            return await self._remember_inline(question)
        try:
            snapshot = await self._fetch(question, model.spec.window)
            if request.min_version is not None and snapshot.version < request.min_version:
                snapshot = await self._fetch(question, model.spec.window)
            if not snapshot.valid.all() and not snapshot.complete:
                snapshot = await self._fetch(question, model.spec.receptive_field)
        except (CacheUnavailable, CacheMismatch):
            return self._nothing(model, "away", [AWAY])
        degraded = [QUARANTINED] if snapshot.quarantined else []
        if not snapshot.version:
            return self._nothing(model, "cold", degraded)
        return await self._remember_stored(question, snapshot, degraded)

    async def _fetch(self, question: Question, limit: int) -> Snapshot:
        began = perf_counter()
        try:
            return await self._cache.fetch(
                question.user_id, limit=limit, upto=question.timestamp, layout=question.model.layout
            )
        finally:
            question.timings.cache += perf_counter() - began

    async def _remember_stored(
        self, question: Question, snapshot: Snapshot, degraded: list[str]
    ) -> Memory:
        model = question.model
        events, window = len(snapshot.timeline), model.spec.window
        history = History.of(snapshot.timeline, model.bundle.vocabulary, model.spec.tasks)
        plan = plan_rebuild(
            snapshot.valid,
            need_from=max(0, events - window),
            begins=snapshot.complete and not snapshot.trimmed,
            spec=model.spec,
        )
        if not plan.is_exact or (events < window and snapshot.trimmed):
            degraded.append(TRIMMED)
        rows = snapshot.rows
        if not plan.is_empty:
            question.check_deadline()
            built = await rebuild(
                plan, history, rows, batcher=model.batcher, spec=model.spec, lane=Lane.RANK,
                deadline=question.deadline, timings=question.timings,
            )  # fmt: skip
            rows, valid = plan.fill(rows, snapshot.valid, built)
            if plan.is_exact:
                self._chores.start(
                    (model.fingerprint, question.user_id),
                    keep_rows(self._cache, snapshot, rows, valid),
                )
        newest = slice(max(0, events - window), events)
        written = snapshot.written_at_s
        return Memory(
            "hit" if plan.is_empty else "partial",
            history[newest],
            rows[newest],
            plan.count,
            snapshot.version,
            None if written is None else max(0.0, round(self._clock() - written, 3)),
            degraded,
        )

    async def _remember_inline(self, question: Question) -> Memory:
        model = question.model
        spec = model.spec
        timeline = Timeline.of(history_events(question.request.history or []))
        timeline = timeline.upto(question.timestamp).last(spec.receptive_field)
        history = History.of(timeline, model.bundle.vocabulary, spec.tasks)
        rows = np.zeros(len(history), spec.row)
        plan = plan_rebuild(
            np.zeros(len(history), np.bool_),
            need_from=max(0, len(history) - spec.window),
            begins=True,
            spec=spec,
        )
        if not plan.is_empty:
            rows[plan.first : plan.end] = await rebuild(
                plan, history, rows, batcher=model.batcher, spec=spec, lane=Lane.RANK,
                deadline=question.deadline, timings=question.timings,
            )  # fmt: skip
        newest = slice(max(0, len(history) - spec.window), len(history))
        return Memory("inline", history[newest], rows[newest], plan.count)

    def _nothing(self, model: Model, state: str, degraded: list[str]) -> Memory:
        history = History.of(Timeline.empty(), model.bundle.vocabulary, model.spec.tasks)
        return Memory(state, history, np.zeros(0, model.spec.row), degraded=degraded)

    async def _score(self, question: Question, memory: Memory, candidates: Array) -> Array:
        job = Job(
            "rank",
            {
                "candidates": candidates,
                "timestamp": np.asarray(question.timestamp),
                **memory.history.feed(),
                **fields_of(memory.rows),
            },
            {"candidates": len(candidates), "records": len(memory.history)},
            Lane.RANK,
            question.deadline,
        )
        batcher = question.model.batcher
        if batcher.is_busy:
            async with question.caller.watching(job):
                outputs = await batcher.submit(job)
        else:
            outputs = await batcher.submit(job)
        question.timings.queue += job.queue_s
        question.timings.run += job.run_s
        scores: Array = outputs["scores"]
        return scores
