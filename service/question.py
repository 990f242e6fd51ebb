"""A question: a request to a model with everything that was left open filled in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter

from service.errors import DeadlineExceeded
from service.registry import Model
from service.schemas import UserRequest
from service.timings import Timings


@dataclass(frozen=True, slots=True)
class Question:
    """A request with everything that was left open filled in."""

    request: UserRequest
    user_id: str
    timestamp: int
    deadline: float
    model: Model
    timings: Timings
    reads: int
    """Newest events that are wanted with their records."""
    events: int
    """Newest events whose ids are wanted; no fewer."""

    @property
    def field(self) -> int:
        """Newest events that can move the records that are wanted."""
        spec = self.model.spec
        return max(self.events, spec.receptive_field, self.reads + spec.cached_depths * spec.window)

    def to(self, model: Model, *, deadline: float, timings: Timings) -> Question:
        """The same to another model."""
        reads = model.spec.reads
        return replace(
            self, model=model, deadline=deadline, timings=timings, reads=reads, events=reads
        )

    @property
    def is_usual(self) -> bool:
        """Whether it wants what ranking reads, and no more."""
        return self.reads == self.events == self.model.spec.reads

    def check_deadline(self) -> None:
        """Work nobody waits for is not begun."""
        if perf_counter() > self.deadline:
            raise DeadlineExceeded
