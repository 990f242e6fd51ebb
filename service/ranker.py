"""`Ranker.rank`: remember the user, score the candidates, sort. The whole story of a request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from cache.base import Cache
from service.answer_log import AnswerLog
from service.caller import Caller
from service.chores import Chores
from service.features import Candidates
from service.job import Array, Job, Lane, cost_of
from service.memory import Memory
from service.metrics import Metrics
from service.projecting import projected
from service.question import Question
from service.reception import Reception
from service.registry import Model, Registry
from service.schemas import RankRequest
from service.seeking import sought
from service.shadow import Scored, Shadow
from service.shelves import Slots
from service.stale import Stale
from service.timings import Timings
from service.truth import Answered, Truth


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
        near_bytes: int = 0,
        fetch_s: float | None = None,
        truth: Truth | None = None,
        answer_log: AnswerLog | None = None,
        stale: Stale | None = None,
        refresh_s: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        #: Where every stage of this process asks about users.
        self.reception = Reception(
            cache,
            chores,
            default_deadline_ms=default_deadline_ms,
            near_bytes=near_bytes,
            fetch_s=fetch_s,
            stale=stale,
            on_stale=self._measure_stale,
            refresh_s=refresh_s,
            clock=clock,
        )
        self._registry = registry
        self._metrics = metrics
        self._default_deadline_ms = default_deadline_ms
        self._truth = truth
        self._answer_log = answer_log
        self._shadow = Shadow(metrics)

    async def rank(self, request: RankRequest, caller: Caller, timings: Timings) -> dict[str, Any]:
        """The answer to a request."""
        version = request.model.version if request.model else None
        model, split = self._registry.pick(version, str(request.user_id)), self._registry.split
        question = self.reception.understand(request, model, timings)
        if model is not split.active:  # the door asked about that one
            model.admission.check(timings, model.use.count)
        with model.use:
            memory, candidates, scores = await self._answer(question, request.candidates, caller)
        question.check_deadline()
        report = memory.report(self.reception.now_s)
        self._metrics.later(
            self._metrics.ranked,
            memory.state,
            memory.degraded,
            memory.recomputed,
            report["age_s"],
            model.version,
        )
        if self._truth is not None and self._truth.wants_next() and _is_cached(memory):
            self._truth.check_soon(
                Answered(
                    model, question.user_id, question.timestamp, memory.version,
                    candidates.rows, scores,
                )
            )  # fmt: skip
        if split.shadows:
            answer = Scored.of(model.spec.tasks, scores, memory.degraded)
            self._shadow.follow(
                split, answer, partial(self._score_again, question, request.candidates)
            )
        told = {
            "user_id": request.user_id,
            "model": model.name,
            "scores": dict(zip(model.spec.tasks, np.ascontiguousarray(scores.T), strict=True)),
            "ranking": candidates.ranked(scores[:, 0], request.top_k),
            "unknown_items": candidates.unknown,
            "cache": report,
            "degraded": memory.degraded,
        }
        if self._answer_log is not None and self._answer_log.wants_next():
            self._answer_log.note(question, request.candidates, told)
        return told

    async def close(self) -> None:
        """Finishes what nobody waits for."""
        await self._shadow.close()
        await self.reception.close()

    async def _answer(
        self, question: Question, asked: Sequence[int | str], caller: Caller
    ) -> tuple[Memory, Candidates, Array]:
        """What is remembered, what was asked about, and the scores (candidates, tasks)."""
        candidates = question.model.lexicon.look_up(asked)
        guess = None
        if not question.model.batcher.is_busy:  # else what waits is worth more than a guess
            guess = self.reception.guess(question)
        if guess is not None:
            if caller.is_alone:  # then a run keeps the loop, at whose turn's end the store is asked
                await asyncio.sleep(0)
            scores = await self.score(question, guess.memory, candidates.rows, caller)
            if await guess.holds():
                return guess.memory, candidates, scores
        memory = await self.reception.remember(question, candidates.rows, guess)
        return memory, candidates, await self.score(question, memory, candidates.rows, caller)

    async def _score_again(
        self, question: Question, asked: Sequence[int | str], model: Model
    ) -> Scored:
        """The same question to another model."""
        timings = Timings()
        deadline = timings.began + self._default_deadline_ms / 1e3
        again = question.to(model, deadline=deadline, timings=timings)
        memory, _, scores = await self._answer(again, asked, Caller())
        return Scored.of(model.spec.tasks, scores, memory.degraded)

    async def _measure_stale(self, question: Question, stale: Memory, own: Memory) -> None:
        """How far the answer on borrowed records was from the true one."""
        if not isinstance(question.request, RankRequest):
            return
        rows = question.model.lexicon.look_up(question.request.candidates).rows
        given, true = [
            await self.score(question, memory, rows, Caller(), Lane.REBUILD)
            for memory in (stale, own)
        ]
        self._metrics.stale(float(np.abs(given - true).max()))

    async def score(
        self,
        question: Question,
        memory: Memory,
        candidates: Array,
        caller: Caller,
        lane: Lane = Lane.RANK,
    ) -> Array:
        """Scores (candidates, tasks) of rows, from the part of the memory that ranking reads."""
        asked = {"candidates": candidates, "timestamp": np.asarray(question.timestamp)}
        if memory.slots is not None:
            job = _found_job(question, memory.feed, asked, memory.slots, lane)
        elif question.model.projected and (memory.ready or question.model.is_int8):
            kept = memory.ready or await projected(memory, question)
            job = _ready_job(question.model.projected[1], question, kept, asked, lane)
        elif (ready := await sought(question, memory)) is not None:
            job = _ready_job("found", question, ready, asked, lane)
        else:
            job = _job(question, memory, asked, lane)
        batcher = question.model.batcher
        if caller.is_alone and batcher.takes_at_once(job):
            outputs = batcher.run(job)
        else:
            caller.waits_on(job)
            try:
                outputs = await batcher.submit(job)
            finally:
                caller.waits_on(None)
        question.timings.queue += job.queue_s
        question.timings.run += job.run_s
        scores: Array = outputs["scores"]
        return scores[0] if job.rows else scores


def _job(question: Question, memory: Memory, asked: Mapping[str, Array], lane: Lane) -> Job:
    """Candidates against one list of events."""
    spec = question.model.spec
    known, records = memory.newest(spec.attends)
    sizes = {"candidates": len(asked["candidates"]), "records": records}
    if spec.encodes:  # then every event asks as a candidate does
        sizes["events"] = records
    return Job("rank", {**asked, **known}, sizes, lane, question.deadline)


def _ready_job(
    graph: str,
    question: Question,
    ready: Mapping[str, Array],
    asked: Mapping[str, Array],
    lane: Lane,
) -> Job:
    """Candidates against keys and values that are kept: a batch of one request.

    Copying them into a run with others would cost more than a run of their own.
    """
    feed = {**{name: part[np.newaxis] for name, part in asked.items()}, **ready}
    sizes = {"candidates": len(asked["candidates"]), "records": ready["timestamps"].shape[1]}
    return Job(graph, feed, sizes, lane, question.deadline, rows=1)


def _found_job(
    question: Question,
    ready: Mapping[str, Array],
    asked: Mapping[str, Array],
    slots: Slots,
    lane: Lane,
) -> Job:
    """Candidates of each category against its own events: a batch by itself, of one request."""
    feed = {**asked, **ready, "places": slots.places, "seats": slots.seats}
    rows, columns = slots.places.shape
    sizes = {"candidates": len(slots.seats), "rows": rows, "columns": columns}
    cost = cost_of({**sizes, "records": question.model.spec.search}) + slots.cost
    whole = {name: part[None] for name, part in feed.items()}
    return Job("found", whole, sizes, lane, question.deadline, rows=1, cost=cost)


def _is_cached(memory: Memory) -> bool:
    """Whether the scores should be those of a full computation over the newest stored events."""
    is_all = memory.slots is None and memory.summary is None  # events found or summed: not checked
    return memory.state in {"hit", "partial"} and not memory.degraded and is_all
