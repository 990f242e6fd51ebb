"""`/v2`: the Open Inference Protocol (KServe v2), with tensors as JSON or in binary.

A second way to ask what `/v1/rank` answers, for clients that speak it already. Its errors have
their own form, which `service/problems.py` gives to every problem under `/v2`.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.answers import (
    InferenceError,
    InferenceResponse,
    ModelMetadata,
    ServerMetadata,
)
from service.body import read_body
from service.caller import Caller
from service.errors import NotFound, NotInference
from service.house import House
from service.inference import (
    InferenceRequest,
    described_inputs,
    described_outputs,
    parse_inference,
    render_inference,
)
from service.registry import Model
from service.routes.doors import answer, house_of, takes, visit
from service.routes.health import check_ready
from service.schemas import ID_BYTES
from service.wire import company, line

router = APIRouter(prefix="/v2", tags=["inference"])

EXTENSIONS = ("binary_tensor_data",)
PLATFORM = "marmot_bundle"
JSON_BYTES = "inference-header-content-length"

_WHAT = {
    400: "Not a request of the protocol",
    404: "No such model or version is loaded",
    408: "The body did not arrive in time",
    413: "The body is too large",
    422: "Not valid",
    503: "Full or draining",
    504: "The deadline passed",
}


def _told(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": _WHAT[status], "model": InferenceError} for status in statuses}


def _path(*names: str) -> dict[str, Any]:
    schema = {"in": "path", "required": True, "schema": {"type": "string"}}
    return {"parameters": [{"name": name, **schema} for name in names]}


_MODEL, _VERSION = _path("model"), _path("model", "version")


@router.get("/health/live", summary="Whether the process runs", response_model=None)
async def live(request: Request) -> Response:
    """200 as long as the event loop breathes."""
    return answer({"live": True})


@router.get(
    "/health/ready",
    summary="Whether requests should come here",
    response_model=None,
    responses=_told(503),
)
async def ready(request: Request) -> Response:
    """503 until warm and while draining."""
    check_ready(house_of(request))
    return answer({"ready": True})


@router.get(
    "",
    summary="What this server is",
    response_model=None,
    responses={200: {"model": ServerMetadata}},
)
async def server(request: Request) -> Response:
    """Its name, its version, and the extensions of the protocol that it knows."""
    return answer({"name": "marmot", "version": request.app.version, "extensions": EXTENSIONS})


@router.get(
    "/models/{model}/versions/{version}/ready",
    summary="Whether this version answers",
    response_model=None,
    responses=_told(404, 503),
    openapi_extra=_VERSION,
)
@router.get(
    "/models/{model}/ready",
    summary="Whether this model answers",
    response_model=None,
    responses=_told(404, 503),
    openapi_extra=_MODEL,
)
async def model_ready(request: Request) -> Response:
    """A loaded model is as ready as the server."""
    house = house_of(request)
    model = _model(request, house)
    check_ready(house)
    return answer({"name": model.bundle.name, "ready": True})


@router.get(
    "/models/{model}/versions/{version}",
    summary="What this version takes and gives",
    response_model=None,
    responses={200: {"model": ModelMetadata}, **_told(404)},
    openapi_extra=_VERSION,
)
@router.get(
    "/models/{model}",
    summary="What this model takes and gives",
    response_model=None,
    responses={200: {"model": ModelMetadata}, **_told(404)},
    openapi_extra=_MODEL,
)
async def model_metadata(request: Request) -> Response:
    """Names, datatypes and shapes; `candidates` may be INT64 as well."""
    house = house_of(request)
    model = _model(request, house)
    name = model.bundle.name
    return answer(
        {
            "name": name,
            "versions": [each.bundle.version for each in house.registry.named(name)],
            "platform": PLATFORM,
            "inputs": described_inputs(),
            "outputs": described_outputs(model.spec.tasks),
        }
    )


@router.post(
    "/models/{model}/versions/{version}/infer",
    summary="Score candidates for a user, with this version",
    response_model=None,
    responses={200: {"model": InferenceResponse}, **_told(*_WHAT)},
    openapi_extra={**takes(InferenceRequest), **_VERSION},
)
@router.post(
    "/models/{model}/infer",
    summary="Score candidates for a user",
    response_model=None,
    responses={200: {"model": InferenceResponse}, **_told(*_WHAT)},
    openapi_extra={**takes(InferenceRequest), **_MODEL},
)
async def infer(request: Request) -> Response:
    """One user, one time, up to 2,000 candidates; an FP32 tensor for each task."""
    house, seen = house_of(request), visit(request)
    model = _model(request, house)
    seen.fingerprint = model.fingerprint.encode()
    house.admission.check(seen.timings, company(request.scope))
    inference = parse_inference(
        await _body(request, house),
        request.headers.get(JSON_BYTES),
        tasks=model.spec.tasks,
        version=model.bundle.version,
        limits=house.limits,
    )
    caller = Caller(line=line(request.scope))
    found = await house.ranker.rank(inference.asked, caller, seen.timings)
    body, json_bytes = render_inference(inference, found)
    if json_bytes is None:
        return Response(body, media_type="application/json")
    return Response(
        body, headers={JSON_BYTES: str(json_bytes)}, media_type="application/octet-stream"
    )


def _model(request: Request, house: House) -> Model:
    """The model of the path: of its version, else the active one or the last one loaded."""
    name, version = request.path_params["model"], request.path_params.get("version")
    models = house.registry.named(name)
    if not models:
        raise NotFound(
            f"model {name[:ID_BYTES]!r} is not loaded; there is {house.registry.active.bundle.name}"
        )
    if version is None:
        return house.registry.active if house.registry.active in models else models[-1]
    for model in models:
        if model.bundle.version == version:
            return model
    known = ", ".join(model.bundle.version for model in models)
    raise NotFound(f"version {version[:ID_BYTES]!r} is not loaded; there is {known}")


async def _body(request: Request, house: House) -> bytes:
    """The body, whatever its content type: clients of the protocol send several, or none."""
    encoding = request.headers.get("content-encoding", "identity")
    headers = [pair for pair in request.scope["headers"] if pair[0] != b"content-type"]
    body = await read_body(
        {**request.scope, "headers": headers},
        request.receive,
        limit_bytes=house.settings.body_limit_bytes,
        timeout_s=house.settings.body_timeout_s,
    )
    if encoding.lower() != "identity":
        raise NotInference("compressed bodies are not supported: leave out Content-Encoding")
    return body
