"""The one place where a URL becomes a cache."""

from __future__ import annotations

from urllib.parse import urlsplit

from cache.base import Cache
from cache.errors import BadCacheUrl
from cache.lmdb_cache import LmdbCache
from cache.reading import OnEvent
from cache.redis_cache import RedisCache

FORMS = "lmdb:PATH, redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix://PATH"


async def open_cache(
    url: str,
    *,
    keep: int | None = None,
    least_keep: int = 1,
    record_ttl_s: float = 30 * 86400.0,
    timeline_ttl_s: float | None = None,
    timeout_s: float = 0.5,
    on_event: OnEvent = lambda _: None,
) -> Cache:
    """Opens LMDB at once; a Redis that is away is asked for `keep` when it answers first.

    Raises `BadCacheUrl`, `CacheMismatch` and, for LMDB, `CacheUnavailable`.
    """
    scheme, _, path = url.partition(":")
    if scheme == "lmdb" and path:
        return LmdbCache(
            path,
            keep=keep,
            least_keep=least_keep,
            record_ttl_s=record_ttl_s,
            timeline_ttl_s=timeline_ttl_s,
            on_event=on_event,
        )
    if _is_redis(url):
        return RedisCache(
            url,
            keep=keep,
            least_keep=least_keep,
            record_ttl_s=record_ttl_s,
            timeline_ttl_s=timeline_ttl_s,
            timeout_s=timeout_s,
            on_event=on_event,
        )
    raise BadCacheUrl(f"The cache URL is not one of {FORMS}.")


def _is_redis(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme == "unix":
        return bool(parts.path)
    database = parts.path.strip("/")
    return (
        parts.scheme in ("redis", "rediss")
        and bool(parts.hostname)
        and port != 0
        and (not database or database.isdigit())
    )
