"""A circuit breaker: who keeps failing is not asked by everybody."""

from __future__ import annotations

import time
from collections.abc import Callable

MOST_FAILURES = 5
PAUSE_S = 0.25


class Breaker:
    """Opens after a few failures in a row; then one caller in each pause finds out.

    A probe that never reports back holds up nobody: the next pause has another.
    """

    def __init__(
        self,
        *,
        most_failures: int = MOST_FAILURES,
        pause_s: float = PAUSE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most_failures, self._pause_s = most_failures, pause_s
        self._clock = clock
        self._failures = 0
        self._next_probe_s = 0.0

    def __repr__(self) -> str:
        return f"<Breaker {'open' if self.is_open else 'closed'}>"

    @property
    def is_open(self) -> bool:
        return self._failures >= self._most_failures

    def admits(self) -> bool:
        """Whether to ask at all; whoever does reports how it `worked` or `failed`."""
        if not self.is_open:
            return True
        now_s = self._clock()
        if now_s < self._next_probe_s:
            return False
        self._next_probe_s = now_s + self._pause_s
        return True

    def worked(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        if self._failures == self._most_failures:
            self._next_probe_s = self._clock() + self._pause_s
