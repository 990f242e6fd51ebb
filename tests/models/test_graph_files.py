"""Large tables lie beside the graphs, once, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from models import graph_files
from models.bundle import TABLES, Bundle, BundleError, load_bundle
from service.bare import random_feed
from service.engine import Engine
from tests.bundles import make_bundle, make_stage

SMALL = {"rank": {"candidates": 7, "records": 5}, "encode": {"events": 9}}


@pytest.fixture
def plain(tmp_path: Path) -> Bundle:
    """Everything in the graphs' own files."""
    return load_bundle(make_bundle(tmp_path / "plain"))


@pytest.fixture
def parted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """The same model, as if its tables were large."""
    monkeypatch.setattr(graph_files, "LARGE_BYTES", 1_000)
    return load_bundle(make_bundle(tmp_path / "parted"))


def test_a_table_lies_there_once(plain: Bundle, parted: Bundle) -> None:
    """However many graphs read it; small bundles have no such file."""
    assert not plain.file(TABLES).exists()
    tables = [table for graph in parted.graphs.values() for table in graph.tables]
    vectors = [table for table in tables if table.shape[-1] == parted.spec.width]
    assert len(vectors) > len({table.offset for table in vectors})
    for name, graph in parted.graphs.items():
        own = plain.file(graph.file).stat().st_size
        assert parted.file(graph.file).stat().st_size < own or not graph.tables, name


def test_nothing_else_changes(plain: Bundle, parted: Bundle) -> None:
    """Fingerprint and answers are the same, in every bit."""
    assert parted.fingerprint == plain.fingerprint
    engines = [Engine(bundle) for bundle in (plain, parted)]
    for graph, sizes in SMALL.items():
        feed = random_feed(plain, graph, **sizes)
        own, lent = (engine.run(graph, feed) for engine in engines)
        assert all(np.array_equal(own[name], lent[name]) for name in own), graph
    for engine in engines:
        engine.close()


def test_a_graph_is_whole_for_others(plain: Bundle, parted: Bundle) -> None:
    """Whoever opens the file with the runtime alone gets the same scores."""
    feed = random_feed(plain, "rank", **SMALL["rank"])
    alone = ort.InferenceSession(parted.file("rank.onnx"), providers=["CPUExecutionProvider"])
    engine = Engine(plain)
    assert np.array_equal(alone.run(["scores"], feed)[0], engine.run("rank", feed)["scores"])
    engine.close()


def test_stages_have_tables_too(tmp_path: Path, parted: Bundle) -> None:
    """A retrieval model's items, which all of its graphs look through."""
    stage = load_bundle(make_stage(tmp_path / "stage", parted.path, "retrieval"))
    assert any(graph.tables for graph in stage.graphs.values())
    engine = Engine(stage)
    assert engine.run("retrieve", stage.example())["found"].size
    engine.close()


def test_a_changed_table_is_refused(parted: Bundle) -> None:
    """It has a checksum like every file."""
    file = parted.file(TABLES)
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=TABLES):
        load_bundle(parted.path)
