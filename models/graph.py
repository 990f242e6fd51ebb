"""GraphBuilder: an ONNX graph written operator by operator, so that nothing is in it by accident.

A framework's exporter emits what its tracer saw: shape arithmetic, transposes, masks. These
graphs are small, run thousands of times a second and are proven equal to the PyTorch model at
export, so they are written by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.bundle import OPSET, Graph, Port

#: The first intermediate representation that goes with the opset.
IR_VERSION = 11


class GraphBuilder:
    """Collects nodes and constants; every call returns the name of the tensor it made."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._initializers: list[TensorProto] = []
        self._inputs: list[Port] = []
        self._outputs: list[Port] = []

    def input(self, name: str, dtype: str, *axes: str | int) -> str:
        self._inputs.append(Port(name, dtype, axes))
        return name

    def output(self, tensor: str, name: str, dtype: str, *axes: str | int) -> None:
        """Names `tensor` as an output of the graph."""
        self._nodes.append(helper.make_node("Identity", [tensor], [name]))
        self._outputs.append(Port(name, dtype, axes))

    def constant(self, value: Any, dtype: str) -> str:
        """A tensor of the graph itself; equal ones are stored once."""
        array = np.ascontiguousarray(value, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"c{len(self._constants)}"
            self._constants[key] = name
            self._initializers.append(numpy_helper.from_array(array, name))
        return self._constants[key]

    def floats(self, value: Any) -> str:
        return self.constant(value, "float32")

    def doubles(self, value: Any) -> str:
        return self.constant(value, "float64")

    def ints(self, *values: int) -> str:
        return self.constant(values, "int64")

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        return self.split(operator, 1, *inputs, **attributes)[0]

    def split(self, operator: str, count: int, *inputs: str, **attributes: Any) -> Sequence[str]:
        """An operator with `count` outputs."""
        names = [f"t{len(self._nodes)}_{place}" for place in range(count)]
        self._nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names

    def build(self, file: str) -> tuple[onnx.ModelProto, Graph]:
        """The checked model, and its description for the manifest."""
        graph = helper.make_graph(
            self._nodes,
            file.removesuffix(".onnx"),
            [_value(port) for port in self._inputs],
            [_value(port) for port in self._outputs],
            self._initializers,
        )
        domains = sorted({node.domain for node in self._nodes} - {""})
        opsets = [helper.make_opsetid("", OPSET)]
        opsets += [helper.make_opsetid(domain, 1) for domain in domains]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="marmot")
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        return model, Graph(file, tuple(self._inputs), tuple(self._outputs))


def _value(port: Port) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype))
    return helper.make_tensor_value_info(port.name, kind, port.axes)


def described(graphs: Mapping[str, Graph]) -> dict[str, Any]:
    """Graphs as the manifest writes them."""

    def ports(found: Sequence[Port]) -> list[dict[str, Any]]:
        return [{"name": p.name, "dtype": p.dtype, "axes": list(p.axes)} for p in found]

    return {
        name: {
            "file": g.file,
            "inputs": ports(g.inputs),
            "outputs": ports(g.outputs),
            **({"tables": [asdict(table) for table in g.tables]} if g.tables else {}),
        }
        for name, g in graphs.items()
    }
