"""`/v1/explain` over HTTP: effects are those of reruns, attention sums to one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bundles import make_bundle

START = 900_000_000
NOW = START + 10_000_000
CANDIDATES = [3, 17, 999, 3]
SAME = 1e-5


def events_of(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    return [
        {
            "item_id": int(random.integers(1, 31)),
            "timestamp": START + 3_600 * place,
            "feedback": {"like": int(random.integers(0, 2))},
        }
        for place in range(count)
    ]


def post(running: Any, events: list[dict[str, Any]]) -> None:
    running.post(*({**event, "user_id": "u"} for event in events))


def explain(running: Any, **fields: Any) -> dict[str, Any]:
    body = {"user_id": "u", "candidates": CANDIDATES, "timestamp": NOW, **fields}
    answer = running.client.post("/v1/explain", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def rerun(running: Any, history: list[dict[str, Any]], task: str = "like") -> np.ndarray:
    """Scores of a history that travels along."""
    answer = running.rank("u", CANDIDATES, timestamp=NOW, history=history)
    return np.array(answer["scores"][task])


@pytest.mark.parametrize("count", [1, 5, 12, 24, 25, 40])
def test_effects_are_those_of_reruns(running: Any, count: int) -> None:
    """With and without each event, for histories shorter and longer than all windows together."""
    events = events_of(count)
    post(running, events)
    found = explain(running)
    field = running.house.registry.active.spec.receptive_field
    assert found["cache"]["state"] == "stored"
    assert [event["timestamp"] for event in found["events"]] == [
        event["timestamp"] for event in events[-field - 1 :]
    ]
    for task in ("like", "share"):
        whole = rerun(running, events, task)
        assert np.abs(np.array(found["scores"][task]) - whole).max() <= SAME
        for back in range(1, len(found["events"]) + 1):
            left = [event for event in events if event is not events[-back]]
            effect = np.array(found["events"][-back]["effect"][task])
            assert np.abs(effect - (whole - rerun(running, left, task))).max() <= SAME


def test_effects_have_signs(running: Any) -> None:
    """They differ, some raise and some lower, and an event beyond all windows has none."""
    post(running, events_of(60))
    found = explain(running, events=60)
    effects = np.array([event["effect"]["like"] for event in found["events"]])
    assert effects.max() > 1e-4
    assert effects.min() < -1e-4
    assert effects[:, 0].tolist() == pytest.approx(effects[:, 3].tolist(), abs=SAME)
    assert np.abs(effects[0]).max() <= SAME


def test_the_newest_events_alone(running: Any) -> None:
    """`events` limits whose effect is computed; the scores stay."""
    post(running, events_of(12))
    whole, some, none = (explain(running, events=count) for count in (100, 3, 0))
    for one, other in zip(some["events"], whole["events"][-3:], strict=True):
        assert one["effect"]["like"] == pytest.approx(other["effect"]["like"], abs=SAME)
    assert none["events"] == []
    assert some["scores"] == whole["scores"] == none["scores"]
    assert len(some["events"]) == 3


def test_an_inline_history_is_explained_alike(running: Any) -> None:
    """What travels along is explained as what is stored, and nothing is stored."""
    events = events_of(12)
    inline = explain(running, history=events)
    assert inline["cache"] == {"state": "inline", "version": 0}
    assert running.timeline("u")["events"] == []
    post(running, events)
    stored = explain(running)
    for one, other in zip(inline["events"], stored["events"], strict=True):
        assert one["effect"]["like"] == pytest.approx(other["effect"]["like"], abs=SAME)


def test_the_future_is_not_explained(running: Any) -> None:
    """Events after the timestamp have no effect and are not shown."""
    events = events_of(9)
    post(running, events)
    found = explain(running, timestamp=events[4]["timestamp"])
    assert len(found["events"]) == 5


def test_a_cold_user_has_nothing_to_explain(running: Any) -> None:
    """Scores stand alone; what is not in the vocabulary is named."""
    found = explain(running)
    assert found["cache"] == {"state": "cold", "version": 0}
    assert found["events"] == []
    assert found["unknown_items"] == [999]
    assert found["scores"]["like"] == pytest.approx(rerun(running, []).tolist(), abs=SAME)


@pytest.mark.parametrize(
    ("fields", "status", "slug"),
    [
        ({"candidates": list(range(21))}, 422, "invalid-request"),
        ({"candidates": []}, 422, "invalid-request"),
        ({"events": -1}, 422, "invalid-request"),
        ({"top_k": 1}, 422, "invalid-request"),
        ({"model": {"version": "none"}}, 422, "unknown-model"),
        ({"deadline_ms": 0}, 504, "deadline-exceeded"),
    ],
)
def test_refusals(running: Any, fields: dict[str, Any], status: int, slug: str) -> None:
    """Limits and deadlines hold as they do for ranking, and no graph is run."""
    before = running.runs
    body = {"user_id": "u", "candidates": CANDIDATES, **fields}
    answer = running.client.post("/v1/explain", json=body)
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{slug}")
    assert running.runs == before


@pytest.mark.parametrize(
    "fields",
    [
        {"depth": 1},
        {"cache_dtype": "int8"},
        {"family": "full"},
        {"family": "stca"},
        {"family": "din", "depth": 1},
    ],
)
def test_other_shapes(serve: Callable[..., Any], tmp_path: Path, fields: dict[str, Any]) -> None:
    """A model that caches nothing is explained exactly, one in int8 within what int8 allows."""
    running = serve(bundle=make_bundle(tmp_path / "bundle", **fields))
    events = events_of(20)
    post(running, events)
    found = explain(running)
    allowed = 2 * 2e-2 if "cache_dtype" in fields else SAME
    whole = rerun(running, events)
    for event, shown in zip(reversed(events), reversed(found["events"]), strict=False):
        left = [each for each in events if each is not event]
        effect = np.array(shown["effect"]["like"])
        assert np.abs(effect - (whole - rerun(running, left))).max() <= allowed


def test_without_the_store_nothing_is_explained(serve: Callable[..., Any], own_redis: Any) -> None:
    """503 where ranking would go on degraded: there is nothing to explain."""
    running = serve(cache=own_redis.url, store_fetch_ms=50, store_timeout_ms=50)
    own_redis.kill()
    body = {"user_id": "u", "candidates": CANDIDATES}
    answer = running.client.post("/v1/explain", json=body)
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/store-away")
    assert answer.headers["retry-after"]


def test_attention_sums_to_one(running: Any) -> None:
    """Per layer and candidate, over the window's events and nothing; of no event it is all."""
    spec = running.house.registry.active.spec
    cold = explain(running)["attention"]
    assert np.array(cold["nothing"]) == pytest.approx(np.ones((spec.depth, len(CANDIDATES))))
    events = events_of(30)
    post(running, events)
    found = explain(running, events=1)["attention"]
    weights, nothing = np.array(found["events"]), np.array(found["nothing"])
    assert weights.shape == (spec.depth, len(CANDIDATES), spec.window)
    assert weights.sum(axis=2) + nothing == pytest.approx(np.ones_like(nothing), abs=SAME)
    assert weights.min() >= 0
    assert weights[:, 0].ravel() == pytest.approx(weights[:, 3].ravel(), abs=SAME)
    assert np.ptp(weights, axis=2).max() > 0.05


def test_the_limit_is_a_setting(serve: Callable[..., Any]) -> None:
    """As many candidates as the settings allow, and no more."""
    running = serve(max_explained=2)
    body = {"user_id": "u", "candidates": [1, 2]}
    assert running.client.post("/v1/explain", json=body).status_code == 200
    answer = running.client.post("/v1/explain", json={**body, "candidates": [1, 2, 3]})
    assert answer.json()["detail"] == "candidates has 3 entries, at most 2 are taken"


def test_a_bundle_without_the_graph_says_so(
    serve: Callable[..., Any], tiny_bundle: Path, tmp_path: Path
) -> None:
    """Effects alone, and `degraded` names what is missing."""
    old = tmp_path / "old"
    shutil.copytree(tiny_bundle, old)
    manifest = json.loads((old / "manifest.json").read_text())
    del manifest["graphs"]["explain"], manifest["files"]["explain.onnx"]
    (old / "manifest.json").write_text(json.dumps(manifest))
    (old / "explain.onnx").unlink()
    running = serve(bundle=old)
    post(running, events_of(3))
    found = explain(running)
    assert found["attention"] is None
    assert found["degraded"] == ["attention-missing"]
    assert len(found["events"]) == 3
