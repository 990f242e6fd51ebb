"""What Prometheus is told of a consumer: how far behind it is, and what became of entries."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import nan

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from service.errors import StartError
from service.stream import Lag

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class ConsumerMetrics:
    """Every number that a consumer reports."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        #: What became of the entries of this process, for its last words.
        self.outcomes: Counts[str] = Counts()
        self._entries = Counter(
            "marmot_consume_entries_total",
            "Entries settled: a status of /v1/events, dead (put aside) or vanished (deleted)",
            ["outcome"],
            registry=registry,
        )
        self._claimed = Counter(
            "marmot_consume_claimed_total",
            "Entries that other consumers were given and never acknowledged",
            registry=registry,
        )
        self._failures = Counter(
            "marmot_consume_failures_total",
            "Times that the stream or the store did not answer",
            ["where"],
            registry=registry,
        )
        self._seconds = Histogram(
            "marmot_consume_batch_seconds",
            "From a batch's delivery to its acknowledgement",
            buckets=SECONDS,
            registry=registry,
        )
        self._waiting = Gauge(
            "marmot_consume_lag_entries",
            "Entries of the stream that the group was not given yet",
            registry=registry,
        )
        self._pending = Gauge(
            "marmot_consume_pending_entries",
            "Entries that the group was given and has not acknowledged",
            registry=registry,
        )
        self._lag_seconds = Gauge(
            "marmot_consume_lag_seconds",
            "Age of the oldest entry that is not acknowledged",
            registry=registry,
        )
        for where in ("stream", "store"):
            self._failures.labels(where)
        self.lagged(None)

    def __repr__(self) -> str:
        return f"<ConsumerMetrics {dict(self.outcomes)}>"

    def became(self, outcomes: Sequence[str]) -> None:
        for outcome, count in Counts(outcomes).items():
            self._entries.labels(outcome).inc(count)
            self.outcomes[outcome] += count

    def claimed(self, entries: int) -> None:
        self._claimed.inc(entries)

    def failed(self, where: str) -> None:
        self._failures.labels(where).inc()

    def settled(self, seconds: float) -> None:
        self._seconds.observe(seconds)

    def lagged(self, lag: Lag | None) -> None:
        """None is: nobody knows, because the stream is away."""
        self._waiting.set(nan if lag is None else lag.waiting)
        self._pending.set(nan if lag is None else lag.pending)
        self._lag_seconds.set(nan if lag is None else lag.seconds)

    @contextmanager
    def shown(self, host: str, port: int) -> Iterator[str]:
        """Answers Prometheus on a thread of its own; yields the address. Raises `StartError`."""
        try:
            server, thread = start_http_server(port, host, self.registry)
        except OSError as error:
            raise StartError(
                f"cannot listen on {host} port {port}: {error.strerror or error}; "
                "--metrics-port names another, and 0 takes a free one"
            ) from error
        try:
            yield f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
