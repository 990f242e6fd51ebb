"""How fast the engine works off what it is given, as it was lately."""

from __future__ import annotations

from collections import deque

#: About how many query-key pairs of the default model one core works off in a millisecond.
COST_PER_MS = 30_000

#: Runs that count.
LATELY = 10


class Pace:
    """Seconds per unit of cost, over the last ten runs but the slowest; large runs weigh more.

    A machine that stands still stretches the one run that it meets, and says nothing of the next.
    """

    def __init__(self) -> None:
        guess = (COST_PER_MS, 0.001)
        self._runs = deque([guess, guess], LATELY)
        self._seconds_per_cost = 0.001 / COST_PER_MS

    def __repr__(self) -> str:
        return f"<Pace {1e-3 / self._seconds_per_cost:,.0f} pairs/ms>"

    def saw(self, cost: int, seconds: float) -> None:
        """Takes a finished run into account; one that cost nothing says nothing."""
        if cost < 1:
            return
        self._runs.append((cost, seconds))
        costs = sum(cost for cost, _ in self._runs)
        whole_s = sum(seconds for _, seconds in self._runs)
        self._seconds_per_cost = min(
            (whole_s - seconds) / (costs - cost) for cost, seconds in self._runs
        )

    def seconds_for(self, cost: int) -> float:
        """What this much will take, by estimate."""
        return cost * self._seconds_per_cost
