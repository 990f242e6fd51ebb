"""Zipf traffic replayed over a scaled cluster that evicts the least recently used: hit rates.

The cluster is scaled by letting one simulated user stand for as many real ones of neighbouring
popularity. Such a group fares as its members do: they are there when they were asked for within
the time in which the store turns over. Shards share users evenly, so together they act as one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from service.errors import UsageError
from service.wanted import Wanted

USERS = 20_000
REQUESTS = 200_000
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
RECORD_DAYS = 30

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Point:
    """A store of that much memory, and how often it has what is asked for."""

    share: float  # of what all records take
    memory_bytes: float
    hit_rate: float


def simulate(
    wanted: Wanted,
    *,
    exponent: float = 1.0,
    seed: int = 0,
    shares: Sequence[float] = SHARES,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Point]:
    """Hit rates of stores from almost nothing to everything; every store sees the same requests."""
    if not wanted.record_bytes and not wanted.summary_bytes:
        raise UsageError("--simulate: nothing but timelines is kept of a user, so nothing can miss")
    groups = min(USERS, wanted.users)
    popularity = group_popularity(wanted.users, groups, exponent)
    sizes = _sizes(wanted, popularity)
    random = np.random.default_rng(seed)
    asked = random.choice(groups, REQUESTS, p=popularity).tolist()
    points = []
    for done, share in enumerate(shares):
        progress(done, len(shares))
        room = float(share * sizes.sum())
        hit_rate = replay(asked, sizes.tolist(), room)
        points.append(Point(share, room * wanted.users / groups, hit_rate))
    progress(len(shares), len(shares))
    return points


def group_popularity(users: int, groups: int, exponent: float) -> Floats:
    """Share of the traffic of each group of neighbours, the most popular first; sums to 1."""
    edges = np.linspace(0, users, groups + 1) + 0.5  # rank r lies from r - 0.5 to r + 0.5
    if exponent == 1.0:
        mass = np.diff(np.log(edges))
    else:
        mass = np.diff(edges ** (1 - exponent)) / (1 - exponent)
    return np.asarray(mass / mass.sum())


def _sizes(wanted: Wanted, popularity: Floats) -> Floats:
    """Bytes of what is cached of one user of each group: who comes often has more records."""
    if wanted.summary_bytes:
        return np.full(len(popularity), float(wanted.summary_bytes))
    mean = wanted.events_a_day * RECORD_DAYS
    records = np.clip(mean * popularity * len(popularity), 1, wanted.most_records)
    return np.asarray(records * wanted.record_bytes)


def replay(asked: Sequence[int], sizes: Sequence[float], room: float) -> float:
    """How often a user's bytes are there, in a store that holds so many.

    Everybody has been there once before, the rarest first, and half the requests are not counted:
    a store is as it is when it has run for long.
    """
    held: OrderedDict[int, None] = OrderedDict()
    hits, warm = 0, len(asked) // 2
    before = reversed(range(len(sizes)))
    for place, user in enumerate(chain(before, asked), start=-len(sizes)):
        if user in held:
            held.move_to_end(user)
            hits += place >= warm
            continue
        held[user] = None
        room -= sizes[user]
        while room < -1e-6 and held:
            room += sizes[held.popitem(last=False)[0]]
    return hits / (len(asked) - warm)
