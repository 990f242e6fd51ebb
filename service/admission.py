"""Who may come in when many do. Asked before a body is read: refusing must cost next to nothing.

A queue that stands helps nobody: what it holds is only late. But a crowd that came at once, or
while the house was held up for a moment, is worked off soon. So a queue may be long if it was short
a moment ago, and must be short from then on: controlled delay, as in networks.
A few are always let in, however slow the model: they wait a few runs, and the engine stays busy.
The more of those who came lately had to be refused, the shorter is what may wait, and the fewer are
the few: where more come than can be served a longer queue serves nobody more, only later.

Ranking goes first, so an event waits for all that waits: with ranking there is, events are refused
first. Nobody looks at their queue, and it may be longer.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from service.batcher import Batcher
from service.errors import DeadlineExceeded, Overloaded
from service.job import Lane
from service.timings import Timings

#: A crowd comes within so long after somebody found a short queue.
CROWD_S = 0.05
#: Refusals are counted among so many callers, and forgotten when there was none for so long.
LATELY, CALM_S = 100, 0.25
#: No crowd is let in where a larger share of callers than this was refused.
SELDOM = 0.015
#: How much shorter the queue is per share refused, and what is always left of it and of the few;
#: a queue that may be no more than that is short.
STRICTNESS, LEAST_QUEUE, LEAST_FEW = 3.0, 0.25, 0.5


class Admission:
    """Refuses requests whose wait, by estimate, is too long: for the house, or for their deadline.

    The wait is what a request has already waited for the event loop, and what the work that queues
    before the engine will take.
    """

    def __init__(
        self,
        batcher: Batcher,
        *,
        few: int = 8,
        queue_s: float = 0.02,
        crowd_s: float = 0.25,
        lane: Lane = Lane.RANK,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._batcher = batcher
        self._lane = lane
        self._few = few
        self._queue_s = queue_s
        self._crowd_s = crowd_s
        self._clock = clock
        self._short_at = 0.0
        self._refused_share = 0.0
        self._refused_at = 0.0

    def __repr__(self) -> str:
        wait_ms = self._batcher.wait_s(self._lane) * 1e3
        refused = f"{self._refused_share:.0%} refused lately"
        return f"<Admission to the {self._lane.name} queue, {wait_ms:.0f} ms, {refused}>"

    def check(self, timings: Timings, company: int) -> None:
        """Raises `Overloaded` or `DeadlineExceeded`, at once; `company` is how many there are."""
        now = self._clock()
        if now - self._refused_at > CALM_S:
            self._refused_share = 0.0
        ready_at = now + self._batcher.wait_s(self._lane)
        is_refused = self._has_no_room(company, ready_at - timings.began, now)
        self._refused_share += (is_refused - self._refused_share) / LATELY
        if is_refused:
            self._refused_at = now
            raise Overloaded
        if company > self._few and ready_at > timings.deadline:
            if now > timings.deadline:
                raise DeadlineExceeded
            raise Overloaded("What waits already would take until after the deadline")

    def _has_no_room(self, company: int, wait_s: float, now: float) -> bool:
        room = 1.0 - STRICTNESS * self._refused_share
        if company == 1 or wait_s <= self._queue_s * LEAST_QUEUE:
            self._short_at = now
        if company <= self._few * max(LEAST_FEW, room):
            return False
        if self._refused_share <= SELDOM and now - self._short_at <= CROWD_S:
            return wait_s > self._crowd_s
        return wait_s > self._queue_s * max(LEAST_QUEUE, room)
