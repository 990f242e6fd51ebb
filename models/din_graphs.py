"""Din's one graph: every event is weighed by itself, and the window is added up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from models.din import ActivationUnit
from models.family import UNIT_WIDTH
from models.graph import GraphBuilder
from models.graph_history import Fed, Past, bucket_of, counted, read_past
from models.graph_targets import Targets, ask, linear, since
from models.graph_weights import GraphWeights, as_array


def rank(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    """A window of events and candidates to scores."""
    candidates, timestamp = ask(g)
    past, times = read_past(w, g)
    gap = since(g, timestamp, times)
    targets = Targets(w, g, candidates, timestamp)
    if w.spec.depth:
        bucket, counts = bucket_of(g, gap), counted(w, g, past.feedback)
        if counts is not None:  # what does not is masked as the future is
            bucket = g.add("Where", counts, bucket, g.constant(0, "int32"))
        targets.take(0, _found(w, g, targets, past, bucket))
    targets.score()
    return g


@dataclass(frozen=True, slots=True)
class _Axes:
    """Sizes of a run, each as a tensor of one number."""

    g: GraphBuilder
    batch: str
    asked: str  # candidates of a request
    events: str

    @classmethod
    def of(cls, g: GraphBuilder, candidates: str, items: str) -> _Axes:
        batch, events = g.add("Shape", items, end=1), g.add("Shape", items, start=1)
        return cls(g, batch, g.add("Shape", candidates, start=1), events)

    def shaped(self, x: str, *axes: str | int) -> str:
        """A tensor in another shape; a window may be empty, so an axis of 0 means 0."""
        sizes = (axis if isinstance(axis, str) else self.g.ints(axis) for axis in axes)
        return self.g.add("Reshape", x, self.g.add("Concat", *sizes, axis=0), allowzero=1)


def _found(w: GraphWeights, g: GraphBuilder, targets: Targets, past: Past, bucket: str) -> str:
    """What each target finds in its window: (batch C, width)."""
    axes = _Axes.of(g, targets.candidates, past.items)
    items = g.add("Reshape", past.items, g.ints(-1))
    known = w.look_up(g, g.add("Unsqueeze", items, g.ints(0)))
    fed, layer = Fed.of(w, g, items, past.feedback), slice(0, 1)
    keys, values = fed.keys(w, g, layer, known), fed.values(w, g, layer, known)
    weights = _weights(w, g, axes, targets.outputs, keys, bucket)
    values = axes.shaped(values, axes.batch, axes.events, w.heads, w.width // w.heads)
    values = g.add("Transpose", values, perm=[0, 2, 1, 3])
    found = g.add("MatMul", g.add("Transpose", weights, perm=[0, 3, 1, 2]), values)
    found = g.add("Transpose", found, perm=[0, 2, 1, 3])  # (batch, C, heads, width / heads)
    return g.add("Reshape", found, g.ints(-1, w.width))


def _weights(
    w: GraphWeights, g: GraphBuilder, axes: _Axes, outputs: str, keys: str, bucket: str
) -> str:
    """`ActivationUnit`'s, of targets (batch C, width) and keys (1, batch R, width).

    (batch, C, R, heads).
    """
    unit = cast("ActivationUnit", w.model.layers[0])
    query = linear(g, unit.query, outputs)
    by_both = g.floats(as_array(unit.of_both.weight))
    scaled = g.add("Mul", g.add("Reshape", keys, g.ints(-1, 1, w.width)), by_both)
    scaled = axes.shaped(scaled, axes.batch, -1, w.width)  # (batch, R * UNIT_WIDTH, width)
    queries = axes.shaped(query, axes.batch, axes.asked, w.width)
    both = g.add("MatMul", queries, g.add("Transpose", scaled, perm=[0, 2, 1]))
    of_target = linear(g, unit.of_target, query)
    of_event = g.add("MatMul", keys, g.floats(as_array(unit.of_event.weight).T))
    hidden = axes.shaped(both, axes.batch, axes.asked, axes.events, UNIT_WIDTH)
    for part, rows in ((of_target, (axes.asked, 1)), (of_event, (1, axes.events))):
        hidden = g.add("Add", hidden, axes.shaped(part, axes.batch, *rows, UNIT_WIDTH))
    weigh = as_array(unit.weigh.weight).T / unit.window
    weights = g.add("MatMul", g.add("Relu", hidden), g.floats(weigh))
    bias = (w.gaps(0) + as_array(unit.weigh.bias)) / unit.window  # (buckets, heads)
    seen = np.arange(len(bias))[:, None] > 0
    for operator, table in (("Add", bias), ("Mul", seen)):
        row = g.add("Gather", g.floats(table), bucket)  # (batch, R, heads or 1)
        weights = g.add(operator, weights, g.add("Unsqueeze", row, g.ints(1)))
    return weights
