"""Answers and what came of them: the join, and the figures that are drawn from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.answer_log import AnswerLogError, UserHash, read_answers
from models.calibration import ece, psi, reliability
from models.events import UNKNOWN, read_events
from models.replay import join, outcomes, report
from service.marmot import run

KEY = b"a key that nobody knows"
SEEN = st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 12)), max_size=12)

Cli = Callable[..., tuple[int, str, str]]


def columns(rows: list[tuple[int, int]]) -> list[np.ndarray[Any, Any]]:
    return [np.array([row[place] for row in rows], np.int64) for place in (0, 1)]


@given(SEEN, SEEN, st.integers(1, 12))
def test_feedback_counts_only_after_its_answer(
    shown: list[tuple[int, int]], happened: list[tuple[int, int]], within_s: int
) -> None:
    """An outcome is of the same user and item, later than the answer, in time, and nobody else's.

    Between an answer and its outcome lies neither another answer with the item nor another event.
    """
    found = outcomes(*columns(shown), *columns(happened), within_s).tolist()
    kept = [event for event in found if event >= 0]
    assert len(set(kept)) == len(kept)
    for answer, event in enumerate(found):
        pair, at = shown[answer]
        later = [t for p, t in happened if p == pair >= 0 and t > at]
        again = [t for p, t in shown if p == pair and t > at]
        if event >= 0:
            assert happened[event] == (pair, min(later))
            assert min(later) - at <= within_s
            assert all(t >= min(later) for t in again)
        else:  # nothing came, too late, or there was a newer answer, or one in the same second
            is_last = not again or min(again) >= min(later, default=0)
            same = shown.count(shown[answer]) > 1
            assert not later or min(later) - at > within_s or not is_last or same


def line(user: str, at: int, scores: dict[str, float], version: str = "v1") -> str:
    return json.dumps(
        {
            "answered_at_s": 1.5,
            "timestamp": at,
            "user": UserHash(KEY)(user),
            "model": {"name": "marmot", "version": version, "fingerprint": "0" * 32},
            "state": "hit",
            "degraded": [],
            "candidates": list(scores),
            "scores": {"like": list(scores.values())},
        }
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Three answers to one user, one to another, and half a line."""
    folder = tmp_path / "log"
    folder.mkdir()
    lines = [
        line("7", 100, {"a": 0.9, "b": 0.2, "c": 0.5}),
        line("7", 200, {"a": 0.8, "b": 0.1}),
        '{"answered_at_s": 1.5, "timest',
        line("8", 100_000, {"a": 0.6, "b": 0.7}, "v2"),
    ]
    (folder / "answers-1.jsonl").write_text("\n".join(lines[:3]) + "\n")
    (folder / "answers-2.jsonl").write_text(lines[3] + "\n")
    (folder / "key").write_bytes(KEY + b"\n")
    return folder


EVENTS = """user_id,item_id,timestamp,like,feedback_timestamp
7,a,50,1,50
7,a,100,1,100
7,b,150,0,150
7,a,201,1,201
7,c,300,1,90000
7,b,400,,400
8,a,100001,1,100001
8,b,100002,0,100002
9,a,100002,0,100002
"""


def test_the_join(log: Path, tmp_path: Path) -> None:
    """Known, too early, of the same second, answered again, too late, without a label."""
    (tmp_path / "events.csv").write_text(EVENTS)
    table = read_events(tmp_path / "events.csv")
    answers = read_answers(log)
    assert answers.unreadable == 1
    labels = join(answers, table, UserHash(KEY), 3_600).labels["like"].tolist()
    assert labels == [UNKNOWN, 0, UNKNOWN, 1, UNKNOWN, 1, 0]
    told = report(join(answers, table, UserHash(KEY), 100_000))["models"]
    assert set(told) == {"v1", "v2"}
    one = told["v1"]["tasks"]["like"]
    assert (one["auc"], one["gauc"], one["with_feedback"]) == (1.0, 1.0, 3)
    assert told["v2"]["tasks"]["like"]["auc"] == 0.0
    assert told["v2"]["periods"] == [86_500]
    with pytest.raises(AnswerLogError, match="is this the key"):
        join(answers, table, UserHash(b"another"), 1)


def test_calibration() -> None:
    """Zero where the share of positives is what the scores say, else how far they are from it."""
    scores = np.repeat([0.05, 0.55], [100, 100])
    labels = np.concatenate([np.arange(100) < 5, np.arange(100) < 55]).astype(np.int8)
    assert ece(scores, labels) == pytest.approx(0, abs=1e-9)
    assert ece(scores, np.ones(200, np.int8)) == pytest.approx((0.95 + 0.45) / 2)
    assert [each["count"] for each in reliability(scores, labels)] == [100, 100]
    assert reliability(np.array([1.0]), np.array([1]))[0]["to"] == 1.0
    assert np.isnan(ece(scores[:0], labels[:0]))


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=50), st.randoms())
def test_drift(scores: list[float], random: Any) -> None:
    """None between the same scores in any order; never less than none; much where they moved."""
    once = np.array(scores, np.float32)
    again = np.array(random.sample(scores, len(scores)), np.float32)
    assert psi(once, again) == pytest.approx(0)
    assert psi(once, again[: len(again) // 2 + 1]) >= 0
    assert psi(once, np.full(5, 1.5, np.float32)) > 0.25 or len(set(scores)) == 1
    assert np.isnan(psi(once[:0], once))


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command in this process: exit code, stdout, stderr."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


def test_bad_usage(cli: Cli, log: Path, tmp_path: Path) -> None:
    """Each is one sentence that names what is missing, and how it is made."""
    (tmp_path / "events.csv").write_text(EVENTS)
    (tmp_path / "other.csv").write_text(EVENTS.replace("like", "share"))
    (tmp_path / "short").write_text("short")
    (tmp_path / "empty").mkdir()
    events = ("evaluate", "--events", tmp_path / "events.csv")
    replay, key = ("--replay", log), ("--key", log / "key")
    for arguments, code, said in (
        (events, 2, "--bundle, or --replay"),
        ((*events, *replay), 2, "--replay takes --key"),
        ((*events, *replay, *key, "--bundle", "b"), 2, "it takes no --bundle"),
        ((*events, *replay, "--key", "nowhere"), 1, "`openssl rand -hex -out nowhere 32`"),
        ((*events, *replay, "--key", tmp_path / "short"), 1, "holds 5 bytes"),
        ((*events, "--replay", tmp_path / "empty", *key), 1, "`marmot serve --answer-log`"),
        ((*events, *replay, *key, "--events", tmp_path / "other.csv"), 1, "labels of share"),
    ):
        found, out, err = cli(*arguments)
        assert (found, out) == (code, "")
        assert said in err
        assert "Traceback" not in err


def test_figures_for_eyes_and_programs(cli: Cli, log: Path, tmp_path: Path) -> None:
    """A line for each model and task, or one of JSON."""
    (tmp_path / "events.csv").write_text(EVENTS)
    arguments = (
        "evaluate", "--events", tmp_path / "events.csv", "--replay", log, "--key", log / "key",
    )  # fmt: skip
    code, out, err = cli(*arguments)
    assert code == 0, err
    assert out.splitlines()[0].startswith("v1  2 answers, 5 candidates")
    assert "auc 1.0000" in out
    code, out, _ = cli(*arguments, "--json")
    assert code == 0
    assert json.loads(out)["models"]["v2"]["tasks"]["like"]["drift"] == [0.0]
