"""`/v2` over a real socket: NVIDIA's own client, and callers who break the protocol."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tests import plain

ITEMS = list(range(1, 31))
NOW = 900_500_000
EVENTS = [
    {"user_id": "ü/1", "item_id": item, "timestamp": NOW - 3_600 * item, "feedback": {"like": 1}}
    for item in range(1, 13)
]
COMPANY = 1e-5
INFER = "/v2/models/marmot/infer"


@pytest.fixture
def service(serve: Callable[..., Any]) -> Any:
    running = serve()
    running.post(*EVENTS)
    return running


@pytest.fixture
def client(service: Any) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(f"127.0.0.1:{service.port}") as found:
        yield found


def asked(
    candidates: list[Any],
    datatype: str = "INT64",
    *,
    timestamp: int | None = NOW,
    is_binary: bool = True,
) -> list[InferInput]:
    """The inputs as a client makes them from numpy arrays."""
    columns: list[tuple[str, str, list[Any]]] = [
        ("user_id", "BYTES", ["ü/1"]),
        ("candidates", datatype, candidates),
    ]
    if timestamp is not None:
        columns.append(("timestamp", "INT64", [timestamp]))
    inputs = []
    for name, kind, values in columns:
        made = InferInput(name, [len(values)], kind)
        array = np.array(values, np.int64 if kind == "INT64" else np.object_)
        inputs.append(made.set_data_from_numpy(array, binary_data=is_binary))
    return inputs


def refused(answer: Any, status: int) -> str:
    """Checks that an answer is an error of the protocol, and returns its sentence."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    for header in ("x-request-id", "x-model-fingerprint", "server-timing"):
        assert answer.headers[header]
    said: str = answer.json()["error"]
    return said


def body_of(**fields: Any) -> dict[str, Any]:
    user = {"name": "user_id", "shape": [1], "datatype": "BYTES", "data": ["ü/1"]}
    items = {"name": "candidates", "shape": [2], "datatype": "INT64", "data": [1, 2]}
    return {"inputs": [user, items], **fields}


def test_the_server_says_what_it_is(client: InferenceServerClient) -> None:
    """Live, ready, and it knows the binary extension."""
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata["name"] == "marmot"
    assert metadata["version"]
    assert metadata["extensions"] == ["binary_tensor_data"]


def test_the_model_says_what_it_takes(service: Any, client: InferenceServerClient) -> None:
    """Named and versioned as in the answers of `/v1/rank`, with an output for each task."""
    name = service.rank("u", [1])["model"]
    assert client.is_model_ready(name["name"])
    assert client.is_model_ready(name["name"], name["version"])
    assert not client.is_model_ready("another")
    assert not client.is_model_ready(name["name"], "another")
    expected = {
        "name": name["name"],
        "versions": [name["version"]],
        "platform": "marmot_bundle",
        "inputs": [
            {"name": "user_id", "datatype": "BYTES", "shape": [1]},
            {"name": "candidates", "datatype": "BYTES", "shape": [-1]},
            {"name": "timestamp", "datatype": "INT64", "shape": [1]},
        ],
        "outputs": [
            {"name": "like", "datatype": "FP32", "shape": [-1]},
            {"name": "share", "datatype": "FP32", "shape": [-1]},
        ],
    }
    assert client.get_model_metadata(name["name"]) == expected
    assert client.get_model_metadata(name["name"], name["version"]) == expected


@pytest.mark.parametrize("is_binary", [True, False])
@pytest.mark.parametrize(
    ("datatype", "candidates"), [("INT64", [*ITEMS, -7]), ("BYTES", [*map(str, ITEMS), "no söch"])]
)
def test_scores_are_those_of_rank(
    service: Any, client: InferenceServerClient, datatype: str, candidates: Any, is_binary: bool
) -> None:
    """The same user, candidates and time score the same by either door, in every form."""
    expected = service.rank("ü/1", candidates, timestamp=NOW)
    for outputs in (
        None,
        [InferRequestedOutput(task, binary_data=is_binary) for task in expected["scores"]],
    ):
        result = client.infer(
            "marmot",
            asked(candidates, datatype, is_binary=is_binary),
            model_version=expected["model"]["version"],
            outputs=outputs,
            request_id="request 1",
        )
        answer = result.get_response()
        assert answer["model_name"] == expected["model"]["name"]
        assert answer["model_version"] == expected["model"]["version"]
        assert answer["id"] == "request 1"
        assert "parameters" not in answer
        for task, scores in expected["scores"].items():
            found = result.as_numpy(task)
            assert found.shape == (len(candidates),)
            assert found.dtype == np.float32
            assert np.abs(found - scores).max() <= COMPANY


def test_numbers_and_their_text_are_the_same_item(client: InferenceServerClient) -> None:
    """INT64 42 and BYTES "42" score alike."""
    numbers = client.infer("marmot", asked(ITEMS)).as_numpy("like")
    texts = client.infer("marmot", asked([*map(str, ITEMS)], "BYTES")).as_numpy("like")
    assert np.abs(numbers - texts).max() <= COMPANY


def test_the_timestamp_is_the_request_s(service: Any, client: InferenceServerClient) -> None:
    """What came later is not seen; without one it is now."""
    past = NOW - 3_600 * 6
    found = client.infer("marmot", asked(ITEMS, timestamp=past)).as_numpy("like")
    then = service.rank("ü/1", ITEMS, timestamp=past)["scores"]["like"]
    now = service.rank("ü/1", ITEMS, timestamp=NOW)["scores"]["like"]
    assert np.abs(found - then).max() <= COMPANY
    assert np.abs(found - now).max() > COMPANY
    latest = client.infer("marmot", asked(ITEMS, timestamp=None)).as_numpy("like")
    assert np.abs(latest - service.rank("ü/1", ITEMS)["scores"]["like"]).max() <= COMPANY


def test_outputs_are_chosen(client: InferenceServerClient) -> None:
    """Only what was asked for comes back, each in its own form."""
    both = client.infer("marmot", asked(ITEMS))
    mixed = client.infer(
        "marmot",
        asked(ITEMS),
        outputs=[InferRequestedOutput("share"), InferRequestedOutput("like", binary_data=False)],
    )
    share, like = mixed.get_response()["outputs"]
    assert share["parameters"] == {"binary_data_size": 4 * len(ITEMS)}
    assert len(like["data"]) == len(ITEMS)
    for task in ("share", "like"):
        assert np.abs(mixed.as_numpy(task) - both.as_numpy(task)).max() <= COMPANY
    alone = client.infer("marmot", asked(ITEMS), outputs=[InferRequestedOutput("share")])
    assert alone.as_numpy("like") is None


def test_one_path_ranks(service: Any, client: InferenceServerClient) -> None:
    """An inference is a rank request: one run of the same graph, and the same metrics."""
    before = service.runs
    client.infer("marmot", asked(ITEMS))
    after = service.runs
    assert after.pop("rank") == before.pop("rank") + 1
    assert after == before
    text = service.client.get("/metrics").text
    assert 'route="/v2/models/{model}/infer",status="200"} 1.0' in text
    assert 'marmot_rank_cache_total{state="hit"} 1.0' in text


def test_the_client_reads_our_errors(client: InferenceServerClient) -> None:
    """Status and sentence arrive as the client's own exception."""

    def told(**changes: Any) -> tuple[str, str]:
        with pytest.raises(InferenceServerException) as caught:
            client.infer(**{"model_name": "marmot", "inputs": asked([1, 2]), **changes})
        return caught.value.status(), caught.value.message()

    assert told(model_name="other") == ("404", "model 'other' is not loaded; there is marmot")
    status, sentence = told(model_version="none")
    assert status == "404"
    assert sentence.startswith("version 'none' is not loaded; there is ")
    assert told(inputs=asked([])) == ("422", "candidates must not be empty")
    sentence = "candidates has 2001 entries, at most 2000 are taken"
    assert told(inputs=asked([1] * 2_001)) == ("422", sentence)
    assert told(inputs=asked([1])[:1]) == ("400", "input candidates is required")
    outputs = [InferRequestedOutput("click")]
    sentence = "output 'click' is not known; there is like, share"
    assert told(outputs=outputs) == ("400", sentence)
    assert told(timeout=1) == ("504", "The deadline passed")
    sentence = "compressed bodies are not supported: leave out Content-Encoding"
    assert told(request_compression_algorithm="gzip") == ("400", sentence)
    with pytest.raises(InferenceServerException, match="There is nothing at this path"):
        client.get_model_config("marmot")
    with pytest.raises(InferenceServerException, match="model 'other' is not loaded"):
        client.get_model_metadata("other")


def test_two_thousand_candidates(client: InferenceServerClient) -> None:
    """The limit itself is taken."""
    assert client.infer("marmot", asked([1] * 2_000)).as_numpy("like").shape == (2_000,)


@pytest.mark.parametrize("kind", [None, "application/json", "application/octet-stream", "text/x"])
def test_any_content_type_will_do(service: Any, kind: str | None) -> None:
    """A body is read by its length headers, whatever else it says it is."""
    headers = {"content-type": kind} if kind else {}
    content = json.dumps(body_of()).encode()
    answer = service.client.post(INFER, content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-model-fingerprint"] == service.house.fingerprint.decode()
    assert "inference-header-content-length" not in answer.headers


def test_broken_bodies_are_refused(service: Any) -> None:
    """400 with a sentence, and nothing is computed."""
    before = service.runs
    post = service.client.post
    assert refused(post(INFER, content=b""), 400).startswith("the body is not JSON")
    assert refused(post(INFER, content=b"[" * 10_000), 400).startswith("the body is not JSON")
    assert refused(post(INFER, json=[]), 400) == "the body must be an object"
    assert refused(post(INFER, content=b'{"inputs": [NaN]}'), 400).startswith("inputs[0]")
    user = {"name": "user_id", "shape": [1], "datatype": "BYTES"}
    items = {"name": "candidates", "shape": [1], "datatype": "INT64", "data": [1]}
    for raw, said in (
        (struct.pack("<I", 1) + b"\xff", "input user_id is not UTF-8"),
        (struct.pack("<I", 2**32 - 1) + b"u", "input user_id ends in the middle of an element"),
        (b"\0", "input user_id ends before its 1 elements do"),
    ):
        tensor = {**user, "parameters": {"binary_data_size": len(raw)}}
        head = json.dumps({"inputs": [tensor, items]}).encode()
        headers = {"inference-header-content-length": str(len(head))}
        assert refused(post(INFER, content=head + raw, headers=headers), 400) == said
        assert refused(post(INFER, content=head + raw + b"!", headers=headers), 400)
        assert refused(post(INFER, content=head, headers=headers), 400).startswith("input user_id")
        assert refused(post(INFER, content=head + raw), 400).startswith("the body is not JSON")
    assert service.runs == before


def test_paths_and_methods_under_v2(service: Any) -> None:
    """404 and 405 take the protocol's form too, and 405 says what is allowed."""
    refused(service.client.get("/v2/nothing"), 404)
    refused(service.client.post("/v2/models/other/infer", content=b"{"), 404)
    answer = service.client.get(INFER)
    refused(answer, 405)
    assert "POST" in answer.headers["allow"]
    assert service.client.get("/v2x").headers["content-type"] == "application/problem+json"


def test_a_body_over_the_limit(serve: Callable[..., Any], tmp_path: Path) -> None:
    """413, declared or streamed, and 408 has the same form."""
    service = serve(body_limit_bytes=1_000)
    large = service.client.post(INFER, content=b" " * 1_001)
    assert refused(large, 413) == "The body may have at most 1,000 bytes"
    refused(service.client.post(INFER, content=iter([b" " * 600] * 2)), 413)
    service = serve(body_timeout_s=0.1, cache=f"lmdb:{tmp_path}/other")
    with plain.line(service.port) as line:
        line.sendall(f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{{".encode())
        answer = b"".join(iter(lambda: line.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert answer.endswith(b'\r\n\r\n{"error":"The body was not complete after 0.1 s"}')


def test_what_nobody_foresaw_reveals_nothing(service: Any) -> None:
    """500, and not a word of what happened."""
    service.house.ranker = None
    assert refused(service.client.post(INFER, json=body_of()), 500) == (
        "Something went wrong on our side"
    )


def test_a_server_that_drains(service: Any, client: InferenceServerClient) -> None:
    """Not ready from the first moment, still live; at the end the door is closed with 503."""
    drain = service.house.drain
    drain.has_begun = True
    assert client.is_server_live()
    assert not client.is_server_ready()
    assert not client.is_model_ready("marmot")
    assert service.client.post(INFER, json=body_of()).status_code == 200
    drain.is_closing = True
    assert client.is_server_live()
    answer = service.client.post(INFER, json=body_of())
    assert refused(answer, 503) == "This replica is shutting down"
    assert answer.headers["retry-after"]


def test_a_store_that_is_away_is_told(serve: Callable[..., Any], free_port: int) -> None:
    """Scores come all the same, and the answer says what they had to do without."""
    service = serve(cache=f"redis://127.0.0.1:{free_port}/0", store_fetch_ms=50)
    answer = service.client.post(INFER, json=body_of())
    assert answer.status_code == 200
    assert answer.json()["parameters"] == {"degraded": "cache-away"}


def test_the_document_describes_v2(service: Any) -> None:
    """openapi.json has every path, with its parameters and its own errors."""
    paths = service.client.get("/openapi.json").json()["paths"]
    infer = paths["/v2/models/{model}/versions/{version}/infer"]["post"]
    assert [each["name"] for each in infer["parameters"]] == ["model", "version"]
    reference = infer["responses"]["400"]["content"]["application/json"]["schema"]["$ref"]
    assert reference.endswith("/InferenceError")
    operations = [each["operationId"] for path in paths.values() for each in path.values()]
    assert len(set(operations)) == len(operations)
