"""What a second worker costs: CPU seconds of a request, with one worker and with two, in turns.

Beside each the bare graph in as many processes, so many runs a second together: processes that
share a processor's caches take more of its time by that alone. And one worker that is asked as
seldom as each of several: who is idle between two requests takes more time for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from loadtest.contestants import Cpu, Service, bare_graph, service_on
from loadtest.deck import Deck, items_of
from loadtest.plan import SATURATED, Plan, Tick, places_of, schedule_of, with_bundle
from loadtest.processes import Helper
from loadtest.shape import Loop

WARM_S = 0.5  # each worker has to meet every user


@dataclass(slots=True)
class Crew:
    """A service with so many workers, and what its requests took at so much load.

    All its workers are asked together for a share `load` of what saturates one worker.
    """

    workers: int
    load: float
    service: Service
    bare: Sequence[Helper]
    loop: Loop = field(default_factory=Loop)
    cpu: Cpu = field(default_factory=Cpu)
    run_s: float = 0.0  # of the last run of a bare graph
    bare_cpu_s: list[float] = field(default_factory=list)

    async def run_bare(self, asked: dict[str, int], rate: float, seconds: float) -> None:
        """A turn of the bare graph: `rate` runs a second of all processes, with rests between."""
        rest_s = max(0.0, len(self.bare) / rate - self.run_s)
        answers = await asyncio.gather(
            *(helper.ask(**asked, seconds=seconds, rest_s=rest_s) for helper in self.bare)
        )
        self.run_s = float(np.median([took for answer in answers for took in answer["took_s"]]))
        # One run more than is told: the first does not count as one, but takes its time.
        runs = sum(len(answer["took_s"]) + 1 for answer in answers)
        self.bare_cpu_s.append(sum(answer["cpu_s"] for answer in answers) / runs)

    def report(self, candidates: int) -> dict[str, Any]:
        """CPU milliseconds of a request, whoever spent them."""
        asked = len(self.loop.latencies_s)
        return {
            "store": self.service.place.name,
            "workers": self.workers,
            "load_per_worker": round(self.load / self.workers, 4),
            "candidates": candidates,
            "requests": asked,
            "p50_ms": round(self.loop.ms(50), 4),
            "p99_ms": round(self.loop.ms(99), 4),
            "bare_cpu_ms": round(float(np.median(self.bare_cpu_s)) * 1e3, 4),
            "service_cpu_ms": round(self.cpu.service / asked * 1e3, 4),
            "generator_cpu_ms": round(self.cpu.generator / asked * 1e3, 4),
            "store_cpu_ms": round(self.cpu.store / asked * 1e3, 4),
        }


async def crews(plan: Plan, workers: int, tick: Tick) -> dict[str, Any]:
    """One worker and `workers`, both asked the same at the same moments, in turns.

    Arrivals are Poisson, at the plan's share of what saturates one worker; one worker is also
    asked for the part of that which each of several has to answer.
    """
    rows: list[dict[str, Any]] = []
    done, steps = 0, plan.rounds * len(plan.candidates) * (1 if plan.cache else 2)
    async with AsyncExitStack() as stack:
        plan = await with_bundle(plan, stack)
        items, records = items_of(plan.bundle), plan.records[0]
        bare = [await stack.enter_async_context(bare_graph(plan.bundle)) for _ in range(workers)]
        for place in await places_of(plan, stack):
            services = {
                number: await stack.enter_async_context(
                    service_on(place, plan.bundle, workers=number)
                )
                for number in (1, workers)
            }
            for candidates in plan.candidates:
                deck = Deck(items, candidates, records)
                for service in services.values():
                    await service.fill(deck, records)
                    await service.closed(WARM_S, SATURATED, deck.known(), "hit", "partial")
                teams = [
                    Crew(number, load, services[number], bare[:number])
                    for number, load in (
                        (1, plan.load),
                        (1, plan.load / workers),
                        (workers, plan.load),
                    )
                ]
                for number in range(plan.rounds):
                    tick(done, steps)
                    await _round(plan, teams, deck, number)
                    done += 1
                rows += [team.report(candidates) for team in teams]
    return {"kind": "workers", "records": records, "load": plan.load, "workers": rows}


async def _round(plan: Plan, teams: list[Crew], deck: Deck, number: int) -> None:
    one = Loop()
    await teams[0].service.wake(SATURATED, deck.known())
    one.add(await teams[0].service.closed(plan.turn_s, SATURATED, deck.known(), "hit"))
    for team in teams if number % 2 else teams[::-1]:
        await team.service.wake(SATURATED, deck.known())
        rate = team.load * one.rps
        schedule = schedule_of(rate, plan.turn_s, seed=number)
        before = team.service.cpu()
        team.loop.add(await team.service.open(schedule, deck.known(), "hit"))
        team.cpu.add(team.service.cpu(), before)
        asked = {"candidates": deck.candidates, "records": plan.records[0]}
        await team.run_bare(asked, rate, plan.turn_s)
