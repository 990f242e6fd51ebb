"""Sampled truth: a few cached answers are computed again, in full, and what differs is told.

The self-test at the start proves the graphs; this proves what lies in the store. It comes after the
answer, in the last lane, one at a time, and not at all while others wait.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from cache.base import Cache
from cache.errors import CacheMismatch, CacheUnavailable
from service.chores import Chores
from service.errors import DeadlineExceeded, EngineFailed, Overloaded
from service.features import History
from service.job import Array, Job, Lane
from service.rebuild import fields_of, plan_rebuild, rebuild
from service.registry import Model

PATIENCE_S = 1.0
"""After so long a check is given up: its runs have waited behind too many others."""

#: Called with what became of a check, and the largest difference of a score where there is one.
OnCheck = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True)
class Answered:
    """What an answer was computed from, and what it said."""

    model: Model
    user_id: str
    timestamp: int
    version: int
    candidates: Array
    scores: Array  # (candidates, tasks)


class Truth:
    """Checks a share of what is answered from stored records."""

    def __init__(self, cache: Cache, chores: Chores, on_check: OnCheck, *, share: float) -> None:
        self._cache = cache
        self._chores = chores
        self._on_check = on_check
        self._share = share

    def __repr__(self) -> str:
        return f"<Truth of {self._share:.3%} of answers>"

    def wants_next(self) -> bool:
        """Whether the next answer is one of the sample."""
        return random.random() < self._share  # noqa: S311

    def check_soon(self, answered: Answered) -> None:
        """Checks it when the answer has gone; nothing if another is being checked."""
        self._chores.start("truth", self._check(answered))

    async def _check(self, answered: Answered) -> None:
        self._on_check(*await self.compare(answered))

    async def compare(self, answered: Answered) -> tuple[str, float | None]:
        """`equal` or `different`, and by how much; or why that cannot be said.

        `busy`: others need the engine. `overtaken`: the user was written since. `trimmed`: some of
        the events are not stored any more. `away`: the store did not answer.
        """
        try:
            scores = await self._scores_in_full(answered)
        except _Untold as reason:
            return str(reason), None
        except (Overloaded, DeadlineExceeded, EngineFailed):
            return "busy", None
        except (CacheUnavailable, CacheMismatch):
            return "away", None
        differences = np.nan_to_num(np.abs(scores - answered.scores), nan=1.0)
        difference = float(differences.max())
        is_equal = difference <= answered.model.tolerance
        return "equal" if is_equal else "different", difference

    async def _scores_in_full(self, answered: Answered) -> Array:
        """Scores from the stored ids alone, no stored row among them."""
        model, spec = answered.model, answered.model.spec
        if model.batcher.is_busy:
            raise _Untold("busy")
        snapshot = await self._cache.fetch(
            answered.user_id, limit=spec.receptive_field, upto=answered.timestamp
        )
        if snapshot.version != answered.version:
            raise _Untold("overtaken")
        history = History.of(snapshot.timeline, model.bundle.vocabulary, spec.tasks)
        count, deadline = len(history), perf_counter() + PATIENCE_S
        first = max(0, count - spec.reads)
        plan = plan_rebuild(
            np.zeros(count, np.bool_),
            need_from=first,
            begins=snapshot.complete and not snapshot.trimmed,
            spec=spec,
        )
        if not plan.is_exact or (count < spec.reads and snapshot.trimmed):
            raise _Untold("trimmed")
        rows = np.zeros(count, spec.row)
        if not plan.is_empty:
            rows[plan.first : plan.end] = await rebuild(
                plan, history, rows, batcher=model.batcher, spec=spec, lane=Lane.REBUILD,
                deadline=deadline,
            )  # fmt: skip
        places = np.arange(first, count)
        if spec.finds_first:  # all that count: of more than it finds nothing is asked here
            places = places[spec.counted(history.feedback[places])]
        feed = {
            "candidates": answered.candidates,
            "timestamp": np.asarray(answered.timestamp),
            **{name: part[places] for name, part in history.feed().items()},
            **fields_of(rows[places]),
        }
        sizes = {"candidates": len(answered.candidates), "records": len(places)}
        outputs = await model.batcher.submit(Job("rank", feed, sizes, Lane.REBUILD, deadline))
        return outputs["scores"]


class _Untold(Exception):
    """Why nothing can be said about an answer."""
