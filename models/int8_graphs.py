"""Projected graphs in 8 bits, for models of one head: `projected_graphs` with integer products.

Of a layer's products only values are weighed in float32: a weight of a hundredth would be two or
three steps of 255, and a probability would move by 0.05. Every scale is a bound that nothing
passes, so none is learned from data and nothing is clipped. It hangs on the model and on the user,
never on the other candidates, so that these stay independent. A batch is one request.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx

from models.graph import GraphBuilder
from models.graph_history import bucket_of, parts_of
from models.graph_norm import normalised
from models.graph_targets import Targets, ask, since
from models.graph_weights import GraphWeights, as_array
from models.projected_graphs import projections

Array = np.ndarray[Any, Any]

STEPS = 127
#: No weight is left at this distance, and it still fits into an accumulator of 32 bits.
HIDDEN = -1e3
LEAST_SCALE = 1e-4


def project(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    """Events and their records to every layer's keys in 8 bits, a scale for each, and values.

    `value_scales` (batch, layers) are those of what a mean of the values is quantised to.
    """
    layers, offsets = projections(w, g)
    end = g.ints(w.wide)
    biases, key_scales, value_scales = [], [], []
    for depth, (wide, values) in enumerate(layers):
        keys = g.add("Slice", wide, g.ints(0), g.ints(w.width), g.ints(2))
        scales = g.add("Unsqueeze", _scale(g, keys, 2), g.ints(2))  # (batch, tokens, 1)
        steps = g.add("Cast", g.add("Round", g.add("Div", keys, scales)), to=onnx.TensorProto.INT8)
        turned = g.add("Transpose", steps, perm=[0, 2, 1])
        g.output(turned, f"keys_{depth}", "int8", "batch", w.width, "tokens")
        g.output(values, f"values_{depth}", "float32", "batch", "tokens", w.width)
        biases.append(g.add("Slice", wide, g.ints(w.width), end, g.ints(2)))
        key_scales.append(scales)
        value_scales.append(g.add("Unsqueeze", _scale(g, values, 1, 2), g.ints(1)))
    for name, columns in (("biases", biases), ("key_scales", key_scales)):
        rows = g.add("Transpose", g.add("Concat", *columns, axis=2), perm=[0, 2, 1])
        g.output(rows, name, "float32", "batch", w.spec.layers, "tokens")
    scales = g.add("Concat", *value_scales, axis=1)
    g.output(scales, "value_scales", "float32", "batch", w.spec.layers)
    g.output(offsets, "offsets", "int32", "batch", "tokens")
    return g


def projected(w: GraphWeights, g: GraphBuilder) -> GraphBuilder:
    """Candidates, and what they attend to in 8 bits, to scores."""
    layers = w.spec.layers
    candidates, timestamp = ask(g)
    times = g.input("timestamps", "int64", "batch", "records")
    offsets = g.input("offsets", "int32", "batch", "records")
    row = g.add("Add", bucket_of(g, since(g, timestamp, times)), offsets)
    biases, key_scales, value_scales = (
        g.add("Squeeze", g.input(name, "float32", "batch", *axes), g.ints(0))
        for name, axes in (
            ("biases", (layers, "records")),
            ("key_scales", (layers, "records")),
            ("value_scales", (layers,)),
        )
    )
    targets = _Int8Targets(w, g, candidates, timestamp)
    gaps = np.array([w.gaps(depth)[:, 0] for depth in range(layers)])
    table = g.floats(np.concatenate([gaps, np.zeros_like(gaps)], axis=1))
    moved = g.add("Add", biases, g.add("Gather", table, g.add("Squeeze", row, g.ints(0)), axis=1))
    steps = g.add("Mul", key_scales, g.floats(targets.unit_scale))
    whole = g.add("Round", g.add("Div", g.add("Max", moved, g.floats(HIDDEN)), steps))
    of_layers = zip(
        *(
            parts_of(g, layers, part, axis=0)
            for part in (key_scales, g.add("Cast", whole, to=onnx.TensorProto.INT32), value_scales)
        ),
        strict=True,
    )
    for depth, parts in enumerate(of_layers):
        scales, bias, value_scale = (g.add("Squeeze", part, g.ints(0)) for part in parts)
        keys, values = (
            g.add("Squeeze", g.input(f"{name}_{depth}", dtype, "batch", *axes), g.ints(0))
            for name, dtype, axes in (
                ("keys", "int8", (w.width, "records")),
                ("values", "float32", ("records", w.width)),
            )
        )
        targets.meet(depth, (keys, scales, bias), values, value_scale)
    targets.score()
    return g


class _Int8Targets(Targets):
    """Targets of one request whose vectors are rounded before each product but one."""

    def __init__(self, w: GraphWeights, g: GraphBuilder, candidates: str, timestamp: str) -> None:
        super().__init__(w, g, candidates, timestamp)
        #: Of a normalised vector, whose numbers are at most the root of how many there are.
        self.unit_scale = math.sqrt(w.width) / STEPS
        self.signed, self.unsigned = g.constant(STEPS + 1, "uint8"), g.constant(0, "uint8")

    def meet(self, depth: int, asked: tuple[str, str, str], values: str, value_scale: str) -> None:
        """Takes every target through one layer.

        `asked` are keys (width, S), their scales (S,) and biases in steps of the product (S,);
        values (S, width), and the scale of their means.
        """
        g, layer = self.g, self.w.model.layers[depth]
        keys, key_scales, biases = asked
        unit = g.floats(self.unit_scale)
        zeros = g.add("Expand", g.constant(0, "int8"), g.add("Shape", key_scales))
        vectors = g.add("QuantizeLinear", self.outputs, unit, self.signed)
        scores = self._product(vectors, unit, self.signed, keys, key_scales, zeros, biases)
        found = g.add("MatMul", g.add("Softmax", scores, axis=-1), values)
        out = self._by_weight(
            g.add("QuantizeLinear", found, value_scale, self.signed),
            value_scale, self.signed, as_array(layer.out.weight).T,
        )  # fmt: skip
        hidden = g.add("Add", out, self.stream)
        inner = g.add("QuantizeLinear", normalised(self.w, g, hidden), unit, self.signed)
        weight, bias = as_array(layer.expand.weight).T, as_array(layer.expand.bias)
        most = np.linalg.norm(weight, axis=0) * math.sqrt(self.w.width) + np.abs(bias)
        inner_scale = g.floats(most.max() / (2 * STEPS + 1))
        # Rounded to an unsigned number, what is below zero is zero: the ReLU.
        inner = self._by_weight(
            inner, unit, self.signed, weight, bias, (inner_scale, self.unsigned)
        )
        out = self._by_weight(inner, inner_scale, self.unsigned, as_array(layer.contract.weight).T)
        self.stream = g.add("Add", out, hidden)
        self.outputs = normalised(self.w, g, self.stream)
        self.layers.append((found, self.outputs))

    def _by_weight(
        self,
        left: str,
        scale: str,
        zero: str,
        weight: Array,
        bias: Array | None = None,
        into: tuple[str, str] = ("", ""),
    ) -> str:
        """A product with a weight of the model, a scale for each of its columns."""
        g = self.g
        scales = np.maximum(np.abs(weight).max(axis=0) / STEPS, LEAST_SCALE).astype(np.float32)
        steps = np.round(weight / scales).astype(np.int8)
        whole = ""
        if bias is not None:
            whole = g.constant(np.round(bias / (self.unit_scale * scales)), "int32")
        columns = g.constant(steps, "int8"), g.floats(scales), g.constant(0 * steps[0], "int8")
        return self._product(left, scale, zero, *columns, whole, *into)

    def _product(self, *inputs: str) -> str:
        given = list(inputs)
        while not given[-1]:
            given.pop()
        return self.g.add("QGemm", *given, domain="com.microsoft")


def _scale(g: GraphBuilder, tensor: str, *axes: int) -> str:
    """Of numbers along these axes: the largest is `STEPS` steps."""
    most = g.add("ReduceMax", g.add("Abs", tensor), g.ints(*axes), keepdims=0)
    return g.add("Max", g.add("Div", most, g.floats(float(STEPS))), g.floats(LEAST_SCALE))
