"""Who may come in when many do. Asked before a body is read: refusing must cost next to nothing.

A queue that stands helps nobody: what it holds is only late. But a crowd that came to an empty
house, or while it was held up for a moment, is worked off soon. So a queue may be long for a
moment, and must be short from then on until it has been empty: controlled delay, as in networks.
A few are always let in, however slow the model: they wait a few runs, and the engine stays busy.
Once somebody had to be refused, more come than can be served: until nobody had to be for a while
the queue is kept at a fraction of that, so that those who are let in do not wait for nothing, and
a machine that stood still for a moment has no crowd to work off.

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
#: A house is full until nobody was refused for so long, and what is left of the few and the queue.
FULL_S, FULL_FEW, FULL_QUEUE = 0.1, 0.5, 0.25


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
        self._full_until = 0.0

    def __repr__(self) -> str:
        is_full = self._clock() < self._full_until
        state = "full" if is_full else "long" if self._long_since is not None else "short"
        wait_ms = self._batcher.wait_s(self._lane) * 1e3
        return f"<Admission to a {state} {self._lane.name} queue, {wait_ms:.0f} ms>"

    def check(self, timings: Timings, company: int) -> None:
        """Raises `Overloaded` or `DeadlineExceeded`, at once; `company` is how many there are."""
        now = self._clock()
        is_full = now < self._full_until
        if company <= (max(1, self._few * FULL_FEW) if is_full else self._few):
            if company == 1:
                self._long_since = None
            return
        ready_at = now + self._batcher.wait_s(self._lane)
        wait_s = ready_at - timings.began
        is_long = self._is_too_long(wait_s, now)
        if is_long or (is_full and wait_s > self._queue_s * FULL_QUEUE):
            self._full_until = now + FULL_S
            raise Overloaded
        if ready_at > timings.deadline:
            if now > timings.deadline:
                raise DeadlineExceeded
            raise Overloaded("What waits already would take until after the deadline")

    def _is_too_long(self, wait_s: float, now: float) -> bool:
        if wait_s <= self._queue_s:
            # A run may take along all that waits; only an idle engine has caught up.
            if wait_s <= EMPTY_S and not self._batcher.is_busy:
                self._long_since = None
            return False
        if self._long_since is None:
            self._long_since = now
        return wait_s > self._crowd_s or now - self._long_since > CROWD_S
