"""Sends requests: when they are due (open loop), or as fast as they are answered (closed loop).

Only the open loop tells what users feel: a closed one sends less while the server is slow, and
so leaves out just the requests that would have waited.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

from loadtest.alarm import Alarm
from loadtest.arrivals import Schedule
from loadtest.client import Client, ClientError
from loadtest.results import Result
from loadtest.traffic import Request

HEAD_START_S = 0.05

Tick = Callable[[int], None]


async def open_loop(
    client: Client, schedule: Schedule, traffic: Iterator[Request], tick: Tick
) -> list[Result]:
    """Sends one request at each moment of `schedule`, whatever became of those before."""
    results: list[Result] = []
    start = time.monotonic() + HEAD_START_S
    async with asyncio.TaskGroup() as group:
        with Alarm() as alarm:
            for offset in schedule.tolist():
                request = next(traffic)
                await alarm.until(start + offset)
                group.create_task(_send(client, request, start + offset, results))
                tick(len(results))
    tick(len(results))
    return results


async def closed_loop(
    client: Client, connections: int, duration_s: float, traffic: Iterator[Request], tick: Tick
) -> list[Result]:
    """Keeps `connections` requests under way for `duration_s`; each is due when it is sent.

    Over sooner where `traffic` ends.
    """
    results: list[Result] = []
    end = time.monotonic() + duration_s

    async def one() -> None:
        while (due := time.monotonic()) < end and (request := next(traffic, None)):
            await _send(client, request, due, results)
            tick(len(results))
            if not results[-1].ok:
                await asyncio.sleep(0.001)  # a server that refuses at once is not a race

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(one())
    return results


async def _send(client: Client, request: Request, due: float, results: list[Result]) -> None:
    sent = time.monotonic()
    try:
        answer = await client.post(request.path, request.body)
    except ClientError as error:
        results.append(Result(request.kind, due, sent, time.monotonic(), error.word))
    else:
        results.append(Result.of(request.kind, due, answer))
