"""`/v1/users`: who is known, what is known of a user, and forgetting it.

The doorway leaves these paths percent-encoded, so that an id may hold a slash.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from cache.errors import CacheMismatch, CacheUnavailable
from cache.timeline import Timeline
from service.answers import SummaryResponse, TimelineResponse, UsersResponse
from service.errors import InvalidRequest, StoreAway
from service.routes.doors import PROBLEMS, answer, house_of, limit_of, visit
from service.schemas import check_text

router = APIRouter(tags=["users"])

DEFAULT_LIMIT = 100
FEW, MOST_USERS = 20, 100
_USER_ID = {"name": "user_id", "in": "path", "required": True, "schema": {"type": "string"}}
_LIMIT: dict[str, Any] = {
    "name": "limit",
    "in": "query",
    "schema": {"type": "integer", "minimum": 1, "default": DEFAULT_LIMIT},
}
_TOLD: dict[int | str, dict[str, Any]] = {status: PROBLEMS[status] for status in (422, 503)}


@router.get(
    "/v1/users",
    summary="Some users who have a timeline",
    response_model=None,
    responses={200: {"model": UsersResponse}, **_TOLD},
    openapi_extra={"parameters": [{**_LIMIT, "schema": {**_LIMIT["schema"], "default": FEW}}]},
)
async def users(request: Request) -> Response:
    """To try things with: those whom the store finds first, and in its time."""
    house = house_of(request)
    limit = min(limit_of(request, FEW), MOST_USERS)
    found: dict[str, None] = {}
    try:
        async with asyncio.timeout(house.settings.store_timeout_ms / 1e3):
            async for user_id in house.cache.users():
                found[user_id] = None
                if len(found) == limit:
                    break
    except TimeoutError:
        pass  # a store of others' keys, mostly: what was found is some users too
    except (CacheUnavailable, CacheMismatch) as error:
        raise StoreAway("The store is not reachable") from error
    return answer({"users": list(found)})


@router.get(
    "/v1/users/{user_id}/timeline",
    summary="The newest events of a user",
    response_model=None,
    responses={200: {"model": TimelineResponse}, **_TOLD},
    openapi_extra={"parameters": [_USER_ID, _LIMIT]},
)
async def timeline(request: Request) -> Response:
    """Newest first; an unknown user has none."""
    house, seen = house_of(request), visit(request)
    user_id = _user_id(request)
    limit = min(limit_of(request, DEFAULT_LIMIT), house.settings.max_timeline)
    try:
        snapshot = await house.cache.fetch(user_id, limit=limit)
    except (CacheUnavailable, CacheMismatch) as error:
        raise StoreAway("The store is not reachable") from error
    finally:
        seen.timings.cache += seen.timings.total
    events = list(reversed(_shown(snapshot.timeline)))
    return answer({"user_id": user_id, "version": snapshot.version, "events": events})


@router.get(
    "/v1/users/{user_id}/summary",
    summary="The summary tokens of a user",
    response_model=None,
    responses={200: {"model": SummaryResponse}, **_TOLD, 504: PROBLEMS[504]},
    openapi_extra={"parameters": [_USER_ID]},
)
async def summary(request: Request) -> Response:
    """What the model makes of all but the newest events, for other models to read."""
    house, seen = house_of(request), visit(request)
    user_id = _user_id(request)
    return answer(await house.handout.give(house.registry.active, user_id, seen.timings))


@router.delete(
    "/v1/users/{user_id}",
    summary="Forget a user",
    status_code=204,
    response_model=None,
    responses={204: {"description": "Forgotten"}, **_TOLD},
    openapi_extra={"parameters": [_USER_ID]},
)
async def forget(request: Request) -> Response:
    """Removes the user's events and rows, under every fingerprint, and logged answers."""
    house, user_id = house_of(request), _user_id(request)
    await house.recorder.forget(user_id)
    if house.answer_log is not None:
        await house.answer_log.forget(user_id)
    return Response(status_code=204)


def _shown(found: Timeline) -> list[dict[str, Any]]:
    return [
        {
            "item_id": event.item_id,
            "timestamp": event.timestamp,
            "feedback": {task: mark.value for task, mark in event.feedback.items()},
        }
        for event in found.events()
    ]


def _user_id(request: Request) -> str:
    try:
        return check_text(unquote_to_bytes(request.path_params["user_id"]).decode())
    except UnicodeDecodeError as error:
        raise InvalidRequest("user_id is not UTF-8") from error
    except PydanticCustomError as error:
        raise InvalidRequest(f"user_id {error.message()}") from error
