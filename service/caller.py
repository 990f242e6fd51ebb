"""Who waits for an answer; if they hang up, what still queues for them is not run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive

from service.job import Job


class Caller:
    """The other end of a connection. Its body has been read, so all it can say is goodbye."""

    def __init__(self, receive: Receive | None = None, *, is_alone: bool = False) -> None:
        self._receive = receive
        #: Nobody else waits for an answer of this process.
        self.is_alone = is_alone

    @asynccontextmanager
    async def watching(self, job: Job) -> AsyncIterator[None]:
        """Gives the job up when the caller goes. Costs a task: only worth it where one waits."""
        if self._receive is None:
            yield
            return
        watch = asyncio.ensure_future(self._until_gone(self._receive, job))
        try:
            yield
        finally:
            watch.cancel()

    @staticmethod
    async def _until_gone(receive: Receive, job: Job) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if job.future is not None and not job.future.done():
            job.future.cancel()
