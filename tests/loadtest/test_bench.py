"""The bench, on a tiny bundle and for a moment: what it says, not how fast anything is.

What is measured are the lines of the pages, each of them once (tests/docs/short.py).
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from contextlib import chdir
from itertools import islice
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadtest.cli import app
from loadtest.deck import USERS, Deck
from tests.docs.short import typed

#: What a line measures, by the option that says so; `--json` alone is run on its page.
KINDS = ("--window", "--memory-requests", "--workers", "--backfill", "--peers", "--store", "--json")
TYPED = {next(kind for kind in KINDS if kind in line): line for line in typed("bench")}


@pytest.fixture(scope="module")
def here(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle where the pages have it."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "var").mkdir()
    (folder / "var" / "bundle").symlink_to(tiny_bundle)
    return folder


@pytest.fixture(scope="module")
def both(here: Path) -> str:
    """What one run on both stores says, as tables for a page and a line of JSON."""
    options = ("--records", "0,8", "--candidates", "5,100", "--hit-rate", "0,50,100", "--markdown")
    with chdir(here):
        ended = _bench(*TYPED["--store"], *options)
    assert ended.exit_code == 0, ended.output
    said: str = ended.stdout.strip()
    return said


def test_every_line_of_the_pages() -> None:
    """No two measure the same, so that each is run: by a test here, or in tests/docs."""
    assert len(TYPED) == len(typed("bench"))
    assert TYPED.keys() == set(KINDS)


def test_one_run_compares_the_service_with_the_bare_graph(both: str) -> None:
    """Every size on both stores, everything positive that can be read off a moment."""
    report = json.loads(both.splitlines()[-1])
    assert report["kind"] == "bench"
    assert report["stores"] == ["lmdb", "redis"]
    assert report["gemm_gflops"] == max(report["gemm"].values()) > 0
    sizes = [(shape["store"], shape["candidates"], shape["records"]) for shape in report["shapes"]]
    assert sizes == [
        (store, candidates, records)
        for store in ("lmdb", "redis")
        for candidates in (5, 100)
        for records in (0, 8)
    ]
    for shape in report["shapes"]:
        figures = {key: value for key, value in shape.items() if isinstance(value, float)}
        may_be_less = {"p50_difference_ms", "store_cpu_ms", "service_cpu_ms"}
        assert min(value for key, value in figures.items() if key not in may_be_less) > 0, figures
        assert shape["open_p99_ms"] >= shape["open_p50_ms"]


def test_a_hit_rate_is_what_was_answered(both: str) -> None:
    """Fresh users are rebuilt and known ones are not: the service's own answers say so."""
    shapes = json.loads(both.splitlines()[-1])["shapes"]
    assert not any(shape["hit_rates"] for shape in shapes if not shape["records"])
    for shape in (shape for shape in shapes if shape["records"]):
        none, half, every = (mix["seen_hit_rate"] for mix in shape["hit_rates"])
        assert (none, every) == (0, 1)
        assert 0 < half < 1


def test_a_deck_mixes_as_it_was_told() -> None:
    """A share of known users, and no fresh one twice: once asked, it has records."""
    asked = [json.loads(request.body) for request in Deck([1, 2, 3], 2, 8).mixed(0.9)]
    seen = Counter("known" in body["user_id"] for body in asked)
    assert seen[False] == USERS
    assert 0.85 < seen[True] / seen.total() < 0.95
    fresh = [body["user_id"] for body in asked if "fresh" in body["user_id"]]
    assert len(set(fresh)) == USERS


def test_an_inline_history_is_the_stored_one() -> None:
    """As many events as records, one after the other."""
    (request,) = islice(Deck([1, 2, 3], 2, 8).inline(), 1)
    history = json.loads(request.body)["history"]
    assert [event["item_id"] for event in history] == [1, 2, 3, 1, 2, 3, 1, 2]
    assert sorted({event["timestamp"] for event in history}) == [e["timestamp"] for e in history]


def test_another_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `--window` an untrained bundle is measured, and no other is needed."""
    monkeypatch.chdir(tmp_path)
    ended = _bench(*TYPED["--window"], "--hit-rate", "")
    assert ended.exit_code == 0, ended.output
    *table, line = ended.stdout.splitlines()
    assert any("5 x 12" in row for row in table)
    report = json.loads(line)
    assert report["window"] == 12
    assert [shape["records"] for shape in report["shapes"]] == [12]


def test_markdown_now_and_later(both: str, tmp_path: Path) -> None:
    """The tables of a page are made by the run itself, or from the line it left."""
    shown, _, line = both.rpartition("\n")
    assert "| store | candidates x records |" in shown
    assert "| lmdb | 5 x 8 |" in shown
    file = tmp_path / "bench.txt"
    file.write_text(f"anything\n{line}\n")
    again = CliRunner().invoke(app, ["table", str(file)])
    assert again.exit_code == 0, again.output
    assert again.stdout.strip() == shown.strip()


def test_a_file_that_is_no_report(tmp_path: Path) -> None:
    """One sentence, no traceback."""
    file = tmp_path / "bench.txt"
    file.write_text("nothing of the kind\n")
    ended = CliRunner().invoke(app, ["table", str(file)])
    assert ended.exit_code == 1
    assert "bench.txt: it is none of `--out`" in str(ended.exception)


def test_a_race(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers: Marmot with and without its near tier, and the control: each has its figures."""
    python = tmp_path / "fastapi" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.chdir(here)
    ended = _bench(*TYPED["--peers"], "--peers-dir", str(tmp_path), "--candidates", "5,20")
    assert ended.exit_code == 0, ended.output
    report = json.loads(ended.stdout.splitlines()[-1])
    assert report["kind"] == "peers"
    assert "fastapi" not in report["missing"]
    rows = [(row["peer"], row["candidates"]) for row in report["peers"]]
    servers = ("marmot", "marmot without near tier", "fastapi")
    assert rows == [(server, size) for size in (5, 20) for server in servers]
    for row in report["peers"]:
        assert min(value for value in row.values() if not isinstance(value, str)) > 0


def test_more_records_than_the_window_holds_are_refused(tiny_bundle: Path) -> None:
    """What was measured is what was asked for, or nothing is."""
    ended = _bench(
        "--bundle", str(tiny_bundle), "--records", "9", "--candidates", "5",
        "--memory-requests", "20",
    )  # fmt: skip
    assert ended.exit_code == 1
    assert "9 records were wanted" in str(ended.exception)


def test_no_bundle_is_one_sentence(tmp_path: Path) -> None:
    """A folder without items is none, and is not asked any further."""
    ended = _bench("--bundle", str(tmp_path))
    assert ended.exit_code == 1
    assert "no bundle at" in str(ended.exception)


@pytest.mark.parametrize("sizes", ["", "0", "many", "1,,2"])
def test_sizes_that_are_none(sizes: str) -> None:
    """Bad usage is exit code 2."""
    assert _bench("--candidates", sizes).exit_code == 2


@pytest.mark.parametrize("rates", ["101", "half", "-1"])
def test_rates_that_are_none(rates: str) -> None:
    """Bad usage is exit code 2."""
    assert _bench("--hit-rate", rates).exit_code == 2


@pytest.mark.parametrize("missing", ["shapes", "note"])
def test_a_report_with_holes(missing: str, both: str, tmp_path: Path) -> None:
    """Figures that a table wants and a file lacks are one sentence, too."""
    report = json.loads(both.splitlines()[-1])
    del report[missing]
    (file := tmp_path / "bench.json").write_text(json.dumps({"bench": report}))
    ended = CliRunner().invoke(app, ["table", str(file), "--short"])
    assert ended.exit_code == 1
    assert "not all figures" in str(ended.exception)


def test_a_file_keeps_one_report_of_each_kind(
    both: str, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--out` puts a report beside those of other kinds, with machine, command, commit and note."""
    bench = json.loads(both.splitlines()[-1])
    (file := tmp_path / "figures" / "bench.json").parent.mkdir()
    file.write_text(json.dumps({"bench": bench, "memory": {"kind": "memory", "note": "first"}}))
    monkeypatch.chdir(here)
    ended = _bench(*TYPED["--memory-requests"], "--out", str(file), "--note", "second")
    assert ended.exit_code == 0, ended.output
    kept = json.loads(file.read_text())
    assert kept.keys() == {"bench", "memory"}
    assert kept["bench"] == bench
    memory = kept["memory"]
    assert memory == json.loads(ended.stdout.splitlines()[-1])
    assert memory["note"] == "second"
    assert memory["machine"]["cores"] >= 1
    assert memory["command"].startswith("marmot")
    assert (memory["requests"], len(memory["resident_bytes"])) == (60, 20)
    assert 0 < memory["least_mib"] <= memory["warm_mib"] <= memory["greatest_mib"]
    shown = CliRunner().invoke(app, ["table", str(file), "--short"]).stdout
    assert "app in process / bare" in shown


def test_what_a_second_worker_costs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many requests for one worker as for two, or as for each of two, and their CPU time."""
    monkeypatch.chdir(here)
    ended = _bench(*TYPED["--workers"])
    assert ended.exit_code == 0, ended.output
    rows = json.loads(ended.stdout.splitlines()[-1])["workers"]
    shapes = [(row["workers"], row["load_per_worker"], row["candidates"]) for row in rows]
    assert shapes == [(1, 0.5, 5), (1, 0.25, 5), (2, 0.25, 5)]
    one, idle, two = rows
    assert one["requests"] == two["requests"] >= idle["requests"] > 0
    assert min(one["generator_cpu_ms"], one["bare_cpu_ms"], two["bare_cpu_ms"]) > 0


def test_a_backfill_beside_the_bare_graph(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files, each read by a process of its own, and what their memory came to."""
    monkeypatch.chdir(here)
    ended = _bench(*TYPED["--backfill"])
    assert ended.exit_code == 0, ended.output
    report = json.loads(ended.stdout.splitlines()[-1])
    assert (report["events"], report["larger_events"]) == (1600, 6400)
    assert min(report["bare_events_per_s"], report["bare_events_per_cpu_s"]) > 0
    for which in ("", "larger_"):
        assert 0 < report[f"{which}anonymous_peak_mib"] < report[f"{which}peak_mib"]


def _bench(*words: str):  # type: ignore[no-untyped-def]
    line = words if words[0] == "bench" else ("bench", "--seconds", "0.05", *words)
    return CliRunner().invoke(app, [*line, "--no-cache-times", "--json"])
