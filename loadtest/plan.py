"""What a bench measures, and what it opens for that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from loadtest.arrivals import Schedule, poisson
from loadtest.stores import Place, Store, opened
from loadtest.untrained import untrained_bundle

TURN_S = 0.25
SATURATED = 8  # connections

Tick = Callable[[int, int], None]
"""Called with how many steps are done, and of how many."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a bench measures, and for how long each."""

    bundle: Path
    window: int | None = None  # measures an untrained bundle with this window instead
    store: Store = Store.LMDB
    cache: str | None = None  # URL of a store to use instead of one of our own
    candidates: Sequence[int] = (100, 500)
    records: Sequence[int] = (100,)
    hit_rates: Sequence[float] = ()
    load: float = 0.5  # of what saturates the service
    has_cache_times: bool = True
    seconds: float = 2.0

    @property
    def rounds(self) -> int:
        return max(1, round(self.seconds / TURN_S))

    @property
    def turn_s(self) -> float:
        return min(TURN_S, self.seconds)


def schedule_of(rate: float, seconds: float, seed: int) -> Schedule:
    """Poisson arrivals of one turn; at least one, because of nobody there is nothing to say."""
    schedule = poisson(rate, seconds, seed)
    return schedule if schedule.size else np.zeros(1)


async def with_bundle(plan: Plan, stack: AsyncExitStack) -> Plan:
    """The plan with a bundle of the window that it asks for."""
    if plan.window is None:
        return plan
    folder = stack.enter_context(TemporaryDirectory(prefix="marmot-bench-"))
    return replace(plan, bundle=await untrained_bundle(Path(folder), plan.window))


async def places_of(plan: Plan, stack: AsyncExitStack) -> list[Place]:
    """The plan's stores, open until the stack is closed."""
    if plan.cache:
        return [Place(plan.cache)]
    return [await stack.enter_async_context(opened(store)) for store in plan.store.each]
