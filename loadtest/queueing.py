"""What waiting costs at best: by a server that always takes the same time, and by this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

LONGEST = 3_000
"""Services that anybody may have to wait for; a server this close to full is not looked at."""

PLAYED = 100_000
"""Arrivals of a queue that is played through."""


def md1_quantile(share: float, rate: float, service_s: float) -> float:
    """Seconds from due to done that `share` of all requests stay within.

    Arrivals are Poisson with `rate` a second, one server takes `service_s` for each, first come
    first served. Infinite where more comes than can be served. Raises `ValueError` for a share
    outside [0, 1) and for a rate or a time below 0.
    """
    if not 0 <= share < 1 or rate < 0 or service_s < 0:
        raise ValueError(f"no quantile {share:g} of {rate:g} a second, {service_s:g} s each")
    load = rate * service_s
    if load >= 1:
        return math.inf
    waiting = _waiting(load, share)
    slots = len(waiting)
    low, high = 0.0, float(slots)
    for _ in range(60):
        middle = (low + high) / 2
        if _waits_at_most(middle, load, waiting) < share:
            low = middle
        else:
            high = middle
    # Many wait for nothing: a share below theirs is not half a step of the search above it.
    return service_s * (1 + (0.0 if share <= 1 - load else high))


def played_quantile(
    share: float, rate: float, *, rested_s: Sequence[float], busy_s: Sequence[float]
) -> float:
    """The same for a server with measured times, drawn at random: M/G/1, played through.

    Who comes to an idle server is served in one of `rested_s`, who waits in one of `busy_s`.
    """
    random = np.random.default_rng(0)
    gaps_s = random.exponential(1 / rate, PLAYED).tolist()
    rested, busy = (random.choice(times, PLAYED).tolist() for times in (rested_s, busy_s))
    took_s, left_s = [], 0.0  # of the work before this one
    for gap_s, after_rest_s, at_once_s in zip(gaps_s, rested, busy, strict=True):
        left_s -= gap_s
        left_s = left_s + at_once_s if left_s > 0 else after_rest_s
        took_s.append(left_s)
    return float(np.quantile(took_s, share))


def _waits_at_most(services: float, load: float, waiting: list[float]) -> float:
    """P(wait <= so many services), after Franx (2001): a sum of positive terms only.

    Whoever waits less than k services finds at most so many waiting as leave within them.
    """
    whole = math.floor(services) + 1
    if whole > len(waiting):
        return 1.0
    mean = load * (whole - services)
    term, total = math.exp(-mean), 0.0
    for arrived in range(whole):
        total += term * waiting[whole - 1 - arrived]
        term *= mean / (arrived + 1)
    return total


def _waiting(load: float, share: float) -> list[float]:
    """P(at most n wait, whoever is served not counted), for n = 0, 1, … until beyond `share`.

    From what goes up past n customers and what comes down: nothing is subtracted, so nothing
    cancels.
    """
    arrivals = [math.exp(-load)]  # during one service
    more = [-math.expm1(-load)]  # than so many
    found = [1 - load]  # P(n are there)
    beyond = 1 - (1 - share) / 100
    total = found[0]
    while total < beyond and len(found) < LONGEST:
        n = len(found) - 1
        up = found[0] * more[n]
        up += sum(found[i] * more[n - i + 1] for i in range(1, n + 1))
        found.append(up / arrivals[0])
        total += found[-1]
        arrivals.append(arrivals[-1] * load / len(arrivals))
        more.append(max(more[-1] - arrivals[-1], 0.0))
    there = list(accumulate(found))
    return there[1:] or there
