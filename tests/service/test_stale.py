"""`--stale-ok-s`: the one exception from law 6, named in every answer that makes use of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bundles import make_bundle
from tests.laws.world import CANDIDATES, Posted, reference, scores_of
from tests.servers import Running, flush, wait_until

NOW = 1_000_000


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two of one lineage; one that declares none; one of the lineage, but of another shape."""
    folder = tmp_path_factory.mktemp("lineage")
    return {
        "old": make_bundle(folder / "old", seed=1, version="old", lineage="shop"),
        "new": make_bundle(folder / "new", seed=2, version="new", lineage="shop"),
        "stranger": make_bundle(folder / "stranger", seed=3, version="stranger"),
        "wide": make_bundle(folder / "wide", seed=4, version="wide", lineage="shop", width=32),
    }


@pytest.fixture(params=["lmdb", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "lmdb":
        return f"lmdb:{tmp_path}/cache"
    url: str = request.getfixturevalue("redis_server").url
    flush(url)
    return url


@pytest.fixture
def after(
    bundles: dict[str, Path], store: str, serve: Callable[..., Running]
) -> Callable[..., tuple[Running, list[Posted]]]:
    """A service on a store that the old one of the lineage left behind."""

    def started(name: str, **options: Any) -> tuple[Running, list[Posted]]:
        events: list[Posted] = [
            {"user_id": "u", "item_id": at % 60, "timestamp": 10 * at, "feedback": {"like": at % 2}}
            for at in range(30)
        ]
        before = serve(bundle=bundles["old"], cache=store)
        before.post(*events)
        before.stop()
        return serve(bundle=bundles[name], cache=store, **options), events

    return started


def ask(running: Running) -> dict[str, Any]:
    return running.rank("u", CANDIDATES, timestamp=NOW)


def truth(path: Path, events: list[Posted]) -> np.ndarray:
    return reference(path, events, "u", CANDIDATES, NOW)


def test_records_of_the_lineage_for_a_while(after: Any, bundles: dict[str, Path]) -> None:
    """The first answer says that it borrowed; the next one is true; the difference is told."""
    running, events = after("new", stale_ok_s=3_600, stale_share=1.0)
    first = ask(running)
    assert (first["cache"]["state"], first["degraded"]) == ("stale", ["stale-records"])
    assert (first["model"]["version"], first["cache"]["recomputed"]) == ("new", 0)
    true = truth(bundles["new"], events)
    apart = float(np.abs(scores_of(first) - true).max())
    assert apart > 1e-3
    wait_until(lambda: ask(running)["cache"]["state"] == "hit")
    second = ask(running)
    assert second["degraded"] == []
    assert np.abs(scores_of(second) - true).max() <= 1e-4

    def measured() -> list[float]:
        lines = running.client.get("/metrics").text.splitlines()
        return [float(x.split()[1]) for x in lines if x.startswith("marmot_stale_difference_sum")]

    wait_until(lambda: measured() != [0.0])
    # Askers may have come before the true records: each difference is the same.
    assert measured()[0] == pytest.approx(apart, abs=1e-4) or measured()[0] > apart


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("new", {}),
        ("new", {"stale_ok_s": 1e-6}),
        ("stranger", {"stale_ok_s": 3_600}),
        ("wide", {"stale_ok_s": 3_600}),
    ],
    ids=["off by default", "too old", "another lineage", "another shape"],
)
def test_otherwise_nothing_is_borrowed(
    name: str, options: dict[str, Any], after: Any, bundles: dict[str, Path]
) -> None:
    """Then what is missing is computed before the answer, which is true."""
    running, events = after(name, **options)
    answer = ask(running)
    assert (answer["cache"]["state"], answer["degraded"]) == ("partial", [])
    assert np.abs(scores_of(answer) - truth(bundles[name], events)).max() <= 1e-4
