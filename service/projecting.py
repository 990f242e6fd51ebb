"""Projecting: events and their records to what candidates attend to, on the engine."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from service.job import Array, Job, Lane
from service.memory import Memory
from service.question import Question

EVENT_COST = 60
"""What keys and values of an event cost, in query-key pairs."""


async def project(
    events: Mapping[str, Array],
    question: Question,
    sizes: Mapping[str, int],
    *,
    each: int,
    graph: str = "project",
) -> dict[str, Array]:
    """Keys and values of events (rows, …), `each` row so many, as the graphs behind read them.

    What the graph puts before them has a timestamp, too, which nothing reads.
    """
    rows, times = len(events["items"]), events["timestamps"]
    cost = EVENT_COST * each
    job = Job(graph, events, sizes, Lane.RANK, question.deadline, rows=rows, cost=cost)
    made = await question.model.batcher.submit(job)
    question.timings.queue += job.queue_s
    question.timings.run += job.run_s
    if "offsets" in made:
        leading = made["offsets"].shape[1] - times.shape[1]
        times = np.pad(times, [(0, 0), (leading, 0)])
    return {"timestamps": times, **made}


async def projected(memory: Memory, question: Question) -> dict[str, Array]:
    """Keys and values of the newest events that ranking attends to."""
    feed, count = memory.newest(question.model.spec.attends)
    events = {name: part[np.newaxis] for name, part in feed.items()}
    graph = question.model.projected[0]
    return await project(events, question, {}, each=count, graph=graph)
