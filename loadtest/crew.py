"""What a second worker costs: CPU seconds of a request, with one worker and with two, in turns."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from loadtest.contestants import Cpu, Service, service_on
from loadtest.deck import Deck, items_of
from loadtest.plan import SATURATED, Plan, Tick, places_of, schedule_of, with_bundle
from loadtest.shape import Loop

WARM_S = 0.5  # each worker has to meet every user


@dataclass(slots=True)
class Crew:
    """A service with so many workers, and what its requests took."""

    workers: int
    service: Service
    loop: Loop = field(default_factory=Loop)
    cpu: Cpu = field(default_factory=Cpu)

    def report(self, candidates: int) -> dict[str, Any]:
        """CPU milliseconds of a request, whoever spent them."""
        asked = len(self.loop.latencies_s)
        return {
            "store": self.service.place.name,
            "workers": self.workers,
            "candidates": candidates,
            "requests": asked,
            "p50_ms": round(self.loop.ms(50), 4),
            "p99_ms": round(self.loop.ms(99), 4),
            "service_cpu_ms": round(self.cpu.service / asked * 1e3, 4),
            "generator_cpu_ms": round(self.cpu.generator / asked * 1e3, 4),
            "store_cpu_ms": round(self.cpu.store / asked * 1e3, 4),
        }


async def crews(plan: Plan, workers: int, tick: Tick) -> dict[str, Any]:
    """One worker and `workers`, both asked the same at the same moments, in turns.

    Arrivals are Poisson, at the plan's share of what saturates one worker.
    """
    rows: list[dict[str, Any]] = []
    done, steps = 0, plan.rounds * len(plan.candidates) * (1 if plan.cache else 2)
    async with AsyncExitStack() as stack:
        plan = await with_bundle(plan, stack)
        items, records = items_of(plan.bundle), plan.records[0]
        for place in await places_of(plan, stack):
            services = {
                number: await stack.enter_async_context(
                    service_on(place, plan.bundle, workers=number)
                )
                for number in (1, workers)
            }
            for candidates in plan.candidates:
                deck = Deck(items, candidates, records)
                teams = [Crew(number, service) for number, service in services.items()]
                for team in teams:
                    await team.service.fill(deck, records)
                    await team.service.closed(WARM_S, SATURATED, deck.known(), "hit", "partial")
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
    schedule = schedule_of(plan.load * one.rps, plan.turn_s, seed=number)
    for team in teams if number % 2 else teams[::-1]:
        await team.service.wake(SATURATED, deck.known())
        before = team.service.cpu()
        team.loop.add(await team.service.open(schedule, deck.known(), "hit"))
        team.cpu.add(team.service.cpu(), before)
