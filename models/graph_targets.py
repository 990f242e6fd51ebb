"""Targets: the candidates of all requests on their way through the layers of a rank graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
from torch import nn

from models.graph import GraphBuilder
from models.graph_norm import normalised
from models.graph_weights import GraphWeights, as_array
from models.ranking_model import Scorer

#: The middle of a feed-forward block at some depth: (N, width) to (N, 2 width).
Inner = Callable[[int, str], str]


def ask(g: GraphBuilder) -> tuple[str, str]:
    """The inputs that a request brings itself: candidates and timestamp."""
    return (
        g.input("candidates", "int64", "batch", "candidates"),
        g.input("timestamp", "int64", "batch"),
    )


def since(g: GraphBuilder, timestamp: str, times: str) -> str:
    """Seconds from each event to its request: (batch, R)."""
    return g.add("Sub", g.add("Unsqueeze", timestamp, g.ints(1)), times)


class Targets:
    """One list of all candidates; only attention takes the requests apart."""

    def __init__(self, w: GraphWeights, g: GraphBuilder, candidates: str, timestamp: str) -> None:
        self.w, self.g = w, g
        self.candidates = candidates
        self.flat = g.add("Reshape", candidates, g.ints(-1))
        self.start = w.look_up(g, self.flat)  # (batch C, width)
        self.stream, self.outputs = self.start, normalised(w, g, self.start)
        self.rows = g.add("Concat", g.add("Shape", timestamp), g.ints(-1, w.wide), axis=0)
        self.layers: list[tuple[str, str]] = []  # what each found, and its output

    def attend(self, depth: int, keys: str, values: str) -> None:
        """Takes every target through one layer."""
        w, g = self.w, self.g
        found = g.add(
            "Attention",
            self.asked(depth),
            keys,
            values,
            q_num_heads=w.heads,
            kv_num_heads=w.heads,
            scale=1.0,
        )
        self.take(depth, g.add("Reshape", found, g.ints(-1, w.width)))

    def asked(self, depth: int) -> str:
        """The layer's wide queries, (batch, C, wide)."""
        queries = self.w.wide_queries(self.g, depth, self.outputs)
        return self.g.add("Reshape", queries, self.rows)

    def take(self, depth: int, found: str) -> None:
        """Goes on with what the layer found, (batch C, width)."""
        w, g = self.w, self.g
        self.stream = mix(w, g, depth, self.stream, found, self.inner)
        self.outputs = normalised(w, g, self.stream)
        self.layers.append((found, self.outputs))

    def inner(self, depth: int, x: str) -> str:
        """The middle of the feed-forward block, (batch C, 2 width)."""
        return relu(self.w, self.g, depth, x)

    def score(self) -> None:
        """Names the probabilities as the output of the graph.

        Written after all layers, the read-outs run each as soon as its layer is done.
        """
        w, g = self.w, self.g
        logits = g.add("Gather", g.floats(w.item_bias.T), self.flat, axis=1)  # (tasks, batch C)
        for depth in range(len(self.layers)):
            logits = self._read_out(depth, logits)
        shape = g.add("Concat", g.add("Shape", self.candidates), g.ints(w.tasks), axis=0)
        scores = g.add("Sigmoid", g.add("Reshape", g.add("Transpose", logits), shape))
        g.output(scores, "scores", "float32", "batch", "candidates", w.tasks)

    def _read_out(self, depth: int, logits: str) -> str:
        """`logits` (tasks, N) and one layer's share.

        The tasks come first, because a single row by a matrix is what the runtime has a kernel for.
        """
        g, model = self.g, cast("Scorer", self.w.model)
        found, outputs = self.layers[depth]
        matched = g.add("Mul", self.start, found)
        for seen, weights in ((outputs, model.heads), (found, model.lean), (matched, model.match)):
            logits = g.add("Gemm", g.floats(as_array(weights[depth]).T), seen, logits, transB=1)
        return logits


class Finding(Targets):
    """Targets that attend to `spec.search` events each, those of the highest scores of the layer.

    The score is what wide queries and keys give: the sum of the heads' own, time gaps included.
    """

    def attend(self, depth: int, keys: str, values: str) -> None:
        w, g = self.w, self.g
        asked = self.asked(depth)  # (batch, C, wide)
        tokens = g.add("Shape", keys, start=1, end=2)  # leading ones, the null token last, history
        first = g.add("Sub", tokens, g.add("Shape", "timestamps", start=1))
        known = g.add("Slice", keys, first, g.ints(np.iinfo(np.int64).max), g.ints(1))
        scores = g.add("MatMul", asked, g.add("Transpose", known, perm=[0, 2, 1]))
        most = g.add("Min", g.ints(w.spec.search), g.add("Shape", "timestamps", start=1))
        _, places = g.split("TopK", 2, scores, most, sorted=0)  # (batch, C, K)
        # Rows of all requests' tokens: (batch, C, 1 + K), the null token's before those found.
        start = g.add("Shape", self.candidates)
        null = g.add("Expand", g.ints(-1), g.add("Concat", start, g.ints(1), axis=0))
        rows = g.add("Add", g.add("Concat", null, places, axis=2), first)
        one, zero = g.constant(1, "int64"), g.constant(0, "int64")
        batch = g.add("Squeeze", g.add("Shape", keys, end=1), g.ints(0))
        offsets = g.add("Mul", g.add("Range", zero, batch, one), tokens)
        rows = g.add("Add", rows, g.add("Reshape", offsets, g.ints(-1, 1, 1)))
        each = g.add("Concat", g.ints(-1), g.add("Add", most, g.ints(1)), axis=0)
        rows = g.add("Reshape", rows, each)  # (batch C, 1 + K)
        found = g.add(
            "Attention",
            g.add("Reshape", asked, g.ints(-1, 1, w.wide)),
            g.add("Gather", g.add("Reshape", keys, g.ints(-1, w.wide)), rows),
            g.add("Gather", g.add("Reshape", values, g.ints(-1, w.width)), rows),
            q_num_heads=w.heads,
            kv_num_heads=w.heads,
            scale=1.0,
        )
        self.take(depth, g.add("Reshape", found, g.ints(-1, w.width)))


class Watched(Targets):
    """Targets that also tell where they look."""

    def __init__(self, w: GraphWeights, g: GraphBuilder, candidates: str, timestamp: str) -> None:
        super().__init__(w, g, candidates, timestamp)
        self.spread: list[str] = []  # each layer's attention, mean of the heads: (batch, C, S)

    def attend(self, depth: int, keys: str, values: str) -> None:
        self.spread.append(self._weights(self.asked(depth), keys))
        super().attend(depth, keys, values)

    def _weights(self, queries: str, keys: str) -> str:
        """What `Attention` keeps to itself: softmax of queries (batch, C, wide) by keys."""
        w, g = self.w, self.g
        by_head = g.ints(0, 0, w.heads, w.wide // w.heads)
        asked = g.add("Transpose", g.add("Reshape", queries, by_head), perm=[0, 2, 1, 3])
        known = g.add("Transpose", g.add("Reshape", keys, by_head), perm=[0, 2, 3, 1])
        weights = g.add("Softmax", g.add("MatMul", asked, known), axis=-1)
        return g.add("ReduceMean", weights, g.ints(1), keepdims=0)


def mix(w: GraphWeights, g: GraphBuilder, depth: int, stream: str, found: str, inner: Inner) -> str:
    """`Layer.mix` for (N, width)."""
    layer = w.model.layers[depth]
    hidden = g.add("Gemm", found, g.floats(as_array(layer.out.weight).T), stream)
    within = inner(depth, normalised(w, g, hidden))
    return g.add("Gemm", within, g.floats(as_array(layer.contract.weight).T), hidden)


def relu(w: GraphWeights, g: GraphBuilder, depth: int, x: str) -> str:
    """`Layer.inner`."""
    return g.add("Relu", linear(g, w.model.layers[depth].expand, x))


def linear(g: GraphBuilder, layer: nn.Linear, x: str) -> str:
    """A layer with a bias, of (N, columns)."""
    return g.add("Gemm", x, g.floats(as_array(layer.weight).T), g.floats(as_array(layer.bias)))
