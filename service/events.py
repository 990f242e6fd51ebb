"""Events as callers send them to events as the cache keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cache.timeline import Event, Mark
from service.schemas import HistoryEvent


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
