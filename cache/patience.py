"""How long somebody waits for a store; what they gave up on goes on and warms its connection."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from cache.errors import CacheUnavailable

T = TypeVar("T")

MOST_DAMAGES = 8
"""A fetch puts a damaged timeline aside and reads again; somebody may write a damaged one again."""

LATE_S = 0.005
"""A timer as late as this says that our own loop was busy, and nothing about the store."""

GRACE_S = 0.005
"""For an answer that may have come meanwhile."""


class Patience:
    """Work that may outlive its caller, but not its own limit of time."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<Patience with {len(self._tasks)} running>"

    async def wait(self, work: Coroutine[Any, Any, T], within_s: float | None) -> T:
        """The work's outcome; raises `CacheUnavailable` if it takes longer, and leaves it alone.

        Cancelling it would close the connection that it may just be making, and a store whose
        connections take longer than `within_s` would be away for ever.
        """
        if within_s is None:
            return await work
        task = self.start(work)
        due_s = asyncio.get_running_loop().time() + within_s
        done, _ = await asyncio.wait({task}, timeout=within_s)
        if not done and was_late(due_s):
            done, _ = await asyncio.wait({task}, timeout=GRACE_S)
        if not done:
            raise CacheUnavailable(f"The store did not answer in {within_s} s.")
        return task.result()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begins work that goes on when whoever waits for it is cancelled."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)
        return task

    async def close(self) -> None:
        """Ends what is still running."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: whoever still waits is told by the task itself


def was_late(due_s: float) -> bool:
    """Whether a timer of the loop that was due then came only now."""
    return asyncio.get_running_loop().time() > due_s + LATE_S
