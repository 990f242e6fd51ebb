"""Graphs of a search by category: what layers attend to is made once, and found ready to use.

Keys and values of an event hang on nothing that a request brings; only the time gap's bias does. So
`project` makes them for the events that are found for one category, and they stay with the user;
`found` runs the candidates of each category against its own. Only attention takes the categories
apart, so that no candidate is computed twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.attention import MASKED
from models.graph import GraphBuilder
from models.graph_history import VECTOR, Fed, bucket_of, known_of, parts_of, read_events
from models.graph_targets import Targets, ask
from models.graph_weights import GraphWeights


def project(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    """The events of a category and their records to every layer's keys and values.

    All of them count as history: others are not found.
    """
    past = read_events(w, g, w.spec.attends)
    items = g.add("Reshape", past.items, g.ints(-1))
    known = known_of(w, g, items, past.records)
    fed = Fed.of(w, g, items, past.feedback)
    layers = slice(0, w.spec.layers)
    batch = g.add("Shape", past.items, end=1)
    rows = g.add("Concat", batch, g.ints(-1, w.heads, w.head), axis=0)
    made = fed.keys(w, g, layers, known), fed.values(w, g, layers, known)
    nulls, turns = (w.null_key, w.null_value), ([0, 2, 3, 1], [0, 2, 1, 3])
    for (name, axes), tokens, null, turn in zip(_ports(w), made, nulls, turns, strict=True):
        empty = np.zeros((w.spec.layers, _leading(w) - 1, w.width), np.float32)
        leading = np.concatenate([empty, null], axis=1).reshape(w.spec.layers, -1, *_by_head(w))
        for depth, part in enumerate(parts_of(g, w.spec.layers, tokens, axis=0)):
            each = g.add("Concat", batch, g.ints(*leading.shape[1:]), axis=0)
            before = g.add("Expand", g.floats(leading[depth]), each)
            whole = g.add("Concat", before, g.add("Reshape", part, rows), axis=1)
            turned = g.add("Transpose", whole, perm=turn)
            g.output(turned, f"{name}_{depth}", "float32", "batch", *axes)
    return g


def found(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    """Candidates, and the keys and values of what was found for them, to scores.

    A batch is one request. A row holds candidates of one category: `places` (rows, columns) are
    theirs, `seats` the row and column of each candidate; `timestamps` are those of its events.
    """
    candidates, timestamp = ask(g)
    times = g.input("timestamps", "int64", "batch", "rows", w.spec.attends)
    places = g.input("places", "int64", "batch", "rows", "columns")
    seats = g.input("seats", "int64", "batch", "candidates", 2)
    keys, values = (
        [
            g.input(f"{name}_{depth}", "float32", "batch", "rows", *axes)
            for depth in range(w.spec.layers)
        ]
        for name, axes in _ports(w)
    )
    gap = g.add("Sub", g.add("Unsqueeze", timestamp, g.ints(1, 2)), times)
    biases = _biases(w, g, g.add("Squeeze", gap, g.ints(0)))
    inside = (g.add("Squeeze", name, g.ints(0)) for name in (places, seats))
    targets = _Seated(w, g, candidates, timestamp, *inside)
    for depth, bias in enumerate(biases):
        known, said = (g.add("Squeeze", part[depth], g.ints(0)) for part in (keys, values))
        targets.meet(depth, known, said, bias)
    targets.score()
    return g


class _Seated(Targets):
    """Targets of one request that sit beside others of their category while they attend."""

    def __init__(
        self,
        w: GraphWeights,
        g: GraphBuilder,
        candidates: str,
        timestamp: str,
        places: str,
        seats: str,
    ) -> None:
        super().__init__(w, g, candidates, timestamp)
        self.places, self.seats = places, seats
        #: (rows, columns, heads, head)
        self.table = g.add("Concat", g.add("Shape", places), g.ints(*_by_head(w)), axis=0)
        self.whole = g.add("Concat", g.add("Shape", places), g.ints(w.width), axis=0)

    def meet(self, depth: int, keys: str, values: str, bias: str) -> None:
        """Takes every target through one layer.

        keys (rows, heads, head, S), values (rows, heads, S, head); bias (rows, heads, 1, S).
        """
        w, g = self.w, self.g
        weight, query_bias = w.query(depth)
        queries = g.add("Gemm", self.outputs, g.floats(weight), g.floats(query_bias))
        seated = g.add("Reshape", g.add("Gather", queries, self.places), self.table)
        asked = g.add("Transpose", seated, perm=[0, 2, 1, 3])
        scores = g.add("Add", g.add("MatMul", asked, keys), bias)
        met = g.add("MatMul", g.add("Softmax", scores, axis=-1), values)
        side_by_side = g.add("Reshape", g.add("Transpose", met, perm=[0, 2, 1, 3]), self.whole)
        self.take(depth, g.add("GatherND", side_by_side, self.seats))


def _biases(w: GraphWeights, g: GraphBuilder, gap_s: str) -> Sequence[str]:
    """Per layer the bias of each token, (rows, heads, 1, S), from gaps (rows, events)."""
    if not w.spec.layers:
        return ()
    table = np.concatenate([w.gaps(depth) for depth in range(w.spec.layers)], axis=1)
    events = g.add("Gather", g.floats(table), bucket_of(g, gap_s))  # (rows, events, layers heads)
    leading = np.full((_leading(w), table.shape[1]), MASKED, np.float32)
    leading[-1] = 0  # the null token's
    each = g.add("Concat", g.add("Shape", gap_s, end=1), g.ints(*leading.shape), axis=0)
    whole = g.add("Concat", g.add("Expand", g.floats(leading), each), events, axis=1)
    turned = g.add("Unsqueeze", g.add("Transpose", whole, perm=[0, 2, 1]), g.ints(2))
    return parts_of(g, w.spec.layers, turned, axis=1)


def _ports(w: GraphWeights) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Keys and values of one layer: the name, and its axes behind the first."""
    tokens = _leading(w) + w.spec.attends
    return ("keys", (w.heads, w.head, tokens)), ("values", (w.heads, tokens, w.head))


def _leading(w: GraphWeights) -> int:
    """Tokens before the events: as many as make whole vectors, the null token last."""
    return -w.spec.attends % VECTOR or VECTOR


def _by_head(w: GraphWeights) -> tuple[int, int]:
    return w.heads, w.head
