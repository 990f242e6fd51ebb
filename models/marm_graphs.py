"""Marm's graphs: rank, append, encode and explain, written out for the runtime.

What keeps the rank graph short (each measured: docs/log.md):

- The time gap's bias and the padding mask ride in one more column per head, where every query
  holds a 1 and every key holds its bias: attention needs no mask.
- Keys and values of all layers are made together, before the first candidate is looked at.
- Norms carry no weights, so the one after a layer serves the read-out and the next query.
- Residual sums and biases are the third operand of a matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from models.bundle import EXPLAIN, Graph
from models.graph import GraphBuilder
from models.graph_weights import GraphWeights, as_array
from models.marm import Marm
from models.spec import TIME_GAP_EDGES_S

Array = np.ndarray[Any, Any]

#: Attention counts its keys in vectors of 16 floats; a rest costs more than a whole one.
VECTOR = 16


def build_graphs(model: Marm) -> dict[str, tuple[onnx.ModelProto, Graph]]:
    """Every graph of a bundle, by name."""
    writers = {"rank": _rank, "append": _append, "encode": _encode}
    if model.spec.depth:  # else there is no attention to show
        writers[EXPLAIN] = _explain
    return {
        name: write(GraphWeights(model), GraphBuilder()).build(f"{name}.onnx")
        for name, write in writers.items()
    }


@dataclass(frozen=True, slots=True)
class _Past:
    """History as the graph sees it."""

    items: str  # (batch, R)
    feedback: str  # (batch, R, tasks)
    records: str | None  # of depth 1 …: (batch, R, depth - 1, width)


def _rank(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    _score(w, g)
    return g


def _explain(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    """The rank graph, which also says how each layer's attention is spread: means of the heads."""
    layers = [g.add("Unsqueeze", weights, g.ints(1)) for weights in _score(w, g, explains=True)]
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


def _score(w: GraphWeights, g: GraphBuilder, *, explains: bool = False) -> list[str]:
    """Writes the scores; answers each layer's attention (batch, C, S) where it `explains`."""
    candidates = g.input("candidates", "int64", "batch", "candidates")
    timestamp = g.input("timestamp", "int64", "batch")
    past, times = _past(w, g)
    gap = g.add("Sub", g.add("Unsqueeze", timestamp, g.ints(1)), times)
    # From here the candidates of all requests are one list; attention takes them apart.
    asked = g.add("Reshape", candidates, g.ints(-1))
    start = g.add("Gather", g.floats(w.embedding), asked)  # (batch C, width)
    stream, outputs = start, _normalised(w, g, start)
    rows = g.add("Concat", g.add("Shape", timestamp), g.ints(-1, w.wide), axis=0)
    layers, spread = [], []
    for depth, (keys, values) in enumerate(_memories(w, g, past, _bucket(g, gap))):
        queries = g.add("Gemm", outputs, *map(g.floats, w.wide_query(depth)))
        wide = g.add("Reshape", queries, rows)
        if explains:
            spread.append(_weights(w, g, wide, keys))
        found = g.add(
            "Attention",
            wide,
            keys,
            values,
            q_num_heads=w.heads,
            kv_num_heads=w.heads,
            scale=1.0,
        )
        found = g.add("Reshape", found, g.ints(-1, w.width))
        stream = _mix(w, g, depth, stream, found)
        outputs = _normalised(w, g, stream)
        layers.append((found, outputs))
    logits = g.add("Gather", g.floats(w.item_bias.T), asked, axis=1)  # (tasks, batch C)
    for depth, (found, outputs) in enumerate(layers):
        logits = _read_out(w, g, depth, logits, start, found, outputs)
    shape = g.add("Concat", g.add("Shape", candidates), g.ints(w.tasks), axis=0)
    scores = g.add("Sigmoid", g.add("Reshape", g.add("Transpose", logits), shape))
    g.output(scores, "scores", "float32", "batch", "candidates", w.tasks)
    return spread


def _weights(w: GraphWeights, g: GraphBuilder, queries: str, keys: str) -> str:
    """What `Attention` keeps to itself: softmax of wide queries (batch, C, wide) by wide keys.

    (batch, C, S), the mean of the heads.
    """
    by_head = g.ints(0, 0, w.heads, w.wide // w.heads)
    asked = g.add("Transpose", g.add("Reshape", queries, by_head), perm=[0, 2, 1, 3])
    known = g.add("Transpose", g.add("Reshape", keys, by_head), perm=[0, 2, 3, 1])
    weights = g.add("Softmax", g.add("MatMul", asked, known), axis=-1)
    return g.add("ReduceMean", weights, g.ints(1), keepdims=0)


def _read_out(
    w: GraphWeights,
    g: GraphBuilder,
    depth: int,
    logits: str,
    start: str,
    found: str,
    outputs: str,
) -> str:
    """`logits` (tasks, N) and one layer's share, read from (N, width).

    The tasks come first, because a single row by a matrix is what the runtime has a kernel for.
    Written after all layers, these nodes run each as soon as its layer is done.
    """
    matched = g.add("Mul", start, found)
    model = w.model
    for seen, weights in ((outputs, model.heads), (found, model.lean), (matched, model.match)):
        logits = g.add("Gemm", g.floats(as_array(weights[depth]).T), seen, logits, transB=1)
    return logits


def _memories(
    w: GraphWeights, g: GraphBuilder, past: _Past, bucket: str
) -> Iterable[tuple[str, str]]:
    """What each layer attends to: wide keys (batch, S, wide) and values (batch, S, width).

    S is a whole number of vectors: masked tokens, the null token, and history.
    """
    depth = w.spec.depth
    if not depth:
        return ()
    items = g.add("Reshape", past.items, g.ints(-1))  # (N,) of all requests
    known = g.add("Gather", g.floats(w.embedding), g.add("Unsqueeze", items, g.ints(0)))
    if past.records is not None:
        cached = g.add("Reshape", past.records, g.ints(-1, w.spec.cached_depths, w.width))
        cached = g.add("Transpose", cached, perm=[1, 0, 2])
        known = g.add("Concat", known, cached, axis=0)  # (depth, N, width)
    fed = _Fed.of(w, g, items, past.feedback)
    timed = g.add("Mul", g.add("Reshape", bucket, g.ints(-1)), g.constant(3, "int32"))
    states = (g.add("Add", timed, fed.states[0]), *fed.states[1:])
    keys = g.add("MatMul", known, g.floats(w.widened(w.key)))
    keys = _moved(g, keys, w.timed_key_states(), states)
    values = fed.values(w, g, slice(0, depth), known)

    batch = g.add("Shape", past.items, end=1)
    each = g.add("Concat", g.ints(1), batch, g.ints(1, 1), axis=0)
    all_layers = g.add("Mul", batch, g.ints(depth))
    # Of `VECTOR` leading tokens as many as make history and the null token whole vectors.
    first = g.add("Mod", g.add("Shape", past.items, start=1), g.ints(VECTOR))

    def by_layer(leading: Array, tokens: str) -> Sequence[str]:
        shape = g.add("Concat", all_layers, g.ints(-1, leading.shape[-1]), axis=0)
        before = g.add("Slice", g.floats(leading[:, None]), first, g.ints(VECTOR), g.ints(2))
        before = g.add("Reshape", g.add("Expand", before, each), shape)
        joined = g.add("Concat", before, g.add("Reshape", tokens, shape), axis=1)
        return _parts(g, depth, joined, axis=0)

    leading_keys, leading_values = w.leading(VECTOR)
    return zip(by_layer(leading_keys, keys), by_layer(leading_values, values), strict=True)


def _parts(g: GraphBuilder, count: int, tensor: str, axis: int) -> Sequence[str]:
    """Equal parts along an axis."""
    if count == 1:
        return (tensor,)
    return g.split("Split", count, tensor, axis=axis, num_outputs=count)


def _moved(g: GraphBuilder, tokens: str, tables: Iterable[Array], rows: Iterable[str]) -> str:
    """Tokens (layers, N, columns) plus a row of every table (layers, rows, columns)."""
    for table, row in zip(tables, rows, strict=True):
        tokens = g.add("Add", tokens, g.add("Gather", g.floats(table), row, axis=1))
    return tokens


def _append(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    past, times = _past(w, g)
    items = g.input("new_items", "int64", "batch", "events")
    timestamps = g.input("new_timestamps", "int64", "batch", "events")
    feedback = g.input("new_feedback", "int8", "batch", "events", w.tasks)
    joined = _Past(
        g.add("Concat", past.items, items, axis=1),
        g.add("Concat", past.feedback, feedback, axis=1),
        past.records,
    )
    return _records(w, g, joined, g.add("Concat", times, timestamps, axis=1), items, timestamps)


def _encode(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    items = g.input("items", "int64", "batch", "events")
    timestamps = g.input("timestamps", "int64", "batch", "events")
    feedback = g.input("feedback", "int8", "batch", "events", w.tasks)
    return _records(w, g, _Past(items, feedback, None), timestamps, items, timestamps)


def _records(
    w: GraphWeights, g: GraphBuilder, seen: _Past, times: str, items: str, timestamps: str
) -> GraphBuilder:
    """Records of the new events among all those seen: cached ones first, then the new."""
    biases = _window_biases(w, g, times, timestamps)
    start = g.add("Gather", g.floats(w.embedding), items)  # (batch, T, width)
    known = g.add("Gather", g.floats(w.embedding), seen.items)  # (batch, R + T, width)
    fed = _Fed.of(w, g, g.add("Reshape", seen.items, g.ints(-1)), seen.feedback)
    cached = _by_depth(w, g, seen.records)
    stream, outputs = start, _normalised(w, g, start)
    batch = g.add("Shape", items, end=1)
    rows = g.add("Concat", batch, g.ints(-1, w.width), axis=0)
    nulls = g.add("Concat", batch, g.ints(1, w.width), axis=0)
    records = []
    for depth in range(w.spec.cached_depths):
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
        outputs = _normalised(w, g, stream)
        records.append(g.add("Unsqueeze", outputs, g.ints(2)))
        known = g.add("Concat", *cached[depth : depth + 1], outputs, axis=1)
    if records:
        joined = g.add("Concat", *records, axis=2)  # (batch, T, depth - 1, width)
        _write_row(w, g, joined)
    return g


def _unflattened(w: GraphWeights, g: GraphBuilder, depth: int, stream: str, found: str) -> str:
    """`_mix` for (batch, T, width)."""
    shape = g.add("Shape", stream)
    flat = g.ints(-1, w.width)
    mixed = _mix(w, g, depth, g.add("Reshape", stream, flat), g.add("Reshape", found, flat))
    return g.add("Reshape", mixed, shape)


def _mix(w: GraphWeights, g: GraphBuilder, depth: int, stream: str, found: str) -> str:
    """`TargetAttention.mix` for (N, width)."""
    layer = w.model.layers[depth]
    hidden = g.add("Gemm", found, g.floats(as_array(layer.out.weight).T), stream)
    inner = g.add(
        "Gemm",
        _normalised(w, g, hidden),
        g.floats(as_array(layer.expand.weight).T),
        g.floats(as_array(layer.expand.bias)),
    )
    return g.add("Gemm", g.add("Relu", inner), g.floats(as_array(layer.contract.weight).T), hidden)


def _normalised(w: GraphWeights, g: GraphBuilder, x: str) -> str:
    return g.add("RMSNormalization", x, g.floats(np.ones(w.width)), axis=-1, epsilon=1e-6)


@dataclass(frozen=True, slots=True)
class _Fed:
    """Feedback of N history tokens, ready to be joined with their records of any layers."""

    label: str  # (N, tasks)
    is_unknown: str  # (N, tasks)
    prior: str  # (N, tasks)
    states: Sequence[str]  # per task (N,): 0 unknown, 1 for label 0, 2 for label 1

    @classmethod
    def of(cls, w: GraphWeights, g: GraphBuilder, items: str, feedback: str) -> _Fed:
        """Of items (N,), and feedback of as many events in any shape that ends with the tasks."""
        feedback = g.add("Reshape", feedback, g.ints(-1, w.tasks))
        label = g.add("Cast", feedback, to=onnx.TensorProto.FLOAT)
        logit = np.log(w.expectation / (1 - w.expectation))
        state = g.add("Cast", feedback, to=onnx.TensorProto.INT32)
        states = _parts(g, w.tasks, g.add("Add", state, g.constant(1, "int32")), axis=1)
        return cls(
            label,
            g.add("Less", label, g.floats(0.0)),
            g.add("Gather", g.floats(logit), items),
            tuple(g.add("Squeeze", part, g.ints(1)) for part in states),
        )

    def keys(self, w: GraphWeights, g: GraphBuilder, layers: slice, records: str) -> str:
        """Of records (layers, N, width), in the same shape."""
        keys = g.add("MatMul", records, g.floats(w.key[layers]))
        return _moved(g, keys, np.moveaxis(w.key_states[layers], 1, 0), self.states)

    def values(self, w: GraphWeights, g: GraphBuilder, layers: slice, records: str) -> str:
        """Of records (layers, N, width), in the same shape."""
        foresight = g.add("MatMul", records, g.floats(w.foresight[layers]))
        expected = g.add("Sigmoid", g.add("Add", foresight, self.prior))
        missed = g.add("Sub", self.label, expected)
        residual = g.add("Where", self.is_unknown, g.floats(0.0), missed)
        scaled = [g.add("Mul", records, part) for part in _parts(g, w.tasks, residual, axis=2)]
        joined = g.add("Concat", records, *scaled, residual, axis=2)
        values = g.add("MatMul", joined, g.floats(w.value[layers]))
        return _moved(g, values, np.moveaxis(w.value_states[layers], 1, 0), self.states)


def _past(w: GraphWeights, g: GraphBuilder) -> tuple[_Past, str]:
    """The inputs that describe cached history, and their times."""
    items = g.input("items", "int64", "batch", "records")
    timestamps = g.input("timestamps", "int64", "batch", "records")
    feedback = g.input("feedback", "int8", "batch", "records", w.tasks)
    return _Past(items, feedback, _read_row(w, g)), timestamps


def _read_row(w: GraphWeights, g: GraphBuilder) -> str | None:
    """Cached records in float32: (batch, R, depth - 1, width)."""
    names = w.spec.row.names or ()
    ports = [
        g.input(name, w.spec.row[name].base.name, "batch", "records", *w.spec.row[name].shape)
        for name in names
    ]
    if not ports:
        return None
    records = ports[0]
    if w.spec.cache_dtype != "float32":
        records = g.add("Cast", records, to=onnx.TensorProto.FLOAT)
    if w.spec.cache_dtype == "int8":
        scales = g.add("Cast", ports[1], to=onnx.TensorProto.FLOAT)
        records = g.add("Mul", records, g.add("Unsqueeze", scales, g.ints(3)))
    return records


def _by_depth(w: GraphWeights, g: GraphBuilder, records: str | None) -> tuple[str, ...]:
    """Each (batch, R, width)."""
    if records is None:
        return ()
    parts = _parts(g, w.spec.cached_depths, records, axis=2)
    return tuple(g.add("Squeeze", part, g.ints(2)) for part in parts)


def _write_row(w: GraphWeights, g: GraphBuilder, records: str) -> None:
    """Names the outputs as the cache's row has them; int8 with one scale per record."""
    axes = ("batch", "events", w.spec.cached_depths)
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


def _bucket(g: GraphBuilder, gap_s: str) -> str:
    """How many edges lie at or below each gap, as an index: 0 for the future, 1 for 0 seconds.

    By a logarithm, because comparing with every edge costs 32 times as much. It is exact: three
    quarters of a second later no whole gap is near a power of two, where a logarithm's rounding
    would decide, and doubles tell them apart.
    """
    latest = TIME_GAP_EDGES_S[-1] + 0.75
    seconds = g.add("Add", g.add("Cast", gap_s, to=onnx.TensorProto.DOUBLE), g.doubles(0.75))
    seconds = g.add("Clip", seconds, g.doubles(0.3), g.doubles(latest))
    power = g.add("Mul", g.add("Log", seconds), g.doubles(1 / math.log(2)))
    return g.add("Cast", g.add("Add", power, g.doubles(2.0)), to=onnx.TensorProto.INT32)


def _window_biases(w: GraphWeights, g: GraphBuilder, times: str, timestamps: str) -> Sequence[str]:
    """Per layer the bias of each (new event, null or seen event): (batch, heads, T, 1 + R + T)."""
    if not w.spec.cached_depths:
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
    # Outside the window counts as the future: bucket 0. The null key has one of its own.
    gaps = np.concatenate([w.gaps(depth) for depth in range(w.spec.cached_depths)], axis=1)
    table = np.pad(gaps, [(0, 1), (0, 0)])
    bucket = g.add("Where", inside, _bucket(g, gap), g.constant(0, "int32"))
    bucket = g.add("Pad", bucket, g.ints(0, 0, 1, 0, 0, 0), g.constant(len(gaps), "int32"))
    # One row for all layers and heads, because a look-up costs the same whatever its length.
    bias = g.add("Transpose", g.add("Gather", g.floats(table), bucket), perm=[0, 3, 1, 2])
    return _parts(g, w.spec.cached_depths, bias, axis=1)
