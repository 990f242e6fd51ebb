"""`GET /v1/items`: which items there are, by name or id."""

from __future__ import annotations

import random

from fastapi import APIRouter
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from models.bundle import Vocabulary
from service.answers import ItemsResponse
from service.catalogue import catalogue_of
from service.errors import InvalidRequest
from service.routes.doors import PROBLEMS, answer, house_of, limit_of, whole_number
from service.schemas import check_text

router = APIRouter(tags=["items"])

DEFAULT_LIMIT = 20
MOST = 100
_TEXT = {"type": "string"}
_PARAMETERS = [
    {"name": "q", "in": "query", "schema": {**_TEXT, "default": ""}},
    {
        "name": "id",
        "in": "query",
        "description": "Exactly these, in this order; unknown ones are left out",
        "schema": {"type": "array", "items": _TEXT},
    },
    {
        "name": "sample",
        "in": "query",
        "description": "Any items: the same for the same number",
        "schema": {"type": "integer", "minimum": 0},
    },
    {
        "name": "limit",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "default": DEFAULT_LIMIT},
    },
]


@router.get(
    "/v1/items",
    summary="Find items by name or id",
    response_model=None,
    responses={200: {"model": ItemsResponse}, 422: PROBLEMS[422]},
    openapi_extra={"parameters": _PARAMETERS},
)
async def items(request: Request) -> Response:
    """Best fits first: the id itself, beginnings, then whatever holds what was typed."""
    vocabulary = house_of(request).registry.active.bundle.vocabulary
    limit = min(limit_of(request, DEFAULT_LIMIT), MOST)
    if given := request.query_params.getlist("id"):
        rows = [vocabulary.row(item_id) for item_id in given[:MOST] if item_id in vocabulary]
    elif "sample" in request.query_params:
        rows = _sample(vocabulary, whole_number(request, "sample", 0), limit)
    else:
        rows = catalogue_of(vocabulary).find(_words(request), limit)
    found = [{"item_id": vocabulary.ids[row], "name": vocabulary.names[row]} for row in rows]
    return answer({"items": found})


def _sample(vocabulary: Vocabulary, seed: int, limit: int) -> list[int]:
    size = len(vocabulary)
    return random.Random(seed).sample(range(size), min(limit, size))  # noqa: S311 - a pastime


def _words(request: Request) -> str:
    typed = request.query_params.get("q", "")
    try:
        return check_text(typed) if typed else typed
    except PydanticCustomError as error:
        raise InvalidRequest(f"q {error.message()}") from error
