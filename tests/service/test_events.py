"""`/v1/events` and `/v1/users` over HTTP, on both stores."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any
from urllib.parse import quote

import pytest

EVENT = {"user_id": "42", "item_id": 50, "timestamp": 893_286_638, "feedback": {"like": 1}}


def test_each_event_has_its_own_result(running: Any) -> None:
    """Good events are stored although others of the request are malformed or too far ahead."""
    ahead = int(time.time()) + 2 * 86_400
    sent = [
        EVENT,
        {**EVENT, "timestamp": -1},
        {**EVENT, "timestamp": ahead},
        EVENT,
        {**EVENT, "timestamp": EVENT["timestamp"] - 1},
        {**EVENT, "feedback": {"share": 1}},
        {**EVENT, "feedback_timestamp": ahead},
    ]
    answer = running.client.post("/v1/events", json={"events": sent})
    assert answer.status_code == 200
    results = answer.json()["results"]
    kinds = [result.get("status") or result["problem"]["status"] for result in results]
    assert kinds == ["appended", 422, 422, "duplicate", "inserted", "updated", 422]
    assert len({result["version"] for result in results if "version" in result}) == 1
    shown = running.timeline("42")["events"]
    assert shown[0] == {
        "item_id": "50", "timestamp": EVENT["timestamp"], "feedback": {"like": 1, "share": 1},
    }  # fmt: skip
    assert len(shown) == 2


def test_a_request_without_a_good_event_is_refused(running: Any) -> None:
    """422 when no event could be taken, with each one's problem."""
    answer = running.client.post("/v1/events", json={"events": [{**EVENT, "timestamp": 1.5}]})
    assert answer.status_code == 422
    assert "timestamp" in answer.json()["results"][0]["problem"]["detail"]


def test_versions_grow_with_every_write_and_only_then(running: Any) -> None:
    """A duplicate changes nothing, not even the version."""
    (first,) = running.post(EVENT)
    (again,) = running.post(EVENT)
    (later,) = running.post({**EVENT, "timestamp": EVENT["timestamp"] + 1})
    assert again == {"status": "duplicate", "version": first["version"]}
    assert later["version"] > first["version"]


def test_a_number_and_its_text_are_one_user(running: Any) -> None:
    """42 and "42" are the same user, 042 is another."""
    running.post(EVENT)
    assert running.post({**EVENT, "user_id": 42, "item_id": "50"})[0]["status"] == "duplicate"
    assert running.post({**EVENT, "user_id": "042"})[0]["status"] == "appended"


@pytest.mark.parametrize(
    "user_id",
    ["a/b", "a/timeline", "%2F", "日本", " a ", "?x=1#y", "..", ".", "a+b", "ü" * 64, "/", "\\"],
)
def test_every_id_works_in_a_path(serve: Any, user_id: str) -> None:
    """Whatever id `/v1/events` takes, percent-encoded in a path it names the same user."""
    running = serve()
    running.post({**EVENT, "user_id": user_id})
    line = http.client.HTTPConnection("127.0.0.1", running.port)  # sends paths as they are
    encoded = quote(user_id, safe="").replace(".", "%2E")
    line.request("GET", f"/v1/users/{encoded}/timeline")
    answer = line.getresponse()
    assert answer.status == 200
    found = json.load(answer)
    assert found["user_id"] == user_id
    assert len(found["events"]) == 1
    line.request("DELETE", f"/v1/users/{encoded}")
    answer = line.getresponse()
    answer.read()
    assert answer.status == 204
    line.request("GET", f"/v1/users/{encoded}/timeline")
    assert json.load(line.getresponse())["events"] == []
    line.close()


@pytest.mark.parametrize("path", ["%FF", "%00", "a" * 129, "%ED%A0%80"])
def test_a_bad_id_in_a_path_is_refused(serve: Any, path: str) -> None:
    """An id that could never have been stored is 422, not an empty user."""
    answer = serve().client.get(f"/v1/users/{path}/timeline")
    assert answer.status_code == 422
    assert "user_id" in answer.json()["detail"]


def test_the_timeline_shows_the_newest_first(running: Any) -> None:
    """`limit` newest events, clamped, newest first."""
    events = [{**EVENT, "timestamp": 1_000 + place, "item_id": place} for place in range(120)]
    running.post(*events)
    url = "/v1/users/42/timeline"
    shown = running.client.get(url).json()["events"]
    assert [event["timestamp"] for event in shown] == list(range(1_119, 1_019, -1))
    assert len(running.client.get(url, params={"limit": 10**9}).json()["events"]) == 120
    for bad in ("0", "-1", "x", "1.5", ""):
        assert running.client.get(url, params={"limit": bad}).status_code == 422
