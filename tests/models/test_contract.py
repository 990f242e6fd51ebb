"""What `marmot train` writes, for every family and stage: the contract's bundle, from outside."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.bundle import load_bundle
from models.family import FAMILIES
from models.stage_reference import load_stage
from service.marmot import run
from tests.bundles import make_stage

SMALL = ["--depth", "2", "--width", "8", "--heads", "2", "--window", "6", "--epochs", "1"]
SHALLOW = ["--depth", "1", *SMALL[2:]]
OPTIONS: dict[str, list[str]] = {
    **{name: SMALL if kind.most_depth > 1 else SHALLOW for name, kind in FAMILIES.items()},
    "vista": [*SMALL, "--summary", "4", "--refresh-events", "3"],
    "elastic": [*SMALL, "--summary", "4", "--refresh-events", "3"],
    "sim": [*SHALLOW, "--history", "40", "--search", "4"],
    "marm that searches": [*SMALL, "--history", "40", "--search", "4", "--search-by", "attention"],
    "marm in int8": [*SMALL, "--cache-dtype", "int8"],
}
STAGES = ("retrieval", "prerank")
OF_USERS = "retrieval that knows users"
ALWAYS = {
    "manifest.json",
    "rank.onnx",
    "weights.safetensors",
    "items.parquet",
    "example.npz",
}
DTYPES = {"tensor(int64)": "int64", "tensor(int8)": "int8", "tensor(float)": "float32"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle of each family and stage, as the command leaves it."""
    folder, random = tmp_path_factory.mktemp("contract"), np.random.default_rng(0)
    events, count = 20 * 20, 40
    columns = {
        "user_id": [str(place % 20) for place in range(events)],
        "item_id": [str(item) for item in random.integers(0, count, events)],
        "timestamp": np.arange(events) * 600,
        "like": random.integers(0, 2, events).astype(np.int8),
        "share": random.integers(0, 2, events).astype(np.int8),
    }
    items = {
        "item_id": [str(item) for item in range(count)],
        "name": [f"Item {item}" for item in range(count)],
        "kind": [str(item % 3) for item in range(count)],
    }
    pq.write_table(pa.table(columns), folder / "events.parquet")
    pq.write_table(pa.table(items), folder / "items.parquet")
    data = ["--events", folder / "events.parquet", "--items", folder / "items.parquet"]
    bundles = {}
    for name, options in OPTIONS.items():
        bundles[name] = folder / name.replace(" ", "-")
        family = name.partition(" ")[0]
        train(*data, "--out", bundles[name], "--family", family, *options)
    for stage in STAGES:
        bundles[stage] = folder / stage
        train(
            *data, "--out", bundles[stage], "--stage", stage, "--ranker", bundles["marm"],
            "--steps", "3", "--window", "9",
        )  # fmt: skip
    train(
        *data, "--out", folder / "users", "--stage", "retrieval", "--ranker", bundles["marm"],
        "--steps", "3", "--window", "9", "--user-embedding",
    )  # fmt: skip
    bundles[OF_USERS] = folder / "users"
    return bundles


def train(*arguments: Any) -> None:
    assert run(["train", *map(str, arguments)]) == 0


NAMES = [*OPTIONS, *STAGES, OF_USERS]


def manifest_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "manifest.json").read_bytes())
    return found


@pytest.mark.parametrize("name", NAMES)
def test_files(written: dict[str, Path], name: str) -> None:
    """What must be there is, others can read it, and each is what the manifest's sha256 says."""
    path = written[name]
    files = {file.name for file in path.iterdir()}
    assert files >= ALWAYS
    if FAMILIES.get(name.partition(" ")[0], FAMILIES["din"]).is_cached:
        assert files >= {"append.onnx", "encode.onnx"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o644}
    told = manifest_of(path)["files"]
    assert told.keys() == files - {"manifest.json"}
    for file, checksum in told.items():
        assert hashlib.sha256((path / file).read_bytes()).hexdigest() == checksum


@pytest.mark.parametrize("name", NAMES)
def test_manifest(written: dict[str, Path], name: str) -> None:
    """Every field that is promised, and graphs described as they are."""
    path = written[name]
    told = manifest_of(path)
    for text in ("name", "version", "fingerprint", "family"):
        assert isinstance(told[text], str)
    assert told["spec"].keys() >= {
        "family", "depth", "window", "width", "heads", "tasks", "cache_dtype",
    }  # fmt: skip
    assert told["family"] == told["spec"]["family"]
    assert re.fullmatch("[0-9a-f]{16,}", told["fingerprint"])
    assert told["receptive_field"] >= told["spec"]["window"]
    assert told["trained_on"]["holdout"] == 0.1
    assert told["metrics"]
    assert told["graphs"]["rank"]["file"] == "rank.onnx"
    assert {graph["file"] for graph in told["graphs"].values()} == {
        file.name for file in path.glob("*.onnx")
    }
    for graph in told["graphs"].values():
        model = onnx.load(path / graph["file"]).graph
        for ports, values in ((graph["inputs"], model.input), (graph["outputs"], model.output)):
            assert [port["name"] for port in ports] == [value.name for value in values]
            axes = [
                [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
                for value in values
            ]
            assert [port["axes"] for port in ports] == axes


@pytest.mark.parametrize("name", NAMES)
def test_the_rank_graph_and_its_example(written: dict[str, Path], name: str) -> None:
    """Scores from the example, tiled along any axis; no others are dynamic, and none of ours."""
    path = written[name]
    graph = manifest_of(path)["graphs"]["rank"]
    axes = {port["name"]: port["axes"] for port in graph["inputs"]}
    named = {axis for port in graph["inputs"] + graph["outputs"] for axis in port["axes"]}
    assert {axis for axis in named if isinstance(axis, str)} <= {"batch", "candidates", "records"}
    with np.load(path / "example.npz", allow_pickle=False) as arrays:
        example = {each: arrays[each] for each in arrays.files}
    assert example.keys() == axes.keys()
    session = ort.InferenceSession(path / "rank.onnx", providers=["CPUExecutionProvider"])
    known = {port.name: port for port in session.get_inputs()}
    sizes: dict[str, int] = {}
    for port, array in example.items():
        assert array.ndim == len(axes[port])
        for axis, size in zip(axes[port], array.shape, strict=True):
            assert sizes.setdefault(str(axis), size) == size
        assert DTYPES.get(known[port].type, array.dtype.name) == array.dtype.name
    assert sizes["records"] >= 1
    for times in ({}, {"batch": 3}, {"candidates": 2}, {"records": 2}):
        feed = {
            port: np.tile(array, [times.get(axis, 1) for axis in axes[port]])
            for port, array in example.items()
        }
        scores = session.run(["scores"], {port: feed[port] for port in known})[0]
        batch, candidates = feed["candidates"].shape
        assert scores.shape[:2] == (batch, candidates)
        assert ((scores >= 0) & (scores <= 1)).all()
    spec = manifest_of(path)["spec"]
    assert scores.shape[2] == (1 if name.startswith("retrieval") else len(spec["tasks"]))


def test_what_retrieval_thinks_of_candidates(written: dict[str, Path]) -> None:
    """Its rank graph gives the scores with which it finds; 0 to what it cannot find."""
    bundle = load_bundle(written["retrieval"])
    feed = bundle.example()  # of retrieve.onnx
    model = load_stage(bundle)
    rows = len(bundle.vocabulary) + bundle.spec.fallback_rows
    scores = ort.InferenceSession(bundle.file("rank.onnx")).run(
        ["scores"],
        {
            "candidates": np.arange(rows)[None],
            **{name: part for name, part in feed.items() if name not in ("seen", "wanted")},
        },
    )[0][0, :, 0]
    found, values = ort.InferenceSession(bundle.file("retrieve.onnx")).run(
        ["found", "scores"], {**feed, "seen": np.zeros((1, 1), np.int64)}
    )
    assert np.abs(scores[found[0]] - values[0]).max() <= 1e-6
    assert (scores[model.items :] == 0).all()


def test_bundles_from_before_still_load(written: dict[str, Path], tmp_path: Path) -> None:
    """A stage's bundle with its own graph alone, whose feed is the example."""
    for stage in STAGES:
        path = make_stage(tmp_path / stage, written["marm"], stage)
        told, graph = manifest_of(path), {"retrieval": "retrieve", "prerank": "prerank"}[stage]
        if stage == "retrieval":
            (path / "rank.onnx").unlink()
            (path / "retrieve.npz").replace(path / "example.npz")
        else:
            (path / "rank.onnx").rename(path / "prerank.onnx")
        told["graphs"] = {graph: {**told["graphs"][graph], "file": f"{graph}.onnx"}}
        del told["receptive_field"]
        files = {file.name: file for file in path.iterdir() if file.name != "manifest.json"}
        told["files"] = {
            name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()
        }
        (path / "manifest.json").write_text(json.dumps(told))
        bundle = load_bundle(path)
        ports = {port.name for port in bundle.graphs[bundle.spec.graphs[0]].inputs}
        assert bundle.example().keys() == ports
