"""The queue before the engine, with an engine that is worked by hand."""

from __future__ import annotations

import asyncio
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from models.bundle import Graph, Port
from service.batcher import Batcher
from service.engine import Finished, IsWanted
from service.errors import DeadlineExceeded, EngineFailed, Overloaded
from service.job import Job, Lane

DOUBLE = Graph(
    "double.onnx",
    (Port("x", "int64", ("batch", "events")),),
    (Port("y", "int64", ("batch", "events")),),
)


class HandEngine:
    """An engine that finishes a run when it is told to."""

    def __init__(self) -> None:
        self.bundle = SimpleNamespace(graphs={"double": DOUBLE})
        self.buckets = None
        self.taken: list[tuple[dict[str, Any], Finished, IsWanted]] = []

    def submit(
        self, graph: str, feed: dict[str, Any], finished: Finished, is_wanted: IsWanted
    ) -> None:
        self.taken.append((feed, finished, is_wanted))

    async def finish(self, error: EngineFailed | None = None) -> None:
        feed, finished, is_wanted = self.taken.pop(0)
        finished({"y": feed["x"] * 2} if is_wanted() and not error else None, 0.001, error)
        for _ in range(3):
            await asyncio.sleep(0)

    @property
    def firsts(self) -> list[int]:
        """The first number of every run that was taken and is not finished."""
        return [int(feed["x"][0, 0]) for feed, _, _ in self.taken]


def job(value: int, size: int = 1, **fields: Any) -> Job:
    return Job("double", {"x": np.full(size, value)}, {"events": size}, **fields)


async def start(batcher: Batcher, *jobs: Job) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(batcher.submit(each)) for each in jobs]
    await asyncio.sleep(0)
    return tasks


@pytest.fixture
def engine() -> HandEngine:
    return HandEngine()


async def test_an_idle_engine_starts_at_once(engine: HandEngine) -> None:
    """Nothing waits on a timer: the first job runs as it comes, the rest share the next run."""
    batcher = Batcher(engine)
    tasks = await start(batcher, job(1, size=3), job(2), job(3))
    assert repr(batcher) == "<Batcher 2 waiting, 1 running>"
    await engine.finish()
    assert repr(batcher) == "<Batcher 0 waiting, 2 running>"
    await engine.finish()
    assert [int((await task)["y"][0]) for task in tasks] == [2, 4, 6]
    assert not engine.taken
    assert not batcher.is_busy


async def test_the_engine_never_waits_for_work_that_is_there(engine: HandEngine) -> None:
    """As soon as as much ranking waits as runs, it is handed over; one batch ahead, not more."""
    batcher = Batcher(engine, most_waste=0)
    await start(batcher, job(1), job(2), job(3))
    assert engine.firsts == [1, 2]
    await engine.finish()
    assert engine.firsts == [2, 3]
    await engine.finish()
    await engine.finish()
    assert not batcher.is_busy


async def test_what_nobody_may_join_is_handed_over_up_to_a_bound(engine: HandEngine) -> None:
    """A job that is a batch by itself gains nothing by waiting; one is ahead whatever it costs."""
    alone = [Job("double", {"x": np.full((1, 1), n)}, {"events": 1}, rows=1) for n in range(5)]
    batcher = Batcher(engine, ahead_cost=2 * alone[0].cost)
    tasks = await start(batcher, *alone)
    assert engine.firsts == [0, 1, 2]
    await engine.finish()
    assert engine.firsts == [1, 2, 3]
    assert (await tasks[0])["y"].tolist() == [[0]]
    batcher = Batcher(engine, ahead_cost=0)
    engine.taken.clear()
    await start(batcher, job(7), *(Job("double", each.feed, each.sizes, rows=1) for each in alone))
    assert engine.firsts == [7, 0]


async def test_ranking_does_not_wait_behind_a_second_event(engine: HandEngine) -> None:
    """Events and rebuilds are never handed over ahead; ranking goes right behind what runs."""
    batcher = Batcher(engine, most_waste=0)
    lanes = [Lane.EVENT, Lane.EVENT, Lane.RANK]
    await start(batcher, *(job(value, lane=lane) for value, lane in enumerate(lanes)))
    assert engine.firsts == [0, 2]


async def test_ranking_goes_before_events_and_rebuilds(engine: HandEngine) -> None:
    """Of what waits, ranking runs first, then events, then rebuilds, whatever came first."""
    batcher = Batcher(engine, most_waste=0)
    lanes = [Lane.REBUILD, Lane.REBUILD, Lane.EVENT, Lane.RANK]
    await start(batcher, *(job(value, lane=lane) for value, lane in enumerate(lanes)))
    order = []
    while engine.taken:
        order += engine.firsts[:1]
        await engine.finish()
    assert order == [0, 3, 2, 1]


async def test_work_nobody_waits_for_is_not_run(engine: HandEngine) -> None:
    """A job whose caller has gone, or whose deadline has passed, is dropped before its run."""
    batcher = Batcher(engine)
    late = job(3, deadline=perf_counter())
    first = job(1, size=4)
    _, gone, waits, _ = tasks = await start(batcher, first, job(2), late, job(4))
    gone.cancel()
    await asyncio.sleep(0)
    await engine.finish()
    assert engine.firsts == [4]
    with pytest.raises(DeadlineExceeded):
        await waits
    await engine.finish()
    assert (await tasks[3])["y"].tolist() == [8]
    assert batcher.waiting_cost == 0


async def test_what_was_handed_over_is_dropped_as_well(engine: HandEngine) -> None:
    """A batch that nobody wants when its turn comes is not run."""
    batcher = Batcher(engine)
    third = job(3)
    first, gone, late = await start(batcher, job(1), job(2), third)
    gone.cancel()
    await asyncio.sleep(0)
    assert engine.firsts == [1, 2]
    *_, is_second_wanted = engine.taken[1]
    assert not is_second_wanted()
    third.deadline = 0.0  # has passed
    await engine.finish()
    await engine.finish()
    with pytest.raises(DeadlineExceeded):
        await late
    assert (await first)["y"][0] == 2


async def test_a_full_house_says_so_at_once(engine: HandEngine) -> None:
    """Beyond the bound a job is refused; what waits is not touched."""
    limit = job(0).cost * 2
    batcher = Batcher(engine, queue_limit=limit)
    tasks = await start(batcher, job(1, size=9), job(2), job(3), job(4))
    with pytest.raises(Overloaded):
        await tasks[3]
    await engine.finish()
    await engine.finish()
    assert [int((await task)["y"][0]) for task in tasks[:3]] == [2, 4, 6]


async def test_a_failed_run_fails_every_job_in_it_once(engine: HandEngine) -> None:
    """All jobs of the batch get the engine's failure, and the next ones run."""
    batcher = Batcher(engine)
    tasks = await start(batcher, job(1, size=9), job(2), job(3))
    await engine.finish()
    later = await start(batcher, job(4))
    await engine.finish(EngineFailed())
    for task in tasks[1:]:
        with pytest.raises(EngineFailed):
            await task
    await engine.finish()
    assert (await later[0])["y"].tolist() == [8]


async def test_a_job_that_cannot_be_collated_does_not_stop_the_queue(engine: HandEngine) -> None:
    """A bug in one job is that job's failure."""
    batcher = Batcher(engine)
    bad = Job("double", {}, {"events": 1})
    tasks = await start(batcher, bad)
    with pytest.raises(KeyError):
        await tasks[0]
    good = await start(batcher, job(1))
    await engine.finish()
    assert (await good[0])["y"].tolist() == [2]


async def test_a_closing_batcher_finishes_what_runs(engine: HandEngine) -> None:
    """Closing refuses what waits and waits for what runs."""
    batcher = Batcher(engine)
    first, second = await start(batcher, job(1, size=9), job(2))
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await second
    assert not closing.done()
    await engine.finish()
    await closing
    assert (await first)["y"][0] == 2
