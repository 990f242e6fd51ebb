"""A TCP proxy that makes a store slow, or cuts its replies."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

HARD = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets the connection


class Proxy:
    """Between a service and a store; what it does may change at any moment."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.delay_s = 0.0
        self.cut_after: int | None = None  # bytes of a reply, then the connection is reset
        self._loop = asyncio.new_event_loop()
        self._passing: set[asyncio.Task[None]] = set()
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __repr__(self) -> str:
        return f"<Proxy to {self._target}>"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._pass, "127.0.0.1"))
        self.port = self._server.sockets[0].getsockname()[1]
        self._is_up.set()
        self._loop.run_forever()
        self._server.close()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        """Ends every connection, and waits until the transports have said so."""
        passing = [*self._passing]
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)
        await asyncio.sleep(0.01)

    async def _pass(self, caller: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)  # the loop itself would let go of a task that waits for silence
        try:
            with suppress(OSError, asyncio.CancelledError):
                store, forth = await asyncio.open_connection("127.0.0.1", self._target)
                asking = asyncio.ensure_future(self._ask(caller, forth))
                try:
                    await self._answer(store, back)
                finally:
                    asking.cancel()
                    forth.close()
        finally:
            back.close()
            self._passing.discard(task)

    async def _ask(self, caller: asyncio.StreamReader, forth: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while said := await caller.read(1 << 16):
                forth.write(said)
        forth.close()

    async def _answer(self, store: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        while said := await store.read(1 << 16):
            await asyncio.sleep(self.delay_s)
            if self.cut_after is not None:
                back.write(said[: self.cut_after])
                line: socket.socket = back.get_extra_info("socket")
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, HARD)
                return
            back.write(said)


@contextmanager
def running_proxy(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    proxy._thread.start()
    proxy._is_up.wait(10)
    try:
        yield proxy
    finally:
        proxy._loop.call_soon_threadsafe(proxy._loop.stop)
        proxy._thread.join(10)
