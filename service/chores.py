"""Work that is done after an answer has gone: at most one per key, waited for at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any


class Chores:
    """Background tasks; a failure of one is told and forgotten."""

    def __init__(
        self, *, most: int = 256, on_error: Callable[[BaseException], None] | None = None
    ) -> None:
        self._most = most
        self._on_error = on_error
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<Chores {len(self._tasks)} running>"

    def start(self, key: Hashable, work: Coroutine[Any, Any, None]) -> None:
        """Begins the work, unless the same is being done or too much is."""
        if key in self._tasks or len(self._tasks) >= self._most:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._end(key, done))

    def _end(self, key: Hashable, task: asyncio.Task[None]) -> None:
        del self._tasks[key]
        if not task.cancelled() and (error := task.exception()) and self._on_error:
            self._on_error(error)

    async def close(self) -> None:
        """Waits until all is done."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))
