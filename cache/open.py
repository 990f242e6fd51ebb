"""The one place where a URL becomes a cache."""

from __future__ import annotations

from cache.base import Cache
from cache.errors import BadCacheUrl
from cache.lmdb_cache import LmdbCache
from cache.reading import OnEvent
from cache.redis_cache import RedisCache

FORMS = (
    "lmdb:PATH, redis://HOST:PORT/DB, rediss://HOST:PORT/DB, unix://PATH, "
    "redis+cluster://HOST:PORT,HOST:PORT or redis+sentinel://HOST:PORT,HOST:PORT/SERVICE"
)


async def open_cache(
    url: str,
    *,
    keep: int | None = None,
    least_keep: int = 1,
    record_ttl_s: float = 30 * 86400.0,
    timeline_ttl_s: float | None = None,
    timeout_s: float = 0.5,
    acks: int = 0,
    replica_reads: bool = False,
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
    try:
        return RedisCache(
            url,
            keep=keep,
            least_keep=least_keep,
            record_ttl_s=record_ttl_s,
            timeline_ttl_s=timeline_ttl_s,
            timeout_s=timeout_s,
            acks=acks,
            replica_reads=replica_reads,
            on_event=on_event,
        )
    except BadCacheUrl as error:
        raise BadCacheUrl(f"The cache URL is not one of {FORMS}.") from error
