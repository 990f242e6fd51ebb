"""How long each stage of one request took, for its answer's `Server-Timing`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from time import perf_counter

_MILLISECONDS = re.compile(rb"[0-9]{1,12}(\.[0-9]{1,6})?")
STAGES = ("cache", "queue", "run")


@dataclass(slots=True)
class Timings:
    """Seconds per stage since the request came in, and until when its caller waits."""

    began: float = field(default_factory=perf_counter)
    cache: float = 0.0
    queue: float = 0.0
    run: float = 0.0
    deadline: float = math.inf
    #: Stages of a chain, in the order they ran.
    stages: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return perf_counter() - self.began

    def bound(self, milliseconds: bytes) -> bool:
        """Sets the deadline to so long after the beginning; False if that is no number."""
        if not _MILLISECONDS.fullmatch(milliseconds):
            return False
        self.deadline = self.began + float(milliseconds) / 1e3
        return True

    def part(self) -> Timings:
        """For one part of the request: the same beginning and deadline, nothing done yet."""
        return Timings(self.began, deadline=self.deadline)

    def add(self, other: Timings) -> None:
        """Takes in the stages of one part of the request."""
        self.cache += other.cache
        self.queue += other.queue
        self.run += other.run

    def header(self) -> str:
        """The value of the `Server-Timing` header, in milliseconds."""
        total = perf_counter() - self.began
        own = (
            f"cache;dur={self.cache * 1e3:.3f}, queue;dur={self.queue * 1e3:.3f}, "
            f"run;dur={self.run * 1e3:.3f}, total;dur={total * 1e3:.3f}"
        )
        if not self.stages:
            return own
        return "".join(f"{name};dur={took * 1e3:.3f}, " for name, took in self.stages.items()) + own
