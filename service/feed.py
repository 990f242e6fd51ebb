"""Feed: one look at a time, told to everybody who listens, and none taken while nobody does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from service.errors import Draining, Overloaded
from service.logging import log


class Feed:
    """Takes a look every so often; who is slow to listen misses looks, and holds up nobody."""

    def __init__(
        self,
        look: Callable[[], Awaitable[bytes]],
        *,
        is_over: Callable[[], bool] = lambda: False,
        every_s: float = 1.0,
        most: int = 16,
    ) -> None:
        self._look, self._is_over = look, is_over
        self._every_s, self._most = every_s, most
        self._listening = 0
        self._next: asyncio.Future[bytes | None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Feed, {self._listening} listening>"

    def check(self) -> None:
        """Raises `Overloaded` when nobody else may listen, `Draining` when nothing will be told."""
        if self._closed or self._is_over():
            raise Draining
        if self._listening >= self._most:
            raise Overloaded(f"{self._most} are watching this worker already")

    async def listen(self) -> AsyncGenerator[bytes, None]:
        """Every look from now on, until the feed is closed; `check` first."""
        self._listening += 1
        try:
            while not self._closed:
                if self._looking is None:
                    self._next = asyncio.get_running_loop().create_future()
                    self._looking = asyncio.create_task(self._go_on_looking())
                assert self._next is not None  # noqa: S101 - for mypy: there is one with the task
                news = await asyncio.shield(self._next)
                if news is None:
                    return
                yield news
        finally:
            self._listening -= 1
            if not self._listening:
                self._stop()

    def close(self) -> None:
        """Everybody who listens is done."""
        self._closed = True
        self._stop()

    def _stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        self._tell(None)

    def _tell(self, news: bytes | None) -> None:
        told, self._next = self._next, None
        if told is not None and not told.done():
            told.set_result(news)

    async def _go_on_looking(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._is_over():
            try:
                news = await self._look()
            except Exception:
                log.exception("a look at the status failed")
                break
            self._tell(news)
            self._next = loop.create_future()
            await asyncio.sleep(self._every_s)
        self._looking = None
        self._tell(None)
