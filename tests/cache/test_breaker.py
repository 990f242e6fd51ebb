"""Who keeps failing is asked seldom, and by one at a time."""

from __future__ import annotations

from cache.breaker import Breaker


class Clock:
    """A clock the test holds."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_it_opens_after_failures_in_a_row() -> None:
    """One success in between starts the count again."""
    breaker = Breaker(most_failures=3, clock=Clock())
    for _ in range(2):
        breaker.failed()
    breaker.worked()
    for _ in range(2):
        breaker.failed()
    assert breaker.admits()
    breaker.failed()
    assert breaker.is_open
    assert not breaker.admits()


def test_one_probe_in_each_pause() -> None:
    """While open a single caller in each pause finds out, also if the last never came back."""
    clock = Clock()
    breaker = Breaker(most_failures=1, pause_s=0.25, clock=clock)
    breaker.failed()
    for _ in range(3):
        clock.now_s += 0.24
        assert not breaker.admits()
        clock.now_s += 0.02
        assert [breaker.admits() for _ in range(5)] == [True, False, False, False, False]
    breaker.failed()
    assert breaker.is_open


def test_one_success_closes_it() -> None:
    """Whoever finds the store answering opens the way for all."""
    clock = Clock()
    breaker = Breaker(most_failures=1, pause_s=0.25, clock=clock)
    breaker.failed()
    clock.now_s += 1
    assert breaker.admits()
    breaker.worked()
    assert [breaker.admits() for _ in range(3)] == [True] * 3
