"""`marmot train`, `score`, `evaluate` and `inspect`, as people and scripts use them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle import load_bundle
from models.synthetic import write_order_example
from tests.bundles import make_bundle
from tests.servers import Command

SMALL = ["--depth", "2", "--width", "16", "--heads", "2", "--window", "8", "--epochs", "1"]
EVENTS = """user_id,item_id,timestamp,like,share,comment
7,a,10,1,,fine
7,b,20,0,1,
7,é,30,,0,
007,a,10,0,0,
"""

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def events(tmp_path: Path) -> Path:
    (tmp_path / "events.csv").write_text(EVENTS)
    return tmp_path / "events.csv"


def one_sentence(err: str) -> str:
    """The last line, after at most a progress bar."""
    *bars, sentence = err.splitlines()
    assert sentence.startswith("marmot: ")
    assert not any("marmot: " in line for line in bars)
    assert "Traceback" not in err
    return sentence


def test_the_same_seed_gives_the_same_bundle(cli: Cli, tmp_path: Path) -> None:
    """Twice the same fingerprint, here and in a process of its own; another seed another one."""
    events = write_order_example(tmp_path, users=60)

    def train(place: int, seed: str) -> list[str | Path]:
        return [
            "train", "--events", events, "--out", tmp_path / str(place), *SMALL,
            "--seed", seed, "--name", "tiny", "--version", "v1", "--json",
        ]  # fmt: skip

    elsewhere = Command(*train(0, "5"))
    ended = [cli(*train(1, "5")), cli(*train(2, "6"))]
    found = []
    for place, (code, out, err) in enumerate([elsewhere.ends(), *ended]):
        assert code == 0, err
        (line,) = out.splitlines()
        answer = json.loads(line)
        bundle = load_bundle(tmp_path / str(place))
        assert answer["bundle"] == str(tmp_path / str(place))
        assert answer["fingerprint"] == bundle.fingerprint
        assert answer["metrics"] == bundle.manifest["metrics"]
        assert (bundle.name, bundle.version) == ("tiny", "v1")
        assert bundle.manifest["trained_on"]["holdout"] == 0.1
        assert bundle.manifest["metrics"]["like"]["targets"] == 60
        assert "epoch" in err  # progress
        found.append(bundle.fingerprint)
    assert found[0] == found[1] != found[2]


BAD_OPTIONS: list[tuple[list[str], str]] = [
    (["--depth", "-1"], "--depth"),
    (["--depth", "two"], "--depth"),
    (["--heads", "3", "--width", "16"], "width 16 is not divisible by 3 heads"),
    (["--time-gap", "maybe"], "--time-gap"),
    (["--cache-dtype", "float64"], "--cache-dtype"),
    (["--family", "hstu"], "family must be one of marm, full, stca, din,"),
    (["--family", "dlrm"], "family must be one of marm, full, stca, din,"),
    (["--family", "din", "--depth", "2"], "depth must be at most 1 in the family din"),
    (["--embedding", "nope"], "embedding must be one of full, qr"),
    (["--holdout", "1.5"], "--holdout"),
    (["--window", "0"], "--window"),
    (["--epochs", "0"], "--epochs"),
    (["--seed", "-1"], "--seed"),
    (["--colour", "red"], "--colour"),
    (["--learning-rate", "0"], "--learning-rate"),
    (["--history-where", "long"], "history where takes one of the tasks like, share, not 'long'"),
    (["--history-where", "like", "--family", "vista"], "vista sums up every event"),
    (["--history-where", "like", "--stage", "prerank"], "--history-where is said of a ranking"),
]


@pytest.mark.parametrize(("options", "named"), BAD_OPTIONS, ids=str)
def test_bad_options(
    cli: Cli, events: Path, tmp_path: Path, options: list[str], named: str
) -> None:
    """Exit code 2, one sentence that names the option, and nothing on stdout or disk."""
    code, out, err = cli("train", "--events", events, "--out", tmp_path / "b", *options)
    assert (code, out) == (2, "")
    assert named in one_sentence(err)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("user_id,item_id,timestamp,like\n", "has a header but no events"),
        ("user_id,item_id,like\nu,i,1\n", "has no column timestamp"),
        ("user_id,item_id,timestamp,like\nu,i,1,2\n", "line 2: like must be 0, 1 or empty"),
        ("user_id,item_id,timestamp,like\nu,i,1.5,1\n", "line 2: timestamp must be whole"),
        ("user_id,item_id,timestamp,like\nu,i,1,\n", "no task column with a 0 or a 1"),
        ("user_id,item_id,timestamp,like\n" + "u,i,{},{}\n" * 5, "nothing to learn"),
    ],
)
def test_bad_events(cli: Cli, tmp_path: Path, text: str, said: str) -> None:
    """Exit code 1 and one sentence that says what is wrong where."""
    if "{}" in text:  # the only label is the one that is held out
        text = text.format(*(x for at in range(5) for x in (at, 1 if at == 4 else "")))
    (tmp_path / "e.csv").write_text(text)
    code, out, err = cli("train", "--events", tmp_path / "e.csv", "--out", tmp_path / "b", *SMALL)
    assert (code, out) == (1, "")
    assert said in one_sentence(err)
    assert not (tmp_path / "b").exists()


def ask(path: Path, *lines: Any) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n")
    return path


def test_score_answers_line_by_line(
    cli: Cli, tiny_bundle: Path, events: Path, tmp_path: Path
) -> None:
    """One answer per request, ids as they came; the timestamp's own events are seen."""
    asked = [
        {"user_id": 7, "candidates": ["a", 50, "é", 50], "timestamp": 30},
        {"user_id": "007", "candidates": [1], "timestamp": 9},
        {"user_id": "nobody", "candidates": [1], "timestamp": 0},
        {"user_id": "7", "candidates": ["a", 50, "é", 50], "timestamp": 29},
    ]
    requests = ask(tmp_path / "r.jsonl", asked[0], "", *asked[1:])
    options = ["--bundle", tiny_bundle, "--events", events, "--requests", requests]
    code, out, _ = cli("score", *options)
    assert code == 0
    found = [json.loads(line) for line in out.splitlines()]
    assert [(line["user_id"], line["candidates"]) for line in found] == [
        (line["user_id"], line["candidates"]) for line in asked
    ]
    assert all(list(line["scores"]) == ["like", "share"] for line in found)
    first, before, cold, earlier = (np.array(line["scores"]["like"]) for line in found)
    assert before == cold
    assert first[1] == first[3]
    assert np.abs(first - earlier).max() > 1e-4


BAD_REQUESTS: list[tuple[Any, str]] = [
    ("{", "not JSON"),
    ("[" * 10_000, "not JSON"),
    ("[1]", "not an object"),
    ({"candidates": [1], "timestamp": 1}, "user_id is missing"),
    ({"user_id": 1, "timestamp": 1}, "candidates is missing"),
    ({"user_id": 1, "candidates": [1]}, "timestamp is missing"),
    ({"user_id": 1, "candidates": [], "timestamp": 1}, "candidates must be a list of one"),
    ({"user_id": 1, "candidates": [1.5], "timestamp": 1}, "candidates[0] must be text or a whole"),
    ({"user_id": True, "candidates": [1], "timestamp": 1}, "user_id must be text or a whole"),
    ({"user_id": "", "candidates": [1], "timestamp": 1}, "user_id is empty"),
    ({"user_id": "a\nb", "candidates": [1], "timestamp": 1}, "user_id contains a control"),
    ({"user_id": "x" * 129, "candidates": [1], "timestamp": 1}, "user_id is 129 bytes long"),
    ('{"user_id": 1, "candidates": ["\\ud800"], "timestamp": 1}', "candidates[0] is not valid"),
    ({"user_id": 1, "candidates": [1], "timestamp": -1}, "timestamp must be whole seconds"),
    ('{"user_id": 1, "candidates": [1], "timestamp": NaN}', "timestamp must be whole seconds"),
    ({"user_id": 1, "candidates": [1], "timestamp": 10**30}, "timestamp must be whole seconds"),
]


@pytest.mark.parametrize(("line", "said"), BAD_REQUESTS, ids=lambda value: str(value)[:40])
def test_a_bad_request_line(
    cli: Cli, tiny_bundle: Path, events: Path, tmp_path: Path, line: Any, said: str
) -> None:
    """Exit code 1, one sentence that names file, line and field, and no answer at all."""
    good = {"user_id": 7, "candidates": [1], "timestamp": 30}
    requests = ask(tmp_path / "r.jsonl", good, line)
    options = ["--bundle", tiny_bundle, "--events", events, "--requests", requests]
    code, out, err = cli("score", *options)
    assert (code, out) == (1, "")
    assert f"{requests}, line 2: {said}" in one_sentence(err)


@pytest.mark.parametrize("command", ["score", "evaluate"])
def test_files_that_are_not_there(
    cli: Cli, tiny_bundle: Path, events: Path, tmp_path: Path, command: str
) -> None:
    """A missing bundle, events file or requests file is named."""
    ways = [(tmp_path / "no", events), (tiny_bundle, tmp_path / "no")]
    for bundle, file in ways:
        options = [command, "--bundle", bundle, "--events", file]
        options += ["--requests", events] if command == "score" else []
        code, out, err = cli(*options)
        assert (code, out) == (1, "")
        assert str(tmp_path / "no") in one_sentence(err)


def test_compare_includes_families(cli: Cli, tmp_path: Path) -> None:
    """A row per baseline, depth and family; a family that is not known is refused."""
    events, items = write_order_example(tmp_path, users=30), tmp_path / "items.csv"
    ids = {line.split(",")[1] for line in events.read_text().splitlines()[1:]}
    rows_of_items = [f"{item},{len(item)}" for item in sorted(ids)]
    items.write_text("\n".join(["item_id,category", *rows_of_items, ""]))
    options = ["compare", "--events", events, "--depths", "0"]
    full = [*options, "--items", items, "--families", "stca,din,search,vista", "--quick", "--json"]
    code, out, _ = cli(*full, "--resume", tmp_path / "done")
    assert code == 0
    rows = {row["model"]: row for row in json.loads(out)}
    search = "marm, depth 2, search by category"
    assert {"no history", "stca, depth 2", "din, depth 1", search, "vista, depth 2"} <= set(rows)
    assert rows[search]["rank.onnx, 100 candidates, p50 ms"] > 0
    assert rows["vista, depth 2"]["cached bytes per user"] == 49_668
    done = sorted((tmp_path / "done").iterdir())
    code, again, _ = cli(*full, "--resume", tmp_path / "done")
    assert [row["gauc"] for row in json.loads(again)] == [row["gauc"] for row in rows.values()]
    assert sorted((tmp_path / "done").iterdir()) == done
    assert all(len(row["auc"]) == len(row["ndcg@10"]) == 1 for row in rows.values())
    assert rows["no history"]["cached bytes per user"] == 0
    assert rows["stca, depth 2"]["parameters"] > rows["no history"]["parameters"]
    assert rows["item bias"]["parameters"] is None
    code, out, err = cli(*options, "--families", "dlrm")
    assert (code, out) == (2, "")
    assert "family must be one of marm, full, stca, din," in one_sentence(err)


@pytest.mark.parametrize(
    ("family", "cached", "reads"),
    [
        ("marm", "2 depths x 16 x float32 = 128 bytes", "8 events with their records"),
        ("full", "nothing", "24 events, and makes their records"),
        ("stca", "nothing", "8 events"),
    ],
)
def test_inspect_shows_what_a_family_spends(
    cli: Cli, tmp_path: Path, family: str, cached: str, reads: str
) -> None:
    """What is cached per user, what a request reads, and how much it computes."""
    bundle = make_bundle(tmp_path / "b", family=family, history_where="share")
    code, out, _ = cli("inspect", bundle, "--json")
    assert code == 0
    told = json.loads(out)
    assert told["attends to"] == "events whose share is 1"
    assert told["spec"]["history_where"] == "share"
    assert (told["cached per event"], told["a request reads"]) == (cached, reads)
    assert "multiply-adds" in told["a request runs"]


def test_inspect(cli: Cli, tiny_bundle: Path) -> None:
    """What a bundle is, for people and for programs."""
    code, out, _ = cli("inspect", tiny_bundle)
    assert code == 0
    assert load_bundle(tiny_bundle).fingerprint in out
    assert "depth 3, window 8" in out
    code, out, _ = cli("inspect", tiny_bundle, "--json")
    assert code == 0
    assert json.loads(out)["spec"]["depth"] == 3
    code, out, err = cli("inspect", tiny_bundle.parent)
    assert (code, out) == (1, "")
    assert "no bundle at" in one_sentence(err)


@pytest.mark.parametrize("command", ["train", "score", "evaluate", "inspect", "data"])
def test_help_has_an_example(cli: Cli, command: str) -> None:
    """`--help` on every command, with a line to copy."""
    code, out, _ = cli(command, "--help")
    assert code == 0
    assert f"marmot {command}" in out
    if command != "data":
        assert f"Example: marmot {command}" in " ".join(out.split())


def test_nothing_held_out(cli: Cli, tiny_bundle: Path, events: Path) -> None:
    """An evaluation without a held-out event says so instead of printing nothing."""
    code, out, err = cli("evaluate", "--bundle", tiny_bundle, "--events", events)
    assert (code, out) == (1, "")
    assert "held out" in one_sentence(err)
