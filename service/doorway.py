"""The outermost layer: what every answer carries, and what happens to every failure. Pure ASGI.

Each request gets a `Visit` (its id, its timings), each answer the headers that name it. A failure
that nobody foresaw ends here as a problem that reveals nothing; a failed start as one sentence.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.caller import CallerGone
from service.errors import Draining, InternalError, InvalidRequest, Problem, ServiceError
from service.gate import HOUSE
from service.house import House
from service.logging import VISIT
from service.problems import tell
from service.timings import Timings
from service.tracing import METHODS, Tracer, trace_id
from service.wire import came_at

KEY = "marmot.visit"
ROUTE = "marmot.route"
GONE = 499
REQUEST_ID_BYTES = 128
#: Paths that end in what users or operators named.
WITH_IDS = ("/v1/users/", "/v1/models/")


@dataclass(slots=True)
class Visit:
    """One request from its headers to its answer."""

    house: House
    scope: Scope
    request_id: bytes
    timings: Timings
    #: `X-Request-Timeout-Ms`, as it was given.
    timeout: bytes = b""
    fingerprint: bytes = b""
    status: int = 0
    #: OpenTelemetry's, where requests are traced.
    span: Any = None

    def names(self) -> dict[str, str]:
        """What a line of the log calls the request."""
        names = {"request_id": self.request_id.decode()}
        if found := trace_id(self.span, self.scope):
            names["trace_id"] = found
        return names


Endpoint = Callable[[Request], Awaitable[Response]]


class Doorway:
    """Wraps the app; `house` is what the app serves from."""

    def __init__(
        self,
        app: ASGIApp,
        house: House,
        *,
        shortcuts: Mapping[str, Endpoint],
        templates: Mapping[str, re.Pattern[str]],
    ) -> None:
        self._app = app
        #: Every route's template and the paths it is for.
        self._templates = templates
        #: POST endpoints that are called without the framework's walk through its layers.
        self._shortcuts = shortcuts
        self.house = house

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        house = self.house
        request_id, timeout = _said(scope)
        visit = Visit(house, scope, request_id, Timings(came_at(scope)), timeout)
        scope[KEY] = visit
        VISIT.set(visit)
        if house.tracer is not None:
            visit.span = house.tracer.begin(scope, visit.timings)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *self._headers(visit)]
            await send(message)

        house.metrics.later(house.metrics.begun)
        house.in_flight += 1
        try:
            await self._pass_on(visit, scope, receive, send_named)
        except CallerGone:
            visit.status = GONE
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            visit.status = GONE  # the caller hung up while their job was waiting
        except Exception as error:
            if visit.status:
                raise
            problem = InternalError()
            problem.__cause__ = error
            await tell(problem, house.metrics)(scope, receive, send_named)
        finally:
            house.in_flight -= 1
            house.metrics.later(self._note, visit, visit.timings.total)
            if house.tracer is not None:
                # The loop writes at the end of its turn: in the next, nobody is kept waiting.
                asyncio.get_running_loop().call_soon(self._trace, house.tracer, visit)

    async def _pass_on(self, visit: Visit, scope: Scope, receive: Receive, send: Send) -> None:
        house, path = self.house, scope["path"]
        shortcut = self._shortcuts.get(path) if scope["method"] == "POST" else None
        response: ASGIApp = self._app
        if house.drain.is_closing and not path.startswith(("/health/", "/v2/health/")):
            response = tell(Draining(), house.metrics)
        elif house.guard is not None and (refusal := house.guard.refusal(scope)) is not None:
            response = tell(refusal, house.metrics)
        elif visit.timeout and not visit.timings.bound(visit.timeout):
            refusal = InvalidRequest("X-Request-Timeout-Ms must be a number of milliseconds")
            response = tell(refusal, house.metrics)
        elif shortcut is not None:
            scope[ROUTE] = path
            try:
                response = await shortcut(Request(scope, receive))
            except Problem as problem:
                response = tell(problem, house.metrics)
        else:
            scope["path"] = _plain_path(scope)
        await response(scope, receive, send)

    def _headers(self, visit: Visit) -> list[tuple[bytes, bytes]]:
        headers = [
            (b"x-request-id", visit.request_id),
            (b"x-model-fingerprint", visit.fingerprint or self.house.fingerprint),
            (b"server-timing", visit.timings.header().encode()),
        ]
        if self.house.drain.has_begun:
            headers.append((b"connection", b"close"))
        return headers

    def _note(self, visit: Visit, took_s: float) -> None:
        """One answer for the metrics."""
        route = self._route(visit.scope)
        method = _method(visit.scope)
        self.house.metrics.answered(route, method, visit.status, visit.timings, took_s)

    def _trace(self, tracer: Tracer, visit: Visit) -> None:
        tracer.end(visit.span, visit.scope, self._route(visit.scope), visit.status, visit.timings)

    def _route(self, scope: Scope) -> str:
        """The template of the request's path, also where it was refused before it was routed."""
        if ROUTE in scope:
            return str(scope[ROUTE])
        if "route" in scope:
            return str(scope["route"].path)
        path = _plain_path(scope)
        fits = (name for name, pattern in self._templates.items() if pattern.match(path))
        return next(fits, "none")

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A start that fails for a known reason is told in its sentence, not as a traceback."""
        scope.setdefault("state", {})[HOUSE] = self.house

        async def send_sentence(message: Message) -> None:
            error = self.house.start_error
            if message["type"] == "lifespan.startup.failed" and error is not None:
                message["message"] = f"marmot: {error}"
            await send(message)

        try:
            await self._app(scope, receive, send_sentence)
        except ServiceError:
            return


def visit_of(scope: Scope) -> Visit:
    """The visit that the doorway opened for this request."""
    visit: Visit = scope[KEY]
    return visit


def _said(scope: Scope) -> tuple[bytes, bytes]:
    """What the caller calls the request, or a name for it; and how long they wait, if they say."""
    request_id = timeout = b""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            request_id = value
        elif name == b"x-request-timeout-ms":
            timeout = value
    if not (
        0 < len(request_id) <= REQUEST_ID_BYTES and all(33 <= byte < 127 for byte in request_id)
    ):
        request_id = os.urandom(8).hex().encode()
    return request_id, timeout


def _plain_path(scope: Scope) -> str:
    """The path; ids keep their escapes, so that %2F is no slash."""
    path: str = scope["path"]
    raw: bytes = scope["raw_path"]
    return raw.decode("ascii", "replace") if path.startswith(WITH_IDS) else path


def _method(scope: Scope) -> str:
    method: Any = scope["method"]
    return method if method in METHODS else "other"
