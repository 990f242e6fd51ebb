"""Admission before a queue that is computed, not timed: the same on every machine.

One server works off what is let in, first come, first served; callers come at random, and there
are machines that stand still or slow down.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import pytest

from service.admission import Admission
from service.errors import Overloaded
from service.job import Lane
from service.pace import Pace
from service.timings import Timings

RUN_S, COST, LASTS_S, SETTLED_S = 0.0025, 1_000, 20.0, 0.5


@dataclass
class Server:
    """What the engine is to admission, with a clock of its own."""

    slowness: Callable[[float], float] = lambda _now: 1.0
    pauses: Sequence[tuple[float, float]] = ()
    now: float = 0.0
    pace: Pace = field(default_factory=Pace)
    waiting: deque[float] = field(default_factory=deque)
    running: float | None = None
    ends: float = 0.0
    took_s: list[float] = field(default_factory=list)

    @property
    def is_busy(self) -> bool:
        return self.running is not None

    def wait_s(self, _lane: Lane) -> float:
        return self.pace.seconds_for(len(self.waiting) * COST)

    @property
    def company(self) -> int:
        """How many there are with a newcomer."""
        return len(self.waiting) + self.is_busy + 1

    def until(self, now: float) -> None:
        """Works off what is done by then."""
        while self.running is not None and self.ends <= now:
            self.took_s.append(self.ends - self.running)
            self.running = None
            if self.waiting:
                self._start(self.waiting.popleft(), self.ends)
        self.now = now

    def take(self, came: float) -> None:
        if self.running is None:
            self._start(came, self.now)
        else:
            self.waiting.append(came)

    def _start(self, came: float, now: float) -> None:
        run_s = RUN_S * self.slowness(now)
        for begins, ends in self.pauses:
            if begins < now + run_s and ends > now:
                run_s += ends - max(begins, now)
        self.pace.saw(COST, run_s)
        self.running, self.ends = came, now + run_s

    def sees(self, came: float) -> float:
        """When a caller is seen who came then."""
        return next((ends for begins, ends in self.pauses if begins <= came < ends), came)


@dataclass(frozen=True)
class Day:
    """Shares of what could be served, and how long those waited who were let in."""

    served: float
    refused: float
    p99_s: float


def day(
    load: float,
    *,
    slowness: Callable[[float], float] = lambda _now: 1.0,
    pauses: Sequence[tuple[float, float]] = (),
    seed: int = 0,
) -> Day:
    """So much is asked for, as a share of what can be done at full speed."""
    arrivals, server = random.Random(seed), Server(slowness, pauses)
    admission = Admission(server, clock=lambda: server.now)  # type: ignore[arg-type]
    settled = asked = refused = 0
    now = 0.0
    while (now := now + arrivals.expovariate(load / RUN_S)) < LASTS_S:
        server.until(server.sees(now))
        if now < SETTLED_S:
            settled = len(server.took_s)
        asked += 1
        try:
            admission.check(Timings(server.now), server.company)
        except Overloaded:
            refused += 1
        else:
            server.take(now)
    server.until(2 * LASTS_S)
    p99_s = float(np.percentile(server.took_s[settled:], 99))
    return Day(len(server.took_s) * RUN_S / LASTS_S, refused / asked, p99_s)


@pytest.mark.parametrize("load", [1.0, 1.2, 1.5, 2.0, 3.0, 6.0])
def test_whatever_is_asked_for_all_that_can_be_served_is(load: float) -> None:
    """No work is lost to refusing, and those let in wait no longer than at capacity."""
    at_capacity, flood = day(0.7), day(load)
    assert flood.served > 0.93
    assert flood.p99_s < 1.7 * at_capacity.p99_s


@pytest.mark.parametrize("load", [0.1, 0.4, 0.7])
def test_hardly_anybody_is_refused_below_capacity(load: float) -> None:
    assert day(load).refused < 0.001


def test_few_are_refused_at_capacity() -> None:
    """Where the queue is full by chance only it is not kept short."""
    assert day(0.9).refused < 0.03
    assert day(1.0).refused < 0.09


def test_who_came_while_the_machine_stood_still_is_served() -> None:
    pauses = [(second, second + 0.08) for second in np.arange(0.5, LASTS_S)]
    assert day(0.4, pauses=pauses).refused < 0.02


def test_a_machine_that_slows_down_sheds_what_it_must() -> None:
    """Half of the time it takes 2.2 times as long, when 0.4 of full speed is nearly all it can."""
    assert day(0.4, slowness=lambda now: 2.2 if now % 8 < 4 else 1.0).refused < 0.03


def test_after_a_flood_the_door_is_open() -> None:
    """A crowd that comes a moment later finds no trace of it."""
    fresh, used = Server(), Server()
    doors = [Admission(server, clock=lambda s=server: s.now) for server in (fresh, used)]  # type: ignore[arg-type,misc]
    assert _let_in(used, doors[1], 20_000) < 10_000
    for server in (fresh, used):
        server.until(2 * LASTS_S)
    assert _let_in(used, doors[1], 60) == _let_in(fresh, doors[0], 60) == 60


def _let_in(server: Server, admission: Admission, crowd: int) -> int:
    """How many of those who come at once."""
    before = len(server.took_s) + server.company
    for _ in range(crowd):
        with suppress(Overloaded):
            admission.check(Timings(server.now), server.company)
            server.take(server.now)
    return len(server.took_s) + server.company - before
