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

#: Counters: what they are told as, and by which label; others are added up.
_COUNTERS = {
    "marmot_rank_cache_total": ("cache", "state"),
    "marmot_rank_degraded_total": ("degraded", "reason"),
    "marmot_events_total": ("events", "status"),
    "marmot_problems_total": ("problems", "problem"),
    "marmot_store_events_total": ("store_events", "event"),
}
#: Histograms, in the same way.
_HISTOGRAMS = {
    "marmot_request_seconds_bucket": ("routes", "route"),
    "marmot_stage_seconds_bucket": ("stages", "stage"),
}
_RUNS = {
    "marmot_batch_jobs_count": "runs",
    "marmot_batch_jobs_sum": "jobs",
    "marmot_batch_run_seconds_sum": "seconds",
}


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
        self._metrics.settle()
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
    counters: dict[str, Counts] = {name: defaultdict(float) for name, _ in _COUNTERS.values()}
    histograms: dict[str, dict[str, dict[float, float]]] = {
        name: defaultdict(lambda: defaultdict(float)) for name, _ in _HISTOGRAMS.values()
    }
    requests: dict[tuple[str, str, str], float] = defaultdict(float)
    runs: dict[str, Counts] = defaultdict(lambda: dict.fromkeys(_RUNS.values(), 0.0))
    in_flight = 0.0
    for sample in (sample for family in families for sample in family.samples):
        labels, value = sample.labels, sample.value
        if sample.name in _COUNTERS:
            name, label = _COUNTERS[sample.name]
            counters[name][labels[label]] += value
        elif sample.name in _HISTOGRAMS:
            name, label = _HISTOGRAMS[sample.name]
            histograms[name][labels[label]][float(labels["le"])] += value
        elif sample.name == "marmot_requests_total":
            requests[labels["route"], labels["method"], labels["status"]] += value
        elif sample.name in _RUNS:
            runs[labels["graph"]][_RUNS[sample.name]] += value
        elif sample.name == "marmot_requests_in_flight":
            in_flight = value
    return {
        "in_flight": in_flight,
        "requests": [
            {"route": route, "method": method, "status": status, "count": count}
            for (route, method, status), count in requests.items()
        ],
        **counters,
        "seconds": {
            name: {label: _parts(below) for label, below in found.items()}
            for name, found in histograms.items()
        },
        "runs": runs,
    }


def _parts(below: dict[float, float]) -> list[tuple[float | None, float]]:
    """Counts below each edge as (edge, how many are between it and the last); None is no edge."""
    edges = sorted(below)
    before = [0.0, *(below[edge] for edge in edges)]
    return [
        (None if math.isinf(edge) else edge, below[edge] - less)
        for edge, less in zip(edges, before, strict=False)
    ]
