"""The Python client against a real service, and against a server that misbehaves on purpose."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

from service.client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    Refused,
    Retry,
    Unreachable,
    UserEvent,
)
from tests.servers import ROOT, wait_until

START = 900_000_000
EVENTS: list[UserEvent] = [
    {"user_id": "ü/1 ?", "item_id": item, "timestamp": START + item, "feedback": {"like": item % 2}}
    for item in range(1, 6)
]
SOON = Retry(first_wait_s=0.001)


class Moody:
    """A server that answers as it was told, once each, and then well; it keeps what it was sent."""

    def __init__(self, *answers: tuple[int, dict[str, str]], waits_s: float = 0.0) -> None:
        self.answers = list(answers)
        self.waits_s = waits_s
        self.seen: list[dict[str, Any]] = []
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            self._answer, interface="asgi3", lifespan="off", log_config=None, timeout_keep_alive=75
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        seen: dict[str, Any] = {"headers": headers, "from": scope["client"]}
        self.seen.append(seen)
        message = await receive()
        seen["body"] = json.loads(message.get("body") or b"null")  # who has gone says no more
        status, extra = self.answers.pop(0) if self.answers else (200, {})
        if self.waits_s:
            await receive()  # until the caller has hung up
            return
        pairs = [(name.encode(), value.encode()) for name, value in extra.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": b'{"results": [], "detail": "moody"}'})

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)


@pytest.fixture
def moody() -> Iterator[Callable[..., Moody]]:
    started: list[Moody] = []

    def start(*answers: tuple[int, dict[str, str]], **how: Any) -> Moody:
        started.append(Moody(*answers, **how))
        return started[-1]

    yield start
    for each in started:
        each.stop()


def test_every_call(running: Any) -> None:
    """Events are stored, ranked, listed and forgotten; odd ids travel whole."""
    user_id = EVENTS[0]["user_id"]
    with Client(running.url) as client:
        assert [result["status"] for result in client.events(EVENTS)] == ["appended"] * 5
        answer = client.rank(user_id, [1, "2", 999], top_k=2, timestamp=START + 100)
        assert answer["cache"]["records"] == 5
        assert len(answer["ranking"]) == 2
        assert answer["unknown_items"] == [999]
        request: Any = {"user_id": user_id, "candidates": [1, "2", 999], "timestamp": START + 100}
        first, second = client.rank_batch([request, {**request, "candidates": []}])
        assert first["ranking"][:2] == answer["ranking"]  # type: ignore[typeddict-item]
        assert second["problem"]["status"] == 422  # type: ignore[typeddict-item]
        timeline = client.timeline(user_id, limit=2)
        assert [event["timestamp"] for event in timeline["events"]] == [START + 5, START + 4]
        client.forget(user_id)
        assert client.timeline(user_id)["version"] == 0


async def test_every_call_awaited(running: Any) -> None:
    """The asynchronous client makes the same calls."""
    user_id = EVENTS[0]["user_id"]
    async with AsyncClient(running.url) as client:
        assert [result["status"] for result in await client.events(EVENTS)] == ["appended"] * 5
        answer = await client.rank(user_id, [1, 2], timestamp=START + 100)
        assert answer["cache"]["records"] == 5
        (batched,) = await client.rank_batch([{"user_id": user_id, "candidates": [1]}])
        assert "scores" in batched
        assert len((await client.timeline(user_id))["events"]) == 5
        await client.forget(user_id)
        assert (await client.timeline(user_id))["events"] == []


def test_a_refusal_is_told(running: Any) -> None:
    """The problem and the id of the request are in the error; it was sent once."""
    with Client(running.url) as client, pytest.raises(Refused, match="candidates") as caught:
        client.rank("u", [])
    assert caught.value.status == 422
    assert caught.value.problem["type"] == "/problems/invalid-request"
    assert caught.value.request_id


def test_a_busy_service_is_asked_again(moody: Any) -> None:
    """As often as allowed, on one connection, under one request id and trace."""
    server = moody((503, {}), (429, {}), (502, {}))
    with Client(server.url, retry=SOON) as client:
        client.events([], deadline_s=600.0)
    assert len(server.seen) == 4
    heads = [seen["headers"] for seen in server.seen]
    assert len({head["x-request-id"] for head in heads}) == 1
    traces = [head["traceparent"].split("-") for head in heads]
    assert len({trace for _, trace, _, _ in traces}) == 1
    assert len({span for _, _, span, _ in traces}) == 4
    assert len({seen["from"] for seen in server.seen}) == 1


def test_it_gives_up(moody: Any) -> None:
    """After the last attempt the last refusal is raised."""
    server = moody(*[(503, {})] * 9)
    with (
        Client(server.url, retry=Retry(attempts=3, first_wait_s=0.001)) as client,
        pytest.raises(Refused, match="503: moody"),
    ):
        client.timeline("u", deadline_s=600.0)
    assert len(server.seen) == 3


async def test_retry_after_is_honoured(moody: Any) -> None:
    """It waits as long as the service says, not as it would itself."""
    server = moody((503, {"retry-after": "0"}), (503, {"retry-after": "0"}))
    patient = Retry(first_wait_s=60.0, longest_wait_s=60.0)
    async with AsyncClient(server.url, retry=patient) as client:
        await client.events([], deadline_s=600.0)
    assert len(server.seen) == 3


def test_a_wait_beyond_the_deadline_is_not_begun(moody: Any) -> None:
    """What the service asks for does not fit: the refusal is told at once."""
    server = moody((503, {"retry-after": "60"}))
    began = time.monotonic()
    with Client(server.url) as client, pytest.raises(Refused):
        client.rank("u", [1], deadline_s=59.0)
    assert time.monotonic() - began < 58.0  # whoever waited would wait until then
    assert len(server.seen) == 1


def test_the_service_is_told_what_is_left(moody: Any) -> None:
    """Every attempt carries what remains of the deadline, and the caller's own trace."""
    server = moody((503, {}))
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    with Client(server.url, retry=Retry(first_wait_s=0.05)) as client:
        client.rank("u", [1], deadline_s=600.0, traceparent=parent)
    first, second = (seen["body"]["deadline_ms"] for seen in server.seen)
    assert 500_000 < second < first <= 600_000
    assert {seen["headers"]["traceparent"] for seen in server.seen} == {parent}


def test_the_deadline_ends_a_call(moody: Any) -> None:
    """A server that says nothing is waited for until then, and not asked again."""
    server = moody(waits_s=60)
    with Client(server.url) as client, pytest.raises(DeadlineExceeded):
        client.timeline("u", deadline_s=0.2)
    wait_until(lambda: server.seen)  # which may be slower than the caller
    assert len(server.seen) == 1


def test_a_late_answer_of_the_service(running: Any) -> None:
    """Its 504 is the same error as our own deadline."""
    with Client(running.url) as client, pytest.raises(DeadlineExceeded):
        client.rank("u", [1], deadline_s=1e-6)


def test_nobody_there(free_port: int) -> None:
    """A closed port is tried again, then told."""
    with (
        Client(f"http://127.0.0.1:{free_port}", retry=SOON) as client,
        pytest.raises(Unreachable),
    ):
        client.forget("u")


def test_it_stands_alone() -> None:
    """Importing the client imports no other room, and no file of the service."""
    code = (
        "import sys, service.client; "
        "rooms = {'service', 'cache', 'models', 'loadtest', 'torch', 'fastapi', 'onnxruntime'}; "
        "print(sorted(name for name in sys.modules if name.split('.')[0] in rooms))"
    )
    found = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "['service', 'service.client']"
