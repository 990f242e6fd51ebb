"""`Ranker.rank`: remember the user, score the candidates, sort. The whole story of a request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from cache.base import Cache
from service.caller import Caller
from service.chores import Chores
from service.job import Array, Job, Lane
from service.memory import Memory, Question
from service.metrics import Metrics
from service.reception import Reception
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
        clock: Callable[[], float] = time.time,
    ) -> None:
        #: Where every stage of this process asks about users.
        self.reception = Reception(
            cache,
            chores,
            default_deadline_ms=default_deadline_ms,
            near_bytes=near_bytes,
            fetch_s=fetch_s,
            clock=clock,
        )
        self._registry = registry
        self._metrics = metrics

    async def rank(self, request: RankRequest, caller: Caller, timings: Timings) -> dict[str, Any]:
        """The answer to a request."""
        model = self._registry.pick(request.model.version if request.model else None)
        question = self.reception.understand(request, model, timings)
        memory = await self.reception.remember(question)
        candidates = question.model.lexicon.look_up(request.candidates)
        scores = await self.score(question, memory, candidates.rows, caller)  # (C, tasks)
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
            "cache": memory.report(self.reception.now_s),
            "degraded": memory.degraded,
        }

    async def score(
        self, question: Question, memory: Memory, candidates: Array, caller: Caller
    ) -> Array:
        """Scores (candidates, tasks) of rows, from the part of the memory that ranking reads."""
        known, records = memory.newest(question.model.spec.reads)
        sizes = {"candidates": len(candidates), "records": records}
        if question.model.spec.encodes:  # then every event asks as a candidate does
            sizes["events"] = records
        job = Job(
            "rank",
            {
                "candidates": candidates,
                "timestamp": np.asarray(question.timestamp),
                **known,
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
