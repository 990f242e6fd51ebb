"""What a request runs, in milliseconds: rank graphs of several shapes, in turns in one process."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from time import perf_counter

import numpy as np
import onnxruntime as ort
import torch

from models.export import Feed, example, session
from models.families import MODELS, build_graphs
from models.progress import Advance
from models.spec import Spec

ITEMS = 2_000  # rows of the table: enough that a look-up is one


def rank_times_ms(
    specs: Sequence[Spec],
    *,
    candidates: int = 100,
    turns: int = 60,
    advance: Advance = lambda done, of: None,
) -> list[float | None]:
    """Median time of `rank.onnx` of each shape at a full window, on one thread, in milliseconds.

    The weights are those of a model as it is constructed: what a run takes does not hang on them.
    A search by category is asked for candidates of one category. None for a search by attention,
    which runs another graph for each request, and where nothing is attended to.
    """
    runs = [_run_of(spec, candidates) for spec in specs]
    taken: list[list[float]] = [[] for _ in runs]
    for turn in range(turns):
        for run, times in zip(runs, taken, strict=True):
            if run is not None:
                graph, feed = run
                begun = perf_counter()
                graph.run(None, feed)
                times.append(perf_counter() - begun)
        advance(turn + 1, turns)
    # The first run of a shape plans its memory.
    return [1e3 * median(times[1:]) if times else None for times in taken]


def _run_of(spec: Spec, candidates: int) -> tuple[ort.InferenceSession, Feed] | None:
    if not spec.depth or (spec.search and not spec.finds_first):
        return None
    torch.manual_seed(0)
    model = MODELS[spec.family](spec, ITEMS).eval()
    graphs = {name: session(proto) for name, (proto, _) in build_graphs(model).items()}
    feed = example(model, graphs)
    feed["candidates"] = np.resize(feed["candidates"], (1, candidates))
    wanted = {port.name for port in graphs["rank"].get_inputs()}
    return graphs["rank"], {name: value for name, value in feed.items() if name in wanted}
