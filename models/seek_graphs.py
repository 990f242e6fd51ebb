"""Graphs of a search by attention: keys and values of a long history are made once and kept.

As in `found_graphs`, `project` makes what hangs on nothing that a request brings, here of all
events that are searched; `found` looks in each layer for each candidate's and attends to those.
One row more than there are events is the null token's: the last, and in the future of everything.
"""

from __future__ import annotations

import numpy as np

from models.graph import GraphBuilder
from models.graph_history import Fed, bucket_of, known_of, parts_of, read_events
from models.graph_targets import Targets, ask, since
from models.graph_weights import GraphWeights


def project(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    """Events and their records, and a last row of anything, to every layer's keys and values.

    All of them count as history: others are left out before.
    """
    past = read_events(w, g)
    items = g.add("Reshape", past.items, g.ints(-1))
    known = known_of(w, g, items, past.records)
    fed = Fed.of(w, g, items, past.feedback)
    layers = slice(0, w.spec.layers)
    made = fed.keys(w, g, layers, known), fed.values(w, g, layers, known)
    for name, tokens, null in zip(
        ("keys", "values"), made, (w.null_key, w.null_value), strict=True
    ):
        events = g.add("Slice", tokens, g.ints(0), g.ints(-1), g.ints(1))
        whole = g.add("Concat", events, g.floats(null), axis=1)
        for depth, part in enumerate(parts_of(g, w.spec.layers, whole, axis=0)):
            g.output(part, f"{name}_{depth}", "float32", "batch", "records", w.width)
    return g


def found(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    """Candidates, and keys and values of all that is searched, to scores. A batch is one request.

    The score that an event is found by is the sum of the heads' own, time gaps included.
    """
    candidates, timestamp = ask(g)
    times = g.input("timestamps", "int64", "batch", "records")
    memories = [
        [
            g.input(f"{name}_{depth}", "float32", "batch", "records", w.width)
            for name in ("keys", "values")
        ]
        for depth in range(w.spec.layers)
    ]
    table = np.concatenate([w.gaps(depth) for depth in range(w.spec.layers)], axis=1)
    bucket = g.add("Squeeze", bucket_of(g, since(g, timestamp, times)), g.ints(0))
    gaps = g.add("Gather", g.floats(table), bucket)  # (R, layers heads)
    targets = _Seeking(w, g, candidates, timestamp, g.add("Shape", times, start=1))
    biases = parts_of(g, w.spec.layers, gaps, axis=1)
    for depth, (memory, bias) in enumerate(zip(memories, biases, strict=True)):
        keys, values = (g.add("Squeeze", part, g.ints(0)) for part in memory)
        targets.seek(depth, keys, values, bias)
    targets.score()
    return g


class _Seeking(Targets):
    """Targets of one request that look for the events they attend to."""

    def __init__(
        self, w: GraphWeights, g: GraphBuilder, candidates: str, timestamp: str, rows: str
    ) -> None:
        super().__init__(w, g, candidates, timestamp)
        self.last = g.add("Sub", rows, g.ints(1))
        self.most = g.add("Min", g.ints(w.spec.search), self.last)
        count = g.add("Shape", self.flat)
        #: The null token's row for every candidate, and its bias.
        self.null = g.add("Expand", self.last, g.add("Concat", count, g.ints(1), axis=0))
        nothing = g.add("Concat", count, g.ints(w.heads, 1), axis=0)
        self.unbiased = g.add("Expand", g.floats([0.0]), nothing)

    def seek(self, depth: int, keys: str, values: str, bias: str) -> None:
        """Takes every target through one layer: keys, values (R, width), bias (R, heads)."""
        w, g = self.w, self.g
        weight, query_bias = w.query(depth)
        queries = g.add("Gemm", self.outputs, g.floats(weight), g.floats(query_bias))
        all_heads = g.add("ReduceSum", bias, g.ints(1), keepdims=0)
        scores = g.add("Gemm", queries, keys, all_heads, transB=1)  # (C, R)
        _, places = g.split("TopK", 2, scores, self.most, sorted=0)  # (C, K)
        of_heads = g.add("Transpose", g.add("Gather", bias, places), perm=[0, 2, 1])
        mask = g.add("Concat", of_heads, self.unbiased, axis=2)  # (C, heads, K + 1)
        rows = g.add("Concat", places, self.null, axis=1)
        met = g.add(
            "Attention",
            g.add("Unsqueeze", queries, g.ints(1)),
            g.add("Gather", keys, rows),
            g.add("Gather", values, rows),
            g.add("Unsqueeze", mask, g.ints(2)),
            q_num_heads=w.heads,
            kv_num_heads=w.heads,
            scale=1.0,
        )
        self.take(depth, g.add("Reshape", met, g.ints(-1, w.width)))
