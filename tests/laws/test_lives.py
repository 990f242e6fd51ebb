"""Law 1 across the lives of a service: after a restart, after a backfill, beside another model."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.host import fill_store
from service.settings import read_settings
from tests import plain
from tests.bundles import make_bundle
from tests.laws.world import CANDIDATES, Bundles, Posted, World, reference, scores_of
from tests.servers import Running, is_up, wait_until

NOW = 10**7
KINDS = pytest.mark.parametrize("name", ["shallow", "four", "three, float16", "four, int8"])


def some_events(user_id: str, count: int, seed: int = 0) -> list[Posted]:
    random = np.random.default_rng(seed)
    return [
        {
            "user_id": user_id,
            "item_id": int(random.integers(0, 70)),
            "timestamp": int(random.integers(0, 2_000)) * 100,
            "feedback": {"like": int(random.integers(0, 2))},
            "feedback_timestamp": NOW,
        }
        for _ in range(count)
    ]


def write(path: Path, events: list[Posted]) -> Path:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user_id", "item_id", "timestamp", "like", "feedback_timestamp"])
        for e in events:
            like = e["feedback"]["like"]
            said = e["feedback_timestamp"]
            rows.writerow([e["user_id"], e["item_id"], e["timestamp"], like, said])
    return path


@pytest.fixture
def start() -> Any:
    """Starts services, and leaves none behind."""
    started: list[Running] = []

    def begin(bundle: Path, url: str) -> World:
        started.append(Running(bundle=bundle, cache=url))
        return World(started[-1], bundle)

    yield begin
    for running in started:
        running.stop()


Start = Callable[[Path, str], World]


@KINDS
def test_a_restart_changes_nothing(
    start: Start, bundle_of: Bundles, store_url: str, name: str
) -> None:
    """What was posted before a restart is scored from the cache after it."""
    events = some_events("u", 50)
    first = start(bundle_of(name), store_url)
    first.running.post(*events)
    first.running.stop()
    second = start(bundle_of(name), store_url)
    assert second.check("u", events, NOW)["cache"]["state"] == "hit"
    more = some_events("u", 20, seed=1)
    second.running.post(*more)
    second.check("u", events + more, NOW)


@KINDS
def test_a_backfill_is_as_good_as_posting(
    start: Start, bundle_of: Bundles, store_url: str, tmp_path: Path, name: str
) -> None:
    """A store filled from a file gives the trusted scores, and live events go on from there."""
    events = some_events("u", 60) + some_events("v", 3, seed=1)
    settings = read_settings(bundle=bundle_of(name), cache=store_url)
    asyncio.run(fill_store(settings, write(tmp_path / "events.csv", events)))
    world = start(bundle_of(name), store_url)
    for user in ("u", "v"):
        assert world.check(user, events, NOW)["cache"]["state"] == "hit"
    more = some_events("u", 9, seed=2)
    for event in more:
        world.running.post(event)
    world.check("u", events + more, NOW)


def test_a_backfilled_label_keeps_its_time(
    start: Start, bundle_of: Bundles, store_url: str, tmp_path: Path
) -> None:
    """A live label replaces a backfilled one only if it is newer: merging knows both times."""
    event: Posted = {"user_id": "u", "item_id": 1, "timestamp": 10, "feedback": {"like": 1}}
    file = write(tmp_path / "events.csv", [{**event, "feedback_timestamp": 100}])
    asyncio.run(fill_store(read_settings(bundle=bundle_of("four"), cache=store_url), file))
    running = start(bundle_of("four"), store_url).running
    turned = {**event, "feedback": {"like": 0}}
    for said, status, like in ((50, "duplicate", 1), (100, "duplicate", 1), (101, "updated", 0)):
        (result,) = running.post({**turned, "feedback_timestamp": said})
        assert result["status"] == status
        assert running.timeline("u")["events"][0]["feedback"] == {"like": like}


def test_two_services_with_two_models_share_a_store(
    start: Start, marmot: Callable[..., Any], free_port: int, store_url: str, tmp_path: Path
) -> None:
    """Each process answers from its own records while both write the same users."""
    here, there = (make_bundle(tmp_path / str(seed), seed=seed) for seed in (1, 2))
    world, url = start(here, store_url), f"http://127.0.0.1:{free_port}"
    marmot(
        "serve", "--bundle", there, "--cache", store_url, "--port", str(free_port),
        MARMOT_STORE_FETCH_MS="20000", MARMOT_STORE_TIMEOUT_MS="20000",
        MARMOT_WRITE_DEADLINE_S="60",
    )  # fmt: skip
    wait_until(lambda: is_up(url))
    events = some_events("u", 60)
    with plain.Client(url) as other:
        for place, event in enumerate(events):
            if place % 3:
                world.running.post(event)
            else:
                assert other.post("/v1/events", json={"events": [event]}).status_code == 200
            if place % 10 == 9:
                seen = events[: place + 1]
                world.check("u", seen, NOW)
                ask = {"user_id": "u", "candidates": CANDIDATES, "timestamp": NOW}
                answer = other.post("/v1/rank", json=ask).json()
                assert answer["degraded"] == []
                expected = reference(there, seen, "u", CANDIDATES, NOW)
                assert np.abs(scores_of(answer) - expected).max() <= 1e-4
