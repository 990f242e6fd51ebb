"""Rows that a request had to rebuild, written back once its answer has gone."""

from __future__ import annotations

from cache.base import Cache
from cache.errors import CacheMismatch, CacheUnavailable, StaleVersion
from cache.snapshot import Snapshot
from service.job import Array


async def keep_rows(cache: Cache, snapshot: Snapshot, rows: Array, valid: Array) -> None:
    """Stores the rows of a snapshot; whoever wrote the user meanwhile has newer ones."""
    try:
        await cache.append(snapshot.merge(()).with_rows(rows, valid))
    except (StaleVersion, CacheUnavailable, CacheMismatch):
        return
