"""`GET /v1/status`: how the service is, once or again and again."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.answers import StatusResponse
from service.caller import Caller
from service.house import House
from service.routes.doors import answer, house_of
from service.wire import leave_company

router = APIRouter(tags=["metrics"])

RETRY_MS = 2000
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


@router.get(
    "/v1/status",
    summary="How the service is, of all workers",
    response_model=None,
    responses={200: {"model": StatusResponse}},
)
async def status(request: Request) -> Response:
    """Counts since the start, as in /metrics, and whether the store answers."""
    return answer(await house_of(request).status.look())


# Not in /openapi.json: what reads that document to try every route would wait for ever.
@router.get("/v1/status/events", include_in_schema=False, response_model=None)
async def events(request: Request) -> Response:
    """The same again every second, as server-sent events, until the service closes."""
    house = house_of(request)
    house.feed.check()
    return Stream(house)


class Stream(Response):
    """An answer without end. Whoever only watches is no company and is not in flight."""

    media_type = "text/event-stream"

    def __init__(self, house: House) -> None:
        self._house = house
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        leave_company(scope)
        with self._house.metrics.watched():
            await Caller(receive).waits_for(self._tell(send))

    async def _tell(self, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        await send(_part(b"retry: %d\n\n" % RETRY_MS))
        looks = self._house.feed.listen()
        try:
            async for look in looks:
                await send(_part(look))
        finally:
            await looks.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _part(body: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": body, "more_body": True}
