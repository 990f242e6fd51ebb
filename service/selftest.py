"""Before the first request: every graph is run once, and cached is compared with full."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import numpy as np

from models.spec import Spec
from service.collate import pad
from service.errors import StartError
from service.features import History
from service.job import Array, Job, Lane
from service.rebuild import Plan, fields_of, rebuild
from service.registry import TOLERANCE, Model
from service.summaries import Adding, fed

MOST_EVENTS = 200
CANDIDATES = 16


async def warm_up(model: Model) -> None:
    """Runs the first graph on the example that training wrote beside it, and in every bucket."""
    example, graph = model.bundle.example(), model.spec.graphs[0]
    ports = model.bundle.graphs[graph].inputs
    missing = [port.name for port in ports if port.name not in example]
    if missing:
        raise StartError(f"{model.bundle.path}: example.npz has no {', '.join(missing)}")
    sizes = {
        axis: size
        for port in ports
        for axis, size in zip(port.axes, example[port.name].shape, strict=True)
        if isinstance(axis, str) and axis != "batch"
    }
    feed = {port.name: example[port.name][0] for port in ports}
    job = Job(graph, feed, sizes, Lane.REBUILD)
    await model.batcher.submit(job)
    engine = model.engine
    for shape in engine.buckets.shapes() if engine.buckets else ():
        feed = pad(model.bundle.graphs[graph], [job], shape)
        await asyncio.to_thread(engine.run, graph, feed)


async def self_test(model: Model) -> None:
    """Scores over rows appended bit by bit equal scores over rows encoded at once.

    And those in 8 bits are near those in float32.
    """
    spec = model.spec
    if model.is_int8:
        await asyncio.to_thread(_test_int8, model)
    if spec.summary:
        await _test_summary(model)
    if not spec.cached_depths:
        return
    history = _some_history(model)
    whole = await _build(model, history, np.zeros(0, spec.row), 0, len(history))
    appended = np.zeros(0, spec.row)
    for first, end in _steps(len(history)):
        rows = await _build(model, history, appended, first, end)
        appended = np.concatenate([appended, rows])
    full = await _scores(model, history, fields_of(whole[-spec.window :]))
    cached = await _scores(model, history, fields_of(appended[-spec.window :]))
    _compare(model, full, cached)


def _test_int8(model: Model) -> None:
    """On the bundle's example, near enough to float32 here too.

    The export has proven the graphs, maybe on another processor: integer products may saturate
    where there are no instructions for them.
    """
    example, engine, graphs = model.bundle.example(), model.engine, model.bundle.graphs
    project, projected = model.projected
    events = {port.name: example[port.name] for port in graphs[project].inputs}
    made = engine.run(project, events)
    leading = made["offsets"].shape[1] - events["items"].shape[1]
    times = np.pad(example["timestamps"], [(0, 0), (leading, 0)])
    asked = {name: example[name] for name in ("candidates", "timestamp")}
    scores = engine.run(projected, {**asked, **made, "timestamps": times})["scores"]
    exact = engine.run("rank", {port.name: example[port.name] for port in graphs["rank"].inputs})
    found, allowed = float(np.abs(scores - exact["scores"]).max()), TOLERANCE["int8"]
    if not found <= allowed:
        raise StartError(
            f"{model.bundle.path}: scores in int8 differ from float32's by {found:.2g} on this "
            f"processor, {allowed:g} is allowed; refused"
        )


async def _test_summary(model: Model) -> None:
    """Scores over a summary that was continued equal scores over one that was made at once."""
    history = _some_history(model)
    adding = Adding(model, Lane.REBUILD)
    covered = adding.whole(len(history))
    whole = await adding.add(None, history[slice(0, covered)], 0)
    row = None
    for first in range(0, covered, adding.step):
        linked = max(first - 1, 0)
        part = history[slice(linked, first + adding.step)]
        row = await adding.add(row, part, first - linked)
    full = await _scores(model, history, fed(model.spec, whole, covered))
    cached = await _scores(model, history, fed(model.spec, row, covered))
    _compare(model, full, cached)


def _compare(model: Model, full: Array, cached: Array) -> None:
    spec = model.spec
    found, allowed = float(np.abs(full - cached).max()), TOLERANCE[spec.cache_dtype]
    if not found <= allowed:
        raise StartError(
            f"{model.bundle.path}: scores from cached records differ from full ones by "
            f"{found:.2g}, {allowed:g} is allowed for {spec.cache_dtype}; refused"
        )


def _some_history(model: Model) -> History:
    """A history that is longer than a window where that is not too long."""
    spec = model.spec
    count = min(spec.window + 8, MOST_EVENTS)
    random = np.random.default_rng(0)
    gaps = random.integers(0, 100_000, count)
    return History(
        random.integers(0, len(model.bundle.vocabulary) + spec.fallback_rows, count),
        np.cumsum(gaps) + 900_000_000,
        random.integers(-1, 2, (count, len(spec.tasks))).astype(np.int8),
    )


def _steps(count: int) -> list[tuple[int, int]]:
    """Ends of ever longer appends, and single ones at the end."""
    ends, end = [0], 0
    for size in (*range(1, count), *([1] * count)):
        end = min(end + size, max(count - 8, end + 1))
        ends.append(end)
        if end >= count:
            break
    return list(pairwise(ends))


async def _build(model: Model, history: History, rows: Array, first: int, end: int) -> Array:
    start = max(0, first - model.spec.window)
    plan = Plan(start, first, end, on_rows=first > 0)
    return await rebuild(
        plan, history, rows, batcher=model.batcher, spec=model.spec, lane=Lane.REBUILD
    )


async def _scores(model: Model, history: History, cached: dict[str, Array]) -> Array:
    newest = slice(max(0, len(history) - model.spec.window), len(history))
    shown = history[newest]
    feed = {
        "candidates": _candidates(model.spec, len(model.bundle.vocabulary)),
        "timestamp": shown.timestamps[-1] + 60,
        **shown.feed(),
        **cached,
    }
    sizes = {"candidates": CANDIDATES, "records": len(shown)}
    outputs = await model.batcher.submit(Job("rank", feed, sizes, Lane.REBUILD))
    return outputs["scores"]


def _candidates(spec: Spec, items: int) -> Array:
    return np.random.default_rng(1).integers(0, items + spec.fallback_rows, CANDIDATES)
