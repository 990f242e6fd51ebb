"""`POST /v1/retrieve`, `/v1/prerank` and `/v1/recommend`: the stages before ranking, and all."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.answers import PrerankResponse, RecommendResponse, RetrieveResponse
from service.body import read_body
from service.caller import Caller
from service.errors import NotLoaded
from service.routes.doors import PROBLEMS, answer, body_of, house_of, takes, visit
from service.schemas import PrerankRequest, RecommendRequest, RetrieveRequest, parse_stage
from service.wire import company

router = APIRouter(tags=["stages"])

T = TypeVar("T")

_PROBLEMS = {**PROBLEMS, 409: {**PROBLEMS[422], "description": "Started without this stage"}}


@router.post(
    "/v1/retrieve",
    summary="Find the items of the whole catalogue that fit a user best",
    response_model=None,
    responses={200: {"model": RetrieveResponse}, **_PROBLEMS},
    openapi_extra=takes(RetrieveRequest),
)
async def retrieve(request: Request) -> Response:
    """Exactly the best `k` items by the retrieval model, or as many as there are."""
    house, seen = house_of(request), visit(request)
    retrieval = _loaded(house.retrieval, "--retrieval")
    house.admission.check(seen.timings, company(request.scope))
    asked = parse_stage(RetrieveRequest, await body_of(request, house), house.limits)
    work = retrieval.retrieve(asked, seen.timings)
    return _told(request, await Caller(request.receive).waits_for(work))


@router.post(
    "/v1/prerank",
    summary="Score and order many candidates roughly",
    response_model=None,
    responses={200: {"model": PrerankResponse}, **_PROBLEMS},
    openapi_extra=takes(PrerankRequest),
)
async def prerank(request: Request) -> Response:
    """One user, one time, up to 10,000 candidates."""
    house, seen = house_of(request), visit(request)
    preranker = _loaded(house.prerank, "--prerank")
    house.admission.check(seen.timings, company(request.scope))
    body = await read_body(
        request.scope,
        request.receive,
        limit_bytes=house.settings.prerank_body_limit_bytes,
        timeout_s=house.settings.body_timeout_s,
    )
    work = preranker.prerank(parse_stage(PrerankRequest, body, house.limits), seen.timings)
    return _told(request, await Caller(request.receive).waits_for(work))


@router.post(
    "/v1/recommend",
    summary="Recommend items: retrieve, pre-rank and rank in one",
    response_model=None,
    responses={200: {"model": RecommendResponse}, **_PROBLEMS},
    openapi_extra=takes(RecommendRequest),
)
async def recommend(request: Request) -> Response:
    """The ranking model's best of what the stages before it find; each has a part of the time."""
    house, seen = house_of(request), visit(request)
    chain = _loaded(house.recommender, "--retrieval")
    house.admission.check(seen.timings, company(request.scope))
    asked = parse_stage(RecommendRequest, await body_of(request, house), house.limits)
    work = chain.recommend(asked, Caller(), seen.timings)
    return _told(request, await Caller(request.receive).waits_for(work))


def _loaded(part: T | None, option: str) -> T:
    if part is None:
        raise NotLoaded(f"no model for this is loaded: start `marmot serve` with {option} BUNDLE")
    return part


def _told(request: Request, found: dict[str, Any]) -> Response:
    visit(request).fingerprint = found["model"]["fingerprint"].encode()
    return answer(found)
