"""How a problem is told: counted, logged where it is ours, and written into an answer."""

from __future__ import annotations

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.errors import Problem
from service.logging import log
from service.metrics import Metrics

MEDIA_TYPE = "application/problem+json"


def tell(problem: Problem, metrics: Metrics) -> Response:
    """The problem as RFC 9457 wants it, with its status and headers."""
    metrics.told(problem.slug)
    if problem.status == 500:
        log.error("a request failed", problem=problem.slug, exc_info=problem)
    return ProblemResponse(problem)


class ProblemResponse(Response):
    """RFC 9457, but under `/v2` the Open Inference Protocol's own form: one sentence."""

    def __init__(self, problem: Problem) -> None:
        self._sentence = str(problem)
        body = orjson.dumps(problem.to_dict())
        super().__init__(body, problem.status, problem.headers(), MEDIA_TYPE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/v2" or scope["path"].startswith("/v2/"):
            self.body = orjson.dumps({"error": self._sentence})
            self.headers["content-length"] = str(len(self.body))
            self.headers["content-type"] = "application/json"
        await super().__call__(scope, receive, send)
