"""What callers get, for /openapi.json: answers themselves are plain dicts rendered by orjson."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class ModelName(BaseModel):
    """The bundle that answered."""

    name: str
    version: str
    fingerprint: str


class SummaryReport(BaseModel):
    """How many events the summary covers, and how many visible ones follow them."""

    covered: int
    unseen: int


class CacheReport(BaseModel):
    """What the cache had to do with the answer."""

    state: Literal["hit", "partial", "cold", "inline", "away", "stale"]
    records: int
    recomputed: int
    version: int
    age_s: float | None
    summary: SummaryReport | None = None


class RankResponse(BaseModel):
    """Scores aligned with the candidates, and the ranking by the primary task."""

    user_id: int | str
    model: ModelName
    scores: dict[str, list[float]]
    ranking: list[int | str]
    unknown_items: list[int | str]
    cache: CacheReport
    degraded: list[str]


class RetrieveResponse(BaseModel):
    """Items as text, best first, with their scores."""

    user_id: int | str
    model: ModelName
    items: list[str]
    scores: list[float]
    cache: CacheReport
    degraded: list[str]


class PrerankResponse(RankResponse):
    """As ranking answers, from the pre-ranking model."""


class Stage(BaseModel):
    """What a stage of the chain took, and how many items it looked at."""

    stage: Literal["fetch", "retrieve", "prerank", "rank"]
    ms: float
    items: int | None = None


class RecommendResponse(BaseModel):
    """Items as text, best first, with the ranking model's scores aligned, and the stages' times."""

    user_id: int | str
    model: ModelName
    items: list[str]
    scores: dict[str, list[float]]
    stages: list[Stage]
    cache: CacheReport
    degraded: list[str]


class ExplainedEvent(BaseModel):
    """An event and its effect: the score with it minus the score without, by candidate."""

    item_id: str
    timestamp: int
    feedback: dict[str, int]
    effect: dict[str, list[float]]


class Attention(BaseModel):
    """Weights by layer, candidate and event of the newest window, means of the heads.

    The last weight is that of the last event; with `nothing` a candidate's weights sum to 1.
    """

    events: list[list[list[float]]]
    nothing: list[list[float]]


class ExplainedCache(BaseModel):
    """Where the timeline came from."""

    state: Literal["stored", "cold", "inline"]
    version: int


class ExplainResponse(BaseModel):
    """Scores and what they come from; events are in time order, the newest last."""

    user_id: int | str
    model: ModelName
    timestamp: int
    candidates: list[int | str]
    scores: dict[str, list[float]]
    events: list[ExplainedEvent]
    attention: Attention | None
    unknown_items: list[int | str]
    cache: ExplainedCache
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


class UsersResponse(BaseModel):
    """Some users, in any order."""

    users: list[str]


class StoreStatus(BaseModel):
    """Whether the store answered just now, and how quickly."""

    kind: str
    answers: bool
    ping_ms: float | None


class RequestCount(BaseModel):
    """Requests of one route that ended alike."""

    route: str
    method: str
    status: str
    count: float


class Runs(BaseModel):
    """Runs of one graph."""

    runs: float
    jobs: float
    seconds: float


Histogram = dict[str, list[tuple[float | None, float]]]


class Durations(BaseModel):
    """By route and by stage: (upper edge in seconds, how many took so long); None is no edge."""

    routes: Histogram
    stages: Histogram


class StatusResponse(BaseModel):
    """How the service is; every number counts from its start, of all workers."""

    at: float
    state: Literal["ready", "draining"]
    workers: int
    model: ModelName
    store: StoreStatus
    in_flight: float
    requests: list[RequestCount]
    cache: dict[str, float]
    degraded: dict[str, float]
    events: dict[str, float]
    problems: dict[str, float]
    store_events: dict[str, float]
    seconds: Durations
    runs: dict[str, Runs]


class SummaryResponse(BaseModel):
    """Tokens that stand for a user's first `covered` events; null where there are too few."""

    user_id: str
    model: ModelName
    version: int
    covered: int
    unseen: int
    age_s: float | None
    is_behind: bool
    #: Tokens and numbers in each.
    shape: list[int]
    #: Base64 of float32, little-endian, token after token.
    tokens: str | None


class Item(BaseModel):
    """An item of the vocabulary."""

    item_id: str
    name: str | None


class ItemsResponse(BaseModel):
    """Items, best fit first."""

    items: list[Item]


class LoadedModel(BaseModel):
    """A version as it stands in the process that answers."""

    name: str | None
    version: str
    fingerprint: str
    family: str | None
    state: Literal["loading", "warming", "ready", "failed"]
    #: It answers here where a request names none.
    active: bool
    canary_percent: float
    shadow_percent: float
    #: Users whose records were built, by whichever process does it.
    rebuilt_users: int
    problem: str | None


class ModelsResponse(BaseModel):
    """The versions of the process that answers, and what all of them are to answer with."""

    models: list[LoadedModel]
    #: The version that is to be active everywhere.
    wanted: str
    process: int


class ProblemBody(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


class OutputTensor(BaseModel):
    """The scores of one task: in `data`, or as so many bytes after the JSON."""

    name: str
    datatype: Literal["FP32"]
    shape: list[int]
    data: list[float] | None = None
    parameters: dict[Literal["binary_data_size"], int] | None = None


class InferenceResponse(BaseModel):
    """An output for each task asked for; `parameters` name what was left out, if anything."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[Literal["degraded"], str] | None = None
    outputs: list[OutputTensor]


class InferenceError(BaseModel):
    """What went wrong, in the Open Inference Protocol's own form."""

    error: str


class ServerMetadata(BaseModel):
    """What this server is, and which extensions it knows."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """An input or output; -1 is any length."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
