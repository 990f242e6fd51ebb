"""A request without a network: the app called in the process that runs the bare graph, in turns.

    echo '{"body": "{\"user_id\": 1, …}", "candidates": 500, "records": 100, "seconds": 1}' \
        | python -m service.bare_app --bundle B --cache lmdb:STORE

Every line on stdin asks for one turn and gets one line of JSON: how long each bare run took and
each whole request (`bare_s`, `app_s`), and the CPU time of them all (`bare_cpu_s`, `app_cpu_s`).
What is counted after an answer has gone is not in its time; in the CPU time it is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import uvloop

from service.app import create_app
from service.bare import random_feed
from service.doorway import Doorway
from service.logging import configure_logging
from service.settings import read_settings
from service.wire import BODY, CAME, REQUESTS

ROW = 25  # runs and requests in turns
TURNS = 2  # of the loop, in which is counted what an answer does not wait for
PATIENCE_MS = 60_000.0  # for the store: a slow machine is measured, not refused

Message = dict[str, Any]


def main(arguments: list[str] | None = None, questions: Iterable[str] = sys.stdin) -> None:
    """Answers until there are no more questions."""
    parser = argparse.ArgumentParser(prog="service.bare_app", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--cache", required=True)
    options = parser.parse_args(arguments)
    settings = read_settings(
        bundle=options.bundle,
        cache=options.cache,
        threads=1,
        store_fetch_ms=PATIENCE_MS,
        store_timeout_ms=PATIENCE_MS,
        default_deadline_ms=PATIENCE_MS,
    )
    configure_logging(form=settings.log_format, level="warning")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(create_app(settings), questions))


async def _serve(app: Doorway, questions: Iterable[str]) -> None:
    async with app.house.open():
        for line in questions:
            answer = await _turns(app, **json.loads(line))
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


async def _turns(
    app: Doorway, body: str, candidates: int, records: int, seconds: float
) -> dict[str, Any]:
    engine, metrics = app.house.registry.active.engine, app.house.metrics
    feed = random_feed(engine.bundle, "rank", candidates=candidates, records=records)
    content = body.encode()

    async def run() -> None:
        engine.run("rank", feed)

    async def ask() -> None:
        said = await _call(app, content)
        if said[0]["status"] != 200:
            raise RuntimeError(f"the app does not rank: {said[-1]['body'].decode()}")

    bare = _Times()
    asked = _Times()
    await _row(ask, _Times())
    end = perf_counter() + seconds
    while perf_counter() < end or not asked.took_s:
        await _row(run, bare)
        await _row(ask, asked, metrics.settle)
    return {
        "bare_s": bare.took_s,
        "app_s": asked.took_s,
        "bare_cpu_s": bare.cpu_s,
        "app_cpu_s": asked.cpu_s,
    }


class _Times:
    """What a contestant took so far."""

    def __init__(self) -> None:
        self.took_s: list[float] = []
        self.cpu_s = 0.0


async def _row(
    work: Callable[[], Awaitable[None]], times: _Times, at_end: Callable[[], None] | None = None
) -> None:
    """A contestant's runs, one after the other."""
    began_s = process_time()
    for _ in range(ROW):
        began = perf_counter()
        await work()
        times.took_s.append(perf_counter() - began)
        for _ in range(TURNS):
            await asyncio.sleep(0)
    if at_end is not None:
        at_end()
    times.cpu_s += process_time() - began_s


async def _call(app: Doorway, body: bytes) -> list[Message]:
    """One request as `service/wire.py` hands it over, nobody else being there."""
    said: list[Message] = []
    sent = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return sent.pop() if sent else await asyncio.Future()  # this caller never hangs up

    async def send(message: Any) -> None:
        said.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": "/v1/rank", "raw_path": b"/v1/rank", "query_string": b"",
        "root_path": "", "headers": [(b"host", b"bench"), (b"content-type", b"application/json")],
        "client": ("bench", 1), "server": ("bench", 1), "state": {},
        REQUESTS: {1}, BODY: body, CAME: perf_counter(),
    }  # fmt: skip
    await app(scope, receive, send)
    return said


if __name__ == "__main__":
    main()
