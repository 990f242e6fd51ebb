"""Runs on buffers that stay where they are, one set per shape, on the device that computes.

Inputs are copied into place and outputs lie where the last ones did. The same code runs on the CPU,
which is where it is tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.bundle import Graph, Port

Array = np.ndarray[Any, Any]
Shape = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """The buffers of one shape; ONNX Runtime's classes have no types."""

    binding: Any
    inputs: dict[str, Any]
    outputs: list[Any]


class BoundRuns:
    """One session's runs. Shapes should be few: each keeps its buffers."""

    def __init__(self, session: Any, graph: Graph, device: str) -> None:
        self._session = session
        self._graph = graph
        self._device = device
        self._places: dict[Shape, _Place] = {}

    def __repr__(self) -> str:
        return f"<BoundRuns of {self._graph.file} on {self._device}, {len(self._places)} shapes>"

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        """The outputs in the graph's order, copied to the host."""
        shape = tuple(feed[port.name].shape for port in self._graph.inputs)
        place = self._places.get(shape) or self._prepare(shape, feed)
        for name, value in place.inputs.items():
            value.update_inplace(np.ascontiguousarray(feed[name]))
        self._session.run_with_iobinding(place.binding)
        # On the CPU the array is the buffer itself, which the next run overwrites.
        return [np.array(output.numpy()) for output in place.outputs]

    def _prepare(self, shape: Shape, feed: Mapping[str, Array]) -> _Place:
        import onnxruntime as ort  # noqa: PLC0415  (an extra: cpu or gpu)

        ports = self._graph.inputs
        sizes = {
            axis: size
            for port, found in zip(ports, shape, strict=True)
            for axis, size in zip(port.axes, found, strict=True)
            if isinstance(axis, str)
        }
        binding = self._session.io_binding()
        inputs = {
            port.name: ort.OrtValue.ortvalue_from_numpy(
                np.ascontiguousarray(feed[port.name]).copy(), self._device, 0
            )
            for port in ports
        }
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        outputs = [self._room(ort, port, sizes) for port in self._graph.outputs]
        for port, value in zip(self._graph.outputs, outputs, strict=True):
            binding.bind_ortvalue_output(port.name, value)
        place = self._places[shape] = _Place(binding, inputs, outputs)
        return place

    def _room(self, ort: Any, port: Port, sizes: Mapping[str, int]) -> Any:
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in port.axes]
        return ort.OrtValue.ortvalue_from_shape_and_type(
            shape, np.dtype(port.dtype).type, self._device, 0
        )
