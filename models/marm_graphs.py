"""Marm's graphs: rank, append, encode and explain, written out for the runtime.

What keeps the rank graph short (each measured: docs/log.md):

- The time gap's bias and the padding mask ride in one more column per head, where every query
  holds a 1 and every key holds its bias: attention needs no mask.
- Keys and values of all layers are made together, before the first candidate is looked at.
- Norms carry no weights, so the one after a layer serves the read-out and the next query.
- Residual sums and biases are the third operand of a matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx

from models.graph import GraphBuilder
from models.graph_history import Fed, Past, bucket_of, counted, memories, parts_of, read_past
from models.graph_norm import normalised
from models.graph_targets import Finding, Targets, Watched, ask, mix, relu, since
from models.graph_weights import GraphWeights

Array = np.ndarray[Any, Any]


def rank(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    """Cached records and candidates to scores."""
    candidates, timestamp = ask(g)
    past, times = read_past(w, g)
    gap = since(g, timestamp, times)
    searches = w.spec.search and not w.spec.finds_first
    targets = (Finding if searches else Targets)(w, g, candidates, timestamp)
    for depth, memory in enumerate(memories(w, g, past, bucket_of(g, gap))):
        targets.attend(depth, *memory)
    targets.score()
    return g


def explain(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    """The rank graph, which also says how each layer's attention is spread: means of the heads."""
    candidates, timestamp = ask(g)
    past, times = read_past(w, g)
    targets = Watched(w, g, candidates, timestamp)
    for depth, memory in enumerate(memories(w, g, past, bucket_of(g, since(g, timestamp, times)))):
        targets.attend(depth, *memory)
    targets.score()
    layers = [g.add("Unsqueeze", weights, g.ints(1)) for weights in targets.spread]
    end = g.ints(np.iinfo(np.int64).max)
    spread = g.add("Concat", *layers, axis=1)  # (batch, depth, C, S)
    records = g.add("Shape", "timestamps", start=1)
    first = g.add("Neg", g.add("Add", records, g.ints(1)))
    known = g.add("Slice", spread, first, end, g.ints(3))  # the null token, then history
    axes = ("batch", w.spec.depth, "candidates")
    history = g.add("Slice", known, g.ints(1), end, g.ints(3))
    g.output(history, "attention", "float32", *axes, "records")
    nothing = g.add("Squeeze", g.add("Slice", known, g.ints(0), g.ints(1), g.ints(3)), g.ints(3))
    g.output(nothing, "nothing", "float32", *axes)
    return g


def append(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    """Cached records and new events to their records."""
    past, times = read_past(w, g)
    items = g.input("new_items", "int64", "batch", "events")
    timestamps = g.input("new_timestamps", "int64", "batch", "events")
    feedback = g.input("new_feedback", "int8", "batch", "events", w.tasks)
    joined = Past(
        g.add("Concat", past.items, items, axis=1),
        g.add("Concat", past.feedback, feedback, axis=1),
        past.records,
    )
    seen = g.add("Concat", times, timestamps, axis=1)
    _write_row(w, g, records_of(w, g, joined, seen, items, timestamps))
    return g


def encode(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    """A whole timeline to its records."""
    items = g.input("items", "int64", "batch", "events")
    timestamps = g.input("timestamps", "int64", "batch", "events")
    feedback = g.input("feedback", "int8", "batch", "events", w.tasks)
    past = Past(items, feedback, None)
    _write_row(w, g, records_of(w, g, past, timestamps, items, timestamps))
    return g


def records_of(
    w: GraphWeights, g: GraphBuilder, seen: Past, times: str, items: str, timestamps: str
) -> str | None:
    """Records of the new events among all those seen: cached ones first, then the new.

    (batch, T, depth - 1, width), or None where no layer attends to records.
    """
    biases = _window_biases(w, g, times, timestamps, counted(w, g, seen.feedback))
    start = w.look_up(g, items)  # (batch, T, width)
    known = w.look_up(g, seen.items)  # (batch, R + T, width)
    fed = Fed.of(w, g, g.add("Reshape", seen.items, g.ints(-1)), seen.feedback)
    cached = _by_depth(w, g, seen.records)
    stream, outputs = start, normalised(w, g, start)
    batch = g.add("Shape", items, end=1)
    rows = g.add("Concat", batch, g.ints(-1, w.width), axis=0)
    nulls = g.add("Concat", batch, g.ints(1, w.width), axis=0)
    records = []
    for depth in range(w.spec.hidden_depths):
        flat = g.add("Reshape", known, g.ints(1, -1, w.width))
        layer = slice(depth, depth + 1)
        keys = fed.keys(w, g, layer, flat)
        values = fed.values(w, g, layer, flat)
        keys, values = (
            g.add(
                "Concat",
                g.add("Expand", g.floats(null[depth]), nulls),
                g.add("Reshape", tokens, rows),
                axis=1,
            )
            for null, tokens in ((w.null_key, keys), (w.null_value, values))
        )
        query, query_bias = w.query(depth)
        queries = g.add("MatMul", outputs, g.floats(query))
        found = g.add(
            "Attention",
            g.add("Add", queries, g.floats(query_bias)),
            keys,
            values,
            biases[depth],
            q_num_heads=w.heads,
            kv_num_heads=w.heads,
            scale=1.0,
        )
        stream = _unflattened(w, g, depth, stream, found)
        outputs = normalised(w, g, stream)
        records.append(g.add("Unsqueeze", outputs, g.ints(2)))
        known = g.add("Concat", *cached[depth : depth + 1], outputs, axis=1)
    return g.add("Concat", *records, axis=2) if records else None


def _unflattened(w: GraphWeights, g: GraphBuilder, depth: int, stream: str, found: str) -> str:
    """`mix` for (batch, T, width)."""
    shape = g.add("Shape", stream)
    flat = g.ints(-1, w.width)
    inner = partial(relu, w, g)
    stream, found = g.add("Reshape", stream, flat), g.add("Reshape", found, flat)
    mixed = mix(w, g, depth, stream, found, inner)
    return g.add("Reshape", mixed, shape)


def _by_depth(w: GraphWeights, g: GraphBuilder, records: str | None) -> tuple[str, ...]:
    """Each (batch, R, width)."""
    if records is None:
        return ()
    parts = parts_of(g, w.spec.hidden_depths, records, axis=2)
    return tuple(g.add("Squeeze", part, g.ints(2)) for part in parts)


def _write_row(w: GraphWeights, g: GraphBuilder, records: str | None) -> None:
    """Names the outputs as the cache's row has them; int8 with one scale per record."""
    if records is None:
        return
    axes = ("batch", "events", w.spec.hidden_depths)
    if w.spec.cache_dtype == "float32":
        g.output(records, "new_records", "float32", *axes, w.width)
        return
    if w.spec.cache_dtype == "float16":
        half = g.add("Cast", records, to=onnx.TensorProto.FLOAT16)
        g.output(half, "new_records", "float16", *axes, w.width)
        return
    most = g.add("ReduceMax", g.add("Abs", records), g.ints(3), keepdims=0)
    scale = g.add("Max", g.add("Div", most, g.floats(127.0)), g.floats(1e-4))
    half = g.add("Cast", scale, to=onnx.TensorProto.FLOAT16)
    # Divided by what will be multiplied with: the scale after its rounding.
    back = g.add("Unsqueeze", g.add("Cast", half, to=onnx.TensorProto.FLOAT), g.ints(3))
    steps = g.add("Round", g.add("Div", records, back))
    steps = g.add("Clip", steps, g.floats(-127.0), g.floats(127.0))
    g.output(g.add("Cast", steps, to=onnx.TensorProto.INT8), "new_records", "int8", *axes, w.width)
    g.output(half, "new_scales", "float16", *axes)


def _window_biases(
    w: GraphWeights, g: GraphBuilder, times: str, timestamps: str, counts: str | None
) -> Sequence[str]:
    """Per layer the bias of each (new event, null or seen event): (batch, heads, T, 1 + R + T).

    `counts` (batch, R + T) says which of those seen are attended to at all.
    """
    if not w.spec.hidden_depths:
        return ()
    gap = g.add(
        "Sub", g.add("Unsqueeze", timestamps, g.ints(2)), g.add("Unsqueeze", times, g.ints(1))
    )
    seen = g.add("Squeeze", g.add("Shape", times, start=1), g.ints(0))
    new = g.add("Squeeze", g.add("Shape", timestamps, start=1), g.ints(0))
    zero, one = g.constant(0, "int64"), g.constant(1, "int64")
    position = g.add("Range", zero, seen, one)
    own = g.add("Unsqueeze", g.add("Range", g.add("Sub", seen, new), seen, one), g.ints(1))
    oldest = g.add("Sub", own, g.constant(w.spec.window, "int64"))
    inside = g.add("And", g.add("Less", position, own), g.add("GreaterOrEqual", position, oldest))
    if counts is not None:
        inside = g.add("And", inside, g.add("Unsqueeze", counts, g.ints(1)))
    # Outside the window counts as the future: bucket 0. The null key has one of its own.
    gaps = np.concatenate([w.gaps(depth) for depth in range(w.spec.hidden_depths)], axis=1)
    table = np.pad(gaps, [(0, 1), (0, 0)])
    bucket = g.add("Where", inside, bucket_of(g, gap), g.constant(0, "int32"))
    bucket = g.add("Pad", bucket, g.ints(0, 0, 1, 0, 0, 0), g.constant(len(gaps), "int32"))
    # One row for all layers and heads, because a look-up costs the same whatever its length.
    bias = g.add("Transpose", g.add("Gather", g.floats(table), bucket), perm=[0, 3, 1, 2])
    return parts_of(g, w.spec.hidden_depths, bias, axis=1)
