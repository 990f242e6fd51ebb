"""`GET /v1/items`: which items there are, by name or id."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from service.answers import ItemsResponse
from service.catalogue import catalogue_of
from service.errors import InvalidRequest
from service.routes.doors import PROBLEMS, answer, house_of, limit_of
from service.schemas import check_text

router = APIRouter(tags=["items"])

DEFAULT_LIMIT = 20
MOST = 100
_WORDS = {"name": "q", "in": "query", "schema": {"type": "string", "default": ""}}
_LIMIT = {
    "name": "limit",
    "in": "query",
    "schema": {"type": "integer", "minimum": 1, "default": DEFAULT_LIMIT},
}


@router.get(
    "/v1/items",
    summary="Find items by name or id",
    response_model=None,
    responses={200: {"model": ItemsResponse}, 422: PROBLEMS[422]},
    openapi_extra={"parameters": [_WORDS, _LIMIT]},
)
async def items(request: Request) -> Response:
    """Best fits first: the id itself, beginnings, then whatever holds what was typed."""
    vocabulary = house_of(request).registry.active.bundle.vocabulary
    limit = min(limit_of(request, DEFAULT_LIMIT), MOST)
    rows = catalogue_of(vocabulary).find(_words(request), limit)
    found = [{"item_id": vocabulary.ids[row], "name": vocabulary.names[row]} for row in rows]
    return answer({"items": found})


def _words(request: Request) -> str:
    typed = request.query_params.get("q", "")
    try:
        return check_text(typed) if typed else typed
    except PydanticCustomError as error:
        raise InvalidRequest(f"q {error.message()}") from error
