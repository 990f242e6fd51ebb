"""`POST /v1/events`: what was shown, and what came of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.answers import EventsResponse
from service.errors import InternalError, InvalidRequest, Problem
from service.events import to_event, too_late
from service.house import House
from service.logging import log
from service.routes.doors import PROBLEMS, answer, body_of, house_of, takes, visit
from service.schemas import EventBatch, PostedEvent, parse_events
from service.timings import Timings
from service.wire import company

router = APIRouter(tags=["events"])

Result = dict[str, Any]
USERS_AT_ONCE = 16
"""Of one request: with a thousand at once, each would wait for the others' work, and the store's
timeout with it."""

NEW = frozenset({"appended", "inserted"})

_RESULTS = {"application/json": {"schema": {"$ref": "#/components/schemas/EventsResponse"}}}
#: Where no event was stored, the status is the worst one's, and each still has its result.
_NONE_STORED: dict[int | str, dict[str, Any]] = {
    status: {**PROBLEMS[status], "content": {**PROBLEMS[status]["content"], **_RESULTS}}
    for status in (422, 503, 504)
}


@router.post(
    "/v1/events",
    summary="Record events",
    response_model=None,
    responses={200: {"model": EventsResponse}, **PROBLEMS, **_NONE_STORED},
    openapi_extra=takes(EventBatch),
)
async def events(request: Request) -> Response:
    """Up to 1,000 events, each judged by itself; acknowledged ones are stored."""
    house, seen = house_of(request), visit(request)
    house.event_admission.check(seen.timings, company(request.scope))
    sent = parse_events(await body_of(request, house), house.limits)
    results: list[Result] = [{}] * len(sent)
    by_user: dict[str, list[int]] = {}
    latest = int(time.time()) + house.settings.max_future_s
    problems: list[Problem] = []
    for place, event in enumerate(sent):
        problem = event if isinstance(event, Problem) else too_late(event, latest)
        if problem is not None:
            problems.append(problem)
            results[place] = _told(house, problem)
        elif not isinstance(event, Problem):
            by_user.setdefault(str(event["user_id"]), []).append(place)
    few = asyncio.Semaphore(USERS_AT_ONCE)
    stored = await asyncio.gather(
        *(
            _record(house, user_id, [sent[place] for place in places], seen.timings, few)
            for user_id, places in by_user.items()
        )
    )
    for places, outcome in zip(by_user.values(), stored, strict=True):
        if isinstance(outcome, Problem):
            problems.append(outcome)
            outcome = [_told(house, outcome) for _ in places]  # noqa: PLW2901
        for place, result in zip(places, outcome, strict=True):
            results[place] = result
    if any("status" in result for result in results):
        return answer({"results": results})
    worst = max(problems, key=lambda problem: problem.status)
    told = answer({"results": results}, worst.status)
    told.headers.update(worst.headers())
    return told


async def _record(
    house: House,
    user_id: str,
    sent: Sequence[PostedEvent | InvalidRequest],
    whole: Timings,
    few: asyncio.Semaphore,
) -> list[Result] | Problem:
    parsed = [to_event(event) for event in sent if not isinstance(event, Problem)]
    timings = whole.part()
    try:
        # For whom this user's next request goes to; other versions build what they miss when asked.
        model = house.registry.pick(None, user_id)
        async with few:
            recorded = await house.recorder.record(model, user_id, parsed, timings)
    except Problem as problem:
        return problem
    except Exception:
        log.exception("unforeseen failure while recording")
        return InternalError()
    finally:
        whole.add(timings)
    now_s = time.time()
    new = zip(parsed, recorded.statuses, strict=True)
    house.metrics.recorded(
        recorded.statuses,
        timings.total,
        [now_s - event.timestamp for event, status in new if status in NEW],
    )
    return [{"status": status, "version": recorded.version} for status in recorded.statuses]


def _told(house: House, problem: Problem) -> Result:
    house.metrics.told(problem.slug)
    return {"problem": problem.to_dict()}
