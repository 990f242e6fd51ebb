"""Who takes turns in a bench: matrix products, the bare graph, and a service on each store."""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import DEVNULL
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from loadtest import driver
from loadtest.arrivals import Schedule
from loadtest.client import Client
from loadtest.deck import Deck
from loadtest.processes import BenchError, Helper, cpu_s, free_port, helper, running, session_of
from loadtest.results import Result
from loadtest.stores import Place
from loadtest.traffic import Request
from loadtest.waiting import until_answered

FILL_S = 60.0  # for one user
PATIENCE_S = 60.0

WAKE_S = 0.05
"""What does not count of a turn: while others have theirs, they take the processor's caches.

Eight connections get two thirds of their answers in the first 25 ms, and all of them after 50. Of
the bare graph the first run does not count either.
"""

#: A bench measures how long it takes: nobody is turned away for that.
PATIENT = {
    "MARMOT_DEFAULT_DEADLINE_MS": str(PATIENCE_S * 1e3),
    "MARMOT_QUEUE_LIMIT_MS": str(PATIENCE_S * 1e3),
    "MARMOT_WORK_LIMIT_MS": str(PATIENCE_S * 1e3),
    "MARMOT_STORE_FETCH_MS": str(PATIENCE_S * 1e3),
    "MARMOT_STORE_TIMEOUT_MS": str(PATIENCE_S * 1e3),
}


@dataclass(slots=True)
class Cpu:
    """CPU seconds of those who work for an answer; 0 where one cannot be watched."""

    service: float = 0.0
    generator: float = 0.0
    store: float = 0.0

    def add(self, later: Cpu, earlier: Cpu) -> None:
        """Adds what was used between two readings."""
        self.service += later.service - earlier.service
        self.generator += later.generator - earlier.generator
        self.store += later.store - earlier.store


@dataclass(frozen=True, slots=True)
class Service:
    """A `marmot serve` of our own, its store, and a helper that writes into that directly."""

    client: Client
    place: Place
    stockroom: Helper
    pids: list[int]
    """The process that was started first, then its workers if it has any."""

    async def wake(self, connections: int, requests: Iterator[Request]) -> None:
        """The part of a turn that does not count."""
        await wake(self.client, connections, requests)

    async def closed(
        self, seconds: float, connections: int, requests: Iterator[Request], *states: str
    ) -> list[Result]:
        """Every answer of a closed loop; one in another state than these ends the bench."""
        results = await driver.closed_loop(self.client, connections, seconds, requests, _nothing)
        return _checked(results, states)

    async def open(
        self, schedule: Schedule, requests: Iterator[Request], *states: str
    ) -> list[Result]:
        """Every answer of an open loop, in the same way."""
        results = await driver.open_loop(self.client, schedule, requests, _nothing)
        return _checked(results, states)

    def cpu(self) -> Cpu:
        store = self.place.process
        return Cpu(cpu_s(*self.pids), time.process_time(), cpu_s(store.pid) if store else 0.0)

    async def stock(self, users: list[str], records: int) -> None:
        """Gives users a timeline, and takes their records away."""
        await self.stockroom.ask(work="stock", users=users, events=records)

    async def fill(self, deck: Deck, records: int) -> None:
        """Gives the known users their records: the service builds them when it is asked."""
        if not records:
            return
        await self.stock(deck.known_users, records)
        for user in deck.known_users:
            found = await self._until_hit(deck, user)
            if found != records:
                raise BenchError(
                    f"{records} records were wanted, the service has {found}: "
                    "its window is smaller; --window makes a bundle of another"
                )

    async def fingerprint(self) -> str:
        answer = await self.client.get("/health/ready")
        return answer.headers.get(b"x-model-fingerprint", b"").decode("latin-1")

    async def _until_hit(self, deck: Deck, user: str) -> int:
        """Records of a user; the first answer builds them, and they are stored after it."""
        give_up_s = time.monotonic() + FILL_S
        while time.monotonic() < give_up_s:
            found = await self._cache_of(deck.of(user))
            if found["state"] == "hit":
                return int(found["records"])
            await asyncio.sleep(0.001)
        raise BenchError(f"the service stored no records of {user} within {FILL_S:g} s")

    async def _cache_of(self, request: Request) -> dict[str, Any]:
        answer = await self.client.post(request.path, request.body)
        if answer.status != 200:
            raise BenchError(f"the service does not rank: {answer.body.decode()}")
        found: dict[str, Any] = orjson.loads(answer.body)["cache"]
        return found


async def wake(client: Client, connections: int, requests: Iterator[Request]) -> None:
    """Asks for `WAKE_S`, and forgets the answers."""
    await driver.closed_loop(client, connections, WAKE_S, requests, _nothing)


def _nothing(_done: int) -> None:
    return


def _checked(results: list[Result], states: tuple[str, ...]) -> list[Result]:
    for result in results:
        if not result.ok or result.cache_state not in states or result.degraded:
            said = f"{result.outcome} {result.cache_state}".strip()
            raise BenchError(f"the service answered {said} instead of {' or '.join(states)}")
    return results


def states_of(results: list[Result]) -> Counter[str]:
    """How often each `cache.state` was answered."""
    return Counter(result.cache_state for result in results)


def bare_graph(bundle: Path) -> AbstractAsyncContextManager[Helper]:
    """The bare `rank.onnx` loop."""
    return helper("the bare loop", sys.executable, "-m", "service.bare", "--bundle", str(bundle))


def app_in_process(place: Place, bundle: Path) -> AbstractAsyncContextManager[Helper]:
    """The app without sockets, in turns with the bare graph in the same process."""
    return helper(
        "the app in process", sys.executable, "-m", "service.bare_app",
        "--bundle", str(bundle), "--cache", place.url,
    )  # fmt: skip


def matrix_products() -> AbstractAsyncContextManager[Helper]:
    """Float32 products, by numpy or torch; a process for each that takes part."""
    return helper("the matrix products", sys.executable, "-m", "loadtest.gemm")


@asynccontextmanager
async def service_on(
    place: Place, bundle: Path, *, workers: int = 1, **settings: str
) -> AsyncIterator[Service]:
    """Workers with one engine thread each; `settings` are their environment's."""
    port = free_port()
    command = [
        sys.executable, "-c", "import service.marmot; service.marmot.main()", "serve",
        "--bundle", str(bundle), "--cache", place.url, "--port", str(port),
        "--workers", str(workers), "--threads", "1", "--drain-s", "0",
    ]  # fmt: skip
    stockroom = (
        sys.executable, "-m", "service.bare_cache", "--bundle", str(bundle), "--cache", place.url,
    )  # fmt: skip
    async with (
        running(command, env=PATIENT | settings, stderr=DEVNULL) as process,
        Client(f"http://127.0.0.1:{port}", timeout_s=PATIENCE_S) as client,
    ):
        hint = "`marmot serve` says why"
        await until_answered(lambda: client.get("/health/ready"), process, hint)
        async with helper("the stockroom", *stockroom) as stocked:
            yield Service(client, place, stocked, session_of(process))
