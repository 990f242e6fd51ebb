"""What every answer carries, and what bad requests get, over a real socket."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests import plain

RANK = b'{"user_id": "u", "candidates": [1]}'


@pytest.fixture
def service(serve: Callable[..., Any]) -> Any:
    return serve(body_limit_bytes=10_000)


def told(answer: Any, status: int, slug: str) -> str:
    """Checks that an answer is this problem, and returns its sentence."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["type"] == f"/problems/{slug}"
    detail: str = problem["detail"]
    return detail


def test_every_answer_is_named_and_timed(service: Any) -> None:
    """Request id, fingerprint and timings stand on every answer, errors included."""
    fingerprint = service.rank("u", [1])["model"]["fingerprint"]
    assert re.fullmatch(r"[0-9a-f]{16,}", fingerprint)
    answers = [
        service.client.post("/v1/rank", content=RANK),
        service.client.get("/health/live"),
        service.client.get("/no/such/path"),
        service.client.put("/v1/rank"),
        service.client.post("/v1/rank", content=b"{"),
        service.client.get("/metrics"),
        service.client.get("/docs"),
        service.client.delete("/v1/users/u"),
    ]
    for answer in answers:
        assert answer.headers["x-request-id"]
        assert answer.headers["x-model-fingerprint"] == fingerprint
        stages = re.findall(r"(\w+);dur=([0-9.]+)", answer.headers["server-timing"])
        assert [stage for stage, _ in stages] == ["cache", "queue", "run", "total"]
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)
    timings = dict(re.findall(r"(\w+);dur=([0-9.]+)", answers[0].headers["server-timing"]))
    assert float(timings["run"]) > 0
    assert float(timings["total"]) >= float(timings["run"])


def test_a_request_id_is_echoed_if_it_is_harmless(service: Any) -> None:
    """The caller's id comes back, unless it is too long or not printable."""
    for given, is_kept in (("abc-1", True), ("x" * 128, True), ("x" * 129, False), ("a b", False)):
        found = service.client.get("/health/live", headers={"x-request-id": given})
        assert (found.headers["x-request-id"] == given) == is_kept


def test_paths_and_methods_that_are_not_there(service: Any) -> None:
    """404 and 405 are problems too, and 405 says what is allowed."""
    told(service.client.get("/v1/nothing"), 404, "not-found")
    told(service.client.get("/v1/users//timeline"), 404, "not-found")
    told(service.client.post("/v1/rank/", content=RANK), 404, "not-found")
    refused = service.client.get("/v1/rank")
    told(refused, 405, "method-not-allowed")
    assert "POST" in refused.headers["allow"]
    told(service.client.get("/v1/users/u"), 405, "method-not-allowed")


def test_what_nobody_foresaw_reveals_nothing(service: Any) -> None:
    """500 as a problem like any other, and not a word of what happened."""
    service.house.ranker = service.house.recorder = None
    for answer in (
        service.client.post("/v1/rank", content=RANK),
        service.client.delete("/v1/users/u"),
    ):
        assert told(answer, 500, "internal-error") == "Something went wrong on our side"


@pytest.mark.parametrize("path", ["/v1/rank", "/v1/rank:batch", "/v1/events"])
def test_bodies_that_are_no_json(service: Any, path: str) -> None:
    """Another content type is 415, a missing one is JSON, no JSON is 422."""
    kind = {"content-type": "text/plain"}
    told(service.client.post(path, content=RANK, headers=kind), 415, "not-json")
    detail = told(service.client.post(path, content=b"[" * 100), 422, "invalid-request")
    assert detail.startswith("the body is not JSON")
    nested = b"[" * 100 + b"]" * 100
    told(service.client.post(path, content=nested), 422, "invalid-request")
    told(service.client.post(path, content=b""), 422, "invalid-request")


def test_json_with_or_without_a_name(service: Any) -> None:
    """`application/json`, with a charset, or nothing at all: read as JSON."""
    for kind in ("application/json", "application/json; charset=utf-8", None):
        headers = {"content-type": kind} if kind else {}
        answer = service.client.post("/v1/rank", content=RANK, headers=headers)
        assert answer.status_code == 200


def test_a_body_over_the_limit_is_refused(service: Any) -> None:
    """413 by its declared length, and 413 while it streams in; nothing is computed."""
    before = service.runs
    told(service.client.post("/v1/rank", content=b" " * 10_001), 413, "body-too-large")
    large = service.client.post("/v1/rank", content=b" " * (5 << 20))
    told(large, 413, "body-too-large")
    streamed = service.client.post("/v1/rank", content=iter([b" " * 6_000] * 2))
    told(streamed, 413, "body-too-large")
    assert service.runs == before


def exchange(port: int, sent: bytes) -> tuple[int, dict[str, Any]]:
    """What a raw request is answered, read until the server closes."""
    with plain.line(port) as line:
        line.sendall(sent)
        answer = b""
        while part := line.recv(65_536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    "head",
    [b"content-length: 1000\r\n\r\n{", b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n"],
)
def test_a_body_that_never_ends(serve: Callable[..., Any], head: bytes) -> None:
    """408 after a while, and the connection is closed."""
    service = serve(body_timeout_s=0.3)
    status, problem = exchange(service.port, b"POST /v1/rank HTTP/1.1\r\nhost: x\r\n" + head)
    assert status == 408
    assert problem["type"] == "/problems/body-timeout"


def test_a_caller_who_leaves_halfway_harms_nobody(service: Any, until: Any) -> None:
    """A connection cut in the middle of a body leaves nothing in flight."""
    with plain.line(service.port) as line:
        line.sendall(b"POST /v1/rank HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{")
    until(lambda: service.house.in_flight == 0)
    assert service.client.get("/health/live").status_code == 200


def test_limits_are_settings(serve: Callable[..., Any]) -> None:
    """A smaller limit refuses earlier, and names itself."""
    small = serve(max_candidates=2, max_events=1, max_batch=1, max_history=0)
    body = {"user_id": "u", "candidates": [1, 2, 3]}
    answer = small.client.post("/v1/rank", json=body)
    assert told(answer, 422, "invalid-request").endswith("at most 2 are taken")


def test_metrics_name_routes_and_no_ids(service: Any) -> None:
    """Prometheus sees routes, stages and cache states, never a user or an item."""
    service.post({"user_id": "secret-user", "item_id": "secret-item", "timestamp": 1})
    service.rank("secret-user", [1])
    service.client.get("/v1/users/secret-user/timeline")
    service.client.get("/secret-path")
    text = service.client.get("/metrics").text
    assert "secret" not in text
    assert 'marmot_requests_total{method="POST",route="/v1/rank",status="200"} 1.0' in text
    assert 'route="/v1/users/{user_id}/timeline"' in text
    assert 'marmot_stage_seconds_bucket{le="0.0005",stage="run"}' in text
    assert 'marmot_rank_cache_total{state="hit"} 1.0' in text
    assert 'marmot_events_total{status="appended"} 1.0' in text


def test_the_documents_describe_the_routes(service: Any) -> None:
    """openapi.json resolves all its references, and /docs asks no other host."""
    document = service.client.get("/openapi.json").json()
    assert set(document["paths"]) >= {"/v1/rank", "/v1/events", "/v1/users/{user_id}/timeline"}
    text = json.dumps(document)
    for name in re.findall(r'"#/components/schemas/([^"]+)"', text):
        assert name in document["components"]["schemas"], name
    page = service.client.get("/docs").text
    assert "openapi.json" in page
    assert not re.search(r"(?:https?:)?//\w", page)
