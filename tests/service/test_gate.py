"""Heads that are too large and what is no HTTP, over real sockets."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests import plain
from tests.servers import wait_until

LIMIT = 32 << 10


@pytest.fixture
def service(serve: Callable[..., Any]) -> Any:
    return serve()


def answer_to(running: Any, *parts: bytes) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of the only answer on a connection that the server ends."""
    with plain.line(running.port) as line:
        for part in parts:
            line.sendall(part)
        with line.makefile("rb") as file:
            told = file.read()
    head, _, body = told.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(field.split(": ", 1) for field in lines)
    assert int(headers["content-length"]) == len(body)
    return int(status.split()[1]), headers, json.loads(body)


def live(*fields: bytes) -> bytes:
    head = [b"GET /health/live HTTP/1.1", b"host: x", b"connection: close", *fields]
    return b"\r\n".join(head) + b"\r\n\r\n"


HEADS: dict[str, tuple[bytes, ...]] = {
    "one large": (live(b"x-large: " + b"a" * 200_000),),
    "many small": (live(*(b"x-%d: a" % at for at in range(4_000))),),
    "in parts": tuple(
        live(b"x-large: " + b"a" * 40_000)[at : at + 9] for at in range(0, 40_000, 9)
    ),
    "never ending": (b"GET / HTTP/1.1\r\nx-large: ", b"a" * 1_000_000),
    "a long path": (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n",),
    "the second": (
        live().replace(b"connection: close\r\n", b"") + live(b"x-large: " + b"a" * 40_000),
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_over_the_limit(service: Any, name: str) -> None:
    """431 in our own words, named and timed, however it arrives; the service goes on."""
    status, headers, problem = answer_to(service, *HEADS[name])
    assert (status, problem["type"], problem["status"]) == (431, "/problems/head-too-large", 431)
    assert "32,768 bytes" in problem["detail"]
    check(service, headers)
    counted = 'marmot_problems_total{problem="head-too-large"} 1.0'
    assert counted in service.client.get("/metrics").text


@pytest.mark.parametrize(
    "sent",
    [b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", live(b"no colon")],
)
def test_no_http(service: Any, sent: bytes) -> None:
    """What is no HTTP is a problem too, not plain text."""
    status, headers, problem = answer_to(service, sent)
    assert (status, problem["type"], problem["status"]) == (400, "/problems/not-http", 400)
    check(service, headers)


def check(service: Any, headers: dict[str, str]) -> None:
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert headers["x-request-id"]
    assert headers["x-model-fingerprint"] == service.house.fingerprint.decode()
    assert "total;dur=" in headers["server-timing"]
    assert service.client.get("/health/live").status_code == 200
    wait_until(lambda: service.house.metrics._in_flight._value.get() == 0)  # counted afterwards


def test_a_head_up_to_the_limit(service: Any) -> None:
    """Bodies, and heads one after the other on a connection, do not count towards a head."""
    fields = live(b"x-large: " + b"a" * (LIMIT - 200))
    assert answer_to(service, fields)[0] == 200
    for _ in range(3):
        large = {"x-large": "a" * (LIMIT - 1_000)}
        assert service.client.get("/health/live", headers=large).status_code == 200
        body = {"user_id": "u", "candidates": ["i" * 100] * 1_000}
        assert service.client.post("/v1/rank", json=body, headers=large).status_code == 200
