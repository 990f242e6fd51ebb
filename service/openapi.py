"""/openapi.json: FastAPI's, with the bodies that our routes read by themselves."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service.answers import ProblemBody
from service.inference import InferenceRequest
from service.schemas import EventBatch, ExplainRequest, PostedEvent, RankBatch, RankRequest

REF = "#/components/schemas/{model}"


def describe(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema:
        return app.openapi_schema
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    described_here = (
        RankRequest, RankBatch, ExplainRequest, EventBatch, InferenceRequest, ProblemBody,
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
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    app.openapi_schema = document
    return document


def _posted_event() -> dict[str, Any]:
    from pydantic import TypeAdapter  # noqa: PLC0415

    schema = TypeAdapter(PostedEvent).json_schema(ref_template=REF)
    return {**schema.pop("$defs", {}), "PostedEvent": schema}
