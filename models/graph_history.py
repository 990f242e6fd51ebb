"""History as a graph sees it: its inputs, and the keys and values that layers attend to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from models.graph import GraphBuilder
from models.graph_norm import normalised
from models.graph_weights import GraphWeights
from models.spec import TIME_GAP_EDGES_S

Array = np.ndarray[Any, Any]

#: Attention counts its keys in vectors of 16 floats; a rest costs more than a whole one.
VECTOR = 16


@dataclass(frozen=True, slots=True)
class Past:
    """History as the graph sees it."""

    items: str  # (batch, R)
    feedback: str  # (batch, R, tasks)
    records: str | None  # of depth 1 …: (batch, R, depth - 1, width)


def read_past(w: GraphWeights, g: GraphBuilder) -> tuple[Past, str]:
    """The inputs that describe cached history, and their times."""
    past = read_events(w, g)
    return past, g.input("timestamps", "int64", "batch", "records")


def read_events(w: GraphWeights, g: GraphBuilder, axis: str | int = "records") -> Past:
    """The inputs that describe cached history, whenever it was."""
    items = g.input("items", "int64", "batch", axis)
    feedback = g.input("feedback", "int8", "batch", axis, w.tasks)
    return Past(items, feedback, _read_row(w, g, axis))


def _read_row(w: GraphWeights, g: GraphBuilder, axis: str | int) -> str | None:
    """Cached records in float32: (batch, R, depth - 1, width)."""
    names = w.spec.row.names or ()
    ports = [
        g.input(name, w.spec.row[name].base.name, "batch", axis, *w.spec.row[name].shape)
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


def memories(
    w: GraphWeights,
    g: GraphBuilder,
    past: Past,
    bucket: str,
    more_keys: Sequence[tuple[Array, str]] = (),
) -> Iterable[tuple[str, str]]:
    """What each layer attends to: wide keys (batch, S, wide) and values (batch, S, width).

    S is a whole number of vectors: masked tokens, the null token, and history. `more_keys` are
    tables (depth, rows, wide) and the row (N,) of each event that is added to its keys.
    """
    depth = w.spec.layers
    if not depth:
        return ()
    items = g.add("Reshape", past.items, g.ints(-1))  # (N,) of all requests
    known = known_of(w, g, items, past.records)
    fed = Fed.of(w, g, items, past.feedback)
    timed = g.add("Mul", g.add("Reshape", bucket, g.ints(-1)), g.constant(3, "int32"))
    states = (g.add("Add", timed, fed.states[0]), *fed.states[1:])
    keys = g.add("MatMul", known, g.floats(w.wide_keys(w.key)))
    keys = moved(g, keys, w.timed_key_states(), states)
    for table, row in more_keys:
        keys = moved(g, keys, [table], [row])
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
        return parts_of(g, depth, joined, axis=0)

    leading_keys, leading_values = w.leading(VECTOR)
    return zip(by_layer(leading_keys, keys), by_layer(leading_values, values), strict=True)


def known_of(w: GraphWeights, g: GraphBuilder, items: str, records: str | None) -> str:
    """What each layer knows of N events before their feedback: (layers, N, width)."""
    if records is not None and w.spec.stage == "prerank":
        deepest = g.add("Gather", records, g.ints(w.spec.hidden_depths - 1), axis=2)
        return g.add("Reshape", deepest, g.ints(1, -1, w.width))
    known = w.look_up(g, g.add("Unsqueeze", items, g.ints(0)))
    if records is not None:
        cached = g.add("Reshape", records, g.ints(-1, w.spec.hidden_depths, w.width))
        cached = g.add("Transpose", cached, perm=[1, 0, 2])
        return g.add("Concat", known, cached, axis=0)
    if w.spec.layers > 1:
        unit = g.add("Expand", normalised(w, g, known), g.ints(w.spec.layers - 1, 1, 1))
        known = g.add("Concat", known, unit, axis=0)
    return known


def counted(w: GraphWeights, g: GraphBuilder, feedback: str) -> str | None:
    """Which events count as history: bool (batch, R) of feedback (batch, R, tasks); None: all."""
    if w.spec.where is None:
        return None
    said = g.add("Gather", feedback, g.ints(w.spec.where), axis=2)
    return g.add("Equal", g.add("Squeeze", said, g.ints(2)), g.constant(1, "int8"))


@dataclass(frozen=True, slots=True)
class Fed:
    """Feedback of N history tokens, ready to be joined with their records of any layers."""

    label: str  # (N, tasks)
    is_unknown: str  # (N, tasks)
    prior: str  # (N, tasks)
    states: Sequence[str]  # per task (N,): 0 unknown, 1 for label 0, 2 for label 1

    @classmethod
    def of(cls, w: GraphWeights, g: GraphBuilder, items: str, feedback: str) -> Fed:
        """Of items (N,), and feedback of as many events in any shape that ends with the tasks."""
        feedback = g.add("Reshape", feedback, g.ints(-1, w.tasks))
        label = g.add("Cast", feedback, to=onnx.TensorProto.FLOAT)
        logit = np.log(w.expectation / (1 - w.expectation))
        state = g.add("Cast", feedback, to=onnx.TensorProto.INT32)
        states = parts_of(g, w.tasks, g.add("Add", state, g.constant(1, "int32")), axis=1)
        return cls(
            label,
            g.add("Less", label, g.floats(0.0)),
            g.add("Gather", g.floats(logit), items),
            tuple(g.add("Squeeze", part, g.ints(1)) for part in states),
        )

    def keys(self, w: GraphWeights, g: GraphBuilder, layers: slice, records: str) -> str:
        """Of records (layers, N, width), in the same shape."""
        keys = g.add("MatMul", records, g.floats(w.key[layers]))
        return moved(g, keys, np.moveaxis(w.key_states[layers], 1, 0), self.states)

    def values(self, w: GraphWeights, g: GraphBuilder, layers: slice, records: str) -> str:
        """Of records (layers, N, width), in the same shape."""
        foresight = g.add("MatMul", records, g.floats(w.foresight[layers]))
        expected = g.add("Sigmoid", g.add("Add", foresight, self.prior))
        missed = g.add("Sub", self.label, expected)
        residual = g.add("Where", self.is_unknown, g.floats(0.0), missed)
        scaled = [g.add("Mul", records, part) for part in parts_of(g, w.tasks, residual, axis=2)]
        joined = g.add("Concat", records, *scaled, residual, axis=2)
        values = g.add("MatMul", joined, g.floats(w.value[layers]))
        return moved(g, values, np.moveaxis(w.value_states[layers], 1, 0), self.states)


def moved(g: GraphBuilder, tokens: str, tables: Iterable[Array], rows: Iterable[str]) -> str:
    """Tokens (layers, N, columns) plus a row of every table (layers, rows, columns)."""
    for table, row in zip(tables, rows, strict=True):
        tokens = g.add("Add", tokens, g.add("Gather", g.floats(table), row, axis=1))
    return tokens


def parts_of(g: GraphBuilder, count: int, tensor: str, axis: int) -> Sequence[str]:
    """Equal parts along an axis."""
    if count == 1:
        return (tensor,)
    return g.split("Split", count, tensor, axis=axis, num_outputs=count)


def bucket_of(g: GraphBuilder, gap_s: str) -> str:
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
