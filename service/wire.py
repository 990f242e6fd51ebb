"""The server's side of a connection: what it knows of a request that the protocol does not tell.

An answer's head and body leave in one write, not in two: the first of two wakes the caller, who
finds nothing but headers and goes back to sleep. A body that came with its headers is there at
once, and a request knows when it came and whether others are being answered.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any, cast

from starlette.types import Scope

from service.caller import Line
from service.gate import Gate

REQUESTS = "marmot.requests"
BODY = "marmot.body"
CAME = "marmot.came"
LINE = "marmot.line"


class Wire(Gate):
    """Uvicorn's protocol on a transport that waits for the body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        held = HeadHolder(cast("asyncio.Transport", transport), self.loop)
        super().connection_made(cast("asyncio.Transport", held))
        self._line = Line()

    def connection_lost(self, exc: Exception | None) -> None:
        self._line.lose()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server closes and would wait for answers; one without end must be told."""
        self._house.feed.close()
        super().shutdown()

    def on_headers_complete(self) -> None:
        scope = cast("Scope", self.scope)
        scope[REQUESTS], scope[CAME], scope[LINE] = self.tasks, perf_counter(), self._line
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        cycle = self.cycle
        if cycle is not None and not cycle.more_body:
            cast("Scope", cycle.scope)[BODY] = bytes(cycle.body)


def arrived_body(scope: Scope) -> bytes | None:
    """The whole body, if it was there before anybody asked for it."""
    body: bytes | None = scope.get(BODY)
    return body


def came_at(scope: Scope) -> float:
    """When the request's head was complete (`perf_counter`); the loop may have been busy since."""
    came: float | None = scope.get(CAME)
    return perf_counter() if came is None else came


def line(scope: Scope) -> Line | None:
    """The connection that the request came on."""
    return scope.get(LINE)


def company(scope: Scope) -> int:
    """How many requests of this process are being answered, or have come in, with this one."""
    return len(scope.get(REQUESTS, ()))


def leave_company(scope: Scope) -> None:
    """For an answer without end: nobody is kept waiting by it, so it is not counted with others."""
    tasks: set[asyncio.Task[Any]] = scope.get(REQUESTS, set())
    task = asyncio.current_task()
    if task is not None:
        tasks.discard(task)


class HeadHolder:
    """A transport that keeps an answer's head until the next write, or for one turn of the loop."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        elif data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n"):
            self._head = data
            self._loop.call_soon(self._flush)  # a HEAD request's answer has no body
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)
