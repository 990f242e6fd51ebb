"""One size of request on one store: what every contestant took for it, and what that says."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from loadtest.contestants import Cpu, Service
from loadtest.deck import Deck
from loadtest.processes import Helper
from loadtest.queueing import md1_quantile, played_quantile
from loadtest.results import Result


@dataclass(slots=True)
class Bare:
    """The bare graph at one size, the same for every store."""

    candidates: int
    records: int
    took_s: list[float] = field(default_factory=list)
    rested_s: list[float] = field(default_factory=list)
    """Of runs before which the processor had nothing to do for a moment, as before a request."""
    flops: int = 0

    @property
    def p50_s(self) -> float:
        return float(np.median(self.took_s))

    @property
    def rps(self) -> float:
        return len(self.took_s) / sum(self.took_s)


@dataclass(slots=True)
class Loop:
    """Latencies of one kind of turn, in seconds, and how long the turns were together."""

    latencies_s: list[float] = field(default_factory=list)
    span_s: float = 0.0
    states: Counter[str] = field(default_factory=Counter)

    def add(self, results: list[Result]) -> None:
        """Takes in a turn; latency counts from the moment a request was due."""
        if results:
            self.latencies_s += [result.done - result.due for result in results]
            first = min(result.due for result in results)
            self.span_s += max(result.done for result in results) - first
            self.states.update(result.cache_state for result in results)

    def ms(self, percent: float) -> float:
        return float(np.percentile(self.latencies_s, percent)) * 1e3

    @property
    def rps(self) -> float:
        return len(self.latencies_s) / self.span_s


@dataclass(slots=True)
class Mix:
    """Known and fresh users at one hit rate."""

    hit_rate: float
    one: Loop = field(default_factory=Loop)
    saturated: Loop = field(default_factory=Loop)

    def report(self) -> dict[str, Any]:
        """What was seen, the share of hits among it: what was asked for is only likely."""
        seen = self.one.states + self.saturated.states
        return {
            "hit_rate": self.hit_rate,
            "seen_hit_rate": round(seen["hit"] / seen.total(), 4),
            "one_p50_ms": round(self.one.ms(50), 4),
            "one_p99_ms": round(self.one.ms(99), 4),
            "saturated_rps": round(self.saturated.rps, 2),
            "saturated_p99_ms": round(self.saturated.ms(99), 4),
        }


@dataclass(slots=True)
class InProcess:
    """The app without sockets and the bare graph, in one process."""

    helper: Helper
    bare_s: list[float] = field(default_factory=list)
    app_s: list[float] = field(default_factory=list)
    bare_cpu_s: float = 0.0
    app_cpu_s: float = 0.0

    async def turn(self, deck: Deck, size: Bare, seconds: float) -> None:
        """A turn of both; the user's records are in the store."""
        body = next(deck.known()).body.decode()
        answer = await self.helper.ask(
            body=body, candidates=size.candidates, records=size.records, seconds=seconds
        )
        self.bare_s += answer["bare_s"]
        self.app_s += answer["app_s"]
        self.bare_cpu_s += answer["bare_cpu_s"]
        self.app_cpu_s += answer["app_cpu_s"]

    def report(self) -> dict[str, Any]:
        """Medians of what an answer waits for; CPU time with what is counted behind it."""
        bare_ms, app_ms = (float(np.median(took)) * 1e3 for took in (self.bare_s, self.app_s))
        return {
            "inside_bare_p50_ms": round(bare_ms, 4),
            "inside_p50_ms": round(app_ms, 4),
            "inside_ratio": round(app_ms / bare_ms, 4),
            "inside_bare_cpu_ms": round(self.bare_cpu_s / len(self.bare_s) * 1e3, 4),
            "inside_cpu_ms": round(self.app_cpu_s / len(self.app_s) * 1e3, 4),
        }


@dataclass(slots=True)
class Shape:
    """One size of request on one store."""

    bare: Bare
    service: Service
    deck: Deck
    mixes: list[Mix]
    inside: InProcess
    one: Loop = field(default_factory=Loop)
    saturated: Loop = field(default_factory=Loop)
    open: Loop = field(default_factory=Loop)
    open_s: float = 0.0  # in which arrivals were due
    inline: Loop = field(default_factory=Loop)
    cpu: Cpu = field(default_factory=Cpu)  # of one connection

    def report(self, gemm_gflops: float) -> dict[str, Any]:
        """What this shape came to; the ratios are what to look at."""
        bare = self.bare
        gflops = bare.flops / bare.p50_s / 1e9
        asked = len(self.one.latencies_s)
        open_rps = len(self.open.latencies_s) / self.open_s
        queue_s = md1_quantile(0.99, open_rps, bare.p50_s)
        played_s = played_quantile(0.99, open_rps, rested_s=bare.rested_s, busy_s=bare.took_s)
        return {
            "store": self.service.place.name,
            "candidates": bare.candidates,
            "records": bare.records,
            "mflop": round(bare.flops / 1e6, 2),
            "bare_p50_ms": round(bare.p50_s * 1e3, 4),
            "rested_p50_ms": round(float(np.median(bare.rested_s)) * 1e3, 4),
            "bare_rps": round(bare.rps, 2),
            "bare_gflops": round(gflops, 2),
            "bare_gemm_share": round(gflops / gemm_gflops, 4),
            "one_p50_ms": round(self.one.ms(50), 4),
            "one_p99_ms": round(self.one.ms(99), 4),
            "p50_ratio": round(self.one.ms(50) / (bare.p50_s * 1e3), 4),
            "p50_difference_ms": round(self.one.ms(50) - bare.p50_s * 1e3, 4),
            "saturated_rps": round(self.saturated.rps, 2),
            "saturated_p99_ms": round(self.saturated.ms(99), 4),
            "saturated_share": round(self.saturated.rps / bare.rps, 4),
            "open_rps": round(open_rps, 2),
            "open_p50_ms": round(self.open.ms(50), 4),
            "open_p99_ms": round(self.open.ms(99), 4),
            "md1_p99_ms": round(queue_s * 1e3, 4),
            "played_p99_ms": round(played_s * 1e3, 4),
            "inline_p50_ms": round(self.inline.ms(50), 4),
            "inline_p99_ms": round(self.inline.ms(99), 4),
            "inline_ratio": round(self.inline.ms(50) / self.one.ms(50), 4),
            "service_cpu_ms": round(self.cpu.service / asked * 1e3, 4),
            "generator_cpu_ms": round(self.cpu.generator / asked * 1e3, 4),
            "store_cpu_ms": round(self.cpu.store / asked * 1e3, 4),
            **self.inside.report(),
            "hit_rates": [mix.report() for mix in self.mixes],
        }
