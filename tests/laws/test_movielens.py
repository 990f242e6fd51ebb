"""Law 1 on real data: fifty users posted event by event, against `marmot score`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.bundle import BundleError, load_bundle
from models.events import EventTable, read_events
from models.export import export
from models.movielens import fetch_ml_100k
from models.reference import load_model
from models.spec import Spec
from tests.bundles import random_model
from tests.laws.world import CACHED, scores_of
from tests.servers import ROOT, Command, Running

USERS = 50
CANDIDATES = 30


@dataclass(frozen=True)
class Journey:
    """Fifty users: their events, requests about them, and the trusted answers."""

    bundle: Path
    table: EventTable
    requests: list[dict[str, Any]]
    expected: list[dict[str, Any]]


@pytest.fixture(scope="session")
def movielens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MovieLens-100K: the copy that `make serve` fetched, or one of our own."""
    folder = tmp_path_factory.mktemp("movielens")
    for here in (ROOT / "var" / "data").glob("*.parquet"):
        shutil.copy(here, folder)
    return fetch_ml_100k(folder).events  # what is there and whole is not fetched again


def bundle_of(kind: str, movielens: Path, path: Path) -> Path:
    """The default spec with random weights; or a trained one, from `make serve` or our own."""
    if kind == "trained":
        return made_bundle() or train_small(movielens, path)
    items = read_events(movielens).item_ids[:1_600]  # some items are unknown
    export(random_model(Spec(), len(items)), items, [None] * len(items), path)
    return path


def made_bundle() -> Path | None:
    """What `make serve` trained, if it has, and if that is of this version."""
    path = ROOT / "var" / "bundle"
    try:
        load_model(load_bundle(path))
    except BundleError:
        return None
    return path


def train_small(events: Path, path: Path) -> Path:
    """A bundle of two layers, trained for one epoch: about twenty seconds."""
    shape = ("--depth", "2", "--width", "16", "--heads", "2", "--epochs", "1")
    code, _, err = Command("train", "--events", events, "--out", path, *shape).ends()
    assert code == 0, err
    return path


@pytest.fixture(scope="session")
def journey_of(
    movielens: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Journey]:
    """The journey with a kind of bundle, made once."""

    @cache
    def make(kind: str) -> Journey:
        folder = tmp_path_factory.mktemp("journey")
        return journey(movielens, bundle_of(kind, movielens, folder / "bundle"), folder)

    return make


def journey(movielens: Path, bundle: Path, folder: Path) -> Journey:
    """Every user is asked about after the last event, some as of half way too."""
    whole = read_events(movielens)
    spread = np.linspace(0, len(whole.counts) - 1, USERS - 1).astype(int)
    table = whole.take(np.isin(whole.users, [np.argmax(whole.counts), *spread]))
    random, requests = np.random.default_rng(0), []
    for user in np.flatnonzero(table.counts):
        times = table.timestamps[table.user(user)]
        moments = [int(times[-1]) + 60, int(times[len(times) // 2])]
        for timestamp in moments if user % 5 == 0 else moments[:1]:
            chosen = random.choice(table.item_ids, CANDIDATES).tolist()
            requests.append(
                {"user_id": table.user_ids[user], "candidates": chosen, "timestamp": timestamp}
            )
    ask = folder / "requests.jsonl"
    ask.write_text("".join(json.dumps(request) + "\n" for request in requests))
    events = folder / "events.parquet"
    columns: dict[str, Any] = {
        "user_id": [table.user_ids[user] for user in table.users],
        "item_id": [table.item_ids[item] for item in table.items],
        "timestamp": table.timestamps,
        "like": table.labels[:, 0],
    }
    pq.write_table(pa.table(columns), events)
    command = Command(
        "score", "--bundle", bundle, "--events", events, "--requests", ask
    )  # fmt: skip
    code, out, err = command.ends()
    assert code == 0, err
    return Journey(bundle, table, requests, [json.loads(line) for line in out.splitlines()])


def rounds(table: EventTable) -> Iterator[list[dict[str, Any]]]:
    """The first event of every user, then the second of each, …"""
    users = np.flatnonzero(table.counts)
    for place in range(int(table.counts.max())):
        at = [int(table.offsets[user]) + place for user in users if place < table.counts[user]]
        yield [
            {
                "user_id": table.user_ids[table.users[row]],
                "item_id": table.item_ids[table.items[row]],
                "timestamp": int(table.timestamps[row]),
                "feedback": {"like": int(table.labels[row, 0])},
            }
            for row in at
        ]


@pytest.mark.parametrize(
    ("kind", "store_url"),
    [("random", "lmdb"), ("trained", "redis")],
    indirect=["store_url"],
)
def test_posted_one_by_one_equals_marmot_score(
    journey_of: Callable[[str], Journey], kind: str, store_url: str
) -> None:
    """Scores over HTTP after every event was posted by itself are those of `marmot score`."""
    journey = journey_of(kind)
    running = Running(bundle=journey.bundle, cache=store_url)
    try:
        for sent in rounds(journey.table):
            results = running.post(*sent)
            assert [result["status"] for result in results] == ["appended"] * len(sent)
        states = set()
        for request, expected in zip(journey.requests, journey.expected, strict=True):
            assert expected["candidates"] == request["candidates"]
            answer = running.rank(**request)
            assert answer["degraded"] == []
            states.add(answer["cache"]["state"])
            moved = np.abs(scores_of(answer) - scores_of(expected)).max()
            assert moved <= CACHED["float32"]
        assert "hit" in states
    finally:
        running.stop()
