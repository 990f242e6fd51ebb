"""`/health`: alive, and ready. Neither waits for the engine or asks the store."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.errors import Draining, Unavailable
from service.house import House
from service.routes.doors import PROBLEMS, answer, house_of

router = APIRouter(tags=["health"])


@router.get("/health/live", summary="Whether the process runs", response_model=None)
async def live(request: Request) -> Response:
    """200 as long as the event loop breathes."""
    return answer({"status": "live"})


@router.get(
    "/health/ready",
    summary="Whether requests should come here",
    response_model=None,
    responses={503: PROBLEMS[503]},
)
async def ready(request: Request) -> Response:
    """503 until warm and while draining; 200 while the store is away: ranking goes on."""
    check_ready(house_of(request))
    return answer({"status": "ready"})


def check_ready(house: House) -> None:
    """Raises what a load balancer should know before it sends requests here."""
    if not house.is_ready:
        raise Draining if house.drain.has_begun else Unavailable("Not warm yet")
