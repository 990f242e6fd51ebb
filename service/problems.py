"""How a problem is told: counted, logged where it is ours, and written into an answer."""

from __future__ import annotations

import orjson
from starlette.responses import Response

from service.errors import Problem
from service.logging import log
from service.metrics import Metrics

MEDIA_TYPE = "application/problem+json"


def tell(problem: Problem, metrics: Metrics) -> Response:
    """The problem as RFC 9457 wants it, with its status and headers."""
    metrics.told(problem.slug)
    if problem.status == 500:
        log.error("a request failed", problem=problem.slug, exc_info=problem)
    body = orjson.dumps(problem.to_dict())
    return Response(body, problem.status, problem.headers(), MEDIA_TYPE)
