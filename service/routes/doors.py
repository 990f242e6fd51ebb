"""What every route needs: the house it serves from, the body, and a way to answer."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.body import read_body
from service.doorway import KEY, Visit
from service.errors import InvalidRequest
from service.house import House

OPTIONS = orjson.OPT_SERIALIZE_NUMPY

_WHAT = {
    408: "The body did not arrive in time",
    413: "The body is too large",
    415: "Not JSON",
    422: "Not valid",
    503: "Full, draining, or the store is away",
    504: "The deadline passed",
}
#: For /openapi.json: the problems any route with a body can answer.
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": what,
        "content": {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemBody"}}
        },
    }
    for status, what in _WHAT.items()
}


def house_of(request: Request) -> House:
    """The house of the app that this request came to."""
    return visit(request).house


def visit(request: Request) -> Visit:
    """The visit that this request is."""
    found: Visit = request.scope[KEY]
    return found


async def body_of(request: Request, house: House) -> bytes:
    """The request's body, within the limits of the settings."""
    return await read_body(
        request.scope,
        request.receive,
        limit_bytes=house.settings.body_limit_bytes,
        timeout_s=house.settings.body_timeout_s,
    )


class Answer(Response):
    """A response without the framework's search through its headers, which are always these."""

    def __init__(self, body: bytes, status: int) -> None:
        self.body = body
        self.status_code = status
        self.background = None
        self.raw_headers = [(b"content-length", b"%d" % len(body)), _JSON]


def limit_of(request: Request, default: int) -> int:
    """The query's `limit`; any number from 1 on, for the caller to clamp."""
    return default if "limit" not in request.query_params else whole_number(request, "limit", 1)


def whole_number(request: Request, name: str, least: int) -> int:
    """A number of the query, which has it."""
    given = request.query_params[name]
    if not (given.isascii() and given.isdigit()) or len(given) > 18 or int(given) < least:
        raise InvalidRequest(f"{name} must be a whole number of at least {least}")
    return int(given)


_JSON = (b"content-type", b"application/json")


def answer(value: Any, status: int = 200) -> Response:
    """JSON, arrays included."""
    return Answer(orjson.dumps(value, option=OPTIONS), status)


def takes(model: type) -> dict[str, Any]:
    """For /openapi.json: the body that a route reads by itself."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


__all__ = [
    "PROBLEMS",
    "answer",
    "body_of",
    "house_of",
    "limit_of",
    "takes",
    "visit",
    "whole_number",
]
