"""A service on a store, the trusted model beside it, and all that users were shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from models.bundle import Bundle, load_bundle
from models.event_file import UNKNOWN, EventColumns, Ids
from models.events import EventTable, merge
from models.reference import Reference, load_model
from models.requests import Request
from tests.servers import Running
from tests.stored import cells, drop, is_record

Array = np.ndarray[Any, Any]
Posted = dict[str, Any]
Bundles = Callable[[str], Path]

#: Law 1, by the dtype of the cache.
CACHED = {"float32": 1e-4, "float16": 5e-3, "int8": 2e-2}
#: Law 2; the graphs compute in float32 whatever the cache holds.
COMPANY = 1e-5

CANDIDATES = [0, "1", 2, 3, 59, "unknown", "é", 2]


def table_of(events: Sequence[Posted], tasks: Sequence[str]) -> EventTable:
    """Posted events as an events file would have them."""
    labels = [[(e.get("feedback") or {}).get(task, UNKNOWN) for task in tasks] for e in events]
    times = [event["timestamp"] for event in events]
    said = [event.get("feedback_timestamp") for event in events]
    columns = EventColumns(
        users=_ids([str(event["user_id"]) for event in events]),
        items=_ids([str(event["item_id"]) for event in events]),
        timestamps=np.array(times, np.int64),
        feedback_timestamps=np.array(
            [at if when is None else when for at, when in zip(times, said, strict=True)], np.int64
        ),
        tasks=tuple(tasks),
        labels=np.array(labels, np.int8).reshape(len(events), len(tasks)),
    )
    return merge(columns)


def _ids(texts: list[str]) -> Ids:
    distinct = sorted(set(texts), key=str.encode)
    place = {text: index for index, text in enumerate(distinct)}
    return Ids(distinct, np.array([place[text] for text in texts], np.int64))


@cache
def trusted(path: Path) -> tuple[Bundle, Any]:
    """A bundle and its PyTorch model."""
    bundle = load_bundle(path)
    return bundle, load_model(bundle)


def reference(
    path: Path, events: Sequence[Posted], user_id: str, candidates: list[Any], timestamp: int
) -> Array:
    """What `marmot score` says: (candidates, tasks)."""
    bundle, model = trusted(path)
    somebody = {"user_id": "somebody else", "item_id": "x", "timestamp": 0}
    table = table_of([*events, somebody], bundle.spec.tasks)
    request = Request(user_id, candidates, timestamp)
    return Reference(model, table, bundle.vocabulary).score(request)


def scores_of(answer: dict[str, Any]) -> Array:
    """(candidates, tasks)."""
    return np.array(list(answer["scores"].values())).T


@dataclass
class World:
    """One service and the bundle it serves."""

    running: Running
    bundle: Path
    _numbers: Iterator[int] = field(default_factory=count)

    @property
    def tolerance(self) -> float:
        return CACHED[trusted(self.bundle)[0].spec.cache_dtype]

    def new_user(self) -> str:
        return f"user {next(self._numbers)}"

    def check(self, user_id: str, events: Sequence[Posted], timestamp: int) -> dict[str, Any]:
        """The service's scores are the trusted ones; returns its answer."""
        answer = self.running.rank(user_id, CANDIDATES, timestamp=timestamp)
        assert answer["degraded"] == [], answer["degraded"]
        expected = reference(self.bundle, events, user_id, CANDIDATES, timestamp)
        assert np.abs(scores_of(answer) - expected).max() <= self.tolerance
        return answer

    def evict(self, user_id: str) -> None:
        """Takes the user's records out of the store, under every fingerprint."""
        for cell in cells(self.running):
            if is_record(cell) and user_id.encode() in cell[0]:
                drop(self.running, cell)
