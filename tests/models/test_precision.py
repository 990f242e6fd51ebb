"""Fewer bits in the cache: the forms are those of the graphs, and what they cost is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from models.bundle import load_bundle
from models.precision import FORMS
from service.marmot import run
from tests.bundles import make_bundle

EVENTS = "user_id,item_id,timestamp,like,share\n" + "".join(
    f"u{user},{(7 * user + 3 * at) % 60},{100 * at},{(user + at) % 2},{at % 3 % 2}\n"
    for user in range(6)
    for at in range(20)
)


@pytest.mark.parametrize("form", ["float16", "int8"])
def test_forms_are_those_of_the_graphs(tmp_path: Path, form: str) -> None:
    """Rounding float32 records gives what a bundle of that dtype keeps."""
    exact, rounded = (
        load_bundle(make_bundle(tmp_path / dtype, cache_dtype=dtype)) for dtype in ("float32", form)
    )
    feed = {name: exact.example()[name] for name in ("items", "timestamps", "feedback")}
    records, kept = (
        ort.InferenceSession(bundle.file("encode.onnx")).run(None, feed)
        for bundle in (exact, rounded)
    )
    found = kept[0].astype(np.float32)
    if form == "int8":
        found = found * kept[1].astype(np.float32)[..., None]
    assert np.abs(FORMS[form].round(records[0]) - found).max() <= 1e-5 + 0.01 * (form == "int8")


def test_the_command(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each form: fewer bytes, larger moves; float32 moves nothing."""
    (tmp_path / "e.csv").write_text(EVENTS)
    options = ["precision", "--bundle", str(tiny_bundle), "--events", str(tmp_path / "e.csv")]
    assert run([*options, "--json"]) == 0
    rows = {row["form"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(FORMS)
    sizes = [rows[form]["bytes per event"] for form in ("float32", "float16", "int8", "int4")]
    assert sizes == [128, 64, 36, 20]  # two depths of sixteen numbers
    moves = [rows[form]["largest move"] for form in ("float32", "float16", "int8", "int4")]
    assert moves == sorted(moves)
    assert moves[0] == 0
    assert run(options) == 0
    assert capsys.readouterr().out.startswith("| form | bytes per event |")


def test_nothing_cached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A family without records has nothing to round, and says so."""
    (tmp_path / "e.csv").write_text(EVENTS)
    bundle = make_bundle(tmp_path / "din", family="din", depth=1)
    assert run(["precision", "--bundle", str(bundle), "--events", str(tmp_path / "e.csv")]) == 1
    assert "keeps no records" in capsys.readouterr().err
