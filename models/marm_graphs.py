"""Marm's three graphs: rank, append and encode, written out for the runtime.

Three ideas keep the rank graph short. The time gap's bias and the padding mask ride in one more
column per head, where every query holds a 1 and every key holds its bias: attention needs no
mask. Norms carry no weights, so the one after a layer serves the read-out and the next query.
Residual sums and biases are the third operand of a matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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

#: Of the norms, as PyTorch has it.
EPSILON = 1e-6

#: Attention's inner loops run over keys; the runtime's are slow with a rest (docs/log.md).
VECTOR = 16


def build_graphs(model: Marm) -> dict[str, tuple[onnx.ModelProto, Graph]]:
    """Every graph of a bundle, by name."""
    writers = {"rank": _rank, "append": _append, "encode": _encode}
    return {
        name: write(_Weights(model), GraphBuilder()).build(f"{name}.onnx")
        for name, write in writers.items()
    }


class _Weights:
    """The model's weights as numpy arrays, those of all layers together, and its sizes."""

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
        layers = model.layers
        self.key = np.array([_array(layer.key.weight).T for layer in layers])
        self.value = np.array([_array(layer.value.weight).T for layer in layers])
        self.foresight = np.array([_array(layer.foresight) for layer in layers])
        # Per layer 3 tasks rows: what the states of feedback add.
        states = (-1, self.width)
        self.key_state = np.array([_array(x.feedback_key).reshape(states) for x in layers])
        self.value_state = np.array([_array(x.feedback_value).reshape(states) for x in layers])
        self.null_key = np.array([_array(layer.null_key)[None] for layer in layers])
        self.null_value = np.array([_array(layer.null_value)[None] for layer in layers])

    def query(self, depth: int) -> tuple[Array, Array]:
        """Weight (width, width) and bias; scores come out divided by the root of the head size."""
        layer = self.model.layers[depth]
        scale = 1 / math.sqrt(self.head)
        return _array(layer.query.weight).T * scale, _array(layer.query.bias) * scale

    def wide_query(self, depth: int) -> tuple[Array, Array]:
        """`query` with a column per head that is always 1."""
        weight, bias = self.query(depth)
        return self.widened(weight), self.widened(bias, 1.0)

    def first_queries(self) -> Array:
        """Of every item, widened: nothing else goes into them."""
        mean = np.square(self.embedding).mean(axis=1, keepdims=True)
        weight, bias = self.wide_query(0)
        return self.embedding / np.sqrt(mean + EPSILON) @ weight + bias

    def gaps(self, depth: int) -> Array:
        """Bias by bucket and head: (buckets, heads); bucket 0, the future, is masked."""
        bias = _array(self.model.layers[depth].gap_bias)
        if not self.spec.time_gap:
            bias = np.zeros_like(bias)
        return np.concatenate([np.full((1, self.heads), MASKED, np.float32), bias[1:]])

    def wide_gaps(self) -> Array:
        """`gaps` of all layers as what they add to widened keys: (depth, buckets, wide)."""
        gaps = np.array([self.gaps(depth) for depth in range(self.spec.depth)])
        zeros = np.zeros((*gaps.shape[:2], self.width), np.float32)
        return self.widened(zeros, gaps[..., None])

    def widened(self, keys: Array, extra: Array | float = 0.0) -> Array:
        """(…, width) with one more column per head, which holds `extra`: (…, wide)."""
        by_head = keys.reshape(*keys.shape[:-1], self.heads, self.head)
        column = np.broadcast_to(np.float32(extra), (*by_head.shape[:-1], 1))
        wide = np.concatenate([by_head, column], axis=-1)
        return wide.reshape(*keys.shape[:-1], self.wide)

    @property
    def wide(self) -> int:
        return self.width + self.heads


def _array(tensor: Tensor) -> Array:
    return tensor.detach().numpy()


@dataclass(frozen=True, slots=True)
class _Past:
    """History as the graph sees it."""

    items: str  # (batch, R)
    feedback: str  # (batch, R, tasks)
    records: str | None  # of depth 1 …: (batch, R, depth - 1, width)


def _rank(w: _Weights, g: GraphBuilder) -> GraphBuilder:
    candidates = g.input("candidates", "int64", "batch", "candidates")
    timestamp = g.input("timestamp", "int64", "batch")
    past, times = _past(w, g)
    bucket = _bucket(g, g.add("Sub", g.add("Unsqueeze", timestamp, g.ints(1)), times))
    # From here the candidates of all requests are one list; attention takes them apart.
    asked = g.add("Reshape", candidates, g.ints(-1))
    start = g.add("Gather", g.floats(w.embedding), asked)  # (batch C, width)
    logits = g.add("Gather", g.floats(w.item_bias.T), asked, axis=1)  # (tasks, batch C)
    stream = outputs = start
    rows = g.add("Concat", g.add("Shape", timestamp), g.ints(-1, w.wide), axis=0)
    for depth, (keys, values) in enumerate(_memories(w, g, past, bucket)):
        if depth == 0:
            queries = g.add("Gather", g.floats(w.first_queries()), asked)
        else:
            queries = g.add("Gemm", outputs, *map(g.floats, w.wide_query(depth)))
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
        model = w.model
        for seen, weight in (
            (outputs, model.heads),
            (found, model.lean),
            (g.add("Mul", start, found), model.match),
        ):
            # With the task's single row first, this is a matrix-vector product.
            row = g.floats(_array(weight[depth]).T)
            logits = g.add("Gemm", row, seen, logits, transB=1)
    shape = g.add("Concat", g.add("Shape", candidates), g.ints(w.tasks), axis=0)
    scores = g.add("Sigmoid", g.add("Reshape", g.add("Transpose", logits), shape))
    g.output(scores, "scores", "float32", "batch", "candidates", w.tasks)
    return g


def _memories(
    w: _Weights, g: GraphBuilder, past: _Past, bucket: str
) -> Iterable[tuple[str, str]]:
    """Keys (batch, tokens, wide) and values (batch, tokens, width) of every layer.

    Made for all layers at once: `R` is small, and so many small steps cost more than they do.
    """
    if not w.spec.depth:
        return ()
    items = g.add("Reshape", past.items, g.ints(-1))  # (N,) of all requests
    known = g.add("Gather", g.floats(w.embedding), g.add("Unsqueeze", items, g.ints(0)))
    if past.records:
        flat = g.add("Reshape", past.records, g.ints(-1, w.spec.cached_depths, w.width))
        cached = g.add("Transpose", flat, perm=[1, 0, 2])
        known = g.add("Concat", known, cached, axis=0)  # (depth, N, width)
    fed = _Fed.of(w, g, items, past.feedback)
    keys = fed.keys(g, known, w.widened(w.key), w.widened(w.key_state))
    times = g.add("Reshape", bucket, g.ints(-1))
    keys = g.add("Add", keys, g.add("Gather", g.floats(w.wide_gaps()), times, axis=1))
    values = fed.values(w, g, known, w.foresight, w.value, w.value_state)
    hidden = np.zeros((w.spec.depth, VECTOR - 1, w.width), np.float32)
    before_keys = np.concatenate(
        [w.widened(hidden, MASKED), w.widened(w.null_key)], axis=1
    )
    before_values = np.concatenate([hidden, w.null_value], axis=1)
    spare = g.add("Mod", g.add("Shape", past.items, start=1), g.ints(VECTOR))
    batch = g.add("Shape", past.items, end=1)

    def by_layer(before: Array, tokens: str) -> Sequence[str]:
        columns = before.shape[-1]
        shape = g.add(
            "Concat", g.add("Mul", batch, g.ints(w.spec.depth)), g.ints(-1, columns), axis=0
        )
        rows = g.add(
            "Slice", g.floats(before[:, None]), spare, g.ints(VECTOR), g.ints(2)
        )
        rows = g.add("Expand", rows, g.add("Concat", g.ints(1), batch, g.ints(1, 1), axis=0))
        joined = g.add(
            "Concat", g.add("Reshape", rows, shape), g.add("Reshape", tokens, shape), axis=1
        )
        return _parts(g, w.spec.depth, joined, axis=0)

    return zip(by_layer(before_keys, keys), by_layer(before_values, values), strict=True)


def _parts(g: GraphBuilder, count: int, tensor: str, axis: int) -> Sequence[str]:
    """Equal parts along an axis."""
    return (
        (tensor,) if count == 1 else g.split("Split", count, tensor, axis=axis, num_outputs=count)
    )


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
    return _records(w, g, _Past(items, feedback, None), timestamps, items, timestamps)


def _records(
    w: _Weights, g: GraphBuilder, seen: _Past, times: str, items: str, timestamps: str
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
        keys = fed.keys(g, flat, w.key[layer], w.key_state[layer])
        values = fed.values(w, g, flat, w.foresight[layer], w.value[layer], w.value_state[layer])
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
    return g.add("RMSNormalization", x, g.floats(np.ones(w.width)), axis=-1, epsilon=EPSILON)


@dataclass(frozen=True, slots=True)
class _Fed:
    """Feedback of N history tokens, ready to be joined with their records of any layers."""

    label: str  # (N, tasks)
    is_unknown: str  # (N, tasks)
    prior: str  # (N, tasks)
    states: tuple[str, ...]  # per task (N,): row of the state table

    @classmethod
    def of(cls, w: _Weights, g: GraphBuilder, items: str, feedback: str) -> _Fed:
        """`items` (N,); feedback of as many events in any shape that ends with the tasks."""
        feedback = g.add("Reshape", feedback, g.ints(-1, w.tasks))
        label = g.add("Cast", feedback, to=onnx.TensorProto.FLOAT)
        logit = np.log(w.expectation / (1 - w.expectation))
        # Each task has three rows of its own: unknown, 0, 1.
        places = g.ints(*(3 * task + 1 for task in range(w.tasks)))
        state = g.add("Add", g.add("Cast", feedback, to=onnx.TensorProto.INT64), places)
        return cls(
            label,
            g.add("Less", label, g.floats(0.0)),
            g.add("Gather", g.floats(logit), items),
            tuple(
                g.add("Squeeze", part, g.ints(1)) for part in _parts(g, w.tasks, state, axis=1)
            ),
        )

    def keys(self, g: GraphBuilder, records: str, weight: Array, states: Array) -> str:
        """Of records (layers, N, width): (layers, N, columns of `weight`)."""
        return self._moved(g, g.add("MatMul", records, g.floats(weight)), states)

    def values(
        self,
        w: _Weights,
        g: GraphBuilder,
        records: str,
        foresight: Array,
        weight: Array,
        states: Array,
    ) -> str:
        """Of records (layers, N, width): as many."""
        expected = g.add("Add", g.add("MatMul", records, g.floats(foresight)), self.prior)
        missed = g.add("Sub", self.label, g.add("Sigmoid", expected))
        residual = g.add("Where", self.is_unknown, g.floats(0.0), missed)
        scaled = [g.add("Mul", records, part) for part in _parts(g, w.tasks, residual, axis=2)]
        joined = g.add("Concat", records, *scaled, residual, axis=2)
        return self._moved(g, g.add("MatMul", joined, g.floats(weight)), states)

    def _moved(self, g: GraphBuilder, tokens: str, states: Array) -> str:
        for state in self.states:
            tokens = g.add("Add", tokens, g.add("Gather", g.floats(states), state, axis=1))
        return tokens


def _past(w: _Weights, g: GraphBuilder) -> tuple[_Past, str]:
    """The inputs that describe cached history, and their times."""
    items = g.input("items", "int64", "batch", "records")
    timestamps = g.input("timestamps", "int64", "batch", "records")
    feedback = g.input("feedback", "int8", "batch", "records", w.tasks)
    return _Past(items, feedback, _read_row(w, g)), timestamps


def _read_row(w: _Weights, g: GraphBuilder) -> str | None:
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


def _by_depth(w: _Weights, g: GraphBuilder, records: str | None) -> tuple[str, ...]:
    """Each (batch, R, width)."""
    if records is None:
        return ()
    parts = _parts(g, w.spec.cached_depths, records, axis=2)
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
