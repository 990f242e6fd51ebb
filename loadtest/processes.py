"""Processes that the bench starts: gone when it goes, asked line by line, their CPU time read."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

LINE_BYTES = 1 << 26
STOP_S = 10.0
FIRST_PORT, LAST_PORT = 10_000, 15_000

#: Numpy's threads, whichever library it was built with.
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class BenchError(Exception):
    """A contestant that could not take part."""


class Helper:
    """A process that answers each line of JSON with one."""

    def __init__(self, name: str, process: Process) -> None:
        self._name = name
        self._process = process

    async def ask(self, **question: Any) -> dict[str, Any]:
        """The answer; a helper that ends instead ends the bench."""
        writer, reader = self._process.stdin, self._process.stdout
        if writer is None or reader is None:
            raise RuntimeError(f"{self._name} has no pipes. This is a bug.")
        writer.write(orjson.dumps(question) + b"\n")
        line = await reader.readline()
        if not line:
            raise BenchError(f"{self._name} ended; what it said is above")
        answer: dict[str, Any] = orjson.loads(line)
        return answer

    async def turn(self, seconds: float, **question: Any) -> list[float]:
        """Seconds that each run took."""
        took_s: list[float] = (await self.ask(**question, seconds=seconds))["took_s"]
        return took_s


@asynccontextmanager
async def helper(name: str, *command: str) -> AsyncIterator[Helper]:
    """A helper for as long as it is needed."""
    async with running(command, stdin=PIPE, stdout=PIPE, limit=LINE_BYTES) as process:
        yield Helper(name, process)


@asynccontextmanager
async def running(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, **how: Any
) -> AsyncIterator[Process]:
    """A process that goes when we do, and whatever it started with it."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=os.environ | ONE_THREAD | dict(env or {}),
        start_new_session=True,
        **how,
    )
    try:
        yield process
    finally:
        await _stop(process)


async def _stop(process: Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        with suppress(TimeoutError):  # then it is killed
            async with asyncio.timeout(STOP_S):
                await process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def session_of(process: Process) -> list[int]:
    """The process and all that it started; itself alone where there is no /proc."""
    found = [process.pid]
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # gone meanwhile
            if int(_fields(path)[3]) == process.pid != int(path.parent.name):
                found.append(int(path.parent.name))
    return found


def cpu_s(*pids: int) -> float:
    """CPU seconds of these processes so far; 0 of those that are none, or without /proc."""
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            ticks += sum(map(int, _fields(Path(f"/proc/{pid}/stat"))[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Memory that the process has in use; 0 without /proc."""
    path = Path(f"/proc/{pid}/statm")
    pages = int(path.read_text().split()[1]) if path.exists() else 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _fields(stat: Path) -> list[str]:
    """From the state on: what stands before it may have blanks."""
    return stat.read_text().rpartition(")")[2].split()


def free_port() -> int:
    """A port that nobody listens on.

    It lies below those that the system gives to whoever asks for any: a server that takes seconds
    to start still finds it free.
    """
    while True:
        port = random.SystemRandom().randrange(FIRST_PORT, LAST_PORT)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
