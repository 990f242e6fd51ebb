"""Events as callers send them to events as the cache keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cache.timeline import Event, Mark
from service.errors import InvalidRequest
from service.schemas import HistoryEvent, PostedEvent


def to_event(sent: HistoryEvent) -> Event:
    """A label was said at `feedback_timestamp`, or else when the item was shown."""
    timestamp = sent["timestamp"]
    said = sent.get("feedback_timestamp")
    said = timestamp if said is None else said
    feedback = sent.get("feedback") or {}
    marks = {task: Mark(value, said) for task, value in feedback.items()}
    return Event(str(sent["item_id"]), timestamp, marks)


def history_events(sent: Sequence[HistoryEvent]) -> Iterator[Event]:
    """The events of an inline history."""
    return map(to_event, sent)


def too_late(event: PostedEvent, latest: int) -> InvalidRequest | None:
    """What is wrong with an event that claims to come from the future; `latest` in seconds."""
    if event["timestamp"] > latest:
        return InvalidRequest("timestamp is too far in the future")
    said = event.get("feedback_timestamp")
    if said is not None and said > latest:
        return InvalidRequest("feedback_timestamp is too far in the future")
    return None
