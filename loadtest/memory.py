"""Whether the service's memory stays as it is: requests of all sizes, its memory after each 5%."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import islice, product
from typing import Any

import numpy as np

from loadtest.contestants import service_on
from loadtest.deck import Deck, items_of
from loadtest.plan import SATURATED, Plan, Tick, places_of, with_bundle
from loadtest.processes import resident_bytes
from loadtest.traffic import Request

STEPS = 20
FOREVER_S = 1e9
SMALL = (1, 20)  # candidates, beside those of the plan
SHARES = {"known": 0.6, "inline": 0.2, "strangers": 0.2}


async def memory(plan: Plan, requests: int, tick: Tick) -> dict[str, Any]:
    """Memory after the first 5% of the requests, which warm up, and after every further 5%.

    An answer that is none, or is less than was asked for, ends the bench.
    """
    async with AsyncExitStack() as stack:
        plan = await with_bundle(plan, stack)
        place = (await places_of(plan, stack))[0]
        service = await stack.enter_async_context(service_on(place, plan.bundle))
        items = items_of(plan.bundle)
        sizes = sorted({*SMALL, *plan.candidates})
        decks = [Deck(items, *size) for size in product(sizes, plan.records)]
        for deck, (_, records) in zip(decks, product(sizes, plan.records), strict=True):
            await service.fill(deck, records)
        traffic = _mixed(decks)
        resident, asked = [], 0
        for step in range(STEPS):
            tick(step, STEPS)
            share = islice(traffic, requests // STEPS)
            states = ("hit", "cold", "inline")
            asked += len(await service.closed(FOREVER_S, SATURATED, share, *states))
            resident.append(resident_bytes(service.pids[0]))
        return {
            "kind": "memory",
            "store": place.name,
            "candidates": sizes,
            "records": list(plan.records),
            "requests": asked,
            "refused": 0,  # else we would not be here
            "resident_bytes": resident,
            "warm_mib": _mib(resident[0]),
            "least_mib": _mib(min(resident)),
            "greatest_mib": _mib(max(resident)),
            "swing": round(max(abs(at / resident[0] - 1) for at in resident), 4),
        }


def _mixed(decks: list[Deck]) -> Iterator[Request]:
    """Users who are known, who bring their history, and who are new, of every size."""
    random = np.random.default_rng(0)
    kinds = [(deck.known(), deck.inline(), deck.strangers()) for deck in decks]
    while True:
        deck = kinds[random.integers(len(kinds))]
        yield next(deck[random.choice(len(deck), p=list(SHARES.values()))])


def _mib(size_bytes: int) -> float:
    return round(size_bytes / 2**20, 1)
