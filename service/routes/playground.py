"""`/` and `/status`: the pages a person opens. They ask this host and no other for what they show.

The pages and what they are made of are the same for everybody, so they need no key: what they then
ask for does.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.errors import NotFound

router = APIRouter(include_in_schema=False)

_KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


@router.get("/", response_model=None)
async def playground(_request: Request) -> Response:
    """Rank for a user, see why, and watch an event move the ranking."""
    return _file("index.html")


@router.get("/status", response_model=None)
async def status(_request: Request) -> Response:
    """How the service is, live."""
    return _file("status.html")


@router.get("/playground/{name}", response_model=None)
async def part(request: Request) -> Response:
    """What the pages are made of."""
    return _file(request.path_params["name"])


def _file(name: str) -> Response:
    found = _files().get(name)
    if found is None:
        raise NotFound
    kind = _KINDS[name.rpartition(".")[2]]
    return Response(found, media_type=kind, headers=_HEADERS)


@cache
def _files() -> dict[str, bytes]:
    """All of them by name, so that no path of a request is ever a path on the disk."""
    folder = files("service") / "playground"
    known = (file for file in folder.iterdir() if file.name.rpartition(".")[2] in _KINDS)
    return {file.name: file.read_bytes() for file in known}
