"""Memories: what is remembered of users, fetched, rebuilt, sent along, or nothing."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

import numpy as np

from cache.base import Cache
from cache.breaker import Breaker
from cache.errors import CacheMismatch, CacheUnavailable
from cache.layout import Layout
from cache.patience import Patience
from cache.snapshot import Snapshot
from cache.timeline import Timeline
from service.chores import Chores
from service.errors import Problem
from service.events import history_events
from service.features import History
from service.guess import Guess
from service.job import Lane
from service.keeper import keep_rows
from service.memory import AWAY, BEHIND, QUARANTINED, STALE, TRIMMED, Memory, nothing_known
from service.near import Near
from service.projecting import projected
from service.question import Question
from service.rebuild import plan_rebuild, rebuild
from service.stale import Stale
from service.summaries import Adding, Found, Moved, Summaries, behind, fed, standing
from service.timings import Timings

EVENT_BYTES = 150
"""About what an event takes in memory apart from its row: its id, mostly."""

MOST_OVERTAKEN = 5
"""Times that a user may be written between two reads; then a request goes on without the second."""

#: Told the memory of a question on borrowed records, and the one on its own.
OnStale = Callable[[Question, Memory, Memory], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Known:
    """A memory to use again as long as the store says that the snapshot is still true."""

    snapshot: Snapshot
    memory: Memory
    #: What a search may yet add to the memory.
    ready_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """About what it holds: the snapshot's rows and ids, and the feed."""
        arrays = [self.snapshot.stored.rows, *self.memory.feed.values()]
        arrays += [self.snapshot.summary.row] if self.snapshot.summary else []
        events = len(self.snapshot.stored.valid)
        return sum(array.nbytes for array in arrays) + EVENT_BYTES * events + self.ready_bytes


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
        stale: Stale | None = None,
        on_stale: OnStale | None = None,
        refresh_s: float = 0.0,
    ) -> None:
        self._stale, self._on_stale = stale, on_stale
        self._cache = cache
        self._chores = chores
        self._clock = clock
        self._near: Near[Known] = Near(near_bytes)
        self._fetch_s = fetch_s
        self._summaries = Summaries(cache, chores, clock, refresh_s=refresh_s)
        self._breaker = Breaker()
        self._patience = Patience()

    async def close(self) -> None:
        """Ends what nobody waits for any more."""
        await self._patience.close()

    def guess(self, question: Question) -> Guess | None:
        """What was known of a user who comes often, while the store is asked if it still holds.

        Only of a store that takes its time to say so. Who was written since is guessed wrongly
        once: then what is near has to be met again before it is guessed by.
        """
        request, now_s = question.request, self._clock()
        if not self._cache.is_elsewhere or request.history is not None:
            return None
        known = self._near.get(_key(question), now_s)
        if known is None or known.memory.ready is None or not question.model.projected:
            return None
        last, events = known.snapshot, question.events
        if last.version < (request.min_version or 0) or not last.would_answer(
            question.user_id, events, question.timestamp, question.model.layout, now_s
        ):
            return None
        if not self._breaker.admits():
            return None
        asking = self._ask(question, events, last, within_s=self._fetch_s, may_be_old=True)
        return Guess(known.memory, last, self._patience.start(asking), question.timings)

    async def remember(self, question: Question, guess: Guess | None = None) -> Memory:
        """The user's newest events and rows that a request reads, from wherever they can be had.

        A guess that did not hold has brought what the store says.
        """
        model, request = question.model, question.request
        if request.history is not None:
            return await self._remember_inline(question)
        key = _key(question)
        known = self._near.get(key, self._clock())
        try:
            last = known.snapshot if known else None
            snapshot = await (
                guess.found
                if guess
                else self.fetch(question, question.events, last, may_be_old=True)
            )
            if request.min_version is not None and snapshot.version < request.min_version:
                snapshot = await self.fetch(question, question.events)
            if known is not None and snapshot is last:
                return await self._met_again(question, key, known)
            if self._stale is not None and question.is_usual and not model.spec.summary:
                older = partial(self._fetch_older, question)
                if found := await self._stale.find(model, snapshot, older):
                    return self._remember_older(question, found)
            if not snapshot.valid[-question.reads :].all() and not snapshot.complete:
                snapshot = await self.fetch(question, question.field)
        except (CacheUnavailable, CacheMismatch):
            return nothing_known(model, "away", [AWAY])
        degraded = [QUARANTINED] if snapshot.quarantined else []
        if not snapshot.version:
            self._near.drop(key)
            return nothing_known(model, "cold", degraded)
        if model.spec.summary:
            memory = await self._remember_summarised(question, snapshot, degraded)
        else:
            memory = await self._remember_stored(question, snapshot, degraded)
        if snapshot.good_until_s and memory.state == "hit" and BEHIND not in degraded:
            ready_bytes = memory.events * model.spec.ready_bytes if model.spec.search else 0
            self._near.put(key, Known(snapshot, memory, ready_bytes), self._clock())
        return memory

    async def _met_again(self, question: Question, key: tuple[str, str], known: Known) -> Memory:
        """What is remembered of a user who was asked about before, from now on with projections."""
        memory, spec = known.memory, question.model.spec
        if memory.ready is None and question.model.projected and question.is_usual:
            question.check_deadline()
            memory.ready = await projected(memory, question)
            grown = Known(known.snapshot, memory, memory.events * spec.ready_bytes)
            self._near.put(key, grown, self._clock())
        return memory

    async def _fetch_older(self, question: Question, layout: Layout) -> Snapshot:
        return await self.fetch(question, question.model.spec.reads, layout=layout)

    def _remember_older(self, question: Question, snapshot: Snapshot) -> Memory:
        """Another fingerprint's rows, all of them; the right ones are built behind the answer."""
        model = question.model
        degraded = [QUARANTINED] if snapshot.quarantined else []
        if len(snapshot.timeline) < model.spec.reads and snapshot.trimmed:
            degraded.append(TRIMMED)
        memory = Memory.of(
            "stale",
            History.of(snapshot.timeline, model.bundle.vocabulary, model.spec.tasks),
            snapshot.rows,
            0,
            snapshot.version,
            snapshot.written_at_s,
            [*degraded, STALE],
        )
        key = (STALE, model.fingerprint, question.user_id)
        self._chores.start(key, self._renew(question, memory))
        return memory

    async def _renew(self, question: Question, stale: Memory) -> None:
        """Builds and keeps a user's own rows; a sample is compared."""
        model = question.model
        again = replace(question, deadline=math.inf, timings=Timings())
        try:
            with model.use:
                snapshot = await self.fetch(again, model.spec.receptive_field)
                own = await self._remember_stored(again, snapshot, [], Lane.REBUILD)
                is_same = own.version == stale.version and not own.degraded
                if is_same and self._on_stale and self._stale and self._stale.is_sampled:
                    await self._on_stale(again, stale, own)
        except (CacheUnavailable, CacheMismatch, Problem):
            return  # the next one to ask finds them missing again

    async def fetch(
        self,
        question: Question,
        limit: int,
        known: Snapshot | None = None,
        *,
        may_be_old: bool = False,
        layout: Layout | None = None,
        rows: bool = True,
        patience: float = 1.0,
    ) -> Snapshot:
        """From the store, unless that is known to be away; `patience` times as long as usual."""
        if not self._breaker.admits():
            raise CacheUnavailable("The store has failed too often; it is asked again soon.")
        began = perf_counter()
        try:
            return await self._ask(
                question,
                limit,
                known,
                layout=layout,
                within_s=self._fetch_s and self._fetch_s * patience,
                may_be_old=may_be_old,
                rows=rows,
            )
        finally:
            question.timings.cache += perf_counter() - began

    async def _ask(
        self,
        question: Question,
        limit: int,
        known: Snapshot | None,
        *,
        layout: Layout | None = None,
        within_s: float | None,
        may_be_old: bool = False,
        rows: bool = True,
    ) -> Snapshot:
        """The store, whose answer or silence the breaker hears of."""
        try:
            snapshot = await self._cache.fetch(
                question.user_id,
                limit=limit,
                upto=question.timestamp,
                layout=layout or question.model.layout,
                known=known,
                within_s=within_s,
                may_be_old=may_be_old,
                rows=rows,
            )
        except CacheUnavailable:
            self._breaker.failed()
            raise
        self._breaker.worked()
        return snapshot

    async def _remember_stored(
        self,
        question: Question,
        snapshot: Snapshot,
        degraded: list[str],
        lane: Lane = Lane.RANK,
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
                plan, history, rows, batcher=model.batcher, spec=model.spec, lane=lane,
                deadline=question.deadline, timings=question.timings,
            )  # fmt: skip
            rows, valid = plan.fill(rows, snapshot.valid, built)
            if plan.is_exact:
                self._chores.start(
                    (model.fingerprint, question.user_id),
                    keep_rows(self._cache, snapshot, rows, valid),
                )
        newest = slice(max(0, events - reads), events)
        return Memory.of(
            "hit" if plan.is_empty else "partial",
            history[newest],
            rows[newest],
            plan.count,
            snapshot.version,
            snapshot.written_at_s,
            degraded,
            snapshot.timeline.item_ids,
        )

    async def _remember_summarised(
        self, question: Question, snapshot: Snapshot, degraded: list[str]
    ) -> Memory:
        """The newest window of events, and the summary of those before."""
        model = question.model
        adding = Adding(model, Lane.RANK, question.deadline, question.timings)
        try:
            found, snapshot = await self._find_summary(question, adding, snapshot)
        except (CacheUnavailable, CacheMismatch):
            return nothing_known(model, "away", [AWAY])
        if not snapshot.version:
            return nothing_known(model, "cold", degraded)
        head = snapshot.stored.head
        if snapshot.trimmed or (head is not None and head.count > model.spec.history):
            degraded.append(TRIMMED)
        if not found.is_exact:
            degraded.append(BEHIND)
        newest = snapshot.timeline.last(model.spec.reads)
        history = adding.history(newest)
        kept = snapshot.summary
        return Memory.of(
            "partial" if found.recomputed else "hit",
            history,
            np.zeros(len(history), model.spec.row),
            found.recomputed,
            snapshot.version,
            kept.written_at_s if kept else None,
            degraded,
            summary=fed(model.spec, found.summary.row if found.summary else None, found.covered),
            unseen=found.unseen,
        )

    async def _find_summary(
        self, question: Question, adding: Adding, snapshot: Snapshot
    ) -> tuple[Found, Snapshot]:
        """The summary, and the snapshot it goes with: who is overtaken by a writer looks again.

        The writer may be a chore of ours, which keeps what the request before has made.
        """
        for _ in range(MOST_OVERTAKEN):
            try:
                return await self._summaries.find(adding, snapshot, question.timestamp), snapshot
            except Moved:
                question.check_deadline()
                snapshot = await self.fetch(question, question.events)
        return behind(standing(snapshot, question.model.spec, question.timestamp)), snapshot

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
        summary = None
        if spec.summary:
            adding = Adding(model, Lane.RANK, question.deadline, question.timings)
            made = await adding.continued(None, timeline)
            summary = fed(spec, made.row if made else None, made.covers if made else 0)
        return Memory.of(
            "inline",
            history[newest],
            rows[newest],
            plan.count,
            item_ids=timeline.item_ids,
            summary=summary,
        )


def _key(question: Question) -> tuple[str, str]:
    """What is near is kept by."""
    return f"{question.model.fingerprint} {question.events}", question.user_id
