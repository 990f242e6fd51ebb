"""Who may come in when many do. Asked before a body is read: refusing must cost next to nothing.

A queue that stands helps nobody: what it holds is only late. But a crowd that came to an empty
house, or while it was held up for a moment, is worked off soon. So a queue may be long for a
moment, and must be short from then on until it has been empty: controlled delay, as in networks.
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

#: How long a long queue is taken for a crowd.
CROWD_S = 0.05
#: Who waits no longer than this found nobody before them.
EMPTY_S = 0.001
#: Refusals are counted among so many callers, and forgotten when there was none for so long.
LATELY, CALM_S = 100, 0.25
#: No crowd is let in while a larger share of callers than this is refused.
SELDOM = 0.015
#: How much shorter the queue is per share refused, and what is always left of it and of the few.
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
        self._long_since: float | None = None
        self._refused_share = 0.0
        self._refused_at = 0.0

    def __repr__(self) -> str:
        state = "short" if self._long_since is None else "long"
        wait_ms = self._batcher.wait_s(self._lane) * 1e3
        refused = f"{self._refused_share:.0%} refused lately"
        return f"<Admission to a {state} {self._lane.name} queue, {wait_ms:.0f} ms, {refused}>"

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
        if company <= max(1.0, self._few * max(LEAST_FEW, room)):
            if company == 1:
                self._long_since = None
            return False
        if self._refused_share > SELDOM:
            return wait_s > self._queue_s * max(LEAST_QUEUE, room)
        return self._is_too_long(wait_s, now)

    def _is_too_long(self, wait_s: float, now: float) -> bool:
        if wait_s <= self._queue_s:
            # A run may take along all that waits; only an idle engine has caught up.
            if wait_s <= EMPTY_S and not self._batcher.is_busy:
                self._long_since = None
            return False
        if self._long_since is None:
            self._long_since = now
        return wait_s > self._crowd_s or now - self._long_since > CROWD_S
