"""The laws of the stages before ranking: they read records, and must be as true as ranking."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle import load_bundle
from models.requests import Request
from models.stage_reference import StageReference
from tests.bundles import ITEMS, make_bundle, make_stage
from tests.laws.conftest import empty
from tests.laws.world import CACHED, CANDIDATES, COMPANY, Posted, World, scores_of, table_of
from tests.servers import Running

KINDS: dict[str, dict[str, Any]] = {
    "three": {"depth": 3, "window": 5},
    "shallow": {"depth": 1, "window": 6},
    "where": {"depth": 3, "window": 5, "history_where": "like"},
    "three, float16": {"depth": 3, "window": 5, "cache_dtype": "float16"},
    "three, int8": {"depth": 3, "window": 5, "cache_dtype": "int8"},
}
CASES = [("three", "lmdb"), ("three", "redis"), *((name, "lmdb") for name in [*KINDS][1:])]
HOUR = 3_600


class Chain(World):
    """A service with every stage, and what PyTorch says of each."""

    paths: dict[str, Path]

    def expected(
        self, stage: str, events: list[Posted], user: str, items: list[Any], at: int
    ) -> Any:
        ranker, bundle = load_bundle(self.bundle), load_bundle(self.paths[stage])
        somebody = {"user_id": "somebody else", "item_id": "x", "timestamp": 0}
        table = table_of([*events, somebody], ranker.spec.tasks)
        return StageReference(bundle, ranker, table).score(Request(user, items, at))

    def ask(self, path: str, user: str, at: int, **fields: Any) -> dict[str, Any]:
        body = {"user_id": user, "timestamp": at, **fields}
        answer = self.running.client.post(f"/v1/{path}", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        assert found["degraded"] == []
        return found

    def check_stages(self, user: str, events: list[Posted], at: int) -> None:
        """Law 1 for both, and that retrieval's order is that of its scores."""
        most = CACHED[load_bundle(self.bundle).spec.cache_dtype]
        rough = scores_of(self.ask("prerank", user, at, candidates=CANDIDATES))
        expected = self.expected("prerank", events, user, CANDIDATES, at)
        assert np.abs(rough - expected).max() <= most
        found = self.ask("retrieve", user, at, k=len(ITEMS), exclude_seen=False)
        assert sorted(found["items"]) == sorted(ITEMS)
        expected = self.expected("retrieval", events, user, found["items"], at)[:, 0]
        assert np.abs(np.array(found["scores"]) - expected).max() <= most


@pytest.fixture(scope="module", params=CASES, ids=str)
def chain(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chain]:
    name, store = request.param
    folder = tmp_path_factory.mktemp("chain")
    ranker = make_bundle(folder / "rank", **KINDS[name])
    paths = {stage: make_stage(folder / stage, ranker, stage) for stage in ("retrieval", "prerank")}
    running = Running(bundle=ranker, cache=empty(request, store, tmp_path_factory), **paths)
    try:
        chain = Chain(running, ranker)
        chain.paths = paths
        yield chain
    finally:
        running.stop()


def history(user: str, count: int, seed: int = 0) -> list[Posted]:
    random = np.random.default_rng(seed)
    return [
        {
            "user_id": user,
            "item_id": str(random.integers(0, 12)),
            "timestamp": HOUR * (place // 2),
            "feedback": {"like": int(random.integers(0, 2))},
        }
        for place in range(count)
    ]


def test_cached_equals_full(chain: Chain) -> None:
    """Law 1: posted one by one, as of now and of then, and after the records were evicted."""
    user = chain.new_user()
    events = history(user, 26)
    now = 100 * HOUR
    chain.check_stages(user, [], now)
    for count, event in enumerate(events, 1):
        chain.running.post(event)
        if count in {1, 5, 11, 26}:
            chain.check_stages(user, events[:count], now)
    chain.check_stages(user, events, 5 * HOUR)
    chain.evict(user)
    chain.check_stages(user, events, now)


def test_no_time_travel(chain: Chain) -> None:
    """Law 4: what happens later moves no score, and is not left out as seen."""
    user = chain.new_user()
    chain.running.post(*history(user, 9))
    before = chain.ask("retrieve", user, 50 * HOUR)
    late = {"user_id": user, "item_id": before["items"][0], "timestamp": 60 * HOUR}
    chain.running.post(late)
    after = chain.ask("retrieve", user, 50 * HOUR)
    assert after["items"] == before["items"]
    assert after["scores"] == pytest.approx(before["scores"], abs=COMPANY)
    assert late["item_id"] not in chain.ask("retrieve", user, 60 * HOUR)["items"]


def test_inline_equals_stored(chain: Chain) -> None:
    """A history that travels along gives what the same history in the store gives."""
    user = chain.new_user()
    events = history(user, 17, seed=1)
    chain.running.post(*events)
    sent = [{name: value for name, value in e.items() if name != "user_id"} for e in events]
    most = 2 * CACHED[load_bundle(chain.bundle).spec.cache_dtype]
    for path, fields in (("retrieve", {"k": 60}), ("prerank", {"candidates": [1, 2, 3]})):
        stored = chain.ask(path, user, 99 * HOUR, **fields)
        inline = chain.ask(path, "other", 99 * HOUR, history=sent, **fields)
        assert inline["cache"]["state"] == "inline"
        first, second = (
            scores_of(found) if path == "prerank" else np.array(found["scores"])
            for found in (stored, inline)
        )
        assert first.shape == second.shape
        assert np.abs(first - second).max() <= most
