"""Several versions in one process: who answers whom, and what may be loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.laws.world import CANDIDATES, Posted, reference, scores_of
from tests.servers import Running, flush, wait_until
from tests.stored import cells, is_record

NOW = 1_000_000
USERS = [f"user {at}" for at in range(24)]


@pytest.fixture
def start(shelf: Path, serve: Callable[..., Running]) -> Callable[..., Running]:
    """A service on the first bundle, with the others to load."""

    def started(**options: Any) -> Running:
        return serve(
            bundle=shelf / "one", models_dir=shelf, models_poll_s=0.02,
            models_users_per_s=10_000, models_share=1.0, **options,
        )  # fmt: skip

    return started


@pytest.fixture(params=["lmdb", "redis"])
def running(request: pytest.FixtureRequest, start: Callable[..., Running]) -> Running:
    if request.param == "lmdb":
        return start()
    server = request.getfixturevalue("redis_server")
    flush(server.url)
    return start(cache=server.url)


def shown(running: Running, version: str) -> dict[str, Any] | None:
    models = running.client.get("/v1/models").json()["models"]
    return next((model for model in models if model["version"] == version), None)


def load(running: Running, bundle: str, version: str, state: str = "ready") -> dict[str, Any]:
    answer = running.client.post("/v1/models", json={"bundle": bundle})
    assert answer.status_code == 202, answer.text
    wait_until(lambda: (shown(running, version) or {})["state"] == state)
    found = shown(running, version)
    assert found is not None
    return found


def activate(running: Running, version: str, **share: float) -> None:
    answer = running.client.post(f"/v1/models/{version}/activate", json=share)
    assert answer.status_code == 200, answer.text


def some_events(user: str, count: int, start: int = 0) -> list[Posted]:
    return [
        {
            "user_id": user, "item_id": (at * 7 + len(user)) % 60, "timestamp": 1_000 + 10 * at,
            "feedback": {"like": at % 2},
        }
        for at in range(start, start + count)
    ]  # fmt: skip


def is_true(bundle: Path, events: list[Posted], user: str, answer: dict[str, Any]) -> bool:
    """Whether an answer is what `marmot score` says of that bundle."""
    assert answer["degraded"] == []
    expected = reference(bundle, events, user, CANDIDATES, NOW)
    return bool(np.abs(scores_of(answer) - expected).max() <= 1e-4)


def ask(running: Running, user: str, **fields: Any) -> dict[str, Any]:
    return running.rank(user, CANDIDATES, timestamp=NOW, **fields)


def test_a_version_is_loaded_built_activated_and_left(running: Running, shelf: Path) -> None:
    """Loading changes no answer, a switch changes them all, and going back is at once."""
    events = {user: some_events(user, 3 + 2 * place) for place, user in enumerate(USERS)}
    for user in USERS:
        running.post(*events[user])
    found = load(running, "two", "v2")
    assert (found["active"], found["problem"], found["family"]) == (False, None, "marm")
    for user in USERS[:5]:
        assert is_true(shelf / "one", events[user], user, ask(running, user))
    wait_until(lambda: (shown(running, "v2") or {})["rebuilt_users"] == len(USERS))
    activate(running, "v2")
    for user in USERS:
        answer = ask(running, user)
        assert (answer["model"]["version"], answer["cache"]["state"]) == ("v2", "hit")
        assert is_true(shelf / "two", events[user], user, answer)
    assert running.client.get("/v1/models").json()["wanted"] == "v2"
    activate(running, "v1")
    answer = ask(running, USERS[0])
    assert (answer["model"]["version"], answer["cache"]["state"]) == ("v1", "hit")
    two = shown(running, "v2")
    assert two is not None
    assert running.client.delete("/v1/models/v2").status_code == 204
    short = two["fingerprint"][:8].encode()
    wait_until(lambda: not any(short in cell[0] and is_record(cell) for cell in cells(running)))
    assert shown(running, "v2") is None
    for user in USERS:
        answer = ask(running, user)
        assert answer["cache"]["state"] == "hit"
        assert is_true(shelf / "one", events[user], user, answer)


def test_versions_share_a_store_and_nothing_else(running: Running, shelf: Path) -> None:
    """Law 6: each version equals its own reference, whoever answered in between."""
    bundles = {"v1": shelf / "one", "v2": shelf / "two", "v3/wide é": shelf / "wide"}
    load(running, "two", "v2")
    load(running, "wide", "v3/wide é")
    activate(running, "v2", canary_percent=50)
    posted: dict[str, list[Posted]] = {user: [] for user in USERS[:4]}
    late = some_events("x", 1)[0] | {"timestamp": 3, "item_id": 59}
    for step in range(3):
        for user, known in posted.items():
            sent = some_events(user, 6, 6 * step) + (
                [late | {"user_id": user}] if step == 2 else []
            )
            running.post(*sent)
            known.extend(sent)
            for version, bundle in bundles.items():
                answer = ask(running, user, model={"version": version})
                assert is_true(bundle, known, user, answer), (step, user, version)
            answer = ask(running, user)
            assert is_true(bundles[answer["model"]["version"]], known, user, answer)
    infer = {
        "inputs": [
            {"name": "user_id", "shape": [1], "datatype": "BYTES", "data": [USERS[0]]},
            {"name": "candidates", "shape": [2], "datatype": "INT64", "data": [1, 2]},
            {"name": "timestamp", "shape": [1], "datatype": "INT64", "data": [NOW]},
        ]
    }
    for version in ("v1", "v2"):
        found = running.client.post(f"/v2/models/marmot/versions/{version}/infer", json=infer)
        assert found.json()["model_version"] == version
        scores = found.json()["outputs"][0]["data"]
        expected = reference(bundles[version], posted[USERS[0]], USERS[0], [1, 2], NOW)
        assert np.abs(np.array(scores) - expected[:, 0]).max() <= 1e-4


def test_forgotten_under_every_version(running: Running, shelf: Path) -> None:
    """Law 7: after DELETE of a user nothing of them is left, also of versions loaded since."""
    user = "somebody é"
    running.post(*some_events(user, 30))
    for bundle, version in (("two", "v2"), ("wide", "v3/wide é")):
        load(running, bundle, version)
        ask(running, user, model={"version": version})
    wait_until(lambda: sum(user.encode() in c[0] and is_record(c) for c in cells(running)) >= 3)
    assert running.client.delete(f"/v1/users/{user}").status_code == 204
    left = cells(running)
    assert not any(user.encode() in b" ".join(cell) + left[cell] for cell in left)
    for version in ("v1", "v2", "v3/wide é"):
        assert ask(running, user, model={"version": version})["cache"]["state"] == "cold"


def test_a_share_of_users(start: Callable[..., Running]) -> None:
    """A canary gets about its share, always the same users, and keeps them while it grows."""
    running = start()
    load(running, "two", "v2")
    users = [f"user {at}" for at in range(400)]
    before: set[str] = set()
    for percent, least, most in ((10, 20, 65), (40, 120, 200)):
        activate(running, "v2", canary_percent=percent)
        answers = {user: ask(running, user)["model"]["version"] for user in users}
        got = {user for user, version in answers.items() if version == "v2"}
        assert least <= len(got) <= most
        assert before <= got
        before = got
        found = shown(running, "v2")
        assert found is not None
        assert (found["active"], found["canary_percent"]) == (False, percent)
    events = some_events(min(before), 20)
    running.post(*events)  # recorded for the version that answers this user
    assert ask(running, min(before))["cache"]["state"] == "hit"
    activate(running, "v2", canary_percent=0)
    assert {ask(running, user)["model"]["version"] for user in users[:100]} == {"v1"}
    load(running, "wide", "v3/wide é")
    activate(running, "v2", canary_percent=60)
    refused = running.client.post(
        "/v1/models/v3%2Fwide%20%C3%A9/activate", json={"canary_percent": 50}
    )
    assert refused.status_code == 422
    activate(running, "v2", canary_percent=100)
    assert {ask(running, user)["model"]["version"] for user in users[:100]} == {"v2"}


def test_a_shadow_is_seen_in_metrics_alone(start: Callable[..., Running], shelf: Path) -> None:
    """Answers are those of the active version; the shadow's difference is the real one."""
    running = start()
    events = some_events("u", 20)
    running.post(*events)
    load(running, "two", "v2")
    activate(running, "v2", shadow_percent=100)
    answer = ask(running, "u")
    assert is_true(shelf / "one", events, "u", answer)

    def told(name: str) -> float:
        lines = running.client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    compared = 'marmot_shadows_total{outcome="compared",version="v2"}'
    wait_until(lambda: told(compared) == 1)
    apart = [reference(shelf / name, events, "u", CANDIDATES, NOW) for name in ("one", "two")]
    expected = np.abs(apart[0] - apart[1]).max()
    assert abs(told("marmot_shadow_difference_sum") - expected) < 1e-3
    activate(running, "v2", shadow_percent=0)
    ask(running, "u")
    assert told(compared) == 1


@pytest.mark.parametrize(
    "name", ["../one", "..", ".", "/etc", "one/../one", "one/", "link", "hollow", "nothing", "a\\b"]
)
def test_names_stay_in_the_directory(
    name: str, shelf: Path, tmp_path: Path, serve: Callable[..., Running]
) -> None:
    """Paths, links, and folders with links that lead out of them are refused; nothing changes."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "link").symlink_to(shelf / "two")
    shutil.copytree(shelf / "two", folder / "hollow")
    (folder / "hollow" / "rank.onnx").unlink()
    (folder / "hollow" / "rank.onnx").symlink_to(shelf / "two" / "rank.onnx")
    running = serve(bundle=shelf / "one", models_dir=folder)
    answer = running.client.post("/v1/models", json={"bundle": name})
    assert answer.status_code == 422, answer.text
    assert str(tmp_path) not in answer.text
    assert [each["version"] for each in running.client.get("/v1/models").json()["models"]] == ["v1"]


def test_a_broken_bundle_harms_nobody(
    shelf: Path, tmp_path: Path, serve: Callable[..., Running]
) -> None:
    """It is `failed` with a sentence, cannot be activated, and is tried again when asked again."""
    folder = tmp_path / "models"
    shutil.copytree(shelf / "two", folder / "two")
    graph = folder / "two" / "rank.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-9] + b"tampered!")
    running = serve(bundle=shelf / "one", models_dir=folder, models_poll_s=0.02)
    found = load(running, "two", "v2", "failed")
    assert "rank.onnx has sha256" in found["problem"]
    assert str(tmp_path) not in found["problem"]
    assert running.client.post("/v1/models/v2/activate").status_code == 409
    assert running.client.post("/v1/models/v9/activate").status_code == 404
    assert ask(running, "u")["model"]["version"] == "v1"
    graph.write_bytes(whole)
    load(running, "two", "v2")
    activate(running, "v2")
    assert ask(running, "u")["model"]["version"] == "v2"
    assert running.client.delete("/v1/models/v2").status_code == 409
    (folder / "two" / "manifest.json").write_text("{")
    assert running.client.post("/v1/models", json={"bundle": "two"}).status_code == 422


def test_an_activation_waits_for_what_loads(start: Callable[..., Running]) -> None:
    """Who was told by one worker that a version is ready may ask another that is not so far."""
    running = start()
    assert running.client.post("/v1/models", json={"bundle": "two"}).status_code == 202
    activate(running, "v2")
    assert ask(running, "u")["model"]["version"] == "v2"


def test_a_bundle_that_needs_more_events_than_are_kept(start: Callable[..., Running]) -> None:
    """It is refused: its records could not be built exactly."""
    found = load(start(), "long", "v4", "failed")
    assert found["problem"] == "the store keeps 1000 events per user, but it needs 1200"


def test_without_a_directory_there_is_one_bundle(serve: Callable[..., Running]) -> None:
    """The list has it; loading says which option is missing."""
    running = serve()
    (only,) = running.client.get("/v1/models").json()["models"]
    assert (only["state"], only["active"]) == ("ready", True)
    for answer in (
        running.client.post("/v1/models", json={"bundle": "two"}),
        running.client.post(f"/v1/models/{only['version']}/activate"),
        running.client.delete("/v1/models/v2"),
    ):
        assert answer.status_code == 404
        assert "--models-dir" in answer.json()["detail"]
