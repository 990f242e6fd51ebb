"""Requests nobody would think of, made from the document that describes the service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CheckContext
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.plain import PATIENCE_S
from tests.servers import Running

#: The same requests every time, and enough of them to be over in a minute.
FIXED = settings(
    max_examples=25,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
#: 503 and 504 are documented; whatever else begins with 5 is a bug.
EXPECTED_FAILURES = {503, 504}


@pytest.fixture(scope="module")
def fuzzed(
    tiny_bundle: Any, tiny_stages: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """One service for everything that is thrown at it."""
    folder = tmp_path_factory.mktemp("fuzz")
    running = Running(bundle=tiny_bundle, cache=f"lmdb:{folder}/cache", **tiny_stages)
    yield running
    running.stop()


def no_bug(_context: CheckContext, response: Any, _case: Any) -> None:
    assert response.status_code < 500 or response.status_code in EXPECTED_FAILURES, response.text


CHECKS = [
    no_bug,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]


def test_answers_are_documented(fuzzed: Running) -> None:
    """Every answer has a documented status, content type and shape, and none is a bug of ours."""
    document = schemathesis.openapi.from_url(f"{fuzzed.url}/openapi.json")
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) > 10
    for operation in operations:

        @FIXED
        @given(case=operation.as_strategy())
        def answers(case: Any) -> None:
            case.call_and_validate(checks=CHECKS, timeout=PATIENCE_S)

        answers()


ids = st.one_of(st.text(max_size=140), st.integers(-(2**65), 2**65), st.none(), st.booleans())
times = st.one_of(st.integers(-10, 2**54), st.just(1_000), st.floats(), st.text(max_size=3))
marks = st.dictionaries(st.text(max_size=8), st.one_of(st.integers(-1, 2), st.none()), max_size=3)
events = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {"user_id": ids, "item_id": ids, "timestamp": times},
            optional={"feedback": marks, "feedback_timestamp": times, "more": st.none()},
        ),
        st.fixed_dictionaries(
            {
                "user_id": st.sampled_from(["u", "v/w", "%", 7]),
                "item_id": st.integers(1, 9),
                "timestamp": st.integers(1, 50),
            },
            optional={"feedback": st.dictionaries(st.just("like"), st.integers(0, 1))},
        ),
        st.recursive(st.none() | st.text(), st.lists, max_leaves=3),
    ),
    max_size=8,
)


def test_events_are_judged_one_by_one(fuzzed: Running) -> None:
    """Each event is stored or told what is wrong with it; what one is like harms no other."""

    @FIXED
    @given(sent=events)
    def judged(sent: list[Any]) -> None:
        body = json.dumps({"events": sent}).encode()
        answer = fuzzed.client.post("/v1/events", content=body)
        assert answer.status_code in {200, 422}, answer.text
        results = answer.json().get("results", [])
        assert len(results) in {0, len(sent)}
        assert results or answer.status_code == 422
        for event, result in zip(sent, results, strict=False):
            assert ("status" in result) != ("problem" in result)
            if "status" in result:
                known = fuzzed.timeline(quote(str(event["user_id"]), safe=""))
                assert known["version"] >= result["version"]

    judged()


@pytest.mark.parametrize("path", ["/v1/rank", "/v1/rank:batch", "/v1/events"])
@pytest.mark.parametrize("opening", ['{"a":', "["])
def test_depth_is_bounded(fuzzed: Running, path: str, opening: str) -> None:
    """JSON nested a hundred thousand deep is 422, not a full stack."""
    closing = "}" if opening.startswith("{") else "]"
    for body in (opening * 100_000, opening * 100_000 + "1" + closing * 100_000):
        assert fuzzed.client.post(path, content=body).status_code == 422
    assert fuzzed.client.get("/health/live").status_code == 200


def test_an_id_is_no_key_of_another(fuzzed: Running) -> None:
    """Users whose ids look like parts of keys or paths stay apart, also when one is forgotten."""
    users = [
        "a",
        "a/b",
        "a:b",
        "{a}",
        "a}",
        "a%2Fb",
        "a/../b",
        "../a",
        "a*",
        "a?limit=1",
        "a#",
        "é",
    ]
    for place, user in enumerate(users):
        fuzzed.post({"user_id": user, "item_id": place, "timestamp": 1_000})
    for place, user in enumerate(users):
        (event,) = fuzzed.timeline(quote(user, safe=""))["events"]
        assert event["item_id"] == str(place)
    for place, user in enumerate(users):
        assert fuzzed.client.delete(f"/v1/users/{quote(user, safe='')}").status_code == 204
        left = [len(fuzzed.timeline(quote(other, safe=""))["events"]) for other in users]
        assert left == [0] * (place + 1) + [1] * (len(users) - place - 1)
