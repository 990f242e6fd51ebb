"""Every promise is tested over each store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path

import pytest

from tests.cache.stores import ClusterStore, LmdbStore, RedisStore, Store


@pytest.fixture(params=["lmdb", "redis", "cluster"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "lmdb":
        lmdb_store = LmdbStore(tmp_path / "lmdb")
        yield lmdb_store
        lmdb_store.close()
        return
    if request.param == "redis":
        redis_store = RedisStore(request.getfixturevalue("redis_server").url)
    else:
        redis_store = ClusterStore(request.getfixturevalue("redis_cluster").url)
    yield redis_store
    for cache in redis_store.opened:
        await cache.close()
    redis_store.client.close()


@pytest.fixture
def new_user() -> Callable[[], str]:
    """Each call another user of this test."""
    numbers = count()
    return lambda: f"user-{next(numbers)}"
