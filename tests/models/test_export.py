"""Export proves the graphs, and writes a bundle whose example is valid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from models import export as exporting
from models.bundle import Bundle, load_bundle
from models.export import ExportError, export
from models.naive_bench import measure
from models.reference import load_model
from models.spec import Spec
from tests.bundles import ITEMS, TINY, make_bundle, random_model

KINDS: list[dict[str, Any]] = [
    {},
    {"depth": 1},
    {"depth": 2, "tasks": ("like",), "time_gap": False},
    {"cache_dtype": "float16"},
    {"cache_dtype": "int8", "depth": 4},
    {"window": 1, "heads": 16, "fallback_rows": 1},
]


@pytest.fixture(params=KINDS, ids=str)
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
    return load_bundle(make_bundle(tmp_path / "bundle", **request.param))


def rank(bundle: Bundle) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    file = str(bundle.file("rank.onnx"))
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def test_the_example_is_a_valid_feed(bundle: Bundle) -> None:
    """Its arrays are the graph's inputs by name, type and shape, with one record or more."""
    example, session = bundle.example(), rank(bundle)
    inputs = {port.name: port for port in session.get_inputs()}
    assert set(example) == set(inputs) == {port.name for port in bundle.graphs["rank"].inputs}
    sizes: dict[str, int] = {}
    for name, port in inputs.items():
        for axis, size in zip(port.shape, example[name].shape, strict=True):
            assert size == sizes.setdefault(axis, size) if isinstance(axis, str) else size == axis
    assert set(sizes) == {"batch", "candidates", "records"}
    assert sizes["records"] == bundle.spec.window
    (scores,) = session.run(["scores"], example)
    assert scores.shape == (sizes["batch"], sizes["candidates"], len(bundle.spec.tasks))
    assert ((scores > 0) & (scores < 1)).all()


@pytest.mark.parametrize("axis", ["batch", "candidates", "records"])
def test_the_example_may_be_tiled(bundle: Bundle, axis: str) -> None:
    """Along every dynamic axis; copies of requests and candidates get copies of scores."""
    example, session = bundle.example(), rank(bundle)
    tiled = {
        port.name: np.concatenate([example[port.name]] * 3, axis=port.shape.index(axis))
        if axis in port.shape
        else example[port.name]
        for port in session.get_inputs()
    }
    (scores,) = session.run(["scores"], tiled)
    assert np.isfinite(scores).all()
    if axis != "records":
        (single,) = session.run(["scores"], example)
        again = np.concatenate([single] * 3, axis=("batch", "candidates").index(axis))
        assert np.abs(scores - again).max() <= 1e-5


def test_graphs_are_as_the_manifest_says(bundle: Bundle) -> None:
    """Inputs, outputs, types and axes of every file; the opset too."""
    for graph in bundle.graphs.values():
        proto = onnx.load(bundle.file(graph.file))
        assert [(found.domain, found.version) for found in proto.opset_import] == [("", 23)]
        for ports, told in ((proto.graph.input, graph.inputs), (proto.graph.output, graph.outputs)):
            assert [
                (
                    port.name,
                    onnx.helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type).name,
                    tuple(
                        dim.dim_param or dim.dim_value for dim in port.type.tensor_type.shape.dim
                    ),
                )
                for port in ports
            ] == [(port.name, port.dtype, port.axes) for port in told]


def test_the_weights_are_the_models(tmp_path: Path) -> None:
    """The bundle's PyTorch model is the one that was exported."""
    model = random_model(Spec(**TINY))
    export(model, ITEMS, [None] * len(ITEMS), tmp_path / "bundle")
    again = load_model(load_bundle(tmp_path / "bundle")).state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


def test_a_graph_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs of other weights than the model's: no bundle, and a sentence with the difference."""
    other = exporting.build_graphs(random_model(Spec(**TINY), seed=1))
    monkeypatch.setattr(exporting, "build_graphs", lambda _: other)
    with pytest.raises(ExportError, match=r"differs from PyTorch by .*; no bundle was written"):
        make_bundle(tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings(
    "ignore:.*:FutureWarning", "ignore:.*:UserWarning"
)  # the exporter's own
def test_pytorchs_own_export_gives_the_same_scores(tmp_path: Path) -> None:
    """What the bench of graphs compares computes one thing, over records and over projections."""
    whole = load_bundle(make_bundle(tmp_path / "bundle", depth=2, tasks=("like",)))
    told = measure(whole, candidates=7, records=5, turns=1)
    assert max(told["largest_difference"].values()) <= 1e-5
    assert min(told["naive_ms"], told["rank_ms"], told["projected_ms"]) > 0


def test_a_bundle_of_other_records_is_not_compared(tmp_path: Path) -> None:
    """PyTorch's model reads float32."""
    whole = load_bundle(make_bundle(tmp_path / "bundle", cache_dtype="int8"))
    with pytest.raises(ValueError, match="float32 records"):
        measure(whole, candidates=7, records=5, turns=1)
