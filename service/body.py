"""The body of a request: JSON, not too large, and in time."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.types import Receive, Scope

from service.caller import CallerGone
from service.errors import BodyTimeout, BodyTooLarge, NotJson, Problem
from service.wire import arrived_body

DISCARD_BYTES = 16 << 20
DISCARD_S = 2.0


class _Over(Exception):
    def __init__(self, *, has_more: bool) -> None:
        super().__init__()
        self.has_more = has_more


async def read_body(scope: Scope, receive: Receive, *, limit_bytes: int, timeout_s: float) -> bytes:
    """The whole body; one that is declared too large is refused before it is read."""
    refused = _refused(scope, limit_bytes)
    if refused is not None:
        await _discard(receive)
        raise refused
    body = arrived_body(scope)
    if body is not None and len(body) <= limit_bytes:
        return body
    try:
        async with asyncio.timeout(timeout_s):
            return await _read(receive, limit_bytes)
    except _Over as over:
        if over.has_more:
            await _discard(receive)
        raise _too_large(limit_bytes) from None
    except TimeoutError as error:
        raise BodyTimeout(f"The body was not complete after {timeout_s:g} s") from error


def _refused(scope: Scope, limit_bytes: int) -> Problem | None:
    for name, value in scope["headers"]:
        if name == b"content-type":
            kind = value.split(b";", 1)[0].strip().lower()
            if kind and kind != b"application/json":
                return NotJson()
        elif name == b"content-length" and value.isdigit() and int(value) > limit_bytes:
            return _too_large(limit_bytes)
    return None


async def _discard(receive: Receive) -> None:
    """Reads on for a while: who is still sending would miss an answer before a closed door."""
    left = DISCARD_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_S):
            while left > 0:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise CallerGone
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


async def _read(receive: Receive, limit_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerGone
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > limit_bytes:
            raise _Over(has_more=message.get("more_body", False))
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body may have at most {limit_bytes:,} bytes")
