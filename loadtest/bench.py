"""The service against the machine's limit: the contestants take turns, so that one run compares.

A turn is a quarter of a second: of float32 matrix products, of the bare `rank.onnx` loop, and of
the service in each way of asking it. Whatever else the machine does falls on all of them. The
services are started here, each on a store of its own, and so are the stores.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from loadtest.cache_times import DTYPES, RECORDS, CacheTimes
from loadtest.contestants import (
    Service,
    app_in_process,
    bare_graph,
    matrix_products,
    service_on,
)
from loadtest.deck import Deck, Item, items_of
from loadtest.gemm import libraries
from loadtest.plan import SATURATED, Plan, Tick, places_of, schedule_of, with_bundle
from loadtest.processes import Helper
from loadtest.shape import Bare, InProcess, Loop, Mix, Shape

GEMM = 1024
REST_S = 0.001
CACHE_ROUNDS = 4  # at most: the cache alone needs no answer to compare with


@dataclass(frozen=True, slots=True)
class Contest:
    """Everybody who takes part, started and filled."""

    plan: Plan
    bare: Helper
    products: dict[str, Helper]
    services: list[Service]
    insides: list[Helper]
    items: list[Item]
    gemm: dict[str, list[float]] = field(default_factory=dict)


async def measure(plan: Plan, tick: Tick) -> dict[str, Any]:
    """Everything `marmot bench` measures, `plan.seconds` of each contestant."""
    async with AsyncExitStack() as stack:
        plan = await with_bundle(plan, stack)
        contest = await _open(plan, stack)
        shapes = await _shapes(contest)
        times = _cache_times(contest)
        cache_rounds = min(plan.rounds, CACHE_ROUNDS) if times else 0
        for number in range(plan.rounds):
            tick(number, plan.rounds + cache_rounds)
            await _round(contest, shapes, number)
        for number in range(cache_rounds):
            tick(plan.rounds + number, plan.rounds + cache_rounds)
            for time in times:
                await time.turn(plan.turn_s)
        gemm = {
            name: round(2 * GEMM**3 / float(np.median(took)) / 1e9, 2)
            for name, took in contest.gemm.items()
        }
        return {
            "kind": "bench",
            "stores": [service.place.name for service in contest.services],
            "window": plan.window,
            "seconds": plan.seconds,
            "load": plan.load,
            "fingerprint": await contest.services[0].fingerprint(),
            "gemm": gemm,
            "gemm_gflops": max(gemm.values()),
            "shapes": [shape.report(max(gemm.values())) for shape in shapes],
            "cache": [time.report() for time in times],
        }


async def _open(plan: Plan, stack: AsyncExitStack) -> Contest:
    bundle, items = plan.bundle, items_of(plan.bundle)
    enter = stack.enter_async_context
    places = await places_of(plan, stack)
    return Contest(
        plan,
        await enter(bare_graph(bundle)),
        {name: await enter(matrix_products()) for name in libraries()},
        [await enter(service_on(place, bundle)) for place in places],
        [await enter(app_in_process(place, bundle)) for place in places],
        items,
    )


async def _shapes(contest: Contest) -> list[Shape]:
    """Every size on every store, the stores filled."""
    plan, shapes = contest.plan, []
    sizes = [Bare(*size) for size in product(plan.candidates, plan.records)]
    for service, inside in zip(contest.services, contest.insides, strict=True):
        filled: set[int] = set()
        for size in sizes:
            deck = Deck(contest.items, size.candidates, size.records)
            if size.records not in filled:
                await service.fill(deck, size.records)
                filled.add(size.records)
            mixes = [Mix(rate) for rate in plan.hit_rates] if size.records else []
            shapes.append(Shape(size, service, deck, mixes, InProcess(inside)))
    return shapes


def _cache_times(contest: Contest) -> list[CacheTimes]:
    if not contest.plan.has_cache_times:
        return []
    return [
        CacheTimes(service, dtype, records)
        for dtype, records, service in product(DTYPES, RECORDS, contest.services)
    ]


async def _round(contest: Contest, shapes: list[Shape], number: int) -> None:
    """One turn of everybody."""
    plan = contest.plan
    for name, helper in contest.products.items():
        took_s = await helper.turn(plan.turn_s, library=name, size=GEMM)
        contest.gemm.setdefault(name, []).extend(took_s)
    for size in {id(shape.bare): shape.bare for shape in shapes}.values():
        asked = {"candidates": size.candidates, "records": size.records}
        answer = await contest.bare.ask(**asked, seconds=plan.turn_s)
        size.took_s += answer["took_s"]
        rested = await contest.bare.ask(**asked, seconds=plan.turn_s, rest_s=REST_S)
        size.rested_s += rested["took_s"]
        size.flops = answer["flops"]
        for shape in shapes:
            if shape.bare is size:
                await _turns(plan, shape, number)


async def _turns(plan: Plan, shape: Shape, number: int) -> None:
    """One service's turns at one size."""
    service, deck, seconds = shape.service, shape.deck, plan.turn_s
    state = "hit" if shape.bare.records else "cold"
    await shape.inside.turn(deck, shape.bare, seconds)
    await service.wake(1, deck.known())
    before = service.cpu()
    shape.one.add(await service.closed(seconds, 1, deck.known(), state))
    shape.cpu.add(service.cpu(), before)
    await service.wake(SATURATED, deck.known())
    shape.saturated.add(await service.closed(seconds, SATURATED, deck.known(), state))
    shape.inline.add(await service.closed(seconds, 1, deck.inline(), "inline"))
    schedule = schedule_of(plan.load * shape.saturated.rps, seconds, seed=number)
    await service.wake(SATURATED, deck.known())
    shape.open.add(await service.open(schedule, deck.known(), state))
    shape.open_s += seconds
    for mix in shape.mixes:
        await _mixed(shape, mix, mix.one, 1, seconds)
        await _mixed(shape, mix, mix.saturated, SATURATED, seconds)


async def _mixed(shape: Shape, mix: Mix, loop: Loop, connections: int, seconds: float) -> None:
    """A turn at one hit rate: fresh users have no records at its start, known ones all of them."""
    service, deck = shape.service, shape.deck
    await service.stock(deck.spent, shape.bare.records)
    deck.spent.clear()
    requests = deck.mixed(mix.hit_rate)
    loop.add(await service.closed(seconds, connections, requests, "hit", "partial"))
