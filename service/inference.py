"""The Open Inference Protocol's bytes: JSON and tensors in, scores out. Pure.

The JSON comes first, as long as `Inference-Header-Content-Length` says (else it is the whole body);
binary tensors follow it in the order of the inputs: little-endian, row-major, and each element of
BYTES behind its length in four bytes. No declared size is believed: each is compared with what has
come before anything is made of it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import orjson
from pydantic import BaseModel, Field, ValidationError

from service.errors import InvalidRequest, NotInference
from service.schemas import LATEST_S, Limits, Name, RankRequest
from service.sentences import sentence

_LENGTH = struct.Struct("<I")
_INT64 = range(-(2**63), 2**63)
_MAX_DIGITS = 18

Size = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)]
Flag = Annotated[bool, Field(strict=True)]


@dataclass(frozen=True, slots=True)
class Slot:
    """What one input may hold: its datatypes, the widest first, and its length (-1: any)."""

    datatypes: tuple[str, ...]
    length: int
    is_required: bool = True


SLOTS: Mapping[str, Slot] = {
    "user_id": Slot(("BYTES",), 1),
    "candidates": Slot(("BYTES", "INT64"), -1),
    "timestamp": Slot(("INT64",), 1, is_required=False),
}


class InputParameters(BaseModel):
    """How an input travels. What is not known here is another extension's, and is passed over."""

    binary_data_size: Size | None = None
    shared_memory_region: Any = None


class InputTensor(BaseModel):
    """One input; without `binary_data_size` its values stand in `data`."""

    name: Name
    shape: list[Size]
    datatype: Name
    parameters: InputParameters | None = None
    data: list[Any] | None = None


class OutputParameters(BaseModel):
    """How an output is wanted."""

    binary_data: Flag | None = None
    shared_memory_region: Any = None
    classification: Any = None


class RequestedOutput(BaseModel):
    """One output, named as the task."""

    name: Name
    parameters: OutputParameters | None = None


class InferenceParameters(BaseModel):
    """What holds for the whole request; `timeout` is in microseconds, 0 for the default."""

    binary_data_output: Flag | None = None
    timeout: Annotated[int, Field(strict=True, ge=0, le=LATEST_S)] | None = None


class InferenceRequest(BaseModel):
    """The JSON of a request: `user_id` BYTES [1], `candidates`, and perhaps `timestamp`."""

    id: Annotated[str, Field(strict=True)] | None = None
    parameters: InferenceParameters | None = None
    inputs: list[InputTensor]
    outputs: list[RequestedOutput] | None = None


@dataclass(frozen=True, slots=True)
class Inference:
    """A request, and how its answer is wanted."""

    asked: RankRequest
    id: str | None
    outputs: Mapping[str, bool]  # task -> whether its scores travel in binary


def parse_inference(
    body: bytes, json_bytes: str | None, *, tasks: Sequence[str], version: str, limits: Limits
) -> Inference:
    """The request in a body, for the model of that version.

    `json_bytes` is the header `Inference-Header-Content-Length`. Raises `NotInference` where the
    protocol is broken, `InvalidRequest` where its values are not a request that can be ranked.
    """
    size = _json_size(json_bytes, len(body))
    try:
        request = InferenceRequest.model_validate_json(body[:size])
    except ValidationError as error:
        raise NotInference(sentence(error)) from error
    inputs = _read_inputs(request.inputs, memoryview(body)[size:], limits)
    parameters = request.parameters or InferenceParameters()
    fields = {
        "user_id": inputs["user_id"][0],
        "candidates": inputs["candidates"],
        "timestamp": inputs["timestamp"][0] if "timestamp" in inputs else None,
        "deadline_ms": parameters.timeout / 1e3 if parameters.timeout else None,
        "model": {"version": version},
    }
    try:
        asked = RankRequest.model_validate(fields, context=limits)
    except ValidationError as error:
        raise InvalidRequest(sentence(error)) from error
    is_binary = bool(parameters.binary_data_output)
    return Inference(asked, request.id, _choose(request.outputs or (), tasks, is_binary=is_binary))


def render_inference(inference: Inference, found: Mapping[str, Any]) -> tuple[bytes, int | None]:
    """The ranker's answer as a body, and the length of its JSON where tensors follow."""
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for task, is_binary in inference.outputs.items():
        values = np.ascontiguousarray(found["scores"][task], "<f4")  # (candidates,)
        output = {"name": task, "datatype": "FP32", "shape": list(values.shape)}
        if is_binary:
            tail.append(values.tobytes())
            outputs.append({**output, "parameters": {"binary_data_size": values.nbytes}})
        else:
            outputs.append({**output, "data": values})
    name = found["model"]
    answer = {"model_name": name["name"], "model_version": name["version"], "outputs": outputs}
    if inference.id is not None:
        answer["id"] = inference.id
    if found["degraded"]:
        answer["parameters"] = {"degraded": ",".join(found["degraded"])}
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join((head, *tail)), len(head) if tail else None


def described_inputs() -> list[dict[str, Any]]:
    """The inputs as a model's metadata names them."""
    return [
        {"name": name, "datatype": slot.datatypes[0], "shape": [slot.length]}
        for name, slot in SLOTS.items()
    ]


def described_outputs(tasks: Sequence[str]) -> list[dict[str, Any]]:
    """The outputs as a model's metadata names them."""
    return [{"name": task, "datatype": "FP32", "shape": [-1]} for task in tasks]


def _json_size(given: str | None, body_bytes: int) -> int:
    if given is None:
        return body_bytes
    if not (given.isascii() and given.isdigit()) or len(given) > _MAX_DIGITS:
        raise NotInference("Inference-Header-Content-Length must be a whole number of bytes")
    if int(given) > body_bytes:
        raise NotInference(
            f"Inference-Header-Content-Length is {int(given)}, but the body has {body_bytes} bytes"
        )
    return int(given)


def _read_inputs(
    tensors: Sequence[InputTensor], tail: memoryview, limits: Limits
) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = {}
    for tensor in tensors:
        if tensor.name in values:
            raise NotInference(f"input {tensor.name} is given twice")
        _check_shape(tensor, limits)
        parameters = tensor.parameters or InputParameters()
        if parameters.shared_memory_region is not None:
            raise NotInference(f"input {tensor.name} is in shared memory, which is not supported")
        size = parameters.binary_data_size
        if size is None:
            values[tensor.name] = _from_json(tensor)
            continue
        if tensor.data is not None:
            raise NotInference(f"input {tensor.name} has both data and binary_data_size")
        if size > len(tail):
            raise NotInference(
                f"input {tensor.name} has a binary_data_size of {size}, "
                f"but {len(tail)} bytes are left after the JSON"
            )
        values[tensor.name] = _from_bytes(tensor, tail[:size])
        tail = tail[size:]
    if tail:
        raise NotInference(f"{len(tail)} bytes follow that belong to no input")
    for name, slot in SLOTS.items():
        if slot.is_required and name not in values:
            raise NotInference(f"input {name} is required")
    return values


def _check_shape(tensor: InputTensor, limits: Limits) -> None:
    name, slot = tensor.name, SLOTS.get(tensor.name)
    if slot is None:
        raise NotInference(f"input {name!r} is not known; there is {', '.join(SLOTS)}")
    if tensor.datatype not in slot.datatypes:
        known = " or ".join(slot.datatypes)
        raise NotInference(f"input {name} must be {known}, not {tensor.datatype!r}")
    if len(tensor.shape) != 1:
        raise NotInference(f"input {name} must have one dimension, not {len(tensor.shape)}")
    (count,) = tensor.shape
    if slot.length >= 0 and count != slot.length:
        raise NotInference(f"input {name} must have shape [{slot.length}], not [{count}]")
    if count > limits.max_candidates:
        raise InvalidRequest(
            f"{name} has {count} entries, at most {limits.max_candidates} are taken"
        )


def _from_json(tensor: InputTensor) -> list[Any]:
    name, count, data = tensor.name, tensor.shape[0], tensor.data
    if data is None:
        raise NotInference(f"input {name} has neither data nor binary_data_size")
    if len(data) != count:
        raise NotInference(f"input {name} has shape [{count}], but {len(data)} values in data")
    if tensor.datatype == "BYTES":
        if not all(type(value) is str for value in data):
            raise NotInference(f"input {name} is BYTES, so its data must be text")
    elif not all(type(value) is int and value in _INT64 for value in data):
        raise NotInference(f"input {name} is INT64, so its data must be whole numbers of 64 bits")
    return data


def _from_bytes(tensor: InputTensor, raw: memoryview) -> list[Any]:
    name, count = tensor.name, tensor.shape[0]
    if tensor.datatype == "BYTES":
        return _texts(name, count, raw)
    if len(raw) != 8 * count:
        raise NotInference(
            f"input {name} has shape [{count}], so {8 * count} bytes of INT64, not {len(raw)}"
        )
    return list(struct.unpack(f"<{count}q", raw))


def _texts(name: str, count: int, raw: memoryview) -> list[str]:
    """BYTES: exactly `count` elements, and nothing after them."""
    texts: list[str] = []
    place = 0
    try:
        for _ in range(count):
            (size,) = _LENGTH.unpack_from(raw, place)
            place += _LENGTH.size + size
            if place > len(raw):
                raise NotInference(f"input {name} ends in the middle of an element")
            texts.append(str(raw[place - size : place], "utf-8"))
    except struct.error as error:
        raise NotInference(f"input {name} ends before its {count} elements do") from error
    except UnicodeDecodeError as error:
        raise NotInference(f"input {name} is not UTF-8") from error
    if place < len(raw):
        raise NotInference(f"input {name} has {len(raw) - place} bytes after its last element")
    return texts


def _choose(
    wanted: Sequence[RequestedOutput], tasks: Sequence[str], *, is_binary: bool
) -> dict[str, bool]:
    if not wanted:
        return dict.fromkeys(tasks, is_binary)
    outputs: dict[str, bool] = {}
    for output in wanted:
        name, parameters = output.name, output.parameters or OutputParameters()
        if name not in tasks:
            raise NotInference(f"output {name!r} is not known; there is {', '.join(tasks)}")
        if name in outputs:
            raise NotInference(f"output {name} is asked for twice")
        if parameters.shared_memory_region is not None:
            raise NotInference(f"output {name} in shared memory is not supported")
        if parameters.classification is not None:
            raise NotInference(f"output {name} as a classification is not supported")
        outputs[name] = is_binary if parameters.binary_data is None else parameters.binary_data
    return outputs
