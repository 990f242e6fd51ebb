"""A retrieval model that knows users, over HTTP: known, unknown, forgotten, side by side."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle import load_bundle
from models.requests import Request
from models.stage_reference import StageReference
from tests.bundles import ITEMS, make_stage
from tests.laws.world import table_of
from tests.servers import flush

NOW = 1_000_000
#: The first two are known to the bundle.
USERS = ("u", "v", "stranger", "other stranger")


@pytest.fixture(scope="module")
def retrieval(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("knowing")
    return make_stage(folder / "retrieval", tiny_bundle, "retrieval", users=USERS[:2])


@pytest.fixture(params=["lmdb", "redis"])
def chain(request: pytest.FixtureRequest, serve: Callable[..., Any], retrieval: Path) -> Any:
    if request.param == "lmdb":
        return serve(retrieval=retrieval)
    server = request.getfixturevalue("redis_server")
    flush(server.url)
    return serve(retrieval=retrieval, cache=server.url)


def shown(*users: str) -> list[dict[str, Any]]:
    """The same events for each."""
    random = np.random.default_rng(0)
    events = [
        {
            "item_id": str(random.integers(0, 30)),
            "timestamp": 100 * (place + 1),
            "feedback": {"like": int(random.integers(0, 2))},
        }
        for place in range(20)
    ]
    return [{**event, "user_id": user} for user in users for event in events]


def scores(chain: Any, user: str, **fields: Any) -> np.ndarray[Any, Any]:
    """Of every item, in the order of `ITEMS`."""
    body = {"user_id": user, "timestamp": NOW, "k": 60, "exclude_seen": False, **fields}
    answer = chain.client.post("/v1/retrieve", json=body)
    assert answer.status_code == 200, answer.text
    found = dict(zip(answer.json()["items"], answer.json()["scores"], strict=True))
    return np.array([found[item] for item in ITEMS])


def test_whom_it_knows(chain: Any, tiny_bundle: Path, retrieval: Path) -> None:
    """Users of the same history differ where they are known; all are as in PyTorch, in company."""
    events = shown(*USERS)
    chain.post(*events)
    ranker = load_bundle(tiny_bundle)
    reference = StageReference(load_bundle(retrieval), ranker, table_of(events, ranker.spec.tasks))
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda user: scores(chain, user), 4 * USERS))
    for user, theirs in zip(4 * USERS, found, strict=True):
        expected = reference.score(Request(user, list(ITEMS), NOW))[:, 0]
        assert np.abs(theirs - expected).max() <= 1e-4
    known, too, stranger, other = found[:4]
    assert np.abs(stranger - other).max() <= 1e-6
    for theirs in (known, too):
        assert np.abs(theirs - stranger).max() > 1e-2
    assert np.abs(known - too).max() > 1e-2


def test_forgotten_is_forgotten(chain: Any) -> None:
    """Law 7: without events, by DELETE or before the first, a known user is a stranger."""
    chain.post(*shown("u"))
    cold = scores(chain, "stranger")
    assert np.array_equal(scores(chain, "u", timestamp=50), scores(chain, "stranger", timestamp=50))
    assert not np.array_equal(scores(chain, "u"), cold)
    assert chain.client.delete("/v1/users/u").status_code == 204
    for user in ("u", "v"):
        assert np.array_equal(scores(chain, user), cold)
        assert np.array_equal(scores(chain, user, history=[]), cold)
    recommended = [
        chain.client.post("/v1/recommend", json={"user_id": user, "timestamp": NOW}).json()
        for user in ("u", "stranger")
    ]
    assert recommended[0]["items"] == recommended[1]["items"]
    assert recommended[0]["cache"]["state"] == "cold"


def test_a_history_that_travels_along(chain: Any) -> None:
    """It is the history of the user whom the request names, as if it had been stored."""
    chain.post(*shown("u", "stranger"))
    history = [{n: v for n, v in e.items() if n != "user_id"} for e in shown("u")]
    for user in ("u", "stranger"):
        inline = scores(chain, user, history=history)
        assert np.abs(inline - scores(chain, user)).max() <= 1e-5
    assert np.abs(scores(chain, "v", history=history) - inline).max() > 1e-2


def test_an_index_knows_them_too(
    serve: Callable[..., Any], tiny_bundle: Path, retrieval: Path, tmp_path: Path
) -> None:
    """The vector that is looked for in it is the user's own."""
    indexed = make_stage(
        tmp_path / "indexed", tiny_bundle, "retrieval", is_indexed=True, users=USERS[:2]
    )
    near, exact = serve(retrieval=indexed), serve(retrieval=retrieval, cache=f"lmdb:{tmp_path}/o")
    for running in (near, exact):
        running.post(*shown("u", "stranger"))
    for user in ("u", "stranger"):
        assert np.abs(scores(near, user) - scores(exact, user)).max() <= 1e-5
