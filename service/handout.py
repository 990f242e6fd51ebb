"""Summaries for other models to read: what `GET /v1/users/{id}/summary` and `export-state` give."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from cache.base import Cache
from cache.errors import CacheMismatch, CacheUnavailable
from service.chores import Chores
from service.errors import NoSummary, StoreAway, UsageError
from service.job import Array, Lane
from service.registry import Model
from service.summaries import Adding, Moved, Summaries, behind, refresh, standing
from service.timings import Timings

PART_USERS = 4_096
"""Users in one file of an export."""


def tokens_of(row: Array) -> Array:
    """A summary's tokens in float32, (tokens, width), from its row as the cache has it."""
    tokens = row["summary"].astype(np.float32)
    if "summary_scales" in (row.dtype.names or ()):
        tokens = tokens * row["summary_scales"].astype(np.float32)[:, None]
    return np.asarray(tokens)


class Handout:
    """One user's summary as a document."""

    def __init__(
        self,
        cache: Cache,
        chores: Chores,
        *,
        refresh_s: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cache = cache
        self._clock = clock
        self._summaries = Summaries(cache, chores, clock, refresh_s=refresh_s)

    async def give(self, model: Model, user_id: str, timings: Timings) -> dict[str, Any]:
        """The summary of all events of a user, or how far behind them it is."""
        spec = model.spec
        if not spec.summary:
            raise NoSummary(f"The model of the family {spec.family} keeps no summaries")
        began = perf_counter()
        try:
            snapshot = await self._cache.fetch(user_id, limit=spec.reads, layout=model.layout)
            adding = Adding(model, Lane.EVENT, timings.deadline, timings)
            try:
                found = await self._summaries.find(adding, snapshot, None)
            except Moved:
                found = behind(standing(snapshot, spec, None))
        except (CacheUnavailable, CacheMismatch) as error:
            raise StoreAway("The store is not reachable") from error
        finally:
            timings.cache += perf_counter() - began
        summary = found.summary
        age_s = None
        if summary is not None:
            age_s = max(0.0, round(self._clock() - (summary.written_at_s or self._clock()), 3))
        return {
            "user_id": user_id,
            "model": model.name,
            "version": snapshot.version,
            "covered": found.covered,
            "unseen": found.unseen,
            "age_s": age_s,
            "is_behind": not found.is_exact,
            "shape": [spec.summary, spec.width],
            "tokens": None if summary is None else _as_text(tokens_of(summary.row)),
        }


def _as_text(tokens: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(tokens, "<f4").tobytes()).decode()


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    users: int
    files: int


async def export_state(
    model: Model, cache: Cache, out: Path, progress: Callable[[int], None]
) -> Exported:
    """Writes every user's tokens as `state-00000.npz`, … : `user_ids`, `covered`, `tokens`.

    Summaries that are behind are brought up first; users with too few events for one are left out.
    """
    spec = model.spec
    if not spec.summary:
        raise UsageError(f"a bundle of the family {spec.family} keeps no summaries to export")
    users, covered, tokens = list[str](), list[int](), list[Array]()
    count = files = 0

    def write() -> None:
        nonlocal files
        out.mkdir(parents=True, exist_ok=True)
        columns = {
            "user_ids": np.array(users, np.str_),
            "covered": np.array(covered, np.int64),
            "tokens": np.array(tokens, np.float32).reshape(-1, spec.summary, spec.width),
        }
        np.savez(out / f"state-{files:05d}.npz", **columns)  # type: ignore[arg-type]
        files += 1
        for column in (users, covered, tokens):
            column.clear()

    seen: set[str] = set()
    async for user_id in cache.users():
        if user_id in seen:
            continue
        seen.add(user_id)
        await refresh(cache, model, user_id)
        snapshot = await cache.fetch(user_id, limit=spec.reads, layout=model.layout)
        if (found := standing(snapshot, spec, None)).summary is not None:
            users.append(user_id)
            covered.append(found.covered)
            tokens.append(tokens_of(found.summary.row))
            count += 1
        progress(count)
        if len(users) == PART_USERS:
            write()
    if users or not files:
        write()
    return Exported(count, files)
