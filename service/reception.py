"""Reception: where requests become questions and users become memories, for every stage."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from cache.base import Cache
from service.chores import Chores
from service.guess import Guess
from service.job import Array
from service.memories import Memories, OnStale
from service.memory import Memory
from service.question import Question
from service.registry import Model
from service.schemas import UserRequest
from service.searching import Searcher
from service.stale import Stale
from service.timings import Timings


class Reception:
    """Fills in what a request leaves open, and asks the store about its user."""

    def __init__(
        self,
        cache: Cache,
        chores: Chores,
        *,
        default_deadline_ms: float,
        near_bytes: int,
        fetch_s: float | None,
        stale: Stale | None = None,
        on_stale: OnStale | None = None,
        refresh_s: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._memories = Memories(
            cache,
            chores,
            clock,
            near_bytes=near_bytes,
            fetch_s=fetch_s,
            stale=stale,
            on_stale=on_stale,
            refresh_s=refresh_s,
        )
        self._searcher = Searcher(
            self._memories, cache, chores, clock, near_bytes=near_bytes, fetch_s=fetch_s
        )
        self._default_deadline_ms = default_deadline_ms
        self._clock = clock

    @property
    def now_s(self) -> float:
        return self._clock()

    def understand(
        self,
        request: UserRequest,
        model: Model,
        timings: Timings,
        *,
        reads: int | None = None,
        seen: int = 0,
    ) -> Question:
        """The question to a ranking model; `reads` records, and the ids of `seen` events."""
        deadline, given_ms = timings.deadline, request.deadline_ms
        if given_ms is None and deadline == math.inf:
            given_ms = self._default_deadline_ms
        if given_ms is not None:
            deadline = min(deadline, timings.began + given_ms / 1e3)
        reads = model.spec.reads if reads is None else reads
        return Question(
            request,
            str(request.user_id),
            int(self._clock()) if request.timestamp is None else request.timestamp,
            deadline,
            model,
            timings,
            reads,
            max(reads, seen),
        )

    def guess(self, question: Question) -> Guess | None:
        """What was known of the user a moment ago, if it is any use to begin with that.

        Raises `DeadlineExceeded` before anything is begun.
        """
        question.check_deadline()
        return self._memories.guess(question)

    async def remember(
        self, question: Question, candidates: Array | None = None, guess: Guess | None = None
    ) -> Memory:
        """What is known of the user; raises `DeadlineExceeded` before anything is begun.

        Models that search find events for `candidates` (C,), rows of theirs. A guess that did not
        hold has asked the store already.
        """
        question.check_deadline()
        if candidates is not None and question.model.spec.finds_first:
            return await self._searcher.remember(question, candidates)
        return await self._memories.remember(question, guess)

    async def close(self) -> None:
        """Ends what nobody waits for any more."""
        await self._memories.close()
