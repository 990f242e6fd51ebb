"""Requests scored a second time by a version that answers nobody yet, once the answer has gone."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from service.chores import Chores
from service.errors import Problem
from service.job import Array
from service.logging import log
from service.metrics import Metrics
from service.registry import Model, Split

MOST_AT_ONCE = 4
"""More would wait; what comes in meanwhile is not sampled."""


@dataclass(frozen=True, slots=True)
class Scored:
    """An answer as far as it can be compared."""

    #: By task: (candidates,).
    scores: Mapping[str, Array]
    degraded: Sequence[str]

    @classmethod
    def of(cls, tasks: Sequence[str], scores: Array, degraded: Sequence[str]) -> Scored:
        return cls(dict(zip(tasks, scores.T, strict=True)), degraded)

    def difference(self, other: Scored) -> float | None:
        """The largest between two scores of one task; None where nothing can be compared."""
        tasks = self.scores.keys() & other.scores.keys()
        if self.degraded or other.degraded or not tasks:
            return None
        return max(float(np.abs(self.scores[task] - other.scores[task]).max()) for task in tasks)


class Shadow:
    """Picks requests, scores them again and tells how far the scores are apart; nobody waits."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._chores = Chores(
            most=MOST_AT_ONCE,
            on_error=lambda error: log.warning("a shadow failed", error=repr(error)),
        )
        self._number = 0

    def __repr__(self) -> str:
        return f"<Shadow {self._chores!r}>"

    def follow(
        self, split: Split, answer: Scored, ask: Callable[[Model], Awaitable[Scored]]
    ) -> None:
        """Begins what a sample asks for; `ask` scores the same request by another model."""
        for percent, model in split.shadows:
            if random.random() * 100 < percent:  # noqa: S311
                self._number += 1
                self._chores.start(self._number, self._compare(model, answer, ask))

    async def close(self) -> None:
        await self._chores.close()

    async def _compare(
        self, model: Model, answer: Scored, ask: Callable[[Model], Awaitable[Scored]]
    ) -> None:
        try:
            with model.use:
                found = await ask(model)
        except Problem as problem:
            self._metrics.shadowed(model.version, problem.slug, None)
            return
        apart = answer.difference(found)
        outcome = "compared" if apart is not None else "incomparable"
        self._metrics.shadowed(model.version, outcome, apart)
