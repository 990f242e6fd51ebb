"""Marm's three graphs: rank, append and encode, written out for the runtime.

Three ideas keep the rank graph short. The time gap's bias and the padding mask ride in one more
column per head, where every query holds a 1 and every key holds its bias: attention needs no
mask. Norms carry no weights, so the one after a layer serves the read-out and the next query.
Residual sums and biases are the third operand of a matrix product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from torch import Tensor

from models.attention import MASKED
from models.bundle import Graph
from models.graph import GraphBuilder
from models.marm import Marm
from models.spec import TIME_GAP_EDGES_S

Array = np.ndarray[Any, Any]


def build_graphs(model: Marm) -> dict[str, tuple[onnx.ModelProto, Graph]]:
    """Every graph of a bundle, by name."""
    writers = {"rank": _rank, "append": _append, "encode": _encode}
    return {
        name: write(_Weights(model), GraphBuilder()).build(f"{name}.onnx")
        for name, write in writers.items()
    }


class _Weights:
    """The model's weights as numpy arrays, and its sizes."""

    def __init__(self, model: Marm) -> None:
        self.model = model
        self.spec = model.spec
        self.width = model.spec.width
        self.heads = model.spec.heads
        self.head = model.spec.width // model.spec.heads
        self.tasks = len(model.spec.tasks)
        self.embedding = _array(model.embedding.weight)
        self.item_bias = _array(model.item_bias.weight)
        self.expectation = _array(model.expectation)

    def query(self, depth: int) -> tuple[Array, Array]:
        """Weight (width, width) and bias; scores come out divided by the root of the head size."""
        layer = self.model.layers[depth]
        scale = 1 / math.sqrt(self.head)
        return _array(layer.query.weight).T * scale, _array(layer.query.bias) * scale

    def history(self, depth: int) -> tuple[Array, Array]:
        """What makes keys and values of tokens (see `_Fed`), and their state vectors.

        ((1 + tasks) width + tasks, 2 width) and (tasks, 3, 2 width).
        """
        layer = self.model.layers[depth]
        key, value = _array(layer.key.weight).T, _array(layer.value.weight).T
        joined = np.concatenate([np.pad(key, ((0, len(value) - len(key)), (0, 0))), value], axis=1)
        states = [_array(layer.feedback_key), _array(layer.feedback_value)]
        return joined, np.concatenate(states, axis=2)

    def null(self, depth: int) -> Array:
        layer = self.model.layers[depth]
        return np.concatenate([_array(layer.null_key), _array(layer.null_value)])

    def gaps(self, depth: int) -> Array:
        """Bias by bucket and head: (buckets, heads); bucket 0, the future, is masked."""
        bias = _array(self.model.layers[depth].gap_bias)
        if not self.spec.time_gap:
            bias = np.zeros_like(bias)
        return np.concatenate([np.full((1, self.heads), MASKED, np.float32), bias[1:]])

    def ones_column(self, joined: Array) -> Array:
        """Widens the keys' half of (…, 2 width) by one zero column per head, for the bias."""
        keys = joined[..., : self.width].reshape(*joined.shape[:-1], self.heads, self.head)
        wide = np.pad(keys, [(0, 0)] * (keys.ndim - 1) + [(0, 1)])
        flat = wide.reshape(*joined.shape[:-1], self.heads * (self.head + 1))
        return np.concatenate([flat, joined[..., self.width :]], axis=-1)


def _array(tensor: Tensor) -> Array:
    return tensor.detach().numpy()


@dataclass(frozen=True, slots=True)
class _Past:
    """History as the graph sees it: items, feedback and records by depth."""

    items: str  # (batch, R)
    feedback: str  # (batch, R, tasks)
    records: tuple[str, ...]  # depth 1 …: (batch, R, width)


def _rank(w: _Weights, g: GraphBuilder) -> GraphBuilder:
    candidates = g.input("candidates", "int64", "batch", "candidates")
    timestamp = g.input("timestamp", "int64", "batch")
    past, times = _past(w, g)
    gap = g.add("Sub", g.add("Unsqueeze", timestamp, g.ints(1)), times)
    bucket = _bucket(g, gap)  # (batch, R)
    batch = g.add("Shape", timestamp)
    # From here the candidates of all requests are one matrix; attention takes them apart.
    flat = g.add("Reshape", candidates, g.ints(-1))
    start = g.add("Gather", g.floats(w.embedding), flat)  # (batch C, width)
    logits = g.add("Gather", g.floats(w.item_bias), flat)
    stream, outputs = start, _normalised(w, g, start)
    known = (g.add("Gather", g.floats(w.embedding), past.items), *past.records)
    fed = _Fed.of(w, g, past)
    rows = g.add("Concat", batch, g.ints(-1, w.heads * (w.head + 1)), axis=0)
    nulls = g.add("Concat", batch, g.ints(1, w.width * 2 + w.heads), axis=0)
    for depth in range(w.spec.depth):
        weight, states = (w.ones_column(part) for part in w.history(depth))
        tokens = fed.tokens(w, g, depth, known[depth], weight, states)
        bias = np.zeros((len(w.gaps(depth)), w.heads, w.head + 1), np.float32)
        bias[:, :, -1] = w.gaps(depth)
        gaps = np.pad(bias.reshape(len(bias), -1), ((0, 0), (0, w.width)))
        tokens = g.add("Add", tokens, g.add("Gather", g.floats(gaps), bucket))
        null = g.add("Expand", g.floats(w.ones_column(w.null(depth))), nulls)
        keys, values = g.split(
            "Split",
            2,
            g.add("Concat", null, tokens, axis=1),
            g.ints(w.width + w.heads, w.width),
            axis=2,
        )
        query, query_bias = w.query(depth)
        wide = w.ones_column(np.pad(query, ((0, 0), (0, w.width))))[:, : w.width + w.heads]
        one = np.ones((w.heads, w.head + 1), np.float32)
        one[:, :-1] = query_bias.reshape(w.heads, w.head)
        queries = g.add("Gemm", outputs, g.floats(wide), g.floats(one.reshape(-1)))
        found = g.add(
            "Attention",
            g.add("Reshape", queries, rows),
            keys,
            values,
            q_num_heads=w.heads,
            kv_num_heads=w.heads,
            scale=1.0,
        )
        found = g.add("Reshape", found, g.ints(-1, w.width))
        stream = _mix(w, g, depth, stream, found)
        outputs = _normalised(w, g, stream)
        logits = g.add("Gemm", outputs, g.floats(_array(w.model.heads[depth])), logits)
        logits = g.add("Gemm", found, g.floats(_array(w.model.lean[depth])), logits)
        matched = g.add("Mul", start, found)
        logits = g.add("Gemm", matched, g.floats(_array(w.model.match[depth])), logits)
    shape = g.add("Concat", g.add("Shape", candidates), g.ints(w.tasks), axis=0)
    scores = g.add("Sigmoid", g.add("Reshape", logits, shape))
    g.output(scores, "scores", "float32", "batch", "candidates", w.tasks)
    return g


def _append(w: _Weights, g: GraphBuilder) -> GraphBuilder:
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


def _encode(w: _Weights, g: GraphBuilder) -> GraphBuilder:
    items = g.input("items", "int64", "batch", "events")
    timestamps = g.input("timestamps", "int64", "batch", "events")
    feedback = g.input("feedback", "int8", "batch", "events", w.tasks)
    return _records(w, g, _Past(items, feedback, ()), timestamps, items, timestamps)


def _records(
    w: _Weights, g: GraphBuilder, seen: _Past, times: str, items: str, timestamps: str
) -> GraphBuilder:
    """Records of the new events among all those seen: cached ones first, then the new."""
    biases = _window_biases(w, g, times, timestamps)
    start = g.add("Gather", g.floats(w.embedding), items)  # (batch, T, width)
    known = g.add("Gather", g.floats(w.embedding), seen.items)  # (batch, R + T, width)
    fed = _Fed.of(w, g, seen)
    stream, outputs = start, _normalised(w, g, start)
    batch = g.add("Shape", items, end=1)
    nulls = g.add("Concat", batch, g.ints(1, w.width * 2), axis=0)
    records = []
    for depth in range(w.spec.cached_depths):
        tokens = fed.tokens(w, g, depth, known, *w.history(depth))
        null = g.add("Expand", g.floats(w.null(depth)), nulls)
        keys, values = g.split(
            "Split",
            2,
            g.add("Concat", null, tokens, axis=1),
            g.ints(w.width, w.width),
            axis=2,
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
        cached = seen.records[depth : depth + 1]
        known = g.add("Concat", *cached, outputs, axis=1)
    if records:
        joined = g.add("Concat", *records, axis=2)  # (batch, T, depth - 1, width)
        _write_row(w, g, joined)
    return g


def _unflattened(w: _Weights, g: GraphBuilder, depth: int, stream: str, found: str) -> str:
    """`_mix` for (batch, T, width)."""
    shape = g.add("Shape", stream)
    flat = g.ints(-1, w.width)
    mixed = _mix(w, g, depth, g.add("Reshape", stream, flat), g.add("Reshape", found, flat))
    return g.add("Reshape", mixed, shape)


def _mix(w: _Weights, g: GraphBuilder, depth: int, stream: str, found: str) -> str:
    """`TargetAttention.mix` for (N, width)."""
    layer = w.model.layers[depth]
    hidden = g.add("Gemm", found, g.floats(_array(layer.out.weight).T), stream)
    inner = g.add(
        "Gemm",
        _normalised(w, g, hidden),
        g.floats(_array(layer.expand.weight).T),
        g.floats(_array(layer.expand.bias)),
    )
    return g.add("Gemm", g.add("Relu", inner), g.floats(_array(layer.contract.weight).T), hidden)


def _normalised(w: _Weights, g: GraphBuilder, x: str) -> str:
    return g.add("RMSNormalization", x, g.floats(np.ones(w.width)), axis=-1, epsilon=1e-6)


@dataclass(frozen=True, slots=True)
class _Fed:
    """Feedback of history tokens, ready to be joined with records of any depth."""

    label: str  # (batch, R, tasks)
    is_unknown: str  # (batch, R, tasks)
    prior: str  # (batch, R, tasks)
    states: tuple[str, ...]  # per task (batch, R): row of the state table

    @classmethod
    def of(cls, w: _Weights, g: GraphBuilder, past: _Past) -> _Fed:
        label = g.add("Cast", past.feedback, to=onnx.TensorProto.FLOAT)
        logit = np.log(w.expectation / (1 - w.expectation))
        # Each task has three rows of its own: unknown, 0, 1.
        places = g.ints(*(3 * task + 1 for task in range(w.tasks)))
        state = g.add("Add", g.add("Cast", past.feedback, to=onnx.TensorProto.INT64), places)
        parts = (
            [state]
            if w.tasks == 1
            else g.split("Split", w.tasks, state, axis=2, num_outputs=w.tasks)
        )
        return cls(
            label,
            g.add("Less", label, g.floats(0.0)),
            g.add("Gather", g.floats(logit), past.items),
            tuple(g.add("Squeeze", part, g.ints(2)) for part in parts),
        )

    def tokens(
        self, w: _Weights, g: GraphBuilder, depth: int, records: str, weight: Array, states: Array
    ) -> str:
        """Keys and values of one layer, side by side: (batch, R, columns of `weight`)."""
        foresight = g.floats(_array(w.model.layers[depth].foresight))
        expected = g.add("Add", g.add("MatMul", records, foresight), self.prior)
        missed = g.add("Sub", self.label, g.add("Sigmoid", expected))
        residual = g.add("Where", self.is_unknown, g.floats(0.0), missed)
        parts = (
            [residual]
            if w.tasks == 1
            else g.split("Split", w.tasks, residual, axis=2, num_outputs=w.tasks)
        )
        scaled = [g.add("Mul", records, part) for part in parts]
        joined = g.add("Concat", records, *scaled, residual, axis=2)
        tokens = g.add("MatMul", joined, g.floats(weight))
        table = g.floats(states.reshape(-1, states.shape[-1]))
        for state in self.states:
            tokens = g.add("Add", tokens, g.add("Gather", table, state))
        return tokens


def _past(w: _Weights, g: GraphBuilder) -> tuple[_Past, str]:
    """The inputs that describe cached history, and their times."""
    items = g.input("items", "int64", "batch", "records")
    timestamps = g.input("timestamps", "int64", "batch", "records")
    feedback = g.input("feedback", "int8", "batch", "records", w.tasks)
    return _Past(items, feedback, _read_row(w, g)), timestamps


def _read_row(w: _Weights, g: GraphBuilder) -> tuple[str, ...]:
    """Cached records by depth, in float32: each (batch, R, width)."""
    names = w.spec.row.names or ()
    ports = [
        g.input(name, w.spec.row[name].base.name, "batch", "records", *w.spec.row[name].shape)
        for name in names
    ]
    if not ports:
        return ()
    records = ports[0]
    if w.spec.cache_dtype != "float32":
        records = g.add("Cast", records, to=onnx.TensorProto.FLOAT)
    if w.spec.cache_dtype == "int8":
        scales = g.add("Cast", ports[1], to=onnx.TensorProto.FLOAT)
        records = g.add("Mul", records, g.add("Unsqueeze", scales, g.ints(3)))
    depths = w.spec.cached_depths
    if depths == 1:
        return (g.add("Squeeze", records, g.ints(2)),)
    parts = g.split("Split", depths, records, axis=2, num_outputs=depths)
    return tuple(g.add("Squeeze", part, g.ints(2)) for part in parts)


def _write_row(w: _Weights, g: GraphBuilder, records: str) -> None:
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
    """How many edges lie at or below each gap, as an index.

    Counted by a matrix product: the runtime's ReduceSum fails on an empty history.
    """
    reached = g.add(
        "GreaterOrEqual",
        g.add("Unsqueeze", gap_s, g.ints(-1)),
        g.constant(TIME_GAP_EDGES_S, "int64"),
    )
    ones = g.floats(np.ones((len(TIME_GAP_EDGES_S), 1)))
    counted = g.add("MatMul", g.add("Cast", reached, to=onnx.TensorProto.FLOAT), ones)
    counted = g.add("Squeeze", counted, g.ints(-1))
    return g.add("Cast", counted, to=onnx.TensorProto.INT32)


def _window_biases(w: _Weights, g: GraphBuilder, times: str, timestamps: str) -> tuple[str, ...]:
    """Per layer the bias of each (new event, null or seen event): (batch, heads, T, 1 + R + T)."""
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
    # Outside the window counts as the future: bucket 0.
    bucket = g.add("Where", inside, _bucket(g, gap), g.constant(0, "int32"))
    pads = g.ints(0, 0, 0, 1, 0, 0, 0, 0)  # the null key is never hidden
    found = []
    for depth in range(w.spec.cached_depths):
        bias = g.add("Gather", g.floats(w.gaps(depth).T), bucket, axis=1)  # (heads, batch, T, R+T)
        bias = g.add("Transpose", bias, perm=[1, 0, 2, 3])
        found.append(g.add("Pad", bias, pads))
    return tuple(found)
