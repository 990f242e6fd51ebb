"""A small real server, for the load test to ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import orjson

Message = MutableMapping[str, Any]


@dataclass
class Stage:
    """An ASGI app that answers as the service does, and can be told to stall or to fail."""

    asked: list[tuple[str, Any]] = field(default_factory=list)
    opens: Callable[[], bool] = lambda: True  # nobody is answered before
    opened_s: float | None = None
    statuses: Iterator[int] | None = None
    ready: int = 200
    url: str = ""

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if scope["path"] == "/health/ready":
            await _answer(send, self.ready, {})
            return
        asked = orjson.loads(body)
        self.asked.append((scope["path"], asked))
        while not self.opens():  # noqa: ASYNC110 - whoever opens is in another thread
            await asyncio.sleep(0.005)
        self.opened_s = self.opened_s or time.monotonic()
        status = next(self.statuses) if self.statuses else 200
        if scope["path"] == "/v1/rank":
            scores = [0.5] * len(asked["candidates"])
            cache = {"state": "hit", "records": 3, "recomputed": 0}
            await _answer(
                send, status, {"scores": {"like": scores}, "cache": cache, "degraded": []}
            )
        else:
            await _answer(send, status, {"results": [{"status": "appended", "version": 1}]})


async def _answer(send: Callable[[Message], Awaitable[None]], status: int, body: Any) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"server-timing", b"cache;dur=0.25, queue;dur=0, run;dur=1.5, total;dur=2.0"),
        (b"x-model-fingerprint", b"0123456789abcdef"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": orjson.dumps(body)})
