"""The bench, on a tiny bundle and for a moment: what it says, not how fast anything is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadtest.cli import app


@pytest.mark.parametrize("store", ["lmdb", "redis"])
def test_one_run_compares_the_service_with_the_bare_graph(tiny_bundle: Path, store: str) -> None:
    """A table for people, then one line: every size with its ratios, all of them positive."""
    ended = _bench("--bundle", str(tiny_bundle), "--store", store)
    assert ended.exit_code == 0, ended.output
    *table, line = ended.stdout.splitlines()
    assert any("5 x 8" in row for row in table)
    report = json.loads(line)
    assert report["kind"] == "bench"
    assert report["store"] == store
    assert report["gemm_gflops"] > 0
    assert [shape["candidates"] for shape in report["shapes"]] == [5, 100]
    for shape in report["shapes"]:
        assert shape["records"] == 8
        assert min(shape["bare_p50_ms"], shape["one_p50_ms"], shape["one_p99_ms"]) > 0
        assert shape["p50_ratio"] > 0
        assert shape["saturated_share"] > 0


def test_more_records_than_the_window_holds_are_refused(tiny_bundle: Path) -> None:
    """What was measured is what was asked for, or nothing is."""
    ended = _bench("--bundle", str(tiny_bundle), "--records", "9")
    assert ended.exit_code == 1
    assert "9 records were wanted" in ended.stderr


def test_no_bundle_is_one_sentence(tmp_path: Path) -> None:
    """A folder without items is not asked any further."""
    ended = _bench("--bundle", str(tmp_path))
    assert ended.exit_code == 1
    assert "no items can be read" in ended.stderr


@pytest.mark.parametrize("sizes", ["", "0", "many", "1,,2"])
def test_sizes_that_are_none(sizes: str) -> None:
    """Bad usage is exit code 2."""
    assert _bench("--candidates", sizes).exit_code == 2


def _bench(*options: str):  # type: ignore[no-untyped-def]
    given = ("bench", "--records", "8", "--candidates", "5,100", "--seconds", "0.05", "--json")
    return CliRunner().invoke(app, [*given, *options])
