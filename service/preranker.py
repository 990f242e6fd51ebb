"""Preranker: many candidates scored roughly, before few of them are ranked."""

from __future__ import annotations

from typing import Any

import numpy as np

from service.job import Array, Job, Lane
from service.memory import Memory
from service.question import Question
from service.reception import Reception
from service.registry import Model
from service.schemas import PrerankRequest
from service.timings import Timings


class Preranker:
    """Runs the pre-ranking model on the ranking model's newest records; keeps nothing."""

    def __init__(self, model: Model, ranker: Model, reception: Reception) -> None:
        self.model, self.ranker = model, ranker
        self._reception = reception

    def __repr__(self) -> str:
        return f"<Preranker on {self.reads} records>"

    @property
    def reads(self) -> int:
        """Records of a user that it looks at."""
        return self.model.spec.reads

    async def prerank(self, request: PrerankRequest, timings: Timings) -> dict[str, Any]:
        """The answer to a request."""
        question = self._reception.understand(request, self.ranker, timings, reads=self.reads)
        memory = await self._reception.remember(question)
        candidates = self.ranker.lexicon.look_up(request.candidates)
        scores = await self.score(question, memory, candidates.rows)
        question.check_deadline()
        return {
            "user_id": request.user_id,
            "model": self.model.name,
            "scores": dict(zip(self.model.spec.tasks, np.ascontiguousarray(scores.T), strict=True)),
            "ranking": candidates.ranked(scores[:, 0], request.top_k),
            "unknown_items": candidates.unknown,
            "cache": memory.report(self._reception.now_s),
            "degraded": memory.degraded,
        }

    async def score(
        self, question: Question, memory: Memory, candidates: Array, deadline: float | None = None
    ) -> Array:
        """Scores (candidates, tasks) of the ranking model's rows."""
        known, records = memory.newest(self.reads)
        job = Job(
            "prerank",
            {"candidates": candidates, "timestamp": np.asarray(question.timestamp), **known},
            {"candidates": len(candidates), "records": records},
            Lane.RANK,
            question.deadline if deadline is None else deadline,
        )
        outputs = await self.model.batcher.submit(job)
        question.timings.queue += job.queue_s
        question.timings.run += job.run_s
        scores: Array = outputs["scores"]
        return scores
