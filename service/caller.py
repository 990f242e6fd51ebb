"""Who waits for an answer; if they hang up, what still queues for them is not run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any, TypeVar

from starlette.types import Receive

from service.job import Job

T = TypeVar("T")

QUIET = 16
"""Callers who came one at a time before the next is taken to be alone, too."""


APART_S = 0.02
"""Callers on two connections who come sooner after one another are not one at a time."""


class CallerGone(Exception):
    """The connection was closed before its answer: there is nobody to tell."""


class Callers:
    """How callers come lately: one at a time, or several at once.

    One who finds nobody is not alone yet: at half load every second does, and others follow while
    they are served. Nor is one who comes on another connection than the last a moment ago: while
    a run keeps the loop, whoever comes waits unseen, and each would find nobody.
    """

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._in_a_row = 0
        self._last: tuple[Any, float] = (None, 0.0)

    def __repr__(self) -> str:
        return f"<Callers, {self._in_a_row} one at a time>"

    def is_alone(self, here: int, connection: Any) -> bool:
        """Takes note of a caller, one of so many; whether nobody else is likely to come.

        `connection` is any value that tells connections apart; None where that is not known.
        """
        (last, then), now = self._last, self._clock()
        self._last = connection, now
        is_same = connection is not None and connection == last
        is_one = here == 1 and (is_same or now - then > APART_S)
        self._in_a_row = self._in_a_row + 1 if is_one else 0
        return self._in_a_row > QUIET


class Line:
    """A connection, and the job that its caller waits for. It asks one thing at a time."""

    __slots__ = ("is_lost", "job")

    def __init__(self) -> None:
        self.job: Job | None = None
        self.is_lost = False

    def lose(self) -> None:
        """Nobody is there any more: what still queues for them is not run."""
        self.is_lost = True
        if self.job is not None and self.job.future is not None and not self.job.future.done():
            self.job.future.cancel()


class Caller:
    """The other end of a connection. Its body has been read, so all it can say is goodbye."""

    def __init__(
        self,
        receive: Receive | None = None,
        *,
        line: Line | None = None,
        is_alone: bool = False,
    ) -> None:
        self._receive = receive
        self._line = line
        #: Nobody else waits for an answer of this process, or is likely to before this one has it.
        self.is_alone = is_alone

    def waits_on(self, job: Job | None) -> None:
        """Gives this job up should the caller go; None: nothing waits for them any more.

        Raises `CallerGone` where they went before it could be queued.
        """
        if self._line is None:
            return
        if job is not None and self._line.is_lost:
            raise CallerGone
        self._line.job = job

    async def waits_for(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of work of many jobs; it is cancelled when the caller goes."""
        task = asyncio.ensure_future(work)
        watch = asyncio.ensure_future(self._cancel_when_gone(task))
        try:
            return await task
        finally:
            watch.cancel()
            task.cancel()

    async def _cancel_when_gone(self, task: asyncio.Task[Any]) -> None:
        if self._receive is not None:
            await _disconnected(self._receive)
            task.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
