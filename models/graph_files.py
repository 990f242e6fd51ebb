"""Graphs on disk: a file each, and one file of the large tables that they look things up in.

A table of millions of items lies there once however many graphs read it; mapped into memory
(`Bundle.table`), it is in memory once however many sessions and processes do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data

from models.bundle import TABLES, Graph, Table

#: Below this, a constant stays in the graph's own file, which then needs no other.
LARGE_BYTES = 16 << 20
#: Where a mapping may begin, on every machine that there is.
PAGE_BYTES = 1 << 16


class GraphFiles:
    """Graphs without their large constants, and those; equal ones once."""

    def __init__(self, graphs: Mapping[str, tuple[onnx.ModelProto, Graph]]) -> None:
        """Takes the constants out of the protos."""
        self._places: dict[bytes, int] = {}
        self._tables: list[tuple[int, bytes]] = []
        self._end = 0
        self._protos = {graph.file: proto for proto, graph in graphs.values()}
        moved = {file: self._move(proto) for file, proto in self._protos.items()}
        #: As the manifest describes them.
        self.graphs = {
            name: replace(graph, tables=moved[graph.file]) for name, (_, graph) in graphs.items()
        }

    def write(self, folder: Path) -> None:
        for file, proto in self._protos.items():
            (folder / file).write_bytes(proto.SerializeToString())
        if not self._tables:
            return
        with (folder / TABLES).open("wb") as tables:
            for place, data in self._tables:
                tables.seek(place)
                tables.write(data)

    def _move(self, proto: onnx.ModelProto) -> tuple[Table, ...]:
        large = (c for c in proto.graph.initializer if len(c.raw_data) >= LARGE_BYTES)
        return tuple(map(self._take, large))

    def _take(self, constant: TensorProto) -> Table:
        data = constant.raw_data
        place = self._place(data)
        set_external_data(constant, TABLES, offset=place, length=len(data))
        constant.ClearField("raw_data")
        dtype = helper.tensor_dtype_to_np_dtype(constant.data_type).name
        return Table(constant.name, dtype, tuple(constant.dims), place)

    def _place(self, data: bytes) -> int:
        key = hashlib.sha256(data).digest()
        if key not in self._places:
            self._places[key] = self._end
            self._tables.append((self._end, data))
            self._end = -(-(self._end + len(data)) // PAGE_BYTES) * PAGE_BYTES
        return self._places[key]
