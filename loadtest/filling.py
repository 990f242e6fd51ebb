"""`marmot backfill` beside the bare `encode.onnx`, in turns; and its memory for a larger file."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson

from loadtest.contestants import bare_graph
from loadtest.deck import Item, items_of
from loadtest.plan import Plan, Tick, with_bundle
from loadtest.processes import ONE_THREAD, BenchError
from loadtest.stores import opened

EVENTS = 200  # of each user
LARGER = 4  # times
LOOK_S = 0.01  # between two looks at a process' memory


@dataclass(frozen=True, slots=True)
class Filled:
    """What one backfill took, all of its process."""

    cpu_s: float
    took_s: float
    greatest_bytes: int
    anonymous_bytes: int  # the most that was seen: without pages of files, the store's among them


async def filling(plan: Plan, events: int, tick: Tick) -> dict[str, Any]:
    """Files of so many events and of four times as many, into an empty store each time.

    What the larger one takes beyond the smaller is the rate: the start is in both.
    """
    kinds = "rate", "bare", "cpu_rate", "bare_cpu_rate", "small", "large"
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    own: dict[str, list[float]] = {"small": [], "large": []}
    async with AsyncExitStack() as stack:
        plan = await with_bundle(plan, stack)
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="marmot-bench-")))
        users = max(1, events // EVENTS)
        files = [_write(plan.bundle, folder, users * times) for times in (1, LARGER)]
        bare = await stack.enter_async_context(bare_graph(plan.bundle))
        for number in range(plan.rounds):
            tick(number, plan.rounds)
            answer = await bare.ask(graph="encode", events=EVENTS, seconds=1.0)
            runs = len(answer["took_s"])
            found["bare"].append(runs * EVENTS / sum(answer["took_s"]))
            # One run more than is told: the first does not count as one, but takes its time.
            found["bare_cpu_rate"].append((runs + 1) * EVENTS / answer["cpu_s"])
            small, large = [await _filled(plan, file) for file in files]
            more = (LARGER - 1) * users * EVENTS
            found["rate"].append(more / (large.took_s - small.took_s))
            found["cpu_rate"].append(more / (large.cpu_s - small.cpu_s))
            found["small"].append(small.greatest_bytes)
            found["large"].append(large.greatest_bytes)
            own["small"].append(small.anonymous_bytes)
            own["large"].append(large.anonymous_bytes)
    rate, bare_rate, cpu_rate, bare_cpu_rate = (float(np.median(found[k])) for k in kinds[:4])
    small_mib, large_mib = (max(found[name]) / 2**20 for name in ("small", "large"))
    small_own_mib, large_own_mib = (max(own[name]) / 2**20 for name in ("small", "large"))
    return {
        "kind": "backfill",
        "store": plan.store.each[0].value,
        "events_per_user": EVENTS,
        "events": users * EVENTS,
        "larger_events": users * EVENTS * LARGER,
        "events_per_s": round(rate, 1),
        "bare_events_per_s": round(bare_rate, 1),
        "share": round(rate / bare_rate, 4),
        "events_per_cpu_s": round(cpu_rate, 1),
        "bare_events_per_cpu_s": round(bare_cpu_rate, 1),
        "cpu_share": round(cpu_rate / bare_cpu_rate, 4),
        "peak_mib": round(small_mib, 1),
        "anonymous_peak_mib": round(small_own_mib, 1),
        "larger_peak_mib": round(large_mib, 1),
        "larger_anonymous_peak_mib": round(large_own_mib, 1),
    }


async def _filled(plan: Plan, file: Path) -> Filled:
    async with opened(plan.store.each[0]) as place:
        return await asyncio.to_thread(_run, plan.bundle, file, place.url)


def _run(bundle: Path, file: Path, url: str) -> Filled:
    """A process of its own, so that the system says what it took."""
    command = [
        sys.executable, "-c", "import service.marmot; service.marmot.main()", "backfill",
        "--bundle", str(bundle), "--events", str(file), "--cache", url,
    ]  # fmt: skip
    alone = os.environ | ONE_THREAD | {"MARMOT_THREADS": "1"}
    with subprocess.Popen(  # noqa: S603
        command, env=alone, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        began = time.perf_counter()
        anonymous, ended = 0, 0
        while not ended:
            anonymous = max(anonymous, _anonymous_bytes(process.pid))
            time.sleep(LOOK_S)
            ended, status, took = os.wait4(process.pid, os.WNOHANG)
        took_s = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BenchError(f"`marmot backfill` ended with {process.returncode}")
    cpu_s = took.ru_utime + took.ru_stime
    return Filled(cpu_s, took_s, took.ru_maxrss * 1024, anonymous)


def _anonymous_bytes(pid: int) -> int:
    """Memory of a process that no file stands behind; 0 of one that has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def _write(bundle: Path, folder: Path, users: int) -> Path:
    """Users who see the items in turn, a second apart, and like every other."""
    tasks = orjson.loads((bundle / "manifest.json").read_bytes())["spec"]["tasks"]
    items: list[Item] = items_of(bundle)
    path = folder / f"events-{users}.csv"
    with path.open("w") as file:
        file.write(",".join(["user_id", "item_id", "timestamp", *tasks]) + "\n")
        for user in range(users):
            for n in range(EVENTS):
                item, like = items[(user + n) % len(items)], n % 2
                file.write(f"u{user},{item},{10**9 + n}" + f",{like}" * len(tasks) + "\n")
    return path
