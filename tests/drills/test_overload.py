"""Three times what the service can do: what it accepts it serves, what it refuses it refuses fast.

    make drills

Times are told, not asserted: they belong to a machine and an hour.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import uvloop

from loadtest.arrivals import poisson
from loadtest.client import Client
from loadtest.driver import closed_loop, open_loop
from loadtest.results import Result
from loadtest.stolen import Ticks, stolen_share
from loadtest.traffic import Traffic, Universe
from tests.bundles import make_bundle
from tests.drills.histories import give_histories
from tests.drills.load import Outcome
from tests.drills.pulse import running_pulse
from tests.servers import is_up, wait_until

pytestmark = pytest.mark.drill

STEP_S, FLOOD_S, SETTLE_S = 3.0, 10.0, 0.5
#: What `CROWD` callers get who ask one after another is all there is. Capacity is the largest of
#: these shares of it at which p99 is at most `SLOWEST` times what an unloaded service takes.
CROWD, SHARES, SLOWEST = 4, tuple(share / 20 for share in range(18, 5, -1)), 5.0
#: Asks for its health, twenty times a second. A process of its own: who makes the flood is late.
PROBE = """
import http.client, sys, time
line, end_s = http.client.HTTPConnection(sys.argv[1]), time.monotonic() + float(sys.argv[2])
paths = ["/health/live", "/health/ready"]
while (began_s := time.monotonic()) < end_s:
    paths.reverse()
    line.request("GET", paths[0])
    answer = line.getresponse()
    answer.read()
    print(answer.status, began_s, time.monotonic())
    time.sleep(0.05)
"""
PAUSE_S = 0.025  # a pulse that is so late has met a machine that stood still
USERS, ITEMS, CANDIDATES, RECORDS = 50, 1_000, 500, 100


@pytest.fixture
def url(marmot: Callable[..., Any], tmp_path: Path, free_port: int) -> str:
    """`marmot serve` with a model of the default size."""
    bundle = make_bundle(tmp_path / "bundle", depth=4, window=100, width=64, heads=4)
    command = marmot(
        "serve", "--bundle", bundle, "--cache", f"lmdb:{tmp_path}/cache",
        "--port", str(free_port), "--threads", "1", "--drain-s", "0",
    )  # fmt: skip
    url = f"http://127.0.0.1:{free_port}"
    wait_until(lambda: is_up(url) or command.process.poll() is not None, within_s=60)
    assert command.process.poll() is None, command.ends()
    return url


def test_three_times_capacity(
    url: str, told: Callable[[Outcome], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Only 200 and 503, with Retry-After and at once; every request answered; health answers."""
    figures, outcome = uvloop.run(_drill(url))
    told(outcome)
    with capsys.disabled():
        print(f"\n{json.dumps(figures)}")  # noqa: T201 - the drill is there to tell


async def _drill(url: str) -> tuple[dict[str, Any], Outcome]:
    traffic = Traffic(Universe.of_counts(USERS, ITEMS), candidates=CANDIDATES)
    async with Client(url) as client:
        await give_histories(client, USERS, RECORDS)
        unloaded = await closed_loop(client, 1, STEP_S, traffic, _ignore)
        crowd = await closed_loop(client, CROWD, STEP_S, traffic, _ignore)
        for share in SHARES:
            rate = share * len(_ok(crowd)) / STEP_S
            at_capacity = await open_loop(client, poisson(rate, STEP_S, 0), traffic, _ignore)
            if _quantile(at_capacity, 99) <= SLOWEST * _quantile(unloaded, 50):
                break
        before = Ticks.now()
        flood = asyncio.create_task(
            open_loop(client, poisson(3 * rate, FLOOD_S, 0), traffic, _ignore)
        )
        with running_pulse() as pulse:
            health = await _probed(url)
            results = await flood
            stolen = stolen_share(before, Ticks.now())
            # What a machine that stands still does to a look at health is not the service's.
            stood_s = [pulse.stood_s(*look[1:], late_s=PAUSE_S) for look in health]
        last = await closed_loop(client, 1, SETTLE_S, traffic, _ignore)
    refused = [result for result in results if result.outcome == "503"]
    settled = [result for result in results if result.due > results[0].due + SETTLE_S]
    assert set(Counter(result.outcome for result in results)) == {"200", "503"}
    assert {status for status, _, _ in health} == {200}
    took_s = [done - began for _, began, done in health]
    assert {result.outcome for result in last} == {"200"}
    figures = {
        "unloaded_p50_ms": _ms(_quantile(unloaded, 50)),
        "capacity_rps": round(rate, 1),
        "capacity_share": share,
        "capacity_p50_ms": _ms(_quantile(at_capacity, 50)),
        "capacity_p99_ms": _ms(_quantile(at_capacity, 99)),
        "offered_rps": round(len(results) / FLOOD_S, 1),
        "goodput_of_capacity": round(len(_ok(results)) / FLOOD_S / rate, 3),
        "accepted_p50_ms": _ms(_quantile(settled, 50)),
        "accepted_p99_ms": _ms(_quantile(settled, 99)),
        "accepted_p99_with_start_ms": _ms(_quantile(results, 99)),
        "refused_p50_ms": _ms(float(np.median([result.done - result.sent for result in refused]))),
        "health_p99_ms": _ms(float(np.percentile(took_s, 99))),
        "health_max_ms": _ms(max(took_s)),
        "health_max_without_pauses_ms": _ms(max(np.subtract(took_s, stood_s))),
        "paused_ms": _ms(sum(stood_s)),
        "stolen_share": stolen,
        "driver_late_p99_ms": _ms(
            float(np.percentile([result.sent - result.due for result in results], 99))
        ),
    }
    outcome = Outcome(
        "three times its capacity", ranked=len(results), shed=len(refused), failed=0, posted=0,
        refused=0, excused=0, lost=0, away=0, waited_ms=0.0, back_s=None,
    )  # fmt: skip
    return figures, outcome


async def _probed(url: str) -> list[tuple[int, float, float]]:
    """Status of each answer of health during the flood, when it was asked for and when it came."""
    probe = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROBE, urlsplit(url).netloc, str(FLOOD_S), stdout=PIPE
    )
    said, _ = await probe.communicate()
    answers = [line.split() for line in said.decode().splitlines()]
    return [(int(status), float(began), float(done)) for status, began, done in answers]


def _ok(results: list[Result]) -> list[Result]:
    return [result for result in results if result.ok]


def _quantile(results: list[Result], percent: float) -> float:
    """Of the latency of what was served, in seconds from when it was due."""
    return float(np.percentile([result.done - result.due for result in _ok(results)], percent))


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 2)


def _ignore(_done: int) -> None:
    return
