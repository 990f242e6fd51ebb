"""`/docs`: the OpenAPI document as a page that asks no other host for anything."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

router = APIRouter(include_in_schema=False)


@cache
def _page() -> bytes:
    return (files("service") / "docs.html").read_bytes()


@router.get("/docs", response_model=None)
async def docs(request: Request) -> Response:
    """One page, rendered from /openapi.json in the browser."""
    return Response(_page(), media_type="text/html")
