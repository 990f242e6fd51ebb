"""/openapi.json: FastAPI's, with the bodies that our routes read by themselves."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service.answers import ProblemBody
from service.inference import InferenceRequest
from service.schemas import (
    Activation,
    EventBatch,
    ExplainRequest,
    LoadRequest,
    PostedEvent,
    PrerankRequest,
    RankBatch,
    RankRequest,
    RecommendRequest,
    RetrieveRequest,
)

GUARDED = {"401": "No key", "403": "Another key", "429": "The key's own rate is used up"}
TIMEOUT = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "description": "How long the caller waits; the lesser of this and `deadline_ms` counts",
    "schema": {"type": "number", "minimum": 0},
}
STAGES = ("/v1/retrieve", "/v1/prerank", "/v1/recommend")
REF = "#/components/schemas/{model}"


def describe(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema:
        return app.openapi_schema
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    described_here = (
        RankRequest, RankBatch, ExplainRequest, EventBatch, InferenceRequest, LoadRequest,
        Activation, ProblemBody, RetrieveRequest, PrerankRequest, RecommendRequest,
    )  # fmt: skip
    models = [(model, "validation") for model in described_here]
    _, described = models_json_schema(models, ref_template=REF)  # type: ignore[arg-type]
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(described["$defs"])
    schemas.update(_posted_event())
    schemas["EventBatch"]["properties"]["events"]["items"] = {
        "$ref": REF.format(model="PostedEvent")
    }
    schemas["RankBatch"]["properties"]["requests"]["items"] = {
        "$ref": REF.format(model="RankRequest")
    }
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path in ("/v1/rank", "/v1/rank:batch", "/v1/events", *STAGES):
        document["paths"][path]["post"].setdefault("parameters", []).append(TIMEOUT)
    for path, operations in document["paths"].items():
        if "/health/" not in path:
            for operation in operations.values():
                _guard(operation, "InferenceError" if path.startswith("/v2") else "ProblemBody")
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    app.openapi_schema = document
    return document


def _guard(operation: dict[str, Any], model: str) -> None:
    """What a route answers besides, where the service asks for keys: some do, some do not."""
    kind = "application/problem+json" if model == "ProblemBody" else "application/json"
    content = {kind: {"schema": {"$ref": REF.format(model=model)}}}
    operation["security"] = [{}, {"key": []}]
    for status, description in GUARDED.items():
        operation["responses"][status] = {"description": description, "content": content}


def _posted_event() -> dict[str, Any]:
    from pydantic import TypeAdapter  # noqa: PLC0415

    schema = TypeAdapter(PostedEvent).json_schema(ref_template=REF)
    return {**schema.pop("$defs", {}), "PostedEvent": schema}
