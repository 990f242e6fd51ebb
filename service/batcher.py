"""What waits for the engine, and what runs next.

There is no timer: an idle engine starts a job at once, a busy one leaves behind what has queued
meanwhile, and the next batch is taken from that. So that the engine need not wait for the event
loop between two runs, ranking is handed over ahead: what nobody could join at once and up to a
bound, what others may join as soon as as much of it waits as is running.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
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
        if first.rows or job.rows or job.graph != first.graph or parts + job.cost > most_cost:
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
        most_cost: int = 4 * COST_PER_MS,
        most_waste: float = 1.15,
        ahead_cost: int = 2 * COST_PER_MS,
        lone_cost: int = 5 * COST_PER_MS,
        on_batch: Callable[[str, int, float], None] | None = None,
    ) -> None:
        self._engine = engine
        self._queue_limit = queue_limit
        self._most_cost = most_cost
        self._most_waste = most_waste
        self._ahead_cost = ahead_cost
        self._lone_cost = lone_cost
        self._on_batch = on_batch
        self._lanes: dict[Lane, deque[Job]] = {lane: deque() for lane in Lane}
        self._waiting_cost = dict.fromkeys(Lane, 0)
        self._pace = Pace()
        self._flights: deque[list[Job]] = deque()  # what runs, and what is behind it
        self._closed = False

    def __repr__(self) -> str:
        waiting = sum(map(len, self._lanes.values()))
        running = sum(map(len, self._flights))
        return f"<Batcher {waiting} waiting, {running} running>"

    @property
    def is_busy(self) -> bool:
        """Whether a job submitted now would have to wait."""
        return bool(self._flights)

    @property
    def waiting_cost(self) -> int:
        return sum(self._waiting_cost.values())

    def wait_s(self, lane: Lane) -> float:
        """How long what goes before a newcomer to this lane will keep the engine, by estimate."""
        handed_over = sum(map(_cost, islice(self._flights, 1, None)))
        waiting = sum(cost for other, cost in self._waiting_cost.items() if other <= lane)
        return self._pace.seconds_for(waiting + handed_over)

    def takes_at_once(self, job: Job) -> bool:
        """Whether `run` may be called: nothing runs or waits, and the job is short."""
        return not self._flights and not self._closed and job.cost <= self._lone_cost

    def run(self, job: Job) -> dict[str, Array]:
        """Runs a job here and now, on the event loop: cheaper by two changes of thread.

        For callers who know that nobody else is there to be kept waiting.
        """
        graph = self._engine.bundle.graphs[job.graph]
        began = perf_counter()
        outputs = self._engine.run(job.graph, collate(graph, [job], self._engine.buckets))
        job.run_s = perf_counter() - began
        self._pace.saw(job.cost, job.run_s)
        if self._on_batch is not None:
            self._on_batch(job.graph, 1, job.run_s)
        return split(graph, [job], outputs, self._engine.buckets)[0]

    async def submit(self, job: Job) -> dict[str, Array]:
        """Queues the job and returns its outputs; `Overloaded` at once when there is no room."""
        if self._closed:
            raise Overloaded("The engine is closing")
        # An idle house takes any one job, however large.
        waiting = self.waiting_cost if self._flights else 0
        if waiting and waiting + job.cost > self._queue_limit:
            raise Overloaded
        job.future = asyncio.get_running_loop().create_future()
        job.queued_at = perf_counter()
        self._lanes[job.lane].append(job)
        self._waiting_cost[job.lane] += job.cost
        self._fill()
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
        running = [job.future for batch in self._flights for job in batch if job.future]
        await asyncio.gather(*running, return_exceptions=True)

    def _fill(self) -> None:
        """Gives the engine work if it has none, and more ahead if that is worth it."""
        if not self._flights:
            any(map(self._start_next, self._lanes.values()))
        ranking = self._lanes[Lane.RANK]
        while ranking and self._flights and self._goes_ahead(ranking):
            self._start_next(ranking)

    def _goes_ahead(self, ranking: deque[Job]) -> bool:
        """Whether the next of what waits is handed over behind what runs."""
        if ranking[0].rows:
            ahead = sum(map(_cost, islice(self._flights, 1, None)))
            return not ahead or ahead + ranking[0].cost <= self._ahead_cost
        running = self._flights[0]
        is_behind_others = running[0].lane is not Lane.RANK
        return len(self._flights) == 1 and (is_behind_others or _cost(ranking) >= _cost(running))

    def _start_next(self, lane: deque[Job]) -> bool:
        self._drop_lost(lane, perf_counter())
        if not lane:
            return False
        batch = next_batch(lane, most_cost=self._most_cost, most_waste=self._most_waste)
        for job in batch:
            lane.remove(job)
            self._waiting_cost[job.lane] -= job.cost
        self._run(batch)
        return True

    def _drop_lost(self, lane: deque[Job], now: float) -> None:
        """Jobs nobody waits for, or that come too late, are not run."""
        for job in [job for job in lane if job.is_gone or _is_late(job, now)]:
            lane.remove(job)
            self._waiting_cost[job.lane] -= job.cost
            if job.future is not None and not job.future.done():
                job.future.set_exception(DeadlineExceeded())

    def _run(self, batch: list[Job]) -> None:
        self._flights.append(batch)
        loop = asyncio.get_running_loop()
        graph = self._engine.bundle.graphs[batch[0].graph]

        def finished(
            outputs: dict[str, Array] | None, run_s: float, error: EngineFailed | None
        ) -> None:
            loop.call_soon_threadsafe(self._finish, batch, outputs, run_s, error)

        try:
            feed = collate(graph, batch, self._engine.buckets)
        except Exception as error:
            # Only a bug can bring us here; it must not stop the queue.
            loop.call_soon(self._finish, batch, None, 0.0, error)
            return
        self._engine.submit(batch[0].graph, feed, finished, partial(_is_wanted, batch))

    def _finish(
        self,
        batch: list[Job],
        outputs: dict[str, Array] | None,
        run_s: float,
        error: Exception | None,
    ) -> None:
        self._flights.remove(batch)
        self._fill()  # first of all the engine gets its next batch
        now = perf_counter()
        graph = batch[0].graph
        if outputs is not None:
            self._pace.saw(_cost(batch), run_s)
        if self._on_batch is not None:
            self._on_batch(graph, len(batch), run_s)
        parts: list[dict[str, Array]] | None = None
        if outputs is not None:
            try:
                described = self._engine.bundle.graphs[graph]
                parts = split(described, batch, outputs, self._engine.buckets)
            except Exception as bug:  # told to everyone who waits, and by them to the log
                error = bug
        for place, job in enumerate(batch):
            job.run_s, job.queue_s = run_s, max(0.0, now - job.queued_at - run_s)
            if job.future is None or job.future.done():
                continue
            if parts is None:
                job.future.set_exception(error or DeadlineExceeded())
            else:
                job.future.set_result(parts[place])


def _cost(batch: Iterable[Job]) -> int:
    return sum(job.cost for job in batch)


def _is_wanted(batch: Iterable[Job]) -> bool:
    """Whether anybody waits for it and will have it in time."""
    now = perf_counter()
    return any(not job.is_gone and not _is_late(job, now) for job in batch)


def _is_late(job: Job, now: float) -> bool:
    return job.deadline is not None and now > job.deadline
