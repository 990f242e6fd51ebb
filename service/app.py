"""The app: routes, what answers a failure, and a house that opens and closes with it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from types import ModuleType

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cache.base import Cache
from service.caller import CallerGone
from service.doorway import GONE, Doorway
from service.errors import InternalError, InvalidRequest, MethodNotAllowed, NotFound, Problem
from service.house import House
from service.openapi import describe
from service.problems import tell
from service.release import release
from service.routes import (
    docs,
    events,
    explain,
    health,
    inference,
    items,
    metrics,
    models,
    playground,
    rank,
    stages,
    status,
    users,
)
from service.routes.doors import house_of
from service.settings import Settings

ROOMS = (
    rank,
    stages,
    explain,
    events,
    users,
    items,
    models,
    health,
    metrics,
    status,
    inference,
    docs,
)
#: The doorway does that, also for routes that the framework never sees.
NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "auto_configure": False,
}
ABOUT = "Ranks candidates from cached attention-layer outputs."


def create_app(settings: Settings, *, cache: Cache | None = None) -> Doorway:
    """The service as an ASGI app; nothing is opened before its lifespan starts."""
    house = House.of(settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with house.open(cache):
            yield

    app = FastAPI(
        title="Marmot",
        version=release(),
        description=ABOUT,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=NO_TELEMETRY,
        exception_handlers={
            Problem: tell_problem,
            HTTPException: tell_http,
            Exception: tell_unforeseen,
        },
    )
    rooms = (*ROOMS, playground) if settings.playground else ROOMS
    for room in rooms:
        app.include_router(room.router)
    app.openapi = partial(describe, app)  # type: ignore[method-assign]
    return Doorway(app, house, shortcuts={"/v1/rank": rank.rank}, templates=_templates(app, rooms))


async def tell_problem(request: Request, error: Exception) -> Response:
    """A problem as the caller reads it."""
    problem = error if isinstance(error, Problem) else InternalError()
    return tell(problem, house_of(request).metrics)


async def tell_unforeseen(request: Request, error: Exception) -> Response:
    """What nobody foresaw, as a problem that reveals nothing; who has gone is told nothing."""
    if isinstance(error, CallerGone):
        return Response(status_code=GONE)
    problem = InternalError()
    problem.__cause__ = error
    return tell(problem, house_of(request).metrics)


async def tell_http(request: Request, error: Exception) -> Response:
    """What the framework refuses, as our own problem."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    known: dict[int, type[Problem]] = {404: NotFound, 405: MethodNotAllowed}
    problem = known.get(status, InvalidRequest if status < 500 else InternalError)()
    response = tell(problem, house_of(request).metrics)
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response


def _templates(app: FastAPI, rooms: Iterable[ModuleType]) -> dict[str, re.Pattern[str]]:
    routes = [*app.routes, *(route for room in rooms for route in room.router.routes)]
    return {route.path: route.path_regex for route in routes if isinstance(route, Route)}
