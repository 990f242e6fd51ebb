"""What callers get, for /openapi.json: answers themselves are plain dicts rendered by orjson."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class ModelName(BaseModel):
    """The bundle that answered."""

    name: str
    version: str
    fingerprint: str


class CacheReport(BaseModel):
    """What the cache had to do with the answer."""

    state: Literal["hit", "partial", "cold", "inline", "away"]
    records: int
    recomputed: int
    version: int
    age_s: float | None


class RankResponse(BaseModel):
    """Scores aligned with the candidates, and the ranking by the primary task."""

    user_id: int | str
    model: ModelName
    scores: dict[str, list[float]]
    ranking: list[int | str]
    unknown_items: list[int | str]
    cache: CacheReport
    degraded: list[str]


class EventResult(BaseModel):
    """What became of one event."""

    status: Literal["appended", "inserted", "updated", "duplicate", "expired"] | None = None
    version: int | None = None
    problem: ProblemBody | None = None


class EventsResponse(BaseModel):
    """One result per event, in the order they were sent."""

    results: list[EventResult]


class RankBatchResponse(BaseModel):
    """One answer, or one problem, per request."""

    results: list[RankResponse | dict[Literal["problem"], ProblemBody]]


class TimelineResponse(BaseModel):
    """The newest events of a user, newest first."""

    user_id: str
    version: int
    events: list[dict[str, Any]]


class ProblemBody(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
