"""`Client` and `AsyncClient`: the service from Python, with retries, deadlines and traces.

    with Client("http://127.0.0.1:8000") as marmot:
        marmot.events([{"user_id": 42, "item_id": 50, "timestamp": 893286638}])
        marmot.rank(42, [181, 7], deadline_s=0.2)["ranking"]

This file imports nothing else of the service: it may be copied. Every call may be sent twice
without harm (events merge, forgetting is final), so every call is sent again when the service is
full, away or cut off, for as long as its deadline allows.

MarmotError
├── Refused             the service answered with a problem (RFC 9457)
├── Unreachable         no answer came back
└── DeadlineExceeded    the call's time was up
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, NotRequired, Self, TypeVar, cast
from urllib.parse import quote

import httpx
from typing_extensions import TypedDict, Unpack

_propagator: Any = None
with suppress(ImportError):  # programs that trace with OpenTelemetry have it
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    _propagator = TraceContextTextMapPropagator()

T = TypeVar("T")
Id = int | str

DEADLINE_S = 10.0
AGAIN = frozenset({429, 502, 503})


#: Options of a call that are not in its body.
HOW = ("deadline_s", "traceparent", "tracestate")


class MarmotError(Exception):
    """A call that came to no answer."""


class Unreachable(MarmotError):
    """No answer came back."""


class DeadlineExceeded(MarmotError):
    """The call's time was up, here or at the service."""


class Refused(MarmotError):
    """The service answered with a problem."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.request_id = response.headers.get("x-request-id", "")
        self.problem = _problem(response)
        told = self.problem.get("detail") or response.reason_phrase
        super().__init__(f"{self.status}: {told}")


class Event(TypedDict):
    """What was shown, when, and what came of it as far as that is known."""

    item_id: Id
    timestamp: int
    feedback: NotRequired[Mapping[str, int]]
    feedback_timestamp: NotRequired[int]


class UserEvent(Event):
    """An event and whose it is."""

    user_id: Id


class RankOptions(TypedDict, total=False):
    """What a rank request may say besides user and candidates."""

    timestamp: int
    top_k: int
    history: Sequence[Event]
    min_version: int
    model: Mapping[str, str]


class RankRequest(RankOptions):
    """One request of a batch."""

    user_id: Id
    candidates: Sequence[Id]


class CallOptions(TypedDict, total=False):
    """What any call may say of itself."""

    deadline_s: float
    traceparent: str
    tracestate: str


class RankCallOptions(RankOptions, CallOptions, total=False):
    """Both."""


class StageCallOptions(CallOptions, total=False):
    """What a call for items may say besides the user."""

    k: int
    exclude_seen: bool
    timestamp: int
    history: Sequence[Event]
    min_version: int


class SummaryReport(TypedDict):
    """How many of the oldest events a summary stands for, and how many nothing does."""

    covered: int
    unseen: int


class CacheReport(TypedDict):
    """What the cache had to do with an answer."""

    state: str
    records: int
    recomputed: int
    version: int
    age_s: float | None
    summary: NotRequired[SummaryReport | None]


class RankAnswer(TypedDict):
    """Scores by task, aligned with the candidates, and the ranking by the first task."""

    user_id: Id
    model: dict[str, str]
    scores: dict[str, list[float]]
    ranking: list[Id]
    unknown_items: list[Id]
    cache: CacheReport
    degraded: list[str]


class Problem(TypedDict):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


class RetrieveAnswer(TypedDict):
    """Items as text, best first, with their scores."""

    user_id: Id
    model: dict[str, str]
    items: list[str]
    scores: list[float]
    cache: CacheReport
    degraded: list[str]


class RecommendAnswer(TypedDict):
    """Items as text, best first, with scores by task, and what each stage took."""

    user_id: Id
    model: dict[str, str]
    items: list[str]
    scores: dict[str, list[float]]
    stages: list[dict[str, Any]]
    cache: CacheReport
    degraded: list[str]


class EventResult(TypedDict, total=False):
    """`status` and `version`, or a `problem`."""

    status: str
    version: int
    problem: Problem


class Timeline(TypedDict):
    """The newest events of a user, newest first."""

    user_id: str
    version: int
    events: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a call is sent, and how long it waits where the service does not say."""

    attempts: int = 4
    first_wait_s: float = 0.05
    longest_wait_s: float = 2.0

    def wait_s(self, attempt: int, response: httpx.Response | None) -> float:
        """`Retry-After` where there is one; else twice as long each time, spread at random."""
        said = response.headers.get("retry-after", "") if response is not None else ""
        if said.isdigit():
            return float(said)
        most = min(self.first_wait_s * 2.0**attempt, self.longest_wait_s)
        return most * random.uniform(0.5, 1.0)  # noqa: S311


@dataclass(frozen=True, slots=True)
class _Call(Generic[T]):
    """One call: what is sent, and what becomes of the answer."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    body: Mapping[str, Any] | None = None
    params: Mapping[str, int] | None = None
    tells_deadline: bool = False
    deadline_s: float = DEADLINE_S
    traceparent: str | None = None
    tracestate: str | None = None
    request_id: str = field(default_factory=lambda: secrets.token_hex(8))
    trace_id: str = field(default_factory=lambda: secrets.token_hex(16))

    def request(self, http: httpx.Client | httpx.AsyncClient, left_s: float) -> httpx.Request:
        """One attempt; its time limits are what is left of the deadline."""
        body = None if self.body is None else dict(self.body)
        if body is not None and self.tells_deadline:
            body["deadline_ms"] = round(left_s * 1e3, 3)
        return http.build_request(
            self.method,
            self.path,
            json=body,
            params=self.params,
            headers={"x-request-id": self.request_id, **self._trace()},
            timeout=left_s,
        )

    def _trace(self) -> dict[str, str]:
        """What was given; else the span that the caller is in; else a trace of the call's own."""
        if self.traceparent is not None:
            state = {} if self.tracestate is None else {"tracestate": self.tracestate}
            return {"traceparent": self.traceparent, **state}
        carrier: dict[str, str] = {}
        if _propagator is not None:
            _propagator.inject(carrier)
        if "traceparent" not in carrier:
            carrier["traceparent"] = f"00-{self.trace_id}-{secrets.token_hex(8)}-00"
        return carrier


@dataclass(frozen=True, slots=True)
class _Wait:
    seconds: float


#: What a flow asks for, and what it gets: the answer or the failure of a request.
_Step = httpx.Request | _Wait
_Outcome = httpx.Response | httpx.TransportError | None


def _flow(
    call: _Call[T], http: httpx.Client | httpx.AsyncClient, retry: Retry
) -> Generator[_Step, _Outcome, T]:
    """The story of a call, without input and output: those are the two clients' own."""
    end = time.monotonic() + call.deadline_s
    failure: MarmotError = DeadlineExceeded(f"no time: the deadline is {call.deadline_s:g} s")
    for attempt in range(retry.attempts):
        left_s = end - time.monotonic()
        if left_s <= 0:
            raise failure
        outcome = yield call.request(http, left_s)
        response = outcome if isinstance(outcome, httpx.Response) else None
        if response is not None and response.is_success:
            return call.read(response)
        failure = _failure(call, outcome)
        if isinstance(failure, DeadlineExceeded):
            raise failure
        if isinstance(failure, Refused) and failure.status not in AGAIN:
            raise failure
        wait_s = retry.wait_s(attempt, response)
        if attempt + 1 == retry.attempts or time.monotonic() + wait_s >= end:
            raise failure
        yield _Wait(wait_s)
    raise failure


def _failure(call: _Call[Any], outcome: _Outcome) -> MarmotError:
    if isinstance(outcome, httpx.Response):
        if outcome.status_code == 504:
            return DeadlineExceeded(f"the service: {_problem(outcome).get('detail', 'too late')}")
        return Refused(outcome)
    if isinstance(outcome, httpx.TimeoutException) and not isinstance(outcome, httpx.PoolTimeout):
        return DeadlineExceeded(f"no answer within {call.deadline_s:g} s")
    return Unreachable(f"{call.method} {call.path}: {outcome or type(outcome).__name__}")


class Client:
    """Calls that wait. Keeps its connections; may be shared by threads."""

    def __init__(
        self, url: str, *, retry: Retry | None = None, http: httpx.Client | None = None
    ) -> None:
        self._http = http or httpx.Client(base_url=url)
        self._retry = retry or Retry()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def rank(
        self, user_id: Id, candidates: Sequence[Id], **options: Unpack[RankCallOptions]
    ) -> RankAnswer:
        """`POST /v1/rank`; the service is told how much of the deadline is left."""
        return self._do(_rank(user_id, candidates, options))

    def rank_batch(
        self, requests: Sequence[RankRequest], **options: Unpack[CallOptions]
    ) -> list[RankAnswer | EventResult]:
        """`POST /v1/rank:batch`: an answer or a `problem` for each."""
        return self._do(_rank_batch(requests, options))

    def retrieve(self, user_id: Id, **options: Unpack[StageCallOptions]) -> RetrieveAnswer:
        """`POST /v1/retrieve`: the best `k` items of the whole catalogue."""
        return self._do(_retrieve(user_id, options))

    def prerank(
        self, user_id: Id, candidates: Sequence[Id], **options: Unpack[RankCallOptions]
    ) -> RankAnswer:
        """`POST /v1/prerank`: many candidates, scored roughly."""
        return self._do(_rank(user_id, candidates, options, "prerank"))

    def recommend(self, user_id: Id, **options: Unpack[StageCallOptions]) -> RecommendAnswer:
        """`POST /v1/recommend`: retrieve, pre-rank and rank in one."""
        return self._do(_recommend(user_id, options))

    def events(
        self, events: Sequence[UserEvent], **options: Unpack[CallOptions]
    ) -> list[EventResult]:
        """`POST /v1/events`: a `status` or a `problem` for each, in the same order."""
        return self._do(_events(events, options))

    def timeline(self, user_id: Id, limit: int = 100, **options: Unpack[CallOptions]) -> Timeline:
        """The newest events, newest first."""
        return self._do(_timeline(user_id, limit, options))

    def forget(self, user_id: Id, **options: Unpack[CallOptions]) -> None:
        """Removes everything about the user."""
        return self._do(_forget(user_id, options))

    def _do(self, call: _Call[T]) -> T:
        flow = _flow(call, self._http, self._retry)
        outcome: _Outcome = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as done:
                return cast("T", done.value)
            if isinstance(step, _Wait):
                time.sleep(step.seconds)
                outcome = None
                continue
            try:
                outcome = self._http.send(step)
            except httpx.TransportError as error:
                outcome = error


class AsyncClient:
    """The same calls, awaited."""

    def __init__(
        self, url: str, *, retry: Retry | None = None, http: httpx.AsyncClient | None = None
    ) -> None:
        self._http = http or httpx.AsyncClient(base_url=url)
        self._retry = retry or Retry()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def rank(
        self, user_id: Id, candidates: Sequence[Id], **options: Unpack[RankCallOptions]
    ) -> RankAnswer:
        """`POST /v1/rank`; the service is told how much of the deadline is left."""
        return await self._do(_rank(user_id, candidates, options))

    async def rank_batch(
        self, requests: Sequence[RankRequest], **options: Unpack[CallOptions]
    ) -> list[RankAnswer | EventResult]:
        """`POST /v1/rank:batch`: an answer or a `problem` for each."""
        return await self._do(_rank_batch(requests, options))

    async def retrieve(self, user_id: Id, **options: Unpack[StageCallOptions]) -> RetrieveAnswer:
        """`POST /v1/retrieve`: the best `k` items of the whole catalogue."""
        return await self._do(_retrieve(user_id, options))

    async def prerank(
        self, user_id: Id, candidates: Sequence[Id], **options: Unpack[RankCallOptions]
    ) -> RankAnswer:
        """`POST /v1/prerank`: many candidates, scored roughly."""
        return await self._do(_rank(user_id, candidates, options, "prerank"))

    async def recommend(self, user_id: Id, **options: Unpack[StageCallOptions]) -> RecommendAnswer:
        """`POST /v1/recommend`: retrieve, pre-rank and rank in one."""
        return await self._do(_recommend(user_id, options))

    async def events(
        self, events: Sequence[UserEvent], **options: Unpack[CallOptions]
    ) -> list[EventResult]:
        """`POST /v1/events`: a `status` or a `problem` for each, in the same order."""
        return await self._do(_events(events, options))

    async def timeline(
        self, user_id: Id, limit: int = 100, **options: Unpack[CallOptions]
    ) -> Timeline:
        """The newest events, newest first."""
        return await self._do(_timeline(user_id, limit, options))

    async def forget(self, user_id: Id, **options: Unpack[CallOptions]) -> None:
        """Removes everything about the user."""
        return await self._do(_forget(user_id, options))

    async def _do(self, call: _Call[T]) -> T:
        flow = _flow(call, self._http, self._retry)
        outcome: _Outcome = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as done:
                return cast("T", done.value)
            if isinstance(step, _Wait):
                await asyncio.sleep(step.seconds)
                outcome = None
                continue
            try:
                outcome = await self._http.send(step)
            except httpx.TransportError as error:
                outcome = error


def _rank(
    user_id: Id, candidates: Sequence[Id], options: RankCallOptions, stage: str = "rank"
) -> _Call[RankAnswer]:
    given = dict(options)
    how = {name: given.pop(name) for name in HOW if name in given}
    body = {"user_id": user_id, "candidates": list(candidates), **given}
    read = cast("Callable[[httpx.Response], RankAnswer]", httpx.Response.json)
    path = f"/v1/{stage}"
    return _Call("POST", path, read, body, tells_deadline=True, **cast("CallOptions", how))


def _retrieve(user_id: Id, options: StageCallOptions) -> _Call[RetrieveAnswer]:
    read = cast("Callable[[httpx.Response], RetrieveAnswer]", httpx.Response.json)
    return _items("/v1/retrieve", read, user_id, options)


def _recommend(user_id: Id, options: StageCallOptions) -> _Call[RecommendAnswer]:
    read = cast("Callable[[httpx.Response], RecommendAnswer]", httpx.Response.json)
    return _items("/v1/recommend", read, user_id, options)


def _items(
    path: str, read: Callable[[httpx.Response], T], user_id: Id, options: StageCallOptions
) -> _Call[T]:
    given = dict(options)
    how = {name: given.pop(name) for name in HOW if name in given}
    body = {"user_id": user_id, **given}
    return _Call("POST", path, read, body, tells_deadline=True, **cast("CallOptions", how))


def _rank_batch(
    requests: Sequence[RankRequest], options: CallOptions
) -> _Call[list[RankAnswer | EventResult]]:
    return _Call("POST", "/v1/rank:batch", _results, {"requests": list(requests)}, **options)


def _events(events: Sequence[UserEvent], options: CallOptions) -> _Call[list[EventResult]]:
    return _Call("POST", "/v1/events", _results, {"events": list(events)}, **options)


def _timeline(user_id: Id, limit: int, options: CallOptions) -> _Call[Timeline]:
    read = cast("Callable[[httpx.Response], Timeline]", httpx.Response.json)
    return _Call("GET", f"{_user(user_id)}/timeline", read, params={"limit": limit}, **options)


def _forget(user_id: Id, options: CallOptions) -> _Call[None]:
    return _Call("DELETE", _user(user_id), lambda _: None, **options)


def _user(user_id: Id) -> str:
    return f"/v1/users/{quote(str(user_id), safe='')}"


def _results(response: httpx.Response) -> list[Any]:
    found: list[Any] = response.json()["results"]
    return found


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
