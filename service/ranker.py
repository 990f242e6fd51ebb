"""`Ranker.rank`: remember the user, score the candidates, sort. The whole story of a request."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from cache.base import Cache
from service.caller import Caller
from service.chores import Chores
from service.job import Array, Job, Lane
from service.memory import Memories, Memory, Question
from service.metrics import Metrics
from service.registry import Registry
from service.schemas import RankRequest
from service.timings import Timings


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
        refresh_s: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._memories = Memories(
            cache, chores, clock, near_bytes=near_bytes, fetch_s=fetch_s, refresh_s=refresh_s
        )
        self._registry = registry
        self._metrics = metrics
        self._default_deadline_ms = default_deadline_ms
        self._clock = clock

    async def rank(self, request: RankRequest, caller: Caller, timings: Timings) -> dict[str, Any]:
        """The answer to a request."""
        question = self._understand(request, timings)
        question.check_deadline()
        memory = await self._memories.remember(question)
        candidates = question.model.lexicon.look_up(request.candidates)
        scores = await self._score(question, memory, candidates.rows, caller)  # (C, tasks)
        question.check_deadline()
        order = (-scores[:, 0]).argsort(kind="stable")[: request.top_k]
        # Counted when the answer has gone: the loop writes at the end of its turn.
        asyncio.get_running_loop().call_soon(
            self._metrics.ranked, memory.state, memory.degraded, memory.recomputed
        )
        return {
            "user_id": request.user_id,
            "model": question.model.name,
            "scores": dict(
                zip(question.model.spec.tasks, np.ascontiguousarray(scores.T), strict=True)
            ),
            "ranking": candidates.ranked(order),
            "unknown_items": candidates.unknown,
            "cache": memory.report(self._clock()),
            "degraded": memory.degraded,
        }

    def _understand(self, request: RankRequest, timings: Timings) -> Question:
        deadline, given_ms = timings.deadline, request.deadline_ms
        if given_ms is None and deadline == math.inf:
            given_ms = self._default_deadline_ms
        if given_ms is not None:
            deadline = min(deadline, timings.began + given_ms / 1e3)
        return Question(
            request,
            str(request.user_id),
            int(self._clock()) if request.timestamp is None else request.timestamp,
            deadline,
            self._registry.pick(request.model.version if request.model else None),
            timings,
        )

    async def _score(
        self, question: Question, memory: Memory, candidates: Array, caller: Caller
    ) -> Array:
        records = len(memory.history)
        sizes = {"candidates": len(candidates), "records": records}
        if question.model.spec.encodes:  # then every event asks as a candidate does
            sizes["events"] = records
        job = Job(
            "rank",
            {
                "candidates": candidates,
                "timestamp": np.asarray(question.timestamp),
                **memory.feed,
            },
            sizes,
            Lane.RANK,
            question.deadline,
        )
        batcher = question.model.batcher
        if caller.is_alone and batcher.takes_at_once(job):
            outputs = batcher.run(job)
        elif batcher.is_busy:
            async with caller.watching(job):
                outputs = await batcher.submit(job)
        else:
            outputs = await batcher.submit(job)
        question.timings.queue += job.queue_s
        question.timings.run += job.run_s
        scores: Array = outputs["scores"]
        return scores
