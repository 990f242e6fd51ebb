"""`/v1/models`: the versions that are loaded, and who gets which.

The doorway leaves these paths percent-encoded, so that a version may hold a slash.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import unquote

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.answers import LoadedModel, ModelsResponse
from service.house import House
from service.routes.doors import PROBLEMS, answer, body_of, house_of, takes
from service.schemas import Activation, LoadRequest, parse_activation, parse_load

router = APIRouter(tags=["models"])

_WHAT = {404: "No such version, or no models directory", 409: "Not as things are now"}
_TOLD: dict[int | str, dict[str, Any]] = {
    **PROBLEMS,
    **{status: {**PROBLEMS[422], "description": what} for status, what in _WHAT.items()},
}
_VERSION = {
    "parameters": [
        {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
    ]
}


@router.get(
    "/v1/models",
    summary="The versions that are loaded",
    response_model=None,
    responses={200: {"model": ModelsResponse}},
)
async def models(request: Request) -> Response:
    """As they stand in the process that answers: each follows by itself."""
    house = house_of(request)
    found = await _shown(house, house.rollouts.report())
    wanted = house.rollouts.wanted
    return answer(
        {
            "models": found,
            "wanted": wanted.active if wanted else house.registry.active.version,
            "process": os.getpid(),
        }
    )


@router.post(
    "/v1/models",
    summary="Load a bundle from the models directory, everywhere",
    status_code=202,
    response_model=None,
    responses={202: {"model": LoadedModel}, **_TOLD},
    openapi_extra=takes(LoadRequest),
)
async def load(request: Request) -> Response:
    """It is loaded and tried behind this answer, and answers nobody yet; one that failed again."""
    house = house_of(request)
    asked = parse_load(await body_of(request, house))
    (shown,) = await _shown(house, [await house.rollouts.load(asked.bundle)])
    return answer(shown, 202)


@router.post(
    "/v1/models/{version}/activate",
    summary="Give a version everything, some users, or a shadow",
    response_model=None,
    responses={200: {"model": LoadedModel}, **_TOLD},
    openapi_extra={**takes(Activation), **_VERSION},
)
async def activate(request: Request) -> Response:
    """Followed by the process that answers before it does, by the others shortly after."""
    house = house_of(request)
    asked = parse_activation(await body_of(request, house))
    (shown,) = await _shown(house, [await house.rollouts.activate(_version(request), asked)])
    return answer(shown)


@router.delete(
    "/v1/models/{version}",
    summary="Let a version go, and delete its records",
    status_code=204,
    response_model=None,
    responses={204: {"description": "It goes; its records are deleted bit by bit"}, **_TOLD},
    openapi_extra=_VERSION,
)
async def remove(request: Request) -> Response:
    """Not the active one. Requests that are with it are finished first."""
    await house_of(request).rollouts.remove(_version(request))
    return Response(status_code=204)


async def _shown(house: House, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    users = await house.errands.users() if house.errands else {}
    return [{**each, "rebuilt_users": users.get(each["fingerprint"], 0)} for each in found]


def _version(request: Request) -> str:
    return unquote(request.path_params["version"])
