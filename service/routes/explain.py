"""`POST /v1/explain`: why a user's candidates score as they do."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.answers import ExplainResponse
from service.caller import Caller
from service.routes.doors import PROBLEMS, answer, body_of, house_of, takes, visit
from service.schemas import ExplainRequest, parse_explain

router = APIRouter(tags=["rank"])


@router.post(
    "/v1/explain",
    summary="What each event does to the scores, and where each layer looks",
    response_model=None,
    responses={200: {"model": ExplainResponse}, **PROBLEMS},
    openapi_extra=takes(ExplainRequest),
)
async def explain(request: Request) -> Response:
    """One user, one time, up to 20 candidates; behind all ranking, because it runs much."""
    house, seen = house_of(request), visit(request)
    asked = parse_explain(await body_of(request, house), house.limits)
    work = house.explainer.explain(asked, seen.timings)
    found = await Caller(request.receive).waits_for(work)
    seen.fingerprint = found["model"]["fingerprint"].encode()
    return answer(found)
