"""What became of each request, and what the numbers say together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.client import Answer
from loadtest.traffic import Kind

QUANTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}

_STAGE = re.compile(r"\s*([a-z_]+)\s*;(?:[^,]*;)?\s*dur\s*=\s*([0-9.]+)")
_STATE = re.compile(rb'"state"\s*:\s*"([a-z]+)"')
_WHOLE = re.compile(rb'"degraded"\s*:\s*\[\s*\]')


@dataclass(frozen=True, slots=True)
class Result:
    """One request: when it was due, sent and done (`time.monotonic`), and what came back.

    `outcome` is the status, or one word where there was none. Latency counts from `due`: a
    request that had to wait behind a slow one waited, whoever made it wait.
    """

    kind: Kind
    due: float
    sent: float
    done: float
    outcome: str
    server_timing: str = ""
    cache_state: str = ""
    degraded: bool = False

    @property
    def ok(self) -> bool:
        return self.outcome == "200"

    @classmethod
    def of(cls, kind: Kind, due: float, answer: Answer) -> Result:
        rank = kind == "rank" and answer.status == 200
        state = _STATE.search(answer.body) if rank else None
        return cls(
            kind=kind,
            due=due,
            sent=answer.sent,
            done=answer.done,
            outcome=str(answer.status),
            server_timing=answer.headers.get(b"server-timing", b"").decode("latin-1"),
            cache_state=state[1].decode() if state else "",
            degraded=rank and not _WHOLE.search(answer.body),
        )


def stages_ms(server_timing: str) -> dict[str, float]:
    """`cache;dur=0.1, run;dur=2` as milliseconds by stage."""
    return {name: float(duration) for name, duration in _STAGE.findall(server_timing)}


def quantiles_ms(seconds: Iterable[float]) -> dict[str, float]:
    """The quantiles that a report shows, in milliseconds; none of nothing."""
    values = np.fromiter(seconds, np.float64)
    if not values.size:
        return {}
    found = np.percentile(values, list(QUANTILES.values())) * 1e3
    return dict(zip(QUANTILES, (round(float(value), 3) for value in found), strict=True))


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Everything a program may want to know of a run, in JSON's types."""
    answered = [result for result in results if result.ok]
    first = min((result.due for result in results), default=0.0)
    last = max((result.done for result in results), default=0.0)
    elapsed_s = last - first
    stages: dict[str, list[float]] = {}
    for result in answered:
        if result.kind == "rank":
            for stage, duration in stages_ms(result.server_timing).items():
                stages.setdefault(stage, []).append(duration / 1e3)
    return {
        "requests": len(results),
        "ok": len(answered),
        "elapsed_s": round(elapsed_s, 3),
        "throughput_rps": round(len(answered) / elapsed_s, 2) if elapsed_s > 0 else 0.0,
        "errors": dict(Counter(result.outcome for result in results if not result.ok)),
        "latency_ms": {
            kind: quantiles_ms(r.done - r.due for r in answered if r.kind == kind)
            for kind in ("rank", "events")
        },
        "server_ms": {stage: quantiles_ms(durations) for stage, durations in stages.items()},
        "late_ms": quantiles_ms(result.sent - result.due for result in results),
        "cache": dict(Counter(r.cache_state for r in answered if r.cache_state)),
        "degraded": sum(result.degraded for result in answered),
    }
