"""`/v1/retrieve`, `/v1/prerank` and `/v1/recommend` over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import recommender as stages
from service.client import Client
from service.errors import StartError
from service.house import House
from service.schemas import Limits
from service.settings import read_settings
from tests.bundles import ITEMS, make_bundle, make_stage

NOW = 1_000_000


@pytest.fixture
def chain(serve: Callable[..., Any], tiny_stages: dict[str, Path]) -> Any:
    return serve(**tiny_stages)


def ask(running: Any, path: str, status: int = 200, **fields: Any) -> dict[str, Any]:
    body = {"user_id": "u", "timestamp": NOW, **fields}
    answer = running.client.post(f"/v1/{path}", json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def show(running: Any, count: int = 30) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    events = [
        {
            "item_id": str(random.integers(0, 30)),
            "timestamp": 100 * place,
            "feedback": {"like": int(random.integers(0, 2))},
        }
        for place in range(count)
    ]
    running.post(*({**event, "user_id": "u"} for event in events))
    return events


def test_retrieval_finds_the_best(chain: Any) -> None:
    """The first k of all items, best first; scores do not depend on how many are asked for."""
    show(chain)
    every = ask(chain, "retrieve", k=60, exclude_seen=False)
    assert sorted(every["items"]) == sorted(ITEMS)
    assert every["scores"] == sorted(every["scores"], reverse=True)
    few = ask(chain, "retrieve", k=7, exclude_seen=False)
    assert few["items"] == every["items"][:7]
    assert few["scores"] == pytest.approx(every["scores"][:7], abs=1e-6)
    assert few["degraded"] == []


def test_what_was_seen_is_left_out(chain: Any) -> None:
    """By default no item of the user's timeline is retrieved or recommended; the rest all is."""
    seen = {event["item_id"] for event in show(chain)}
    found = ask(chain, "retrieve", k=1_000)["items"]
    assert sorted(found) == sorted(set(ITEMS) - seen)
    assert not seen & set(ask(chain, "recommend", k=60)["items"])
    kept = ask(chain, "recommend", k=60, exclude_seen=False)["items"]
    assert sorted(kept) == sorted(ITEMS)


def test_nobody_gets_the_learned_prior(chain: Any) -> None:
    """A user without a timeline gets items all the same, and the same as any other such user."""
    first, second = (ask(chain, "retrieve", user_id=name) for name in ("new", "newer"))
    assert first["cache"]["state"] == "cold"
    assert (first["items"], first["scores"]) == (second["items"], second["scores"])
    assert ask(chain, "recommend", user_id="new")["cache"]["state"] == "cold"


def test_the_chain_ends_in_ranking(chain: Any) -> None:
    """Where every stage lets all through, the chain is ranking the whole catalogue."""
    show(chain)
    found = ask(chain, "recommend", k=10, exclude_seen=False)
    ranked = chain.rank("u", ITEMS, timestamp=NOW, top_k=10)
    assert found["items"] == [str(item) for item in ranked["ranking"]]
    best = [ranked["scores"]["like"][ITEMS.index(item)] for item in found["items"]]
    assert found["scores"]["like"] == pytest.approx(best, abs=1e-6)
    assert [stage["stage"] for stage in found["stages"]] == ["fetch", "retrieve", "rank"]
    assert found["degraded"] == []


def test_stages_narrow_down(serve: Callable[..., Any], tiny_stages: dict[str, Path]) -> None:
    """Each stage hands on as many as the settings say, and tells its time in answer and header."""
    running = serve(**tiny_stages, chain_retrieved=20, chain_preranked=5)
    show(running)
    body = {"user_id": "u", "k": 5, "timestamp": NOW}
    answer = running.client.post("/v1/recommend", json=body)
    found = answer.json()
    assert {stage["stage"]: stage.get("items") for stage in found["stages"]} == {
        "fetch": None,
        "retrieve": 60,
        "prerank": 20,
        "rank": 5,
    }
    retrieved = ask(running, "retrieve", k=20)["items"]
    rough = ask(running, "prerank", candidates=retrieved, top_k=5)["ranking"]
    exact = running.rank("u", rough, timestamp=NOW)["ranking"]
    assert found["items"] == exact
    assert all(f"{stage};dur=" in answer.headers["server-timing"] for stage in ("fetch", "rank"))
    metrics = running.client.get("/metrics").text
    assert 'marmot_stage_seconds_count{stage="prerank"} 1.0' in metrics
    assert "k is over the limit of 5" in ask(running, "recommend", 422, k=6)["detail"]


def test_a_stage_without_time_is_cut(chain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stage cannot do in its time is named, and the others answer without it."""
    show(chain)
    recommender = chain.house.recommender

    def ends(**shares: float) -> None:
        """Half a minute for each stage but those that are told otherwise."""
        monkeypatch.setattr(stages, "ENDS", dict.fromkeys(stages.ENDS, 0.5) | shares)

    async def never(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    finds, recommender._retriever.find = recommender._retriever.find, never
    ends(retrieve=0.002)
    found = ask(chain, "recommend", k=5, deadline_ms=60_000)
    assert found["degraded"] == ["retrieve-cut"]
    assert len(found["items"]) == 5
    recommender._retriever.find = finds
    ranks, recommender._ranker.score = recommender._ranker.score, never
    ends(rank=0.002)
    found = ask(chain, "recommend", k=5, deadline_ms=60_000)
    assert found["degraded"] == ["rank-cut"]
    assert found["items"] == ask(chain, "retrieve", k=5)["items"]
    recommender._ranker.score = ranks
    ends()
    assert ask(chain, "recommend", k=5)["degraded"] == []


def test_many_candidates_are_preranked(chain: Any) -> None:
    """Ten thousand at once, each by itself; one more is refused."""
    show(chain)
    many = [str(place) for place in range(10_000)]
    found = ask(chain, "prerank", candidates=many, top_k=3)
    assert len(found["scores"]["like"]) == 10_000
    assert len(found["ranking"]) == 3
    alone = ask(chain, "prerank", candidates=many[5:6])
    assert alone["scores"]["like"][0] == pytest.approx(found["scores"]["like"][5], abs=1e-5)
    assert len(found["unknown_items"]) == 10_000 - len(ITEMS)
    told = ask(chain, "prerank", 422, candidates=[*many, "1"])
    assert told["detail"] == "candidates has 10001 entries, at most 10000 are taken"


def test_stages_write_nothing(chain: Any) -> None:
    """They read the ranking model's records; those they had to rebuild are kept as ranking's."""
    show(chain)
    ask(chain, "recommend")
    before = chain.timeline("u")["version"]
    for path, fields in (("retrieve", {}), ("prerank", {"candidates": ["1"]}), ("recommend", {})):
        found = ask(chain, path, **fields)
        assert found["cache"]["version"] == before
        assert found["cache"]["state"] == "hit"
        assert found["cache"]["recomputed"] == 0


@pytest.mark.parametrize(
    ("path", "option"),
    [("retrieve", "--retrieval"), ("prerank", "--prerank"), ("recommend", "--retrieval")],
)
def test_a_stage_that_is_not_loaded(serve: Callable[..., Any], path: str, option: str) -> None:
    """409 and the option that is missing."""
    fields = {"candidates": [1]} if path == "prerank" else {}
    told = ask(serve(), path, 409, **fields)
    assert told["type"] == "/problems/not-loaded"
    assert option in told["detail"]


def test_an_index_finds_the_same(
    serve: Callable[..., Any], tiny_bundle: Path, tiny_stages: dict[str, Path], tmp_path: Path
) -> None:
    """Where it looks everywhere, as it does among few items, it finds what the graph does."""
    indexed = make_stage(tmp_path / "indexed", tiny_bundle, "retrieval", is_indexed=True)
    near = serve(retrieval=indexed, prerank=tiny_stages["prerank"])
    exact = serve(**tiny_stages, cache=f"lmdb:{tmp_path}/other")
    for running in (near, exact):
        show(running)
    for fields in ({"k": 9}, {"k": 100}, {"k": 9, "exclude_seen": False}):
        first, second = ask(near, "retrieve", **fields), ask(exact, "retrieve", **fields)
        assert first["items"] == second["items"]
        assert first["scores"] == pytest.approx(second["scores"], abs=1e-5)
    assert ask(near, "recommend")["items"] == ask(exact, "recommend")["items"]


def test_k_has_bounds(chain: Any) -> None:
    """More than the catalogue is clamped, more than the limit refused, less than one too."""
    assert len(ask(chain, "retrieve", k=Limits().max_retrieved)["items"]) == len(ITEMS)
    assert "limit of 1000" in ask(chain, "retrieve", 422, k=1_001)["detail"]
    ask(chain, "retrieve", 422, k=0)


async def test_another_rankers_stage_is_refused(
    tiny_stages: dict[str, Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    """At start, with both fingerprints; a ranking bundle is no stage, and the other way round."""
    other = make_bundle(tmp_path / "other", seed=5)
    for options, words in (
        ({"bundle": other, "retrieval": tiny_stages["retrieval"]}, "reads the records of"),
        ({"bundle": tiny_bundle, "retrieval": tiny_bundle}, "not retrieval: give it as --bundle"),
        ({"bundle": tiny_stages["prerank"]}, "not rank: give it as --prerank"),
    ):
        with pytest.raises(StartError, match=words):
            async with House.of(read_settings(cache=f"lmdb:{tmp_path}/c", **options)).open():
                pass


def test_from_python(chain: Any) -> None:
    """The client has a call for each stage."""
    show(chain)
    with Client(chain.url) as marmot:
        found = marmot.retrieve("u", k=3, timestamp=NOW)
        assert marmot.recommend("u", k=3, timestamp=NOW)["stages"][0]["stage"] == "fetch"
        rough = marmot.prerank("u", found["items"], timestamp=NOW)
    assert sorted(map(str, rough["ranking"])) == sorted(found["items"])
