"""What Prometheus is told. Several workers write into one folder, and any of them shows all.

The folder (`PROMETHEUS_MULTIPROC_DIR`) is set by the parent before a worker imports this.
No user or item ids as labels, and route templates instead of paths.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from service.timings import Timings

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.0075,
    0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
COUNTS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Every number this process reports."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._registry = registry = CollectorRegistry()
        self._info = Gauge(
            "marmot_bundle_info",
            "The bundle that answers by default",
            ["name", "version", "fingerprint"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._requests = Counter(
            "marmot_requests_total",
            "Answers, failed ones too",
            ["route", "method", "status"],
            registry=registry,
        )
        self._in_flight = Gauge(
            "marmot_requests_in_flight",
            "Requests being answered",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._seconds = Histogram(
            "marmot_request_seconds",
            "From the request's headers to its answer",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self._stages = Histogram(
            "marmot_stage_seconds",
            "Time in one stage: cache, queue, run; of a chain also retrieve, prerank, rank",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self._states = Counter(
            "marmot_rank_cache_total",
            "Rank requests by what the cache had",
            ["state"],
            registry=registry,
        )
        self._degraded = Counter(
            "marmot_rank_degraded_total",
            "Rank answers that left something out",
            ["reason"],
            registry=registry,
        )
        self._recomputed = Counter(
            "marmot_rank_recomputed_rows_total",
            "Rows that rank requests had to compute",
            registry=registry,
        )
        self._events = Counter(
            "marmot_events_total",
            "Events by what became of them",
            ["status"],
            registry=registry,
        )
        self._problems = Counter(
            "marmot_problems_total",
            "Problems told to callers",
            ["problem"],
            registry=registry,
        )
        self._store = Counter(
            "marmot_store_events_total",
            "What the store found: damaged records and timelines, retries",
            ["event"],
            registry=registry,
        )
        self._batch_jobs = Histogram(
            "marmot_batch_jobs",
            "Jobs in one run",
            ["graph"],
            buckets=COUNTS,
            registry=registry,
        )
        self._batch_seconds = Histogram(
            "marmot_batch_run_seconds",
            "One run of a graph",
            ["graph"],
            buckets=SECONDS,
            registry=registry,
        )
        self._stage_of = {stage: self._stages.labels(stage) for stage in ("cache", "queue", "run")}
        # Finding a metric by its labels costs more than counting in it. The labels are few.
        self._requests_of = cache(self._requests.labels)
        self._seconds_of = cache(self._seconds.labels)
        self._states_of = cache(self._states.labels)
        self._batch_jobs_of = cache(self._batch_jobs.labels)
        self._batch_seconds_of = cache(self._batch_seconds.labels)

    def loaded(self, name: dict[str, str]) -> None:
        self._info.labels(**name).set(1)

    def begun(self) -> None:
        self._in_flight.inc()

    def answered(self, route: str, method: str, status: int, timings: Timings) -> None:
        """One answer has gone out, whatever it was."""
        self._in_flight.dec()
        self._requests_of(route, method, str(status)).inc()
        self._seconds_of(route).observe(timings.total)
        if timings.run or timings.cache:
            self._stage_of["cache"].observe(timings.cache)
            self._stage_of["queue"].observe(timings.queue)
            self._stage_of["run"].observe(timings.run)
        for stage, took in timings.stages.items():
            self._stages.labels(stage).observe(took)

    def ranked(self, state: str, degraded: Sequence[str], recomputed: int) -> None:
        self._states_of(state).inc()
        for reason in degraded:
            self._degraded.labels(reason).inc()
        if recomputed:
            self._recomputed.inc(recomputed)

    def recorded(self, status: str) -> None:
        self._events.labels(status).inc()

    def told(self, problem: str) -> None:
        self._problems.labels(problem).inc()

    def store_event(self, event: str) -> None:
        self._store.labels(event).inc()

    def batch(self, graph: str, jobs: int, run_s: float) -> None:
        self._batch_jobs_of(graph).observe(jobs)
        self._batch_seconds_of(graph).observe(run_s)

    def render(self) -> bytes:
        """Everything, of all workers where there are several."""
        if self._folder is None:
            return generate_latest(self._registry)
        _forget_the_dead(self._folder)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self._folder))  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def _forget_the_dead(folder: Path) -> None:
    """Gauges of a worker that is gone must not be summed any longer."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = int(file.stem.rsplit("_", 1)[1])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
