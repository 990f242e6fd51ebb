"""Every answer is observed, whatever became of the request; and how fresh what was ranked was."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from service.auth import append_key, make_key
from service.errors import EngineFailed
from service.job import Lane
from tests import plain
from tests.servers import Running

RANK = {"user_id": "u", "candidates": [1, 2]}
EVENT = {"user_id": "u", "item_id": 1, "timestamp": 1}
Sample = tuple[str, frozenset[tuple[str, str]]]


def samples(running: Any, **options: Any) -> dict[Sample, float]:
    """What /metrics shows, by name and labels."""
    found = {}
    for line in running.client.get("/metrics", **options).text.splitlines():
        if match := re.fullmatch(r"(marmot_\w+)(?:\{(.*)\})? (\S+)", line):
            labels = frozenset(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
            found[match[1], labels] = float(match[3])
    return found


def grown(before: dict[Sample, float], after: dict[Sample, float], name: str) -> dict[str, float]:
    """By how much each label of a metric has grown; labels as one text."""
    return {
        " ".join(value for _, value in sorted(labels)): value - before.get((metric, labels), 0.0)
        for (metric, labels), value in after.items()
        if metric == name and value > before.get((metric, labels), 0.0)
    }


def _refuse(*_: Any) -> None:
    raise EngineFailed


@pytest.mark.parametrize(
    ("method", "path", "ask", "status", "route", "problem"),
    [
        ("POST", "/v1/rank", {"json": RANK}, 200, "/v1/rank", None),
        ("POST", "/v1/rank", {"json": {}}, 422, "/v1/rank", "invalid-request"),
        ("POST", "/v1/rank", {"json": {**RANK, "model": {"version": "x"}}}, 422, "/v1/rank",
         "unknown-model"),
        ("POST", "/v1/rank", {"json": {**RANK, "deadline_ms": 0}}, 504, "/v1/rank",
         "deadline-exceeded"),
        ("POST", "/v1/rank", {"json": RANK, "headers": {"x-request-timeout-ms": "soon"}}, 422,
         "/v1/rank", "invalid-request"),
        ("POST", "/v1/rank", {"content": b"{", "headers": {"content-type": "text/css"}}, 415,
         "/v1/rank", "not-json"),
        ("POST", "/v1/rank", {"content": b" " * (2 << 20)}, 413, "/v1/rank", "body-too-large"),
        ("GET", "/v1/rank", {}, 405, "/v1/rank", "method-not-allowed"),
        ("GET", "/nowhere", {}, 404, "none", "not-found"),
        ("POST", "/v1/events", {"json": {"events": [{**EVENT, "timestamp": 2**52}]}}, 422,
         "/v1/events", "invalid-request"),
        ("POST", "/v1/events", {"json": {"events": [EVENT]},
                                "headers": {"x-request-timeout-ms": "0"}}, 504, "/v1/events",
         "deadline-exceeded"),
        ("GET", "/v1/users/a%2Fb/timeline?limit=x", {}, 422, "/v1/users/{user_id}/timeline",
         "invalid-request"),
    ],
)  # fmt: skip
def test_each_answer_counts(
    observed: Any, method: str, path: str, ask: Any, status: int, route: str, problem: str | None
) -> None:
    """By route template, method and status, with its time, and its problem by name."""
    _check(observed, method, path, ask, status, route, problem)


def _check(
    running: Any, method: str, path: str, ask: Any, status: int, route: str, problem: str | None
) -> None:
    reader = ask.pop("as_reader", {})
    before = samples(running, **reader)
    with plain.Client(running.url) as client:
        assert client.request(method, path, **ask).status_code == status
    after = samples(running, **reader)
    answers = grown(before, after, "marmot_requests_total")
    assert answers.pop("GET /metrics 200") == 1
    assert answers == {f"{method} {route} {status}": 1}
    assert grown(before, after, "marmot_request_seconds_count")[route] == 1
    assert grown(before, after, "marmot_problems_total") == ({problem: 1} if problem else {})


@pytest.fixture(scope="module")
def observed(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One service for requests that leave nothing behind."""
    folder = tmp_path_factory.mktemp("observed")
    running = Running(bundle=tiny_bundle, cache=f"lmdb:{folder}")
    yield running
    running.stop()


@pytest.mark.parametrize("path", ["/v1/rank", "/v1/users/a%2Fb/timeline"])
def test_callers_without_a_key_count(serve: Callable[..., Any], tmp_path: Path, path: str) -> None:
    """401 before anything is routed: by the template of what they asked for."""
    secret, key = make_key("reader", "read")
    append_key(tmp_path / "keys", key)
    running = serve(keys=tmp_path / "keys")
    head = {"authorization": f"Bearer {secret}"}
    ask = {"as_reader": {"headers": head}}
    route = path.replace("a%2Fb", "{user_id}")
    _check(running, "POST" if path == "/v1/rank" else "GET", path, ask, 401, route, "unauthorized")


def test_a_broken_engine_counts(serve: Callable[..., Any]) -> None:
    """500, for a request and within a batch."""
    running = serve()
    running.house.registry.active.engine.run = _refuse
    _check(running, "POST", "/v1/rank", {"json": RANK}, 500, "/v1/rank", "engine-failed")


def test_who_is_shed_and_who_hangs_up_count(
    serve: Callable[..., Any], until: Callable[..., Any]
) -> None:
    """503 of a full house; 499 for a caller who went."""
    running = serve()
    admission = running.house.admission
    admission._few, admission._queue_s, admission._crowd_s = 0, -1.0, -1.0
    _check(running, "POST", "/v1/rank", {"json": RANK}, 503, "/v1/rank", "overloaded")
    admission._few = 16
    before = samples(running)
    with plain.line(running.port) as line:
        line.sendall(b"POST /v1/rank HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
    until(lambda: "POST /v1/rank 499" in grown(before, samples(running), "marmot_requests_total"))


def test_nothing_is_computed_for_who_hangs_up(
    serve: Callable[..., Any], until: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What queues for a connection that is lost is not run; both count as 499."""
    running = serve()
    batcher, engine = running.house.registry.active.batcher, running.house.registry.active.engine
    may_go_on, ran, run = threading.Event(), [], engine.run

    def wait(graph: str, feed: Any) -> Any:
        ran.append(graph)
        assert may_go_on.wait(plain.PATIENCE_S)
        return run(graph, feed)

    monkeypatch.setattr(engine, "run", wait)
    before = samples(running)
    body = orjson.dumps(RANK)
    asked = b"POST /v1/rank HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b"
    with plain.line(running.port) as first, plain.line(running.port) as second:
        first.sendall(asked % (len(body), body))
        until(lambda: ran == ["rank"])
        second.sendall(asked % (len(body), body))
        until(lambda: batcher.wait_s(Lane.RANK) > 0)
    gone = {"POST /v1/rank 499": 2}
    until(lambda: grown(before, samples(running), "marmot_requests_total").items() >= gone.items())
    may_go_on.set()
    running.rank("u", [1])
    assert ran == ["rank"] * 2


def test_freshness(serve: Callable[..., Any]) -> None:
    """Events: how long until they are seen, and how old they are; ranked users: their records."""
    running = serve()
    before, now = samples(running), int(time.time())
    events = [{**EVENT, "timestamp": now - 100}, {**EVENT, "timestamp": now - 10_000}]
    running.post(*events, {**EVENT, "user_id": "v", "timestamp": now + 60})
    running.post(*events)
    running.rank("u", [1])
    running.rank("nobody", [1])
    after = samples(running)
    # Two users in the first request, one in the second; what was there already is not new.
    assert grown(before, after, "marmot_event_visible_seconds_count") == {"": 3}
    assert 0 < grown(before, after, "marmot_event_visible_seconds_sum")[""] < 60
    ages = grown(before, after, "marmot_event_age_seconds_bucket")
    assert (ages["1.0"], ages["60.0"], ages["300.0"], ages["3600.0"], ages["21600.0"]) == (
        1, 1, 2, 2, 3,
    )  # fmt: skip
    assert grown(before, after, "marmot_rank_record_age_seconds_count") == {"": 1}
