"""Deletes expired rows now and then, in a store that expires nothing by itself."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress

from cache.base import Sweeps
from cache.errors import CacheError
from service.logging import log


class Sweeper:
    """A task that sweeps every `every_s` seconds; the first time after as long.

    Each worker has one: of several that come at once, one deletes and the others find nothing.
    """

    def __init__(self, store: Sweeps, every_s: float) -> None:
        self._store = store
        self._every_s = every_s
        self._stop = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def __repr__(self) -> str:
        return f"<Sweeper every {self._every_s:g} s, {'closed' if self._task.done() else 'open'}>"

    async def close(self) -> None:
        """Finishes the transaction it is in. (A cancelled one would still read from the store.)"""
        self._stop.set()
        await self._task

    async def _run(self) -> None:
        while not await self._is_stopped():
            try:
                await self._sweep()
            except CacheError as error:
                log.warning("expired rows were not swept", error=str(error))
            except Exception:
                log.exception("expired rows were not swept")

    async def _is_stopped(self) -> bool:
        """True at the end; False after `every_s`."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), self._every_s)
        return self._stop.is_set()

    async def _sweep(self) -> None:
        count = 0
        async with aclosing(self._store.sweep()) as steps:
            async for deleted in steps:
                count += deleted
                if self._stop.is_set():
                    break
        if count:
            log.info("swept", row_chunks=count)
