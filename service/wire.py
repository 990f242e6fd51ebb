"""The server's side of a connection: an answer's head and body leave in one write, not in two.

The first of two writes wakes the caller, who finds nothing but headers and goes back to sleep.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from service.gate import Gate


class Wire(Gate):
    """Uvicorn's protocol on a transport that waits for the body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        held = HeadHolder(cast("asyncio.Transport", transport), self.loop)
        super().connection_made(cast("asyncio.Transport", held))


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
