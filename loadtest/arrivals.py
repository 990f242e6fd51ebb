"""When requests are due: schedules made before the first one is sent, in seconds from the start.

They know nothing of answers, so a slow server cannot slow them down.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Schedule = np.ndarray[Any, np.dtype[np.float64]]


def poisson(rate: float, duration_s: float, seed: int) -> Schedule:
    """Independent arrivals, `rate` a second on average: what many unrelated users look like."""
    rng = np.random.default_rng(seed)
    # Given their number, the arrivals of a Poisson process are independent and uniform.
    return np.sort(rng.uniform(0.0, duration_s, rng.poisson(rate * duration_s)))


def uniform(rate: float, duration_s: float) -> Schedule:
    """Evenly spaced arrivals: the kindest open loop, in which only the server can make a queue."""
    return np.arange(round(rate * duration_s)) / rate
