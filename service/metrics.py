"""What Prometheus is told. Several workers write into one folder, and any of them shows all.

The folder (`PROMETHEUS_MULTIPROC_DIR`) is set by the parent before a worker imports this.
No user or item ids as labels, and route templates instead of paths.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from service.timings import Timings

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.0075,
    0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
AGES = (
    1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0,
    86_400.0, 604_800.0, 2_592_000.0,
)  # fmt: skip
DIFFERENCES = (1e-7, 1e-6, 1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 2e-2, 0.1, 0.5, 1.0)
APART = (1e-5, 1e-4, 1e-3, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
MODEL_STATES = ("loading", "warming", "ready", "failed")
COUNTS = (1, 2, 4, 8, 16, 32, 64)


SETTLE_S = 0.005
"""How long counting may wait for company."""


class Metrics:
    """Every number this process reports.

    What every request counts is counted `later`, many requests at once: behind a run of the graph
    all of it is far from the processor, and bringing it near takes ten times as long as counting.
    """

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
        self._visible = Histogram(
            "marmot_event_visible_seconds",
            "From a request with events to when every rank request sees them; once per user in it",
            buckets=SECONDS,
            registry=registry,
        )
        self._event_age = Histogram(
            "marmot_event_age_seconds",
            "How old new events are when they are stored, by their timestamps",
            buckets=AGES,
            registry=registry,
        )
        self._record_age = Histogram(
            "marmot_rank_record_age_seconds",
            "How long before a rank request the newest record that it read was written",
            buckets=AGES,
            registry=registry,
        )
        self._checks = Counter(
            "marmot_truth_checks_total",
            "Cached answers that were sampled, by what computing them in full showed",
            ["result"],
            registry=registry,
        )
        self._differences = Histogram(
            "marmot_truth_difference",
            "Largest difference of a score, cached from full, in one sampled answer",
            buckets=DIFFERENCES,
            registry=registry,
        )
        self._logged = Counter(
            "marmot_logged_answers_total",
            "Answers that were sampled for the answer log, by what became of them",
            ["result"],
            registry=registry,
        )
        self._models = Gauge(
            "marmot_models",
            "Workers in which a version is loading, warming, ready or failed",
            ["version", "fingerprint", "state"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._ranked = Counter(
            "marmot_model_ranks_total",
            "Rank answers by the version that gave them",
            ["version"],
            registry=registry,
        )
        self._shadows = Counter(
            "marmot_shadows_total",
            "Requests scored again by a version that answers nobody yet",
            ["version", "outcome"],
            registry=registry,
        )
        self._apart = Histogram(
            "marmot_shadow_difference",
            "The largest difference between a score and its shadow",
            ["version"],
            buckets=APART,
            registry=registry,
        )
        self._built = Counter(
            "marmot_rebuilt_users_total",
            "Users whose records of a new version were built in the background",
            ["version"],
            registry=registry,
        )
        self._stale_apart = Histogram(
            "marmot_stale_difference",
            "The largest difference between a score on stale records and on true ones",
            buckets=APART,
            registry=registry,
        )
        self._due: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._will_settle = False
        self._active: dict[str, str] | None = None
        self._stage_of = {stage: self._stages.labels(stage) for stage in ("cache", "queue", "run")}
        # Finding a metric by its labels costs more than counting in it. The labels are few.
        self._requests_of = cache(self._requests.labels)
        self._seconds_of = cache(self._seconds.labels)
        self._states_of = cache(self._states.labels)
        self._ranked_of = cache(self._ranked.labels)
        self._batch_jobs_of = cache(self._batch_jobs.labels)
        self._batch_seconds_of = cache(self._batch_seconds.labels)

    def answers(self, name: dict[str, str]) -> None:
        """This bundle answers from now on where a request names none."""
        if self._active is not None:
            self._info.labels(**self._active).set(0)
        self._active = name
        self._info.labels(**name).set(1)

    def stands(self, version: str, fingerprint: str, state: str) -> None:
        """A bundle is in this state now, in this process; "" if it is gone."""
        for each in MODEL_STATES:
            self._models.labels(version, fingerprint, each).set(each == state)

    def later(self, count: Callable[..., None], *about: Any) -> None:
        """Calls it on the event loop, soon, and before anybody is told the numbers."""
        self._due.append((count, about))
        if not self._will_settle:
            self._will_settle = True
            asyncio.get_running_loop().call_later(SETTLE_S, self.settle)

    def settle(self) -> None:
        """Counts what is due. Only on the event loop."""
        self._will_settle = False
        while self._due:
            count, about = self._due.popleft()
            count(*about)

    def begun(self) -> None:
        self._in_flight.inc()

    def answered(
        self, route: str, method: str, status: int, timings: Timings, took_s: float
    ) -> None:
        """One answer has gone out, whatever it was."""
        self._in_flight.dec()
        self._requests_of(route, method, str(status)).inc()
        self._seconds_of(route).observe(took_s)
        if timings.run or timings.cache:
            self._stage_of["cache"].observe(timings.cache)
            self._stage_of["queue"].observe(timings.queue)
            self._stage_of["run"].observe(timings.run)
        for stage, took in timings.stages.items():
            self._stages.labels(stage).observe(took)

    def shadowed(self, version: str, outcome: str, apart: float | None) -> None:
        """A request was scored again by a version that answers nobody; how far apart they are."""
        self._shadows.labels(version, outcome).inc()
        if apart is not None:
            self._apart.labels(version).observe(apart)

    def stale(self, apart: float) -> None:
        """How far a score on another fingerprint's records was from the true one."""
        self._stale_apart.observe(apart)

    def built(self, version: str) -> None:
        """A user's records of a version are there, if there was room and time for them."""
        self._built.labels(version).inc()

    def ranked(
        self,
        state: str,
        degraded: Sequence[str],
        recomputed: int,
        age_s: float | None,
        version: str,
    ) -> None:
        """A version answered a rank request; `age_s`: of the newest record that was read."""
        self._states_of(state).inc()
        self._ranked_of(version).inc()
        if age_s is not None:
            self._record_age.observe(age_s)
        for reason in degraded:
            self._degraded.labels(reason).inc()
        if recomputed:
            self._recomputed.inc(recomputed)

    def recorded(self, statuses: Sequence[str], visible_s: float, ages_s: Iterable[float]) -> None:
        """A user's events are stored, so long after they came, and each so old by then."""
        for status in statuses:
            self._events.labels(status).inc()
        self._visible.observe(visible_s)
        for age_s in ages_s:
            self._event_age.observe(max(age_s, 0.0))

    def told(self, problem: str) -> None:
        self._problems.labels(problem).inc()

    def store_event(self, event: str) -> None:
        self._store.labels(event).inc()

    def checked(self, result: str, difference: float | None) -> None:
        """A cached answer was computed again in full, or could not be."""
        self._checks.labels(result).inc()
        if difference is not None:
            self._differences.observe(difference)

    def logged(self, result: str, answers: int) -> None:
        """Sampled answers were written down, or not."""
        if answers:
            self._logged.labels(result).inc(answers)

    def batch(self, graph: str, jobs: int, run_s: float) -> None:
        self._batch_jobs_of(graph).observe(jobs)
        self._batch_seconds_of(graph).observe(run_s)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While an answer is an endless one, nobody waits for it."""
        self._in_flight.dec()
        try:
            yield
        finally:
            self._in_flight.inc()

    def render(self) -> bytes:
        """Everything, of all workers where there are several. Only on the event loop."""
        self.settle()
        return generate_latest(self._everything())

    def families(self) -> Iterable[Metric]:
        """The same before it is text, of what was settled."""
        return self._everything().collect()

    def _everything(self) -> CollectorRegistry:
        if self._folder is None:
            return self._registry
        _forget_the_dead(self._folder)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self._folder))  # type: ignore[no-untyped-call]
        return registry


def _forget_the_dead(folder: Path) -> None:
    """Gauges of a worker that is gone must not be summed any longer."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = int(file.stem.rsplit("_", 1)[1])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            with suppress(FileNotFoundError):  # somebody else saw it first
                mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
