"""Status: the numbers of /metrics, of all workers, beside how this moment is.

Everything counts from the start of the service: whoever looks twice sees what happened in between.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Iterable
from time import perf_counter
from typing import Any

import orjson
from prometheus_client import Metric

from cache.base import Cache
from cache.errors import CacheMismatch, CacheUnavailable
from service.drain import Drain
from service.metrics import Metrics
from service.registry import Registry

Counts = dict[str, float]

#: Counters that are told by their one label, and under which name.
_COUNTERS = {
    "marmot_rank_cache": "cache",
    "marmot_rank_degraded": "degraded",
    "marmot_events": "events",
    "marmot_problems": "problems",
    "marmot_store_events": "store_events",
}
#: Histograms by their one label.
_HISTOGRAMS = {"marmot_request_seconds": "routes", "marmot_stage_seconds": "stages"}


class Status:
    """How the service is, in numbers."""

    def __init__(
        self, *, store: str, workers: int, cache: Cache, registry: Registry, metrics: Metrics,
        drain: Drain,
    ) -> None:  # fmt: skip
        self._store, self._workers = store, workers
        self._cache, self._registry = cache, registry
        self._metrics, self._drain = metrics, drain

    async def look(self) -> dict[str, Any]:
        """As it stands in `/v1/status`."""
        families = await asyncio.to_thread(lambda: list(self._metrics.families()))
        return {
            "at": time.time(),
            "state": "draining" if self._drain.has_begun else "ready",
            "workers": self._workers,
            "model": self._registry.active.name,
            "store": {"kind": self._store, **await self._ping()},
            **told(families),
        }

    async def written(self) -> bytes:
        """The same as an event of a stream."""
        return b"data: " + orjson.dumps(await self.look()) + b"\n\n"

    async def _ping(self) -> dict[str, Any]:
        began = perf_counter()
        try:
            await self._cache.ping()
        except (CacheUnavailable, CacheMismatch):
            return {"answers": False, "ping_ms": None}
        return {"answers": True, "ping_ms": (perf_counter() - began) * 1e3}


def told(families: Iterable[Metric]) -> dict[str, Any]:
    """What a page shows of the metrics; without users, items or times of single requests."""
    counters: dict[str, Counts] = {name: {} for name in _COUNTERS.values()}
    histograms: dict[str, dict[str, dict[float, float]]] = {
        name: defaultdict(dict) for name in _HISTOGRAMS.values()
    }
    requests: list[dict[str, Any]] = []
    runs: dict[str, Counts] = defaultdict(lambda: {"runs": 0.0, "jobs": 0.0, "seconds": 0.0})
    in_flight = 0.0
    for family in families:
        for sample in family.samples:
            labels, value = sample.labels, sample.value
            if family.name in _COUNTERS and sample.name.endswith("_total"):
                counters[_COUNTERS[family.name]][next(iter(labels.values()))] = value
            elif family.name in _HISTOGRAMS and sample.name.endswith("_bucket"):
                name = next(value for key, value in labels.items() if key != "le")
                histograms[_HISTOGRAMS[family.name]][name][float(labels["le"])] = value
            elif sample.name == "marmot_requests_total":
                requests.append({**labels, "count": value})
            elif sample.name == "marmot_requests_in_flight":
                in_flight = value
            elif sample.name in _OF_RUNS:
                runs[labels["graph"]][_OF_RUNS[sample.name]] = value
    return {
        "in_flight": in_flight,
        "requests": requests,
        **counters,
        "seconds": {name: dict(map(_buckets, found.items())) for name, found in histograms.items()},
        "runs": runs,
    }


_OF_RUNS = {
    "marmot_batch_jobs_count": "runs",
    "marmot_batch_jobs_sum": "jobs",
    "marmot_batch_run_seconds_sum": "seconds",
}


def _buckets(named: tuple[str, dict[float, float]]) -> tuple[str, list[tuple[float | None, float]]]:
    """Cumulated counts as (upper edge, how many are in there); the last edge is None."""
    name, found = named
    edges = sorted(found)
    below = [0.0, *(found[edge] for edge in edges)]
    return name, [
        (None if math.isinf(edge) else edge, found[edge] - before)
        for edge, before in zip(edges, below, strict=False)
    ]
