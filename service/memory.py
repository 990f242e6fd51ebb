"""What is remembered of a user for one request: fetched, rebuilt, sent along, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from cache.base import Cache
from cache.breaker import Breaker
from cache.errors import CacheMismatch, CacheUnavailable
from cache.snapshot import Snapshot
from cache.timeline import Timeline
from service.chores import Chores
from service.errors import DeadlineExceeded
from service.events import history_events
from service.features import History
from service.job import Array, Lane
from service.keeper import keep_rows
from service.near import Near
from service.rebuild import fields_of, plan_rebuild, rebuild
from service.registry import Model
from service.schemas import UserRequest
from service.timings import Timings

EVENT_BYTES = 150
"""About what an event takes in memory apart from its row: its id, mostly."""

TRIMMED, QUARANTINED, AWAY = "history-trimmed", "history-quarantined", "cache-away"


@dataclass(slots=True)
class Memory:
    """What is known of the user at the time of the request, and how it came to be known."""

    state: str
    history: History
    rows: InitVar[Array]
    recomputed: int = 0
    version: int = 0
    written_at_s: float | None = None
    degraded: list[str] = field(default_factory=list)
    #: Of every event that was asked for, oldest first: no fewer than have their record here.
    item_ids: Sequence[str] = ()
    #: What the rank graph reads of it.
    feed: dict[str, Array] = field(init=False)

    def __post_init__(self, rows: Array) -> None:
        self.feed = {**self.history.feed(), **fields_of(rows)}

    def newest(self, count: int) -> tuple[dict[str, Array], int]:
        """What a graph reads of the newest `count` events, and how many there are."""
        if len(self.history) <= count:
            return self.feed, len(self.history)
        return {name: part[-count:] for name, part in self.feed.items()}, count

    def report(self, now_s: float) -> dict[str, Any]:
        """The `cache` of an answer."""
        written_at_s = self.written_at_s
        return {
            "state": self.state,
            "records": len(self.history),
            "recomputed": self.recomputed,
            "version": self.version,
            "age_s": None if written_at_s is None else max(0.0, round(now_s - written_at_s, 3)),
        }


@dataclass(frozen=True, slots=True)
class Known:
    """A memory to use again as long as the store says that the snapshot is still true."""

    snapshot: Snapshot
    memory: Memory

    @property
    def size_bytes(self) -> int:
        """About what it holds: the snapshot's rows and ids, and the feed."""
        arrays = (self.snapshot.stored.rows, *self.memory.feed.values())
        return sum(array.nbytes for array in arrays) + EVENT_BYTES * len(self.snapshot.stored.valid)


@dataclass(frozen=True, slots=True)
class Question:
    """A request with everything that was left open filled in."""

    request: UserRequest
    user_id: str
    timestamp: int
    deadline: float
    model: Model
    timings: Timings
    reads: int
    """Newest events that are wanted with their records."""
    events: int
    """Newest events whose ids are wanted; no fewer."""

    @property
    def field(self) -> int:
        """Newest events that can move the records that are wanted."""
        spec = self.model.spec
        return max(self.events, spec.receptive_field, self.reads + spec.cached_depths * spec.window)

    def check_deadline(self) -> None:
        """Work nobody waits for is not begun."""
        if perf_counter() > self.deadline:
            raise DeadlineExceeded


class Memories:
    """Finds out about users; rows that had to be rebuilt are kept once the answer has gone."""

    def __init__(
        self,
        cache: Cache,
        chores: Chores,
        clock: Callable[[], float],
        *,
        near_bytes: int,
        fetch_s: float | None = None,
    ) -> None:
        self._cache = cache
        self._chores = chores
        self._clock = clock
        self._near: Near[Known] = Near(near_bytes)
        self._fetch_s = fetch_s
        self._breaker = Breaker()

    async def remember(self, question: Question) -> Memory:
        """The user's newest events and rows that a request reads, from wherever they can be had."""
        model, request = question.model, question.request
        if request.history is not None:
            return await self._remember_inline(question)
        key = (f"{model.fingerprint} {question.events}", question.user_id)
        known = self._near.get(key, self._clock())
        try:
            snapshot = await self._fetch(question, question.events, known, may_be_old=True)
            if request.min_version is not None and snapshot.version < request.min_version:
                snapshot = await self._fetch(question, question.events)
            if known is not None and snapshot is known.snapshot:
                return known.memory
            if not snapshot.valid[-question.reads :].all() and not snapshot.complete:
                snapshot = await self._fetch(question, question.field)
        except (CacheUnavailable, CacheMismatch):
            return nothing_known(model, "away", [AWAY])
        degraded = [QUARANTINED] if snapshot.quarantined else []
        if not snapshot.version:
            self._near.drop(key)
            return nothing_known(model, "cold", degraded)
        memory = await self._remember_stored(question, snapshot, degraded)
        if snapshot.good_until_s:
            self._near.put(key, Known(snapshot, memory), self._clock())
        return memory

    async def _fetch(
        self,
        question: Question,
        limit: int,
        known: Known | None = None,
        *,
        may_be_old: bool = False,
    ) -> Snapshot:
        if not self._breaker.admits():
            raise CacheUnavailable("The store has failed too often; it is asked again soon.")
        began = perf_counter()
        try:
            snapshot = await self._cache.fetch(
                question.user_id,
                limit=limit,
                upto=question.timestamp,
                layout=question.model.layout,
                known=known.snapshot if known else None,
                within_s=self._fetch_s,
                may_be_old=may_be_old,
            )
            self._breaker.worked()
            return snapshot
        except CacheUnavailable:
            self._breaker.failed()
            raise
        finally:
            question.timings.cache += perf_counter() - began

    async def _remember_stored(
        self, question: Question, snapshot: Snapshot, degraded: list[str]
    ) -> Memory:
        model = question.model
        events, reads = len(snapshot.timeline), question.reads
        history = History.of(snapshot.timeline, model.bundle.vocabulary, model.spec.tasks)
        plan = plan_rebuild(
            snapshot.valid,
            need_from=max(0, events - reads),
            begins=snapshot.complete and not snapshot.trimmed,
            spec=model.spec,
        )
        if not plan.is_exact or (events < reads and snapshot.trimmed):
            degraded.append(TRIMMED)
        rows = snapshot.rows
        if not plan.is_empty:
            question.check_deadline()
            built = await rebuild(
                plan, history, rows, batcher=model.batcher, spec=model.spec, lane=Lane.RANK,
                deadline=question.deadline, timings=question.timings,
            )  # fmt: skip
            rows, valid = plan.fill(rows, snapshot.valid, built)
            if plan.is_exact:
                self._chores.start(
                    (model.fingerprint, question.user_id),
                    keep_rows(self._cache, snapshot, rows, valid),
                )
        newest = slice(max(0, events - reads), events)
        return Memory(
            "hit" if plan.is_empty else "partial",
            history[newest],
            rows[newest],
            plan.count,
            snapshot.version,
            snapshot.written_at_s,
            degraded,
            snapshot.timeline.item_ids,
        )

    async def _remember_inline(self, question: Question) -> Memory:
        model = question.model
        spec = model.spec
        timeline = Timeline.of(history_events(question.request.history or []))
        timeline = timeline.upto(question.timestamp).last(question.field)
        history = History.of(timeline, model.bundle.vocabulary, spec.tasks)
        rows = np.zeros(len(history), spec.row)
        plan = plan_rebuild(
            np.zeros(len(history), np.bool_),
            need_from=max(0, len(history) - question.reads),
            begins=True,
            spec=spec,
        )
        if not plan.is_empty:
            rows[plan.first : plan.end] = await rebuild(
                plan, history, rows, batcher=model.batcher, spec=spec, lane=Lane.RANK,
                deadline=question.deadline, timings=question.timings,
            )  # fmt: skip
        newest = slice(max(0, len(history) - question.reads), len(history))
        return Memory(
            "inline", history[newest], rows[newest], plan.count, item_ids=timeline.item_ids
        )


def nothing_known(model: Model, state: str, degraded: list[str]) -> Memory:
    """What a candidate is scored on when it stands alone."""
    history = History.of(Timeline.empty(), model.bundle.vocabulary, model.spec.tasks)
    return Memory(state, history, np.zeros(0, model.spec.row), degraded=degraded)
