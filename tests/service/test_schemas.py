"""What the door lets in, and the sentence that whoever stays outside gets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.schemas import Limits, parse_events, parse_rank, parse_rank_batch

LIMITS = Limits()
NESTED = b"[" * 100 + b"]" * 100
DEEP = b"[" * 100_000 + b"]" * 100_000


def rank_with(**fields: Any) -> bytes:
    return json.dumps({"user_id": "u", "candidates": [1], **fields}).encode()


def refusal(body: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        parse_rank(body, LIMITS)
    return str(caught.value)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"[]", "the body must be an object"),
        (NESTED, "the body must be an object"),
        (DEEP, "the body is not JSON: recursion limit exceeded"),
        (b'{"user_id": "u", "candidates": ' + NESTED + b"}", "candidates[0] must be text or a"),
        (b'{"user_id": "\\ud800", "candidates": [1]}', "the body is not JSON"),
        (b'{"user_id": "\xff", "candidates": [1]}', "the body is not JSON"),
        (b'{"user_id": NaN, "candidates": [1]}', "user_id must be text or a whole number"),
        (b'{"user_id": 1, "candidates": [NaN]}', "candidates[0] must be text or a whole number"),
        (b'{"user_id": 1, "candidates": [1], "timestamp": NaN}', "timestamp must be a whole"),
        (b'{"user_id": 1, "candidates": [1], "deadline_ms": Infinity}', "deadline_ms"),
        (b'{"user_id": 1' + b"0" * 5000 + b', "candidates": [1]}', "the body is not JSON"),
        (b'{"user_id": "u"}', "candidates is required"),
        (b'{"candidates": [1]}', "user_id is required"),
        (rank_with(user_id=True), "user_id must be text or a whole number"),
        (rank_with(user_id=1.0), "user_id must be text or a whole number"),
        (rank_with(user_id=None), "user_id must be text or a whole number"),
        (rank_with(user_id=[]), "user_id must be text or a whole number"),
        (rank_with(user_id=""), "user_id must not be empty"),
        (rank_with(user_id="x" * 10_240), "user_id is longer than 128 bytes"),
        (rank_with(user_id="é" * 65), "user_id is longer than 128 bytes"),
        (rank_with(user_id="a\nb"), "user_id contains control characters"),
        (rank_with(user_id="a\x85"), "user_id contains control characters"),
        (rank_with(user_id=10**30), "user_id must be at most 18446744073709551615"),
        (rank_with(candidates=[]), "candidates must not be empty"),
        (rank_with(candidates=[1] * 2_001), "candidates has 2001 entries, at most 2000"),
        (rank_with(candidates=[1, True]), "candidates[1] must be text or a whole number"),
        (rank_with(candidates=["a", ""]), "candidates must not be empty"),
        (rank_with(candidates=["a", "x" * 129]), "candidates is longer than 128 bytes"),
        (rank_with(candidates=["a\x00"]), "candidates contains control characters"),
        (rank_with(candidates="ab"), "candidates must be a list"),
        (rank_with(timestamp=-1), "timestamp must be at least 0"),
        (rank_with(timestamp=2**53 + 1), "timestamp must be at most"),
        (rank_with(timestamp=True), "timestamp must be a whole number"),
        (rank_with(timestamp=1.5), "timestamp must be a whole number"),
        (rank_with(timestamp="1"), "timestamp must be a whole number"),
        (rank_with(top_k=0), "top_k must be at least 1"),
        (rank_with(deadline_ms=-1), "deadline_ms must be at least 0"),
        (rank_with(timestmap=1), "timestmap is not a known field"),
        (rank_with(model={"versoin": "1"}), "model.versoin is not a known field"),
        (rank_with(history=[{"item_id": 1}]), "history[0].timestamp is required"),
        (
            rank_with(history=[{"item_id": 1, "timestamp": 1}] * 10_001),
            "history has 10001 entries, at most 10000",
        ),
        (
            rank_with(history=[{"item_id": 1, "timestamp": 1, "feedback": {"like": True}}]),
            "history[0].feedback.like must be a whole number",
        ),
        (
            rank_with(history=[{"item_id": 1, "timestamp": 1, "feedback": {"like": 2}}]),
            "history[0].feedback.like must be at most 1",
        ),
    ],
)
def test_bad_input_gets_one_sentence_that_names_the_field(body: bytes, said: str) -> None:
    """Every kind of bad input is refused, in words, before anything is computed."""
    assert refusal(body).startswith(said)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_no_json_gets_past_the_door_unnoticed(value: Any) -> None:
    """Whatever JSON comes, the door answers with a request or a refusal, nothing else."""
    for body in (json.dumps(value), json.dumps({"user_id": value, "candidates": value})):
        try:
            parse_rank(body.encode(errors="surrogatepass"), LIMITS)
        except InvalidRequest as refused:
            assert str(refused)  # noqa: PT017


def test_ids_keep_their_type_and_every_character() -> None:
    """Nothing is trimmed or converted: answers give ids back as they came."""
    ids = [42, "42", "007", " a ", "a/b", "日本", -1, 2**64 - 1, 42]
    asked = parse_rank(rank_with(candidates=ids), LIMITS)
    assert asked.candidates == ids
    assert [type(item) for item in asked.candidates] == [type(item) for item in ids]


def test_a_batch_judges_each_request_by_itself() -> None:
    """One malformed request of a batch does not fail the others."""
    body = b'{"requests": [{"user_id": 1, "candidates": [1]}, {"user_id": 1}, NaN]}'
    good, bad, odd = parse_rank_batch(body, LIMITS)
    assert not isinstance(good, InvalidRequest)
    assert isinstance(bad, InvalidRequest)
    assert isinstance(odd, InvalidRequest)
    with pytest.raises(InvalidRequest, match="requests has 65 entries"):
        parse_rank_batch(json.dumps({"requests": [{}] * 65}).encode(), LIMITS)


def test_events_are_judged_one_by_one() -> None:
    """A malformed event gets its own refusal; too many events refuse the whole."""
    event = {"user_id": 1, "item_id": "a", "timestamp": 1, "feedback": {"like": 1}}
    sent = [event, {**event, "timestamp": -1}, 7, {**event, "feedback": {"a\n": 1}}, event]
    judged = parse_events(json.dumps({"events": sent}).encode(), LIMITS)
    assert [isinstance(each, InvalidRequest) for each in judged] == [False, True, True, True, False]
    assert judged[0] == event
    for body in (b'{"events": []}', json.dumps({"events": [event] * 1_001}).encode(), b"{}"):
        with pytest.raises(InvalidRequest, match="events"):
            parse_events(body, LIMITS)
