"""Waiting for a server that is starting: asked again until it answers."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable

from loadtest.client import Answer, ClientError
from loadtest.processes import BenchError

START_S = 60.0
AGAIN_S = 0.02


async def until_answered(ask: Callable[[], Awaitable[Answer]], process: Process, hint: str) -> None:
    """Returns at the first 200; a process that ends before, or takes too long, ends the bench."""
    try:
        async with asyncio.timeout(START_S):
            while not await _is_answered(ask):
                if process.returncode is not None:
                    raise BenchError(f"the server did not start: {hint}")
                await asyncio.sleep(AGAIN_S)
    except TimeoutError as error:
        raise BenchError(f"the server was not ready within {START_S:g} s: {hint}") from error


async def _is_answered(ask: Callable[[], Awaitable[Answer]]) -> bool:
    try:
        return (await ask()).status == 200
    except ClientError:
        return False
