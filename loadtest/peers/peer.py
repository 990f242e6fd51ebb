"""The other servers: how each is started, asked, and understood."""

from __future__ import annotations

import os
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from loadtest.client import Client
from loadtest.processes import free_port, running
from loadtest.traffic import Request
from loadtest.waiting import until_answered

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def _plain(body: bytes) -> bytes:
    return body


def _scores(answer: Any) -> list[float]:
    found: list[float] = answer["scores"]
    return found


def _instances(body: bytes) -> bytes:
    return b'{"instances":[%b]}' % body


def _predictions(answer: Any) -> list[float]:
    found: list[float] = answer["predictions"][0]
    return found


@dataclass(frozen=True, slots=True)
class Peer:
    """One server; its file is `<name>/server.py` beside this one."""

    name: str
    path: str
    wrapped: Callable[[bytes], bytes] = _plain
    scores: Callable[[Any], list[float]] = _scores

    def request(self, body: bytes) -> Request:
        """A body as Marmot takes it, for this server."""
        return Request("rank", self.path, self.wrapped(body))

    def python(self, folder: Path) -> Path:
        """Where `make peers` put its interpreter."""
        return folder / self.name / "bin" / "python"

    @asynccontextmanager
    async def started(
        self, folder: Path, settings: Mapping[str, str], ask: Request
    ) -> AsyncIterator[Client]:
        """The server, once it has answered `ask`; gone with the block."""
        port = free_port()
        env = {
            **settings,
            "PEER_PORT": str(port),
            "PYTHONPATH": str(ROOT),
            "PATH": f"{self.python(folder).parent}{os.pathsep}{os.environ['PATH']}",
        }
        command = [str(self.python(folder)), str(HERE / self.name / "server.py")]
        async with (
            running(command, env=env, stdout=DEVNULL, stderr=DEVNULL) as process,
            Client(f"http://127.0.0.1:{port}") as client,
        ):
            hint = f"`{' '.join(command)}` says why"
            await until_answered(lambda: client.post(ask.path, ask.body), process, hint)
            yield client

    async def answer(self, client: Client, request: Request) -> list[float]:
        """What it scores a request with."""
        answer = await client.post(request.path, request.body)
        return self.scores(orjson.loads(answer.body))


PEERS = (
    Peer("fastapi", "/rank"),
    Peer("mosec", "/inference"),
    Peer("litserve", "/predict"),
    Peer("bentoml", "/rank"),
    Peer("kserve", "/v1/models/rank:predict", _instances, _predictions),
)
