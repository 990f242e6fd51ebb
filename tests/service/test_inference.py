"""The bytes of the Open Inference Protocol, with NVIDIA's own client as the other side."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult

from service.errors import InvalidRequest, NotInference
from service.inference import Inference, parse_inference, render_inference
from service.schemas import Limits

TASKS = ("like", "follow")
LIMITS = Limits()
USER = {"name": "user_id", "shape": [1], "datatype": "BYTES", "data": ["u"]}
ITEMS = {"name": "candidates", "shape": [2], "datatype": "INT64", "data": [1, 2]}
TIME = {"name": "timestamp", "shape": [1], "datatype": "INT64", "data": [7]}

ids = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=32)
numbers = st.integers(-(2**63), 2**63 - 1)


def parse(body: bytes, json_bytes: str | None = None, limits: Limits = LIMITS) -> Inference:
    return parse_inference(body, json_bytes, tasks=TASKS, version="1", limits=limits)


def parse_json(*inputs: dict[str, Any], **fields: Any) -> Inference:
    return parse(json.dumps({"inputs": inputs, **fields}).encode())


def parse_binary(*inputs: tuple[dict[str, Any], bytes], tail: bytes = b"") -> Inference:
    """The inputs as their JSON says they are, and the bytes that really come."""
    head = json.dumps({"inputs": [tensor for tensor, _ in inputs]}).encode()
    body = b"".join((head, *(raw for _, raw in inputs), tail))
    return parse(body, str(len(head)))


def binary(tensor: dict[str, Any], raw: bytes, size: int | None = None) -> tuple[Any, bytes]:
    declared = len(raw) if size is None else size
    kept = {name: value for name, value in tensor.items() if name != "data"}
    return {**kept, "parameters": {"binary_data_size": declared}}, raw


def packed(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def tensor(name: str, datatype: str, values: Sequence[Any], *, is_binary: bool) -> InferInput:
    kind = np.int64 if datatype == "INT64" else np.object_
    made = InferInput(name, [len(values)], datatype)
    made.set_data_from_numpy(np.array(values, kind), binary_data=is_binary)
    return made


@given(
    ids,
    st.lists(ids, min_size=1) | st.lists(numbers, min_size=1),
    st.none() | st.integers(0, 2**53),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.text(max_size=20),
)
def test_what_the_client_writes_is_what_is_read(
    user_id: str, candidates: Any, timestamp: int | None, forms: list[bool], request_id: str
) -> None:
    """Any ids, numbers and times, each in JSON or in binary, arrive as they were sent."""
    datatype = "BYTES" if isinstance(candidates[0], str) else "INT64"
    inputs = [
        tensor("user_id", "BYTES", [user_id], is_binary=forms[0]),
        tensor("candidates", datatype, candidates, is_binary=forms[1]),
    ]
    if timestamp is not None:
        inputs.append(tensor("timestamp", "INT64", [timestamp], is_binary=forms[2]))
    body, json_bytes = InferenceServerClient.generate_request_body(inputs, request_id=request_id)
    found = parse(body, None if json_bytes is None else str(json_bytes))
    assert found.asked.user_id == user_id
    assert found.asked.candidates == candidates
    assert found.asked.timestamp == timestamp
    assert found.id == (request_id or None)
    assert found.outputs == {"like": True, "follow": True}


@given(
    st.lists(st.floats(0, 1, width=32), min_size=1),
    st.permutations([("like", True), ("follow", False)]),
)
def test_what_is_written_is_what_the_client_reads(
    scores: list[float], wanted: list[tuple[str, bool]]
) -> None:
    """Scores keep every bit, in JSON and in binary, in the order that was asked for."""
    like = np.array(scores, np.float32)
    found = {
        "model": {"name": "m", "version": "1", "fingerprint": "f"},
        "scores": {"like": like, "follow": like[::-1]},
        "degraded": [],
    }
    outputs = [
        {"name": name, "parameters": {"binary_data": is_binary}} for name, is_binary in wanted
    ]
    inference = parse_json(USER, ITEMS, id="x", outputs=outputs)
    body, json_bytes = render_inference(inference, found)
    result = InferResult.from_response_body(body, header_length=json_bytes)
    assert [each["name"] for each in result.get_response()["outputs"]] == [
        name for name, _ in wanted
    ]
    assert result.get_response()["id"] == "x"
    for name, expected in found["scores"].items():  # type: ignore[attr-defined]
        assert result.as_numpy(name).dtype == np.float32
        assert result.as_numpy(name).tobytes() == expected.tobytes()


def test_the_client_chooses_the_outputs() -> None:
    """All tasks in JSON by default, all in binary if so said, and each as it says itself."""
    assert parse_json(USER, ITEMS).outputs == {"like": False, "follow": False}
    assert parse_json(USER, ITEMS, outputs=[]).outputs == {"like": False, "follow": False}
    everything = {"binary_data_output": True}
    assert parse_json(USER, ITEMS, parameters=everything).outputs == {"like": True, "follow": True}
    chosen = parse_json(
        USER,
        ITEMS,
        parameters=everything,
        outputs=[{"name": "follow"}, {"name": "like", "parameters": {"binary_data": False}}],
    )
    assert list(chosen.outputs.items()) == [("follow", True), ("like", False)]
    outputs = [InferRequestedOutput("like", binary_data=False)]
    written, _ = InferenceServerClient.generate_request_body(
        [tensor("user_id", "BYTES", ["u"], is_binary=False),
         tensor("candidates", "INT64", [1], is_binary=False)],
        outputs=outputs,
    )  # fmt: skip
    assert parse(written).outputs == {"like": False}


def test_what_other_extensions_say_is_passed_over() -> None:
    """Fields and parameters that are not known here change nothing."""
    found = parse_json(
        {**USER, "parameters": {"content_type": "str"}},
        {**ITEMS, "parameters": None},
        model_name="m",
        parameters={"priority": 1, "sequence_id": 3},
    )
    assert found == parse_json(USER, ITEMS)


def test_a_timeout_is_a_deadline() -> None:
    """In microseconds, as Triton has it; 0 is the server's own."""
    assert parse_json(USER, ITEMS, parameters={"timeout": 2_500}).asked.deadline_ms == 2.5
    assert parse_json(USER, ITEMS, parameters={"timeout": 0}).asked.deadline_ms is None


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([], "input user_id is required"),
        ([USER], "input candidates is required"),
        ([USER, USER], "input user_id is given twice"),
        ([{**USER, "name": "user"}], "input 'user' is not known; there is user_id, candidates"),
        ([{**USER, "name": ""}], "inputs[0].name must not be empty"),
        ([{**USER, "name": None}], "inputs[0].name must be text"),
        ([{**USER, "datatype": "INT64"}], "input user_id must be BYTES, not 'INT64'"),
        ([{**ITEMS, "datatype": "FP32"}], "input candidates must be BYTES or INT64, not 'FP32'"),
        ([{**USER, "shape": []}], "input user_id must have one dimension, not 0"),
        ([{**USER, "shape": [1, 1]}], "input user_id must have one dimension, not 2"),
        ([{**USER, "shape": [2]}], "input user_id must have shape [1], not [2]"),
        ([{**TIME, "shape": [0]}], "input timestamp must have shape [1], not [0]"),
        ([{**USER, "shape": [-1]}], "inputs[0].shape[0] must be at least 0"),
        ([{**USER, "shape": [1.0]}], "inputs[0].shape[0] must be a whole number"),
        ([{**USER, "shape": [True]}], "inputs[0].shape[0] must be a whole number"),
        ([{**ITEMS, "shape": [10**20]}], "inputs[0].shape[0] must be at most 9223372036854775807"),
        ([{**USER, "shape": 1}], "inputs[0].shape must be a list"),
        ([{"name": "user_id", "datatype": "BYTES"}], "inputs[0].shape is required"),
        ([{**USER, "data": None}], "input user_id has neither data nor binary_data_size"),
        ([{**USER, "data": "u"}], "inputs[0].data must be a list"),
        ([{**USER, "data": []}], "input user_id has shape [1], but 0 values in data"),
        ([{**USER, "data": [1]}], "input user_id is BYTES, so its data must be text"),
        ([{**USER, "data": [["u"]]}], "input user_id is BYTES, so its data must be text"),
        ([{**ITEMS, "data": [1]}], "input candidates has shape [2], but 1 values in data"),
        ([{**ITEMS, "data": [1, "2"]}], "input candidates is INT64, so its data must be whole"),
        ([{**ITEMS, "data": [1, True]}], "input candidates is INT64, so its data must be whole"),
        ([{**ITEMS, "data": [1, 2.0]}], "input candidates is INT64, so its data must be whole"),
        ([{**ITEMS, "data": [1, float("nan")]}], "input candidates is INT64, so its data must be"),
        ([{**ITEMS, "data": [1, 2**63]}], "input candidates is INT64, so its data must be whole"),
        ([{**USER, "parameters": {"binary_data_size": 1}}], "input user_id has both data and"),
        (
            [{**USER, "parameters": {"binary_data_size": True}}],
            "inputs[0].parameters.binary_data_size must be a whole number",
        ),
        (
            [{**USER, "parameters": {"shared_memory_region": "r"}}],
            "input user_id is in shared memory, which is not supported",
        ),
        ([binary(USER, b"", 5)[0]], "input user_id has a binary_data_size of 5, but 0 bytes are"),
    ],
)
def test_inputs_that_are_refused(inputs: list[dict[str, Any]], said: str) -> None:
    """One sentence that names the input and what is wrong with it."""
    with pytest.raises(NotInference) as caught:
        parse_json(*inputs)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([binary(USER, b"")], "input user_id ends before its 1 elements do"),
        ([binary(USER, b"\1\0\0")], "input user_id ends before its 1 elements do"),
        ([binary(USER, b"\2\0\0\0u")], "input user_id ends in the middle of an element"),
        ([binary(USER, b"\xff\xff\xff\xffu")], "input user_id ends in the middle of an element"),
        ([binary(USER, packed(b"u", b"v"))], "input user_id has 5 bytes after its last element"),
        ([binary(USER, packed(b"\xff"))], "input user_id is not UTF-8"),
        ([binary(USER, packed(b"\xed\xa0\x80"))], "input user_id is not UTF-8"),
        ([binary(USER, packed(b"u"), 6)], "input user_id has a binary_data_size of 6, but 5 bytes"),
        ([binary(USER, packed(b"u"), 2**62)], "input user_id has a binary_data_size of 46116860"),
        ([binary(ITEMS, bytes(15))], "input candidates has shape [2], so 16 bytes of INT64, not 1"),
        ([binary(USER, packed(b"u"), 0)], "input user_id ends before its 1 elements do"),
    ],
)
def test_bytes_that_are_refused(inputs: list[tuple[Any, bytes]], said: str) -> None:
    """A declared size is a claim: the bytes that came decide, and every one of them counts."""
    with pytest.raises(NotInference) as caught:
        parse_binary(*inputs)
    assert str(caught.value).startswith(said)


def test_bytes_that_belong_to_nobody_are_refused() -> None:
    """What follows the last input is an error, whether inputs are binary or not."""
    with pytest.raises(NotInference, match="1 bytes follow that belong to no input"):
        parse_binary(binary(USER, packed(b"u")), binary(ITEMS, bytes(16)), tail=b"x")
    with pytest.raises(NotInference, match="the body is not JSON"):
        parse(json.dumps({"inputs": [USER, ITEMS]}).encode() + b"x")


@pytest.mark.parametrize("given", ["", "-1", "+1", "1.0", "1_0", "²", "9" * 19, "x"])
def test_a_header_length_that_is_no_number(given: str) -> None:
    """`Inference-Header-Content-Length` is plain digits."""
    with pytest.raises(NotInference, match="must be a whole number of bytes"):
        parse(b"{}", given)


def test_a_header_length_that_is_wrong() -> None:
    """Longer than the body: refused; shorter than the JSON: no JSON."""
    body = json.dumps({"inputs": [USER, ITEMS]}).encode()
    with pytest.raises(NotInference, match="is 999999, but the body has"):
        parse(body, "999999")
    for size in (0, 1, len(body) - 1):
        with pytest.raises(NotInference, match="the body is not JSON"):
            parse(body, str(size))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"id": 1}, "id must be text"),
        ({"inputs": {}}, "inputs must be a list"),
        ({"outputs": [{"name": "click"}]}, "output 'click' is not known; there is like, follow"),
        ({"outputs": [{"name": "like"}] * 2}, "output like is asked for twice"),
        (
            {"outputs": [{"name": "like", "parameters": {"binary_data": 1}}]},
            "outputs[0].parameters.binary_data must be true or false",
        ),
        (
            {"outputs": [{"name": "like", "parameters": {"classification": 3}}]},
            "output like as a classification is not supported",
        ),
        (
            {"outputs": [{"name": "like", "parameters": {"shared_memory_region": "r"}}]},
            "output like in shared memory is not supported",
        ),
        ({"parameters": {"timeout": -1}}, "parameters.timeout must be at least 0"),
        ({"parameters": {"binary_data_output": "yes"}}, "parameters.binary_data_output must be"),
    ],
)
def test_requests_that_are_refused(fields: dict[str, Any], said: str) -> None:
    """What the client wants of the answer is checked as well."""
    with pytest.raises(NotInference) as caught:
        parse(json.dumps({"inputs": [USER, ITEMS], **fields}).encode())
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([USER, {**ITEMS, "shape": [0], "data": []}], "candidates must not be empty"),
        ([USER, {**ITEMS, "shape": [2_001]}], "candidates has 2001 entries, at most 2000 are"),
        ([{**USER, "data": [""]}, ITEMS], "user_id must not be empty"),
        ([{**USER, "data": ["a\n"]}, ITEMS], "user_id contains control characters"),
        ([{**USER, "data": ["x" * 129]}, ITEMS], "user_id is longer than 128 bytes"),
        ([USER, {**ITEMS, "datatype": "BYTES", "data": ["a", ""]}], "candidates must not be empty"),
        ([USER, ITEMS, {**TIME, "data": [-1]}], "timestamp must be at least 0"),
        ([USER, ITEMS, {**TIME, "data": [2**53 + 1]}], "timestamp must be at most"),
    ],
)
def test_values_obey_the_same_rules_as_elsewhere(inputs: list[Any], said: str) -> None:
    """Ids, times and limits are those of `/v1/rank`."""
    with pytest.raises(InvalidRequest) as caught:
        parse_json(*inputs)
    assert str(caught.value).startswith(said)


def test_a_huge_shape_costs_nothing() -> None:
    """A shape over the limit is refused before anything is read by it."""
    for declared in (
        binary({**ITEMS, "shape": [2**63 - 1]}, b""),
        ({**ITEMS, "shape": [10**9]}, b""),
    ):
        with pytest.raises(InvalidRequest, match="at most 2000 are taken"):
            parse_binary(declared)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["user_id", "candidates", "timestamp"]) | json_values,
        "shape": st.lists(st.integers(-1, 3), max_size=2) | json_values,
        "datatype": st.sampled_from(["BYTES", "INT64", "FP32"]) | json_values,
    },
    optional={
        "data": st.lists(st.integers() | st.text(), max_size=3) | json_values,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 30)})
        | json_values,
    },
)
requests = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=3) | json_values},
    optional={"id": json_values, "parameters": json_values, "outputs": json_values},
)


@given(requests, st.binary(max_size=64), st.none() | st.integers(-3, 3))
def test_nothing_but_problems_comes_of_nonsense(request: Any, tail: bytes, off: int | None) -> None:
    """Whatever almost looks like a request is read, or refused in a sentence."""
    head = json.dumps(request).encode()
    with suppress(NotInference, InvalidRequest):
        parse(head + tail, None if off is None else str(len(head) + off))


@given(st.binary(max_size=200), st.none() | st.text(max_size=4))
def test_nothing_but_problems_comes_of_noise(body: bytes, json_bytes: str | None) -> None:
    """Arbitrary bytes are refused."""
    with pytest.raises(NotInference):
        parse(body, json_bytes)


@given(st.binary(max_size=80), st.integers(0, 6))
def test_nothing_but_problems_comes_of_noisy_tensors(raw: bytes, count: int) -> None:
    """Arbitrary bytes under an honest size are elements, or refused."""
    items = {"name": "candidates", "shape": [count], "datatype": "BYTES"}
    try:
        found = parse_binary(binary(USER, packed(b"u")), binary(items, raw))
    except (NotInference, InvalidRequest):
        return
    written = packed(*(str(item_id).encode() for item_id in found.asked.candidates))
    assert written == raw
