"""Jobs' arrays to one padded feed and back, by the names of a graph's axes. Pure.

The `records` axis is padded on the left, so that the newest record stays last; every other axis
on the right. A padded record lies after every request, where the graph's time mask drops it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.bundle import Graph, Port
from service.buckets import Buckets
from service.job import Array, Job

NEVER = np.iinfo(np.int64).max


def collate(graph: Graph, jobs: Sequence[Job], buckets: Buckets | None = None) -> dict[str, Array]:
    """The feed of one run; without buckets a single job is neither padded nor copied."""
    if jobs[0].rows:
        if buckets is None:
            return {port.name: jobs[0].feed[port.name] for port in graph.inputs}
        jobs = _rows(jobs[0])
    if buckets is not None:
        return pad(graph, jobs, buckets.rounded({"batch": len(jobs), **merged_sizes(jobs)}))
    if len(jobs) == 1:
        feed = jobs[0].feed
        return {port.name: feed[port.name][np.newaxis] for port in graph.inputs}
    return pad(graph, jobs, {"batch": len(jobs), **merged_sizes(jobs)})


def pad(graph: Graph, jobs: Sequence[Job], sizes: Mapping[str, int]) -> dict[str, Array]:
    """The jobs' arrays in a feed of these sizes."""
    return {port.name: _stack(port, jobs, sizes) for port in graph.inputs}


def merged_sizes(jobs: Sequence[Job]) -> dict[str, int]:
    """The largest size of every dynamic axis."""
    sizes: dict[str, int] = {}
    for job in jobs:
        for axis, size in job.sizes.items():
            sizes[axis] = max(sizes.get(axis, 0), size)
    return sizes


def split(
    graph: Graph,
    jobs: Sequence[Job],
    outputs: Mapping[str, Array],
    buckets: Buckets | None = None,
) -> list[dict[str, Array]]:
    """Each job's part of the outputs of a run that `collate` made, in the order of the jobs."""
    first = jobs[0]
    wanted = first.rows or len(jobs)
    for port in graph.outputs:
        if len(outputs[port.name]) < wanted:
            found = len(outputs[port.name])
            raise RuntimeError(f"{found} answers for {wanted} jobs. This is a bug.")
    if buckets is None and len(jobs) == 1:  # nothing was padded
        return [dict(outputs) if first.rows else {n: found[0] for n, found in outputs.items()}]
    if first.rows:
        rows = slice(0, first.rows)
        return [
            {
                port.name: outputs[port.name][rows, *_own(port, first.sizes, outputs[port.name])]
                for port in graph.outputs
            }
        ]
    return [
        {
            port.name: outputs[port.name][row][_own(port, job.sizes, outputs[port.name])]
            for port in graph.outputs
        }
        for row, job in enumerate(jobs)
    ]


def _rows(job: Job) -> list[Job]:
    """A job that is a batch by itself, row by row."""
    return [
        Job(job.graph, {name: part[row] for name, part in job.feed.items()}, job.sizes)
        for row in range(job.rows)
    ]


def _stack(port: Port, jobs: Sequence[Job], sizes: Mapping[str, int]) -> Array:
    shape = [sizes[axis] if isinstance(axis, str) else axis for axis in port.axes]
    first = jobs[0].feed[port.name]
    pad: Any = NEVER if port.name == "timestamps" and "records" in port.axes else 0
    stacked = np.full(shape, pad, dtype=first.dtype)
    for row, job in enumerate(jobs):
        place: tuple[Any, ...] = (row, *_own(port, job.sizes, stacked))
        stacked[place] = job.feed[port.name]
    return stacked


def _own(port: Port, own: Mapping[str, int], whole: Array) -> tuple[Any, ...]:
    """Where a job's values lie in the padded array, behind the batch axis."""
    slices = []
    for axis, size in zip(port.axes[1:], whole.shape[1:], strict=True):
        if not isinstance(axis, str):
            slices.append(slice(None))
        elif axis == "records":
            slices.append(slice(size - own[axis], size))
        else:
            slices.append(slice(0, own[axis]))
    return tuple(slices)
