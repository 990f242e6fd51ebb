"""`Recommender.recommend`: retrieve, pre-rank, rank; one memory of the user, one budget of time.

A stage that is not done when its part of the time is over is cut short, and the stage behind it
goes on with what there is: `degraded` says which. Time that a stage does not need is the others'.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from service.caller import Caller
from service.errors import DeadlineExceeded
from service.job import Array
from service.memory import Memory, nothing_known
from service.preranker import Preranker
from service.question import Question
from service.ranker import Ranker
from service.retriever import Found, Retriever
from service.schemas import RecommendRequest
from service.timings import Timings

#: When a stage must be done, as a share of the time that the whole has.
ENDS = {"fetch": 0.4, "retrieve": 0.6, "prerank": 0.75, "rank": 0.95}


@dataclass(slots=True)
class _Course:
    """One recommendation on its way."""

    question: Question
    began: float
    degraded: list[str]
    stages: list[dict[str, Any]] = field(default_factory=list)

    def ends(self, stage: str) -> float:
        return self.began + ENDS[stage] * (self.question.deadline - self.began)

    @asynccontextmanager
    async def within(self, stage: str, items: int | None = None) -> AsyncIterator[None]:
        """Gives a stage its time, and notes what it took; what it leaves undone is `cut`."""
        since, loop = perf_counter(), asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(loop.time() + self.ends(stage) - since):
                yield
        except (TimeoutError, DeadlineExceeded):
            self.degraded.append(f"{stage}-cut")
        took = perf_counter() - since
        self.question.timings.stages[stage] = took
        told = {"stage": stage, "ms": round(took * 1e3, 3)}
        self.stages.append(told if items is None else {**told, "items": items})


class Recommender:
    """The chain, in one process."""

    def __init__(
        self,
        retriever: Retriever,
        preranker: Preranker | None,
        ranker: Ranker,
        popular: Found,
        *,
        retrieved: int,
        preranked: int,
        max_seen: int,
    ) -> None:
        self._retriever, self._preranker, self._ranker = retriever, preranker, ranker
        self._popular = popular
        self._retrieved, self._preranked = retrieved, preranked
        self._max_seen = max_seen

    def __repr__(self) -> str:
        return f"<Recommender of {self._retrieved}, then {self._preranked}>"

    @property
    def reads(self) -> int:
        """Records that one fetch brings for all stages."""
        stages = [self._retriever.reads, self._retriever.ranker.spec.reads]
        return max(stages + ([self._preranker.reads] if self._preranker else []))

    async def recommend(
        self, request: RecommendRequest, caller: Caller, timings: Timings
    ) -> dict[str, Any]:
        """The answer to a request."""
        reception, model = self._ranker.reception, self._retriever.ranker
        question = reception.understand(
            request,
            model,
            timings,
            reads=self.reads,
            seen=self._max_seen if request.exclude_seen else 0,
        )
        question.check_deadline()
        memory = nothing_known(model, "away", [])
        course = _Course(question, perf_counter(), memory.degraded)
        async with course.within("fetch"):
            memory = await reception.remember(question)
            course.degraded = [*memory.degraded]
        found = await self._retrieve(course, memory, request)
        found, scores = await self._prerank(course, memory, found)
        best, by_task = await self._rank(course, memory, found, scores, request.k, caller)
        question.check_deadline()
        return {
            "user_id": request.user_id,
            "model": model.name,
            "items": best,
            "scores": by_task,
            "stages": course.stages,
            "cache": memory.report(reception.now_s),
            "degraded": course.degraded,
        }

    async def _retrieve(self, course: _Course, memory: Memory, request: RecommendRequest) -> Found:
        async with course.within("retrieve", len(self._retriever.items)):
            return await self._retriever.find(
                course.question,
                memory,
                self._retrieved,
                exclude_seen=request.exclude_seen,
                deadline=course.ends("retrieve"),
            )
        seen = frozenset(memory.item_ids) if request.exclude_seen else frozenset()
        items, scores = self._popular.items, self._popular.scores
        kept = [place for place, item in enumerate(items) if item not in seen]
        kept = kept[: self._retrieved]
        return Found([items[place] for place in kept], scores[kept])

    async def _prerank(
        self, course: _Course, memory: Memory, found: Found
    ) -> tuple[Found, dict[str, Array]]:
        """The best of what was found, and their scores by task as far as they are known."""
        task = course.question.model.spec.tasks[0]
        if self._preranker is None or len(found.items) <= self._preranked:
            return found, {task: found.scores}
        rows = self._rows(found.items)
        scores: Array | None = None
        async with course.within("prerank", len(rows)):
            scores = await self._preranker.score(
                course.question, memory, rows, course.ends("prerank")
            )
        if scores is None:
            few = slice(0, self._preranked)
            return Found(found.items[few], found.scores[few]), {task: found.scores[few]}
        order = (-scores[:, 0]).argsort(kind="stable")[: self._preranked]
        kept = Found([found.items[place] for place in order.tolist()], scores[order, 0])
        return kept, self._by_task(scores[order])

    async def _rank(
        self,
        course: _Course,
        memory: Memory,
        found: Found,
        scores: dict[str, Array],
        k: int,
        caller: Caller,
    ) -> tuple[list[str], dict[str, Array]]:
        """The `k` best items and their scores; in the order they came if there is no time."""
        ranked: Array | None = None
        if found.items:
            rows = self._rows(found.items)
            async with course.within("rank", len(rows)):
                ranked = await self._ranker.score(course.question, memory, rows, caller)
        if ranked is None:
            return found.items[:k], {task: part[:k] for task, part in scores.items()}
        order = (-ranked[:, 0]).argsort(kind="stable")[:k]
        return [found.items[place] for place in order.tolist()], self._by_task(ranked[order])

    def _rows(self, items: list[str]) -> Array:
        """Of the ranking model; items it has not met are on the shared ones."""
        return self._retriever.ranker.lexicon.look_up(items).rows

    def _by_task(self, scores: Array) -> dict[str, Array]:
        tasks = self._retriever.ranker.spec.tasks
        return dict(zip(tasks, np.ascontiguousarray(scores.T), strict=True))
