"""How a problem is written into an answer: the one place that does it."""

from __future__ import annotations

import orjson
from starlette.responses import Response

from service.errors import Problem

MEDIA_TYPE = "application/problem+json"


def problem_response(problem: Problem) -> Response:
    """The problem as RFC 9457 wants it, with its status and headers."""
    body = orjson.dumps(problem.to_dict())
    return Response(body, problem.status, problem.headers(), MEDIA_TYPE)
