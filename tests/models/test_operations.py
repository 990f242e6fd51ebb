"""What `marmot inspect` says of the work is what the graph does."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models.families import build_graphs
from models.family import FAMILIES
from models.operations import COUNTS, operations
from models.spec import Spec
from tests.models.graphs import model_of, run, session

#: Read-outs, the columns of biases, and what is expected of an item are not counted.
LEFT_OUT = 0.08


def multiply_adds(spec: Spec, candidates: int) -> int:
    """Of every product in one run of the rank graph, from the shapes that the run had."""
    proto, graph = build_graphs(model_of(spec))["rank"]
    every = onnx.ModelProto()
    every.CopyFrom(proto)
    names = [name for node in proto.graph.node for name in node.output if name]
    del every.graph.output[:]
    every.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    sizes = {"batch": 1, "records": spec.reads, "candidates": candidates}
    feed = {
        port.name: np.zeros([sizes.get(str(axis), axis) for axis in port.axes], port.dtype)
        for port in graph.inputs
    }
    outputs = run(session(every), feed)
    shapes = {name: value.shape for name, value in feed.items()}
    shapes |= {name: value.shape for name, value in zip(names, outputs, strict=True)}
    shapes |= {one.name: numpy_helper.to_array(one).shape for one in proto.graph.initializer}
    total = 0
    for node in proto.graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            total += prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
        elif node.op_type == "Attention":
            queries, keys, values = (shapes[name] for name in node.input[:3])
            total += queries[1] * keys[1] * (keys[2] + values[2])
    return total


def test_every_family_is_counted() -> None:
    """No family without figures."""
    assert set(COUNTS) == set(FAMILIES)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_counts_are_the_graphs(family: str, depth: int) -> None:
    """Once for the user and again for every candidate, but for what is left out."""
    depth = min(depth, FAMILIES[family].most_depth)
    # With the null token the window makes whole vectors, so that no key is padding.
    spec = Spec(family=family, depth=depth, window=31, width=64, heads=2, fallback_rows=2)
    told, few, more = operations(spec), multiply_adds(spec, 8), multiply_adds(spec, 16)
    per_candidate = (more - few) / 8
    assert per_candidate == pytest.approx(told.per_candidate, rel=LEFT_OUT)
    assert few - 8 * per_candidate == pytest.approx(told.per_request, rel=LEFT_OUT)
