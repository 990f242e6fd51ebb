"""How fast the engine works off what it is given, as it was lately."""

from __future__ import annotations

#: About how many query-key pairs of the default model one core works off in a millisecond.
COST_PER_MS = 30_000

#: What is left of a run's weight after the next one.
DECAY = 0.9


class Pace:
    """Seconds per unit of cost, over the last ten runs or so; large runs weigh more."""

    def __init__(self) -> None:
        self._seconds = 0.01
        self._cost = 10.0 * COST_PER_MS

    def __repr__(self) -> str:
        return f"<Pace {self._cost / self._seconds / 1e3:,.0f} pairs/ms>"

    def saw(self, cost: int, seconds: float) -> None:
        """Takes a finished run into account."""
        self._cost = DECAY * self._cost + cost
        self._seconds = DECAY * self._seconds + seconds

    def seconds_for(self, cost: int) -> float:
        """What this much will take, by estimate."""
        return cost * self._seconds / self._cost
