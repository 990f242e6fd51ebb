"""A URL names a store, or is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.errors import BadCacheUrl
from cache.lmdb_cache import LmdbCache
from cache.open import open_cache
from cache.redis_cache import RedisCache
from cache.redis_url import RedisUrl


async def test_lmdb_urls(tmp_path: Path) -> None:
    """`lmdb:PATH` makes the folder."""
    cache = await open_cache(f"lmdb:{tmp_path}/a/b")
    assert isinstance(cache, LmdbCache)
    assert (tmp_path / "a" / "b").is_dir()
    await cache.close()


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost", "redis://:p@h:6379/2", "rediss://h:1/0", "unix:///tmp/s?db=1",
        "redis+cluster://h:1,h:2", "redis+cluster://u:p@h", "rediss+cluster://[::1]:1/0",
        "redis+sentinel://h:1,h:2/s", "rediss+sentinel://:p@h/s/3?ssl_cert_reqs=none",
    ],
)  # fmt: skip
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


def test_a_url_is_taken_apart() -> None:
    """Servers, service and database come from their places, everything else from the client's."""
    url = RedisUrl.parse("redis+sentinel://me:a%2Fb@one,[::1]:7/shop/3?client_name=x")
    assert (url.kind, url.service) == ("sentinel", "shop")
    assert url.addresses == (("one", 26379), ("::1", 7))
    asked = {"username": "me", "password": "a/b", "db": 3, "client_name": "x"}
    assert url.options == {**asked, "ssl": False}
