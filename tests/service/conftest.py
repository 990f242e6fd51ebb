"""Services on the small bundle, in a thread of the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bundles import make_bundle
from tests.servers import Running, flush, wait_until


@pytest.fixture
def serve(tiny_bundle: Path, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts services on the small bundle; a store of the test's own unless told otherwise."""
    started: list[Running] = []

    def start(**options: Any) -> Running:
        options = {"bundle": tiny_bundle, "cache": f"lmdb:{tmp_path}/cache", **options}
        started.append(Running(**options))
        return started[-1]

    yield start
    for running in started:
        running.stop()


@pytest.fixture(params=[("lmdb", {}), ("redis", {})], ids=["lmdb", "redis"])
def running(request: pytest.FixtureRequest, serve: Callable[..., Running]) -> Running:
    """A service on each store, empty; with options where a test asks for them."""
    store, options = request.param
    if store == "lmdb":
        return serve(**options)
    server = request.getfixturevalue("redis_server")
    flush(server.url)
    return serve(cache=server.url, **options)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles that differ in their weights, one of another shape, one that needs more events."""
    folder = tmp_path_factory.mktemp("models")
    make_bundle(folder / "one", seed=1, version="v1")
    make_bundle(folder / "two", seed=2, version="v2")
    make_bundle(folder / "wide", seed=3, version="v3/wide é", window=5, width=32)
    make_bundle(folder / "long", seed=4, version="v4", depth=2, window=400)
    return folder


@pytest.fixture
def until() -> Callable[..., Any]:
    return wait_until
