"""A URL names a store, or is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.errors import BadCacheUrl
from cache.lmdb_cache import LmdbCache
from cache.open import open_cache
from cache.redis_cache import RedisCache


async def test_lmdb_urls(tmp_path: Path) -> None:
    """`lmdb:PATH` makes the folder."""
    cache = await open_cache(f"lmdb:{tmp_path}/a/b")
    assert isinstance(cache, LmdbCache)
    assert (tmp_path / "a" / "b").is_dir()
    await cache.close()


@pytest.mark.parametrize(
    "url", ["redis://localhost", "redis://:p@h:6379/2", "rediss://h:1/0", "unix:///tmp/s?db=1"]
)
async def test_redis_urls(url: str) -> None:
    """Opening a Redis URL needs no server."""
    cache = await open_cache(url)
    assert isinstance(cache, RedisCache)
    await cache.close()


@pytest.mark.parametrize(
    "url",
    [
        "", "lmdb", "lmdb:", "redis:", "redis://", "redis://h:x", "redis://h:99999", "redis://h/a",
        "http://h", "redis+cluster://h:1,", "redis+sentinel://h:1", "unix:", "/var/cache",
        "redis://[::1", "redis://h:0", "redis+other://h:1", "redis+cluster://h:1/s",
    ],
)  # fmt: skip
async def test_bad_urls(url: str) -> None:
    """Anything else is refused with the forms that are accepted."""
    with pytest.raises(BadCacheUrl, match="lmdb:PATH, redis://"):
        await open_cache(url)
