"""What waits for the engine, and what runs next.

There is no timer: an idle engine starts a job at once, a busy one leaves behind what has queued
meanwhile, and the next batch is taken from that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice
from time import perf_counter

from service.collate import collate, merged_sizes, split
from service.engine import Engine
from service.errors import DeadlineExceeded, EngineFailed, Overloaded
from service.job import Array, Job, Lane, cost_of
from service.pace import COST_PER_MS, Pace

#: Jobs behind the first that are looked at for company.
LOOK_AHEAD = 64


def next_batch(waiting: deque[Job], *, most_cost: int, most_waste: float) -> list[Job]:
    """The oldest job of one lane, and those behind it that it pays to run in the same batch.

    Only jobs of the same graph share a run, and only while the padded whole costs little more
    than its parts: on a CPU a batch saves overhead, not arithmetic.
    """
    first = waiting[0]
    batch, parts = [first], first.cost
    for job in islice(waiting, 1, LOOK_AHEAD):
        if job.graph != first.graph or parts + job.cost > most_cost:
            continue
        whole = cost_of(merged_sizes([*batch, job])) * (len(batch) + 1)
        if whole <= most_waste * (parts + job.cost):
            batch.append(job)
            parts += job.cost
    return batch


class Batcher:
    """The queue before one engine: bounded by cost, ranking first."""

    def __init__(
        self,
        engine: Engine,
        *,
        queue_limit: int = 2_000 * COST_PER_MS,
        most_cost: int = 10 * COST_PER_MS,
        most_waste: float = 1.15,
        lone_cost: int = 5 * COST_PER_MS,
        on_batch: Callable[[str, int, float], None] | None = None,
    ) -> None:
        self._engine = engine
        self._queue_limit = queue_limit
        self._most_cost = most_cost
        self._most_waste = most_waste
        self._lone_cost = lone_cost
        self._on_batch = on_batch
        self._lanes: dict[Lane, deque[Job]] = {lane: deque() for lane in Lane}
        self._waiting_cost = dict.fromkeys(Lane, 0)
        self._pace = Pace()
        self._running: list[Job] = []
        self._closed = False

    def __repr__(self) -> str:
        waiting = sum(map(len, self._lanes.values()))
        return f"<Batcher {waiting} waiting, {len(self._running)} running>"

    @property
    def is_busy(self) -> bool:
        """Whether a job submitted now would have to wait."""
        return bool(self._running)

    @property
    def waiting_cost(self) -> int:
        return sum(self._waiting_cost.values())

    @property
    def wait_s(self) -> float:
        """How long what waits for ranking will keep the engine, by estimate."""
        return self._pace.seconds_for(self._waiting_cost[Lane.RANK])

    def takes_at_once(self, job: Job) -> bool:
        """Whether `run` may be called: nothing runs or waits, and the job is short."""
        return not self._running and not self._closed and job.cost <= self._lone_cost

    def run(self, job: Job) -> dict[str, Array]:
        """Runs a job here and now, on the event loop: cheaper by two changes of thread.

        For callers who know that nobody else is there to be kept waiting.
        """
        graph = self._engine.bundle.graphs[job.graph]
        began = perf_counter()
        outputs = self._engine.run(job.graph, collate(graph, [job]))
        job.run_s = perf_counter() - began
        if self._on_batch is not None:
            asyncio.get_running_loop().call_soon(self._on_batch, job.graph, 1, job.run_s)
        return split(graph, [job], outputs)[0]

    async def submit(self, job: Job) -> dict[str, Array]:
        """Queues the job and returns its outputs; `Overloaded` at once when there is no room."""
        if self._closed:
            raise Overloaded("The engine is closing")
        # An idle house takes any one job, however large.
        waiting = self.waiting_cost if self._running else 0
        if waiting and waiting + job.cost > self._queue_limit:
            raise Overloaded
        job.future = asyncio.get_running_loop().create_future()
        job.queued_at = perf_counter()
        self._lanes[job.lane].append(job)
        self._waiting_cost[job.lane] += job.cost
        if not self._running:
            self._start_next()
        return await job.future

    async def close(self) -> None:
        """Lets what runs finish and refuses the rest."""
        self._closed = True
        for lane in self._lanes.values():
            for job in lane:
                if job.future is not None and not job.future.done():
                    job.future.set_exception(Overloaded("The engine is closing"))
            lane.clear()
        self._waiting_cost = dict.fromkeys(Lane, 0)
        running = [job.future for job in self._running if job.future is not None]
        await asyncio.gather(*running, return_exceptions=True)

    def _start_next(self) -> None:
        now = perf_counter()
        for lane in self._lanes.values():
            self._drop_lost(lane, now)
            if not lane:
                continue
            batch = next_batch(lane, most_cost=self._most_cost, most_waste=self._most_waste)
            for job in batch:
                lane.remove(job)
                self._waiting_cost[job.lane] -= job.cost
                job.queue_s = now - job.queued_at
            self._run(batch)
            return

    def _drop_lost(self, lane: deque[Job], now: float) -> None:
        """Jobs nobody waits for, or that come too late, are not run."""
        for job in [job for job in lane if job.is_gone or _is_late(job, now)]:
            lane.remove(job)
            self._waiting_cost[job.lane] -= job.cost
            if job.future is not None and not job.future.done():
                job.future.set_exception(DeadlineExceeded())

    def _run(self, batch: list[Job]) -> None:
        self._running = batch
        loop = asyncio.get_running_loop()
        graph = self._engine.bundle.graphs[batch[0].graph]

        def finished(
            outputs: dict[str, Array] | None, run_s: float, error: EngineFailed | None
        ) -> None:
            loop.call_soon_threadsafe(self._finish, batch, outputs, run_s, error)

        try:
            feed = collate(graph, batch)
        except Exception as error:
            # Only a bug can bring us here; it must not stop the queue.
            loop.call_soon(self._finish, batch, None, 0.0, error)
            return
        self._engine.submit(batch[0].graph, feed, finished)

    def _finish(
        self,
        batch: list[Job],
        outputs: dict[str, Array] | None,
        run_s: float,
        error: Exception | None,
    ) -> None:
        self._running = []
        self._start_next()  # first of all the engine gets its next batch
        graph = batch[0].graph
        if outputs is not None:
            self._pace.saw(sum(job.cost for job in batch), run_s)
        if self._on_batch is not None:
            self._on_batch(graph, len(batch), run_s)
        parts: list[dict[str, Array]] | None = None
        if outputs is not None:
            try:
                parts = split(self._engine.bundle.graphs[graph], batch, outputs)
            except Exception as bug:  # told to everyone who waits, and by them to the log
                error = bug
        for place, job in enumerate(batch):
            job.run_s = run_s
            if job.future is None or job.future.done():
                continue
            if parts is None:
                job.future.set_exception(error or EngineFailed())
            else:
                job.future.set_result(parts[place])


def _is_late(job: Job, now: float) -> bool:
    return job.deadline is not None and now > job.deadline
