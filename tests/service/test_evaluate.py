"""`marmot evaluate`: PyTorch, the cache and a server measure the same."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle import load_bundle
from models.evaluate import Question, questions
from models.events import EventTable, read_events
from models.reference import Reference
from service.evaluate import by_cache, by_http
from service.examiner import NotMeasured
from tests.bundles import make_bundle

Marmot = Callable[..., Any]
CLOSE = 1e-4


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """Users with timelines of many windows, of four events, and with ties at the split."""
    random, path = np.random.default_rng(0), tmp_path / "events.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user_id", "item_id", "timestamp", "like", "share", "feedback_timestamp"])
        for user, count in enumerate((4, 5, 20, 60, 31, 12)):
            for place in range(count):
                like, share = random.choice(["0", "1", ""], 2, p=[0.45, 0.45, 0.1])
                when = 1_000 * (place // 3)
                item = ["x y", 3, 59, 60][place % 4] if place % 5 else place
                rows.writerow([f"u{user}", item, when, like, share, 9_000 + place])
    return path


@pytest.fixture
def table(events: Path) -> EventTable:
    return read_events(events, ["like", "share"])


def asked(scorer: Callable[[Question], Any], table: EventTable, holdout: float) -> Any:
    return np.concatenate([scorer(question) for question in questions(table, holdout)])


@pytest.mark.parametrize("holdout", [0.1, 0.5])
@pytest.mark.parametrize("evaluator", [by_cache, by_http])
def test_own_store_equals_the_trusted_path(
    tiny_bundle: Path, table: EventTable, evaluator: Any, holdout: float
) -> None:
    """Scores through a store that was filled up to the split are the trusted ones."""
    bundle = load_bundle(tiny_bundle)
    expected = asked(Reference.of(bundle, table).score_question, table, holdout)
    with evaluator(bundle, table, holdout, None) as scorer:
        found = asked(scorer, table, holdout)
    assert found.shape == (len(expected), 2)
    assert np.abs(found - expected).max() <= CLOSE


def test_a_server_elsewhere_keeps_its_store(
    serve: Callable[..., Any], tiny_bundle: Path, table: EventTable
) -> None:
    """With a URL histories travel along, and the server's store is as it was."""
    running, bundle = serve(), load_bundle(tiny_bundle)
    running.post({"user_id": "u3", "item_id": 1, "timestamp": 1, "feedback": {"like": 1}})
    before = running.timeline("u3")
    expected = asked(Reference.of(bundle, table).score_question, table, 0.1)
    with by_http(bundle, table, 0.1, running.url) as scorer:
        found = asked(scorer, table, 0.1)
    assert np.abs(found - expected).max() <= CLOSE
    assert running.timeline("u3") == before
    assert running.timeline("u2")["version"] == 0


def test_many_candidates_take_several_requests(
    serve: Callable[..., Any], tiny_bundle: Path, table: EventTable
) -> None:
    """More held-out events than one request may carry are asked for in parts."""
    bundle = load_bundle(tiny_bundle)
    (longest,) = [q for q in questions(table, 0.5) if q.targets.stop - q.targets.start == 30]
    with by_http(bundle, table, 0.5, serve().url) as scorer:
        whole = scorer(longest)
        parts = replace(scorer, most_candidates=7)(longest)
    assert np.abs(whole - parts).max() <= 1e-5


def test_another_model_is_not_measured(
    serve: Callable[..., Any], tmp_path: Path, tiny_bundle: Path, table: EventTable
) -> None:
    """A server with another fingerprint is refused in a sentence that names both."""
    running, other = serve(), load_bundle(make_bundle(tmp_path / "other", seed=9))
    with (
        pytest.raises(NotMeasured, match=rf"{running.url}.*{other.fingerprint}"),
        by_http(other, table, 0.1, running.url),
    ):
        pass


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "ftp://x", "nonsense", "http://[::1"])
def test_no_server_there(tiny_bundle: Path, table: EventTable, url: str) -> None:
    """A URL where nobody answers is told in a sentence."""
    with (
        pytest.raises(NotMeasured, match="cannot be asked"),
        by_http(load_bundle(tiny_bundle), table, 0.1, url),
    ):
        pass


def test_a_refusal_is_told(serve: Callable[..., Any], tiny_bundle: Path, table: EventTable) -> None:
    """A server that refuses a question stops the evaluation, in its own words."""
    running = serve(max_history=3)
    with (
        by_http(load_bundle(tiny_bundle), table, 0.1, running.url) as scorer,
        pytest.raises(NotMeasured, match="answered 422: history has"),
    ):
        asked(scorer, table, 0.1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_its_own_server_ends_with_it(
    marmot: Marmot, tiny_bundle: Path, events: Path, until: Callable[..., Any], number: int
) -> None:
    """Whoever stops an evaluation, however rudely, leaves no server running."""
    options = ["--bundle", tiny_bundle, "--events", events, "--via", "http"]
    command = marmot("evaluate", *options, "--holdout", "0.3")
    (server,) = until(lambda: children_of(command.process.pid))
    command.send(signal.SIGSTOP)  # so that it does not finish
    log = until(lambda: log_of(server))
    until(lambda: " ready " in log.read_text())
    command.send(number)
    command.send(signal.SIGCONT)
    assert command.ends()[0] == {signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    until(lambda: not is_alive(server))
    assert log.exists() == (number == signal.SIGKILL)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def log_of(pid: int) -> Path | None:
    """Where a server writes to, once it is a server."""
    path = Path(f"/proc/{pid}/fd/2").readlink()
    return path if path.name == "log" else None


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def test_the_command_says_the_same_by_every_way(
    cli: Callable[..., Any], serve: Callable[..., Any], tiny_bundle: Path, events: Path
) -> None:
    """`marmot evaluate` prints the same figures via full, cache, http and a URL."""
    running, figures = serve(), []
    options = ["evaluate", "--bundle", tiny_bundle, "--events", events, "--holdout", "0.3"]
    ways = (["full"], ["cache"], ["http"], ["http", "--url", running.url])
    for way in ways:
        code, out, err = cli(*options, "--json", "--via", *way)
        assert code == 0, err
        figures.append(json.loads(out)["metrics"])
    assert figures[0]["like"]["targets"] > 30
    assert all(found == figures[0] for found in figures)
    code, out, err = cli(*options, "--url", running.url)
    assert (code, out) == (2, "")
    assert err == "marmot: --url goes with --via http, not with --via full\n"
