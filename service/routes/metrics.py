"""`/metrics`, for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from service.metrics import CONTENT_TYPE
from service.routes.doors import house_of

router = APIRouter(tags=["metrics"])


@router.get(
    "/metrics",
    summary="Numbers of all workers",
    response_model=None,
    response_class=PlainTextResponse,
)
async def metrics(request: Request) -> Response:
    """The text format of Prometheus."""
    return Response(house_of(request).metrics.render(), media_type=CONTENT_TYPE)
