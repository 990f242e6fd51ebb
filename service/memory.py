"""Memory: what is known of a user for one request, and how it came to be known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from cache.timeline import Timeline
from service.features import History
from service.job import Array
from service.rebuild import fields_of
from service.registry import Model
from service.shelves import Slots
from service.summaries import fed

TRIMMED, QUARANTINED, AWAY = "history-trimmed", "history-quarantined", "cache-away"
STALE, BEHIND = "stale-records", "summary-behind"


@dataclass(slots=True)
class Memory:
    """What is known of the user at the time of the request, and how it came to be known."""

    state: str
    events: int
    #: What the rank graph reads of it.
    feed: dict[str, Array]
    recomputed: int = 0
    version: int = 0
    written_at_s: float | None = None
    degraded: list[str] = field(default_factory=list)
    #: Of every event that was asked for, oldest first: no fewer than have their record here.
    item_ids: Sequence[str] = ()
    #: Which candidates go with which row of the feed, where search found them different events.
    slots: Slots | None = None
    #: What stands for the events before the newest ones, in the families that summarise.
    summary: dict[str, Array] | None = None
    unseen: int = 0
    #: Keys and values of all events: made by a search by attention, and for who comes again.
    ready: dict[str, Array] | None = None

    @classmethod
    def of(
        cls,
        state: str,
        history: History,
        rows: Array,
        *rest: Any,
        summary: dict[str, Array] | None = None,
        **named: Any,
    ) -> Self:
        """Of events that every candidate attends to."""
        feed = {**history.feed(), **fields_of(rows), **(summary or {})}
        named["summary"] = summary
        return cls(state, len(history), feed, *rest, **named)

    def newest(self, count: int) -> tuple[dict[str, Array], int]:
        """What a graph reads of the newest `count` events, and how many there are."""
        records = self.feed["items"].shape[-1]
        if records <= count:
            return self.feed, records
        return {name: part[-count:] for name, part in self.feed.items()}, count

    def report(self, now_s: float) -> dict[str, Any]:
        """The `cache` of an answer."""
        written_at_s = self.written_at_s
        told = {} if self.summary is None else {"summary": self._told()}
        return {
            "state": self.state,
            "records": self.events,
            "recomputed": self.recomputed,
            "version": self.version,
            "age_s": None if written_at_s is None else max(0.0, round(now_s - written_at_s, 3)),
            **told,
        }

    def _told(self) -> dict[str, int]:
        return {"covered": int((self.summary or {})["covered"]), "unseen": self.unseen}


def nothing_known(model: Model, state: str, degraded: list[str]) -> Memory:
    """What a candidate is scored on when it stands alone."""
    history = History.of(Timeline.empty(), model.bundle.vocabulary, model.spec.tasks)
    summary = fed(model.spec, None, 0) if model.spec.summary else None
    rows = np.zeros(0, model.spec.row)
    return Memory.of(state, history, rows, degraded=degraded, summary=summary)
