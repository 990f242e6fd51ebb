"""New versions that load and make their records while the old one answers.

    make drills

Times are told, not asserted: they belong to a machine and an hour.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from loadtest.arrivals import poisson
from loadtest.client import Client
from loadtest.driver import closed_loop, open_loop
from loadtest.results import Result
from loadtest.traffic import Traffic, Universe
from tests.bundles import make_bundle
from tests.drills.histories import give_histories
from tests.drills.load import Outcome
from tests.servers import is_up, wait_until

pytestmark = pytest.mark.drill

TURNS, TURN_S, PROBE_S = 6, 6.0, 3.0
#: What `CROWD` callers get who ask one after another is all there is; so much of it is asked for.
CROWD, LOAD = 4, 0.4
USERS, ITEMS, CANDIDATES, RECORDS = 200, 1_000, 100, 100
WITHIN_S = 240.0


@pytest.fixture
def url(marmot: Callable[..., Any], tmp_path: Path, free_port: int) -> str:
    """`marmot serve` with a model of the default size, and more of them on its shelf."""
    for turn in range(TURNS + 1):
        shape = {"depth": 4, "window": RECORDS, "width": 64, "heads": 4}
        make_bundle(tmp_path / f"v{turn}", seed=turn, version=f"v{turn}", **shape)
    command = marmot(
        "serve", "--bundle", tmp_path / "v0", "--models-dir", tmp_path,
        "--cache", f"lmdb:{tmp_path}/cache", "--port", str(free_port),
        "--threads", "1", "--drain-s", "0",
    )  # fmt: skip
    url = f"http://127.0.0.1:{free_port}"
    wait_until(lambda: is_up(url) or command.process.poll() is not None, within_s=WITHIN_S)
    assert command.process.poll() is None, command.ends()
    return url


def test_versions_come_while_one_answers(
    url: str, told: Callable[[Outcome], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every version's records are made in the meantime, and nobody's request fails.

    A machine that stands still for a moment makes a queue, of which the end is refused: such
    requests are told, with a version loading and without.
    """
    figures, outcome = uvloop.run(_drill(url))
    told(outcome)
    with capsys.disabled():
        print(f"\n{json.dumps(figures)}")  # noqa: T201 - the drill is there to tell


async def _drill(url: str) -> tuple[dict[str, Any], Outcome]:
    traffic = Traffic(Universe.of_counts(USERS, ITEMS), candidates=CANDIDATES)
    alone: list[Result] = []
    beside: list[Result] = []
    async with Client(url) as client:
        await give_histories(client, USERS, RECORDS)
        crowd = await closed_loop(client, CROWD, PROBE_S, traffic, _ignore)
        rate = LOAD * len(crowd) / PROBE_S
        for turn in range(TURNS):
            arrivals = poisson(rate, TURN_S, turn)
            alone += await open_loop(client, arrivals, traffic, _ignore)
            body = json.dumps({"bundle": f"v{turn + 1}"}).encode()
            assert (await client.post("/v1/models", body)).status == 202
            beside += await open_loop(client, arrivals, traffic, _ignore)
            assert await _rebuilt(client, turn + 1) < USERS  # else some of it was asked alone
            await _until_rebuilt(client, turn + 1)
    results = [*alone, *beside]
    assert set(Counter(result.outcome for result in results)) <= {"200", "503"}
    figures = {
        "offered_rps": round(rate, 1),
        "alone_refused": _refused(alone),
        "beside_refused": _refused(beside),
        "alone_p50_ms": _ms(alone, 50),
        "beside_p50_ms": _ms(beside, 50),
        "alone_p99_ms": _ms(alone, 99),
        "beside_p99_ms": _ms(beside, 99),
        "beside_of_alone": round(_ms(beside, 99) / _ms(alone, 99), 3),
    }
    outcome = Outcome(
        f"{TURNS} versions loaded and rebuilt", ranked=len(results), shed=_refused(results),
        failed=0, posted=0, refused=0, excused=0, lost=0, away=0, waited_ms=0.0, back_s=None,
    )  # fmt: skip
    return figures, outcome


async def _rebuilt(client: Client, version: int) -> int:
    """How many users have their records of that version."""
    models = json.loads((await client.get("/v1/models")).body)["models"]
    found = {model["version"]: model["rebuilt_users"] for model in models}
    return int(found.get(f"v{version}") or 0)


async def _until_rebuilt(client: Client, version: int) -> None:
    end = time.monotonic() + WITHIN_S
    while await _rebuilt(client, version) < USERS:
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


def _refused(results: list[Result]) -> int:
    return sum(result.outcome == "503" for result in results)


def _ms(results: list[Result], percent: float) -> float:
    """Of what was served, from when it was due."""
    took_s = [result.done - result.due for result in results if result.ok]
    return round(1e3 * float(np.percentile(took_s, percent)), 2)


def _ignore(_done: int) -> None:
    return
