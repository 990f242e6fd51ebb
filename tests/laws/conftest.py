"""Services on small models of every kind, over each store."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.bundles import make_bundle
from tests.laws.world import Bundles, World
from tests.servers import Running, flush

SPECS: dict[str, dict[str, Any]] = {
    "shallow": {"depth": 1, "window": 4, "tasks": ("like",)},
    "two, order alone": {"depth": 2, "window": 3, "time_gap": False},
    "three": {"depth": 3, "window": 5, "tasks": ("like",)},
    "four": {"depth": 4, "window": 3},
    "three, float16": {"depth": 3, "window": 5, "cache_dtype": "float16"},
    "four, int8": {"depth": 4, "window": 4, "cache_dtype": "int8"},
    "search": {"depth": 3, "window": 3, "history": 14, "search": 4},
    "search, int8": {"depth": 2, "window": 4, "history": 30, "search": 5, "cache_dtype": "int8"},
    "search by attention": {
        "depth": 3,
        "window": 3,
        "history": 14,
        "search": 4,
        "search_by": "attention",
    },
    "where": {"depth": 3, "window": 4, "history_where": "like"},
    "search, where": {
        "depth": 2,
        "window": 3,
        "history": 14,
        "search": 3,
        "history_where": "like",
    },
    "search by attention, where": {
        "depth": 2,
        "window": 3,
        "history": 20,
        "search": 3,
        "search_by": "attention",
        "history_where": "like",
    },
    "sim": {"family": "sim", "depth": 1, "window": 3, "history": 14, "search": 4},
    "stca": {"family": "stca", "depth": 2, "window": 5, "time_gap": False},
    "din": {"family": "din", "depth": 1, "window": 5},
    "full": {"family": "full", "depth": 3, "window": 4},
    "hash": {"depth": 2, "window": 4, "embedding": "hash", "compression": 2},
    "qr": {"depth": 2, "window": 3, "embedding": "qr", "compression": 2},
    "robe": {"depth": 2, "window": 4, "embedding": "robe"},
    "lma, int8": {"depth": 2, "window": 4, "embedding": "lma", "cache_dtype": "int8"},
    "mixed": {"depth": 2, "window": 3, "embedding": "mixed", "compression": 4},
    "autodim": {"depth": 2, "window": 3, "embedding": "autodim", "embedding_widths": (8, 4, 2, 1)},
    "autoemb": {"depth": 2, "window": 4, "embedding": "autoemb", "compression": 4},
    "vista": {"family": "vista", "depth": 2, "window": 6, "summary": 4, "refresh_events": 4},
    "elastic, int8": {
        "family": "elastic",
        "depth": 2,
        "window": 5,
        "summary": 3,
        "refresh_events": 5,
        "cache_dtype": "int8",
        "time_gap": False,
    },
}
#: Families that cache nothing ask the same of every store: timelines. Nor does a store know how
#: items become vectors.
FORGETFUL = ("stca", "din", "full")
EMBEDDED = ("hash", "qr", "robe", "lma, int8", "mixed", "autodim", "autoemb")
EVERYWHERE = [name for name in SPECS if name not in FORGETFUL + EMBEDDED]
STORES = ("lmdb", "redis")


@pytest.fixture(scope="session")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """The bundle of a spec, made once."""
    folder = tmp_path_factory.mktemp("laws")

    @cache
    def make(name: str) -> Path:
        return make_bundle(folder / name, seed=len(name), **SPECS[name])

    return make


@pytest.fixture(
    scope="module",
    params=[(name, s) for name in SPECS for s in STORES if s == "lmdb" or name in EVERYWHERE],
    ids=str,
)
def world(
    request: pytest.FixtureRequest, bundle_of: Bundles, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """A service on each kind of model and store; every test brings users of its own."""
    name, store = request.param
    running = Running(bundle=bundle_of(name), cache=empty(request, store, tmp_path_factory))
    try:
        yield World(running, bundle_of(name))
    finally:
        running.stop()


@pytest.fixture(params=STORES)
def store_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Each kind of store, empty."""
    return empty(request, request.param, tmp_path_factory)


def empty(request: pytest.FixtureRequest, store: str, folders: pytest.TempPathFactory) -> str:
    if store == "lmdb":
        return f"lmdb:{folders.mktemp('store')}"
    url: str = request.getfixturevalue("redis_server").url
    flush(url)
    return url
