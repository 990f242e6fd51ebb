"""Stca's one graph: as Marm's, with raw events in every layer and the query fused anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from models.graph import GraphBuilder
from models.graph_history import bucket_of, memories, read_past
from models.graph_norm import normalised
from models.graph_targets import Targets, ask, linear, since
from models.graph_weights import GraphWeights, as_array
from models.stca import CrossAttention

Array = np.ndarray[Any, Any]


def rank(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    """A window of events and candidates to scores."""
    candidates, timestamp = ask(g)
    past, times = read_past(w, g)
    gap = since(g, timestamp, times)
    targets = Fused(w, g, candidates, timestamp)
    recency = (recency_of(w), ages_of(w, g, past.items))
    for depth, memory in enumerate(memories(w, g, past, bucket_of(g, gap), [recency])):
        targets.attend(depth, *memory)
    targets.score()
    return g


class Fused(Targets):
    """Targets that ask with what every layer below made of them, and with themselves."""

    below: Sequence[str] = ()

    def attend(self, depth: int, keys: str, values: str) -> None:
        w, g = self.w, self.g
        self.below = [*self.below, self.outputs]
        joined = g.add("Concat", *self.below, axis=1)  # (batch C, (1 + depth) width)
        fuse = as_array(_layer(w, depth).fuse.weight).T
        self.stream = g.add("Gemm", joined, g.floats(fuse), self.start)
        self.outputs = normalised(w, g, self.stream)
        super().attend(depth, keys, values)

    def inner(self, depth: int, x: str) -> str:
        g, layer = self.g, _layer(self.w, depth)
        gate = linear(g, layer.gate, x)
        return g.add("Mul", g.add("Mul", gate, g.add("Sigmoid", gate)), linear(g, layer.expand, x))


def _layer(w: GraphWeights, depth: int) -> CrossAttention:
    return cast("CrossAttention", w.model.layers[depth])


def recency_of(w: GraphWeights) -> Array:
    """What an event's age adds to wide keys: (depth, window, wide)."""
    bias = np.array([as_array(_layer(w, depth).recency) for depth in range(w.spec.depth)])
    return w.widened(np.zeros((*bias.shape[:2], w.width), np.float32), bias[..., None])


def ages_of(w: GraphWeights, g: GraphBuilder, items: str) -> str:
    """How many events are newer than each, of all requests: (N,)."""
    shape = g.add("Shape", items)
    count = g.add("Squeeze", g.add("Shape", items, start=1), g.ints(0))
    one = g.constant(1, "int64")
    newest = g.add("Sub", count, one)
    ages = g.add("Range", newest, g.constant(-1, "int64"), g.constant(-1, "int64"))
    # The example may be tiled beyond the window.
    ages = g.add("Min", ages, g.constant(w.spec.window - 1, "int64"))
    return g.add("Reshape", g.add("Expand", ages, shape), g.ints(-1))
