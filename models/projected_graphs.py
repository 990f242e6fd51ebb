"""Graphs for users who come again: what candidates attend to is made once and kept.

Keys and values hang on the user's events and records alone; only the time gap's bias comes with the
request. So `project` makes them, with all that stands before history, and `projected` scores
candidates against them as `rank` does against records.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.graph import GraphBuilder
from models.graph_history import VECTOR, Fed, bucket_of, known_of, moved, parts_of, read_events
from models.graph_targets import Targets, ask, since
from models.graph_weights import GraphWeights


def project(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    """Events and their records to every layer's wide keys and values, a whole number of vectors.

    `offsets` say where each token's rows begin in the table of time gaps: 0 for an event's.
    """
    layers, offsets = projections(w, g)
    for depth, (keys, values) in enumerate(layers):
        g.output(keys, f"keys_{depth}", "float32", "batch", "tokens", w.wide)
        g.output(values, f"values_{depth}", "float32", "batch", "tokens", w.width)
    g.output(offsets, "offsets", "int32", "batch", "tokens")
    return g


def projections(w: GraphWeights, g: GraphBuilder) -> tuple[Sequence[tuple[str, str]], str]:
    """Of each layer wide keys (batch, tokens, wide) and values (batch, tokens, width); offsets."""
    past = read_events(w, g)
    items = g.add("Reshape", past.items, g.ints(-1))
    known = known_of(w, g, items, past.records)
    fed = Fed.of(w, g, items, past.feedback)
    keys = g.add("MatMul", known, g.floats(w.wide_keys(w.key)))
    keys = moved(g, keys, w.wide_key_states(), fed.states)
    values = fed.values(w, g, slice(0, w.spec.layers), known)

    batch = g.add("Shape", past.items, end=1)
    # Of `VECTOR` leading tokens as many as make history and the null token whole vectors.
    first = g.add("Mod", g.add("Shape", past.items, start=1), g.ints(VECTOR))

    def behind(leading: np.ndarray[Any, Any], tokens: str) -> str:
        """Tokens (N, …) of all requests, with those that stand before them: (batch, S, …)."""
        axes = leading.shape[1:]
        before = g.add("Slice", g.constant(leading, leading.dtype.name), first, g.ints(VECTOR))
        each = g.add("Concat", batch, g.ints(1, *(1 for _ in axes)), axis=0)
        rows = g.add("Concat", batch, g.ints(-1, *axes), axis=0)
        before = g.add("Expand", g.add("Unsqueeze", before, g.ints(0)), each)
        return g.add("Concat", before, g.add("Reshape", tokens, rows), axis=1)

    kinds = zip((keys, values), w.leading(VECTOR), strict=True)
    both = (
        [behind(leading[depth], part) for depth, part in enumerate(parts)]
        for leading, parts in (
            (leading, parts_of(g, w.spec.layers, tokens, axis=0)) for tokens, leading in kinds
        )
    )
    untimed = np.full(VECTOR, len(w.gaps(0)), np.int32)
    timed = g.add("Sub", fed.states[0], fed.states[0])
    return list(zip(*both, strict=True)), behind(untimed, timed)


def projected(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    """Candidates, and keys and values of what they attend to, to scores.

    What stands before history has any timestamp: its rows of the table are nothing but zeros.
    """
    candidates, timestamp = ask(g)
    times = g.input("timestamps", "int64", "batch", "records")
    offsets = g.input("offsets", "int32", "batch", "records")
    row = g.add("Add", bucket_of(g, since(g, timestamp, times)), offsets)
    targets = Targets(w, g, candidates, timestamp)
    columns = {"keys": w.wide, "values": w.width}
    for depth in range(w.spec.layers):
        keys, values = (
            g.input(f"{name}_{depth}", "float32", "batch", "records", size)
            for name, size in columns.items()
        )
        gaps = w.gaps(depth)
        bias = w.widened(np.zeros((len(gaps), w.width), np.float32), gaps[..., None])
        table = np.concatenate([bias, np.zeros_like(bias)])
        targets.attend(depth, g.add("Add", keys, g.add("Gather", g.floats(table), row)), values)
    targets.score()
    return g
