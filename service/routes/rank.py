"""`POST /v1/rank` and `POST /v1/rank:batch`."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.answers import RankBatchResponse, RankResponse
from service.caller import Caller
from service.errors import InternalError, Problem
from service.house import House
from service.logging import log
from service.routes.doors import PROBLEMS, answer, body_of, house_of, takes, visit
from service.schemas import (
    RankBatch,
    RankRequest,
    parse_rank,
    parse_rank_batch,
)
from service.timings import Timings
from service.wire import company, line

router = APIRouter(tags=["rank"])


@router.post(
    "/v1/rank",
    summary="Score and order candidates for a user",
    response_model=None,
    responses={200: {"model": RankResponse}, **PROBLEMS},
    openapi_extra=takes(RankRequest),
)
async def rank(request: Request) -> Response:
    """One user, one time, up to 2,000 candidates."""
    seen = visit(request)
    house = seen.house
    here = company(request.scope)
    house.admission.check(seen.timings, here)
    asked = parse_rank(await body_of(request, house), house.limits)
    is_alone = house.callers.is_alone(here, request.scope.get("client"))
    caller = Caller(line=line(request.scope), is_alone=is_alone)
    found = await house.ranker.rank(asked, caller, seen.timings)
    seen.fingerprint = found["model"]["fingerprint"].encode()
    return answer(found)


@router.post(
    "/v1/rank:batch",
    summary="Several rank requests at once",
    response_model=None,
    responses={200: {"model": RankBatchResponse}, **PROBLEMS},
    openapi_extra=takes(RankBatch),
)
async def rank_batch(request: Request) -> Response:
    """Up to 64 requests, each with its own answer or problem."""
    house, seen = house_of(request), visit(request)
    house.admission.check(seen.timings, company(request.scope))
    asked = parse_rank_batch(await body_of(request, house), house.limits)
    results = await asyncio.gather(*(_one(house, each, seen.timings) for each in asked))
    return answer({"results": results})


async def _one(house: House, asked: RankRequest | Problem, whole: Timings) -> dict[str, Any]:
    if isinstance(asked, Problem):
        return _told(house, asked)
    timings = whole.part()
    try:
        return await house.ranker.rank(asked, Caller(), timings)
    except Problem as problem:
        return _told(house, problem)
    except Exception:
        log.exception("unforeseen failure in a batch")
        return _told(house, InternalError())
    finally:
        whole.add(timings)


def _told(house: House, problem: Problem) -> dict[str, Any]:
    house.metrics.told(problem.slug)
    return {"problem": problem.to_dict()}
