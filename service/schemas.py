"""What callers send, checked once at the door; nothing deeper sees a bad shape.

Limits come in as validation context (`Limits`), so that a setting can move them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from service.errors import InvalidRequest
from service.ids import Ids
from service.sentences import sentence

ID_BYTES = 128
LEAST_ID, MOST_ID = -(2**63), 2**64 - 1
LATEST_S = 2**53
MAX_TASKS = 64
MAX_EFFECTS = 1_000

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of everything one request may carry."""

    max_candidates: int = 2_000
    max_history: int = 10_000
    max_events: int = 1_000
    max_batch: int = 64
    max_explained: int = 20
    max_retrieved: int = 1_000
    max_preranked: int = 10_000
    max_recommended: int = 100


def check_text(value: str) -> str:
    """Returns an id or name that may be stored as it is; nothing is trimmed."""
    if not value:
        raise PydanticCustomError("bad_id", "must not be empty")
    if len(value.encode()) > ID_BYTES:
        raise PydanticCustomError("bad_id", "is longer than {limit} bytes", {"limit": ID_BYTES})
    if _CONTROL.search(value):
        raise PydanticCustomError("bad_id", "contains control characters")
    return value


def _check_id(value: int | str) -> int | str:
    return check_text(value) if isinstance(value, str) else value


def _check_length(values: list[Any], most: int) -> None:
    if len(values) > most:
        raise PydanticCustomError(
            "too_long",
            "has {actual_length} entries, at most {max_length} are taken",
            {"actual_length": len(values), "max_length": most},
        )


def _check_any_ids(values: list[int | str]) -> None:
    for place, value in enumerate(values):
        if type(value) is int and not LEAST_ID <= value <= MOST_ID:
            raise PydanticCustomError(
                "bad_id", "has a number of more than 64 bits at {place}", {"place": place}
            )
    texts = [value for value in values if type(value) is str]
    joined = "".join(texts)
    harmless = joined.isascii() and joined.isprintable()
    if not harmless or (texts and (len(max(texts, key=len)) > ID_BYTES or "" in texts)):
        for text in texts:
            check_text(text)


def _at_most(limit: str) -> Any:
    def check(values: list[Any], info: ValidationInfo) -> list[Any]:
        _check_length(values, getattr(info.context or Limits(), limit))
        return values

    return AfterValidator(check)


def _ids_at_most(limit: str) -> Any:
    def check(values: list[int | str], info: ValidationInfo) -> Ids:
        _check_length(values, getattr(info.context or Limits(), limit))
        ids = Ids(values)
        if ids.numbers is None:
            _check_any_ids(values)
        return ids  # of numbers of 64 bits there is nothing else to check

    return AfterValidator(check)


def _no_more_than(limit: str) -> Any:
    def check(value: int, info: ValidationInfo) -> int:
        most = getattr(info.context or Limits(), limit)
        if value > most:
            raise PydanticCustomError("too_large", "is over the limit of {limit}", {"limit": most})
        return value

    return AfterValidator(check)


_Number = Annotated[int, Field(strict=True, ge=LEAST_ID, le=MOST_ID)]
#: Its size is checked for all candidates at once.
_AnyNumber = Annotated[int, Field(strict=True)]
_Text = Annotated[str, Field(strict=True)]
Id = Annotated[
    _Number | _Text,
    AfterValidator(_check_id),
    Field(
        description=f"Text of at most {ID_BYTES} bytes, or a whole number: 42 is the same as '42'"
    ),
]
Name = Annotated[str, Field(strict=True), AfterValidator(check_text)]
Seconds = Annotated[int, Field(strict=True, ge=0, le=LATEST_S)]
Milliseconds = Annotated[float, Field(strict=True, ge=0, le=LATEST_S, allow_inf_nan=False)]
Label = Annotated[int, Field(strict=True, ge=0, le=1)]
Feedback = Annotated[dict[Name, Label], Field(max_length=MAX_TASKS)]

_STRICT = ConfigDict(extra="forbid", frozen=True)


class HistoryEvent(TypedDict):
    """An exposed item, when, and what came of it as far as that is known."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]

    item_id: Id
    timestamp: Seconds
    feedback: NotRequired[Feedback | None]
    feedback_timestamp: NotRequired[Seconds | None]


class PostedEvent(HistoryEvent):
    """A history event and whose it is."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]

    user_id: Id


class ModelChoice(BaseModel):
    """Which of the loaded bundles answers."""

    model_config = _STRICT

    version: Name | None = None


class UserRequest(BaseModel):
    """What every stage is told of a user and a time."""

    model_config = _STRICT

    user_id: Id
    timestamp: Seconds | None = None
    deadline_ms: Milliseconds | None = None
    history: Annotated[list[HistoryEvent], _at_most("max_history")] | None = None
    min_version: Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)] | None = None


class RankRequest(UserRequest):
    """Candidates to score for one user at one time."""

    candidates: Annotated[
        list[_AnyNumber | _Text],
        Field(min_length=1, json_schema_extra={"maxItems": Limits().max_candidates}),
        _ids_at_most("max_candidates"),
    ]
    top_k: Annotated[int, Field(strict=True, ge=1, le=LATEST_S)] | None = None
    model: ModelChoice | None = None


class RetrieveRequest(UserRequest):
    """How many items of the whole catalogue to find for one user at one time."""

    k: Annotated[int, Field(strict=True, ge=1), _no_more_than("max_retrieved")] = 100
    #: Whether items of the user's own timeline are left out.
    exclude_seen: Annotated[bool, Field(strict=True)] = True


class PrerankRequest(UserRequest):
    """Many candidates to score roughly for one user at one time."""

    candidates: Annotated[
        list[_AnyNumber | _Text],
        Field(min_length=1, json_schema_extra={"maxItems": Limits().max_preranked}),
        _ids_at_most("max_preranked"),
    ]
    top_k: Annotated[int, Field(strict=True, ge=1, le=LATEST_S)] | None = None


class RecommendRequest(UserRequest):
    """How many items to recommend to one user at one time."""

    k: Annotated[int, Field(strict=True, ge=1), _no_more_than("max_recommended")] = 10
    exclude_seen: Annotated[bool, Field(strict=True)] = True


class ExplainRequest(BaseModel):
    """Candidates whose scores for one user at one time are to be explained."""

    model_config = _STRICT

    user_id: Id
    candidates: Annotated[
        list[_AnyNumber | _Text],
        Field(min_length=1, json_schema_extra={"maxItems": Limits().max_explained}),
        _ids_at_most("max_explained"),
    ]
    timestamp: Seconds | None = None
    #: How many of the newest events get their effect.
    events: Annotated[int, Field(strict=True, ge=0, le=MAX_EFFECTS)] = 100
    deadline_ms: Milliseconds | None = None
    history: Annotated[list[HistoryEvent], _at_most("max_history")] | None = None
    model: ModelChoice | None = None


class RankBatch(BaseModel):
    """Several rank requests, each judged by itself."""

    model_config = _STRICT

    requests: Annotated[list[Any], Field(min_length=1), _at_most("max_batch")]


Percent = Annotated[float, Field(strict=True, ge=0, le=100, allow_inf_nan=False)]


class LoadRequest(BaseModel):
    """A bundle to load, by the name of its folder in the models directory."""

    model_config = _STRICT

    bundle: Name


class Activation(BaseModel):
    """What a version gets: everything, unless a share is named."""

    model_config = _STRICT

    #: Of the users; 100 is everything.
    canary_percent: Percent | None = None
    #: Of the requests, scored again behind the answer.
    shadow_percent: Percent | None = None

    @property
    def is_switch(self) -> bool:
        return self.canary_percent == 100 or (self.canary_percent is self.shadow_percent is None)


class EventBatch(BaseModel):
    """Events of any users, each judged by itself."""

    model_config = _STRICT

    events: Annotated[list[Any], Field(min_length=1), _at_most("max_events")]


R = TypeVar("R", RetrieveRequest, PrerankRequest, RecommendRequest)

_posted_event: TypeAdapter[PostedEvent] = TypeAdapter(PostedEvent)


def parse_rank(body: bytes, limits: Limits) -> RankRequest:
    """One rank request from the bytes of a body."""
    try:
        return RankRequest.model_validate_json(body, context=limits)
    except ValidationError as error:
        raise InvalidRequest(sentence(error)) from error


def parse_stage(kind: type[R], body: bytes, limits: Limits) -> R:
    """One request to a stage before ranking, or to all of them, from the bytes of a body."""
    try:
        return kind.model_validate_json(body, context=limits)
    except ValidationError as error:
        raise InvalidRequest(sentence(error)) from error


def parse_explain(body: bytes, limits: Limits) -> ExplainRequest:
    """One request for an explanation from the bytes of a body."""
    try:
        return ExplainRequest.model_validate_json(body, context=limits)
    except ValidationError as error:
        raise InvalidRequest(sentence(error)) from error


def parse_rank_batch(body: bytes, limits: Limits) -> list[RankRequest | InvalidRequest]:
    """Each request of a batch, or what is wrong with it."""
    try:
        batch = RankBatch.model_validate_json(body, context=limits)
    except ValidationError as error:
        raise InvalidRequest(sentence(error)) from error
    judged: list[RankRequest | InvalidRequest] = []
    for entry in batch.requests:
        try:
            judged.append(RankRequest.model_validate(entry, context=limits))
        except ValidationError as error:
            judged.append(InvalidRequest(sentence(error)))
    return judged


def parse_load(body: bytes) -> LoadRequest:
    """Which bundle to load, from the bytes of a body."""
    try:
        return LoadRequest.model_validate_json(body)
    except ValidationError as error:
        raise InvalidRequest(sentence(error)) from error


def parse_activation(body: bytes) -> Activation:
    """What a version gets, from the bytes of a body; an empty one is everything."""
    try:
        return Activation.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise InvalidRequest(sentence(error)) from error


def parse_event(body: bytes) -> PostedEvent:
    """One event by itself, as a stream carries it."""
    try:
        return _posted_event.validate_json(body)
    except ValidationError as error:
        raise InvalidRequest(sentence(error)) from error


def parse_events(body: bytes, limits: Limits) -> list[PostedEvent | InvalidRequest]:
    """Each event of a body, or what is wrong with it."""
    try:
        batch = EventBatch.model_validate_json(body, context=limits)
    except ValidationError as error:
        raise InvalidRequest(sentence(error)) from error
    judged: list[PostedEvent | InvalidRequest] = []
    for entry in batch.events:
        try:
            judged.append(_posted_event.validate_python(entry))
        except ValidationError as error:
            judged.append(InvalidRequest(sentence(error)))
    return judged
