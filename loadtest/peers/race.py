"""Marmot and the other servers, in turns: the same graph, the same Redis, the same candidates.

A peer does the least that a ranking service does: one GET of a packed user, one run. Marmot
takes part twice: as it is, asking Redis whether what it remembers is still true, and without its
near tier, so that it fetches as many records with every request as they do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson
from redis.asyncio import Redis

from loadtest import driver
from loadtest.client import Client
from loadtest.contestants import service_on, wake
from loadtest.deck import Deck, items_of
from loadtest.peers.packing import history_ports, key_of, packed
from loadtest.peers.peer import PEERS, Peer
from loadtest.plan import SATURATED, Plan, Tick, schedule_of, with_bundle
from loadtest.processes import BenchError
from loadtest.results import Result
from loadtest.shape import Loop
from loadtest.stores import Place, Store, opened
from loadtest.traffic import Request

USER = "peer"
MARMOT = Peer("marmot", "/v1/rank")
FAR = Peer("marmot without near tier", "/v1/rank")


@dataclass(slots=True)
class Racer:
    """One server at one number of candidates."""

    peer: Peer
    client: Client
    candidates: int
    requests: Iterator[Request]
    one: Loop = field(default_factory=Loop)
    saturated: Loop = field(default_factory=Loop)
    open: Loop = field(default_factory=Loop)

    async def closed(self, loop: Loop, connections: int, seconds: float) -> None:
        """A turn of a closed loop."""
        await wake(self.client, connections, self.requests)
        run = driver.closed_loop(self.client, connections, seconds, self.requests, _nothing)
        loop.add(self._checked(await run))

    async def arrive(self, rate: float, seconds: float, seed: int) -> None:
        """A turn of an open loop."""
        await wake(self.client, SATURATED, self.requests)
        schedule = schedule_of(rate, seconds, seed)
        run = driver.open_loop(self.client, schedule, self.requests, _nothing)
        self.open.add(self._checked(await run))

    def _checked(self, results: list[Result]) -> list[Result]:
        for result in results:
            if not result.ok:
                raise BenchError(f"{self.peer.name} answered {result.outcome}")
        return results

    def report(self) -> dict[str, Any]:
        """What it came to."""
        return {
            "peer": self.peer.name,
            "candidates": self.candidates,
            "one_rps": round(self.one.rps, 2),
            "one_p50_ms": round(self.one.ms(50), 4),
            "one_p99_ms": round(self.one.ms(99), 4),
            "saturated_rps": round(self.saturated.rps, 2),
            "saturated_p50_ms": round(self.saturated.ms(50), 4),
            "saturated_p99_ms": round(self.saturated.ms(99), 4),
            "open_p50_ms": round(self.open.ms(50), 4),
            "open_p99_ms": round(self.open.ms(99), 4),
        }


async def race(plan: Plan, folder: Path, tick: Tick) -> dict[str, Any]:
    """Everybody `make peers` has installed in `folder`, and Marmot."""
    peers = [peer for peer in PEERS if peer.python(folder).exists()]
    if not peers:
        raise BenchError(f"no peers in {folder}: `make peers` installs them")
    async with AsyncExitStack() as stack:
        plan = await with_bundle(plan, stack)
        racers = await _racers(plan, peers, folder, stack)
        rates: dict[int, float] = {}
        for number in range(plan.rounds):
            tick(number, plan.rounds)
            for racer in racers:
                await racer.closed(racer.one, 1, plan.turn_s)
                await racer.closed(racer.saturated, SATURATED, plan.turn_s)
            rates = _rates(plan, racers)
            for racer in racers:
                await racer.arrive(rates[racer.candidates], plan.turn_s, seed=number)
        return {
            "kind": "peers",
            "records": plan.records[0],
            "candidates": list(plan.candidates),
            "seconds": plan.seconds,
            "load": plan.load,
            "open_rps": {str(size): round(rate, 2) for size, rate in rates.items()},
            "missing": [peer.name for peer in PEERS if peer not in peers],
            "peers": [racer.report() for racer in racers],
        }


def _rates(plan: Plan, racers: list[Racer]) -> dict[int, float]:
    """Arrivals for all, by candidates: a share of what saturates the slowest of them."""
    return {
        size: plan.load * min(r.saturated.rps for r in racers if r.candidates == size)
        for size in plan.candidates
    }


async def _racers(
    plan: Plan, peers: list[Peer], folder: Path, stack: AsyncExitStack
) -> list[Racer]:
    """All servers, started and warm, the peers found to agree on the scores."""
    enter = stack.enter_async_context
    place = await enter(opened(Store.REDIS))
    drafts = Path(stack.enter_context(TemporaryDirectory(prefix="marmot-peers-")))
    settings = await _settings(plan, place, drafts)
    items = items_of(plan.bundle)
    records = plan.records[0]
    decks = [Deck(items, size, records) for size in plan.candidates]
    asked = decks[0].of(USER)
    clients = {
        peer: await enter(peer.started(folder, settings, peer.request(asked.body)))
        for peer in peers
    }
    await _check(clients, asked)
    near = await enter(service_on(place, plan.bundle))
    far = await enter(service_on(place, plan.bundle, MARMOT_NEAR_MIB="0"))
    await near.fill(decks[0], records)
    racers = []
    for deck, size in zip(decks, plan.candidates, strict=True):
        racers.append(Racer(MARMOT, near.client, size, deck.known()))
        racers.append(Racer(FAR, far.client, size, deck.known()))
        racers += [
            Racer(peer, client, size, _asked(peer, deck)) for peer, client in clients.items()
        ]
    return racers


async def _settings(plan: Plan, place: Place, folder: Path) -> dict[str, str]:
    """What peers are told, and the user they all fetch, in Redis."""
    bundle = plan.bundle
    with np.load(bundle / "example.npz", allow_pickle=False) as example:
        feed = {
            port["name"]: _tiled(example[port["name"]], port["axes"], plan.records[0])
            for port in history_ports(bundle)
        }
    async with Redis.from_url(place.url) as redis:
        await redis.set(key_of(USER), packed(feed, history_ports(bundle)))
    items = folder / "items.json"
    items.write_bytes(orjson.dumps(items_of(bundle)))
    return {"PEER_BUNDLE": str(bundle.resolve()), "PEER_ITEMS": str(items), "PEER_REDIS": place.url}


def _tiled(array: Any, axes: list[str | int], records: int) -> Any:
    """The first request of an example, with so many records."""
    array = array[:1]
    if "records" in axes:
        array = np.repeat(array, -(-records // array.shape[1]), axis=1)[:, :records]
    return np.ascontiguousarray(array)


async def _check(clients: Mapping[Peer, Client], asked: Request) -> None:
    """Whoever scores otherwise than the first does something else."""
    found = {
        peer.name: await peer.answer(client, peer.request(asked.body))
        for peer, client in clients.items()
    }
    first = next(iter(found.values()))
    for name, scores in found.items():
        if not np.allclose(scores, first, atol=1e-6):
            raise BenchError(f"{name} does not score as {next(iter(found))} does")


def _asked(peer: Peer, deck: Deck) -> Iterator[Request]:
    while True:
        yield peer.request(deck.of(USER).body)


def _nothing(_done: int) -> None:
    return
