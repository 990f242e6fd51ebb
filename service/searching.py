"""Searcher: what is remembered of a user for candidates that look far back, each at its own events.

The ids and times of the whole history cross the wire in one compact read, or are still known; then
the rows of the events that were found, by position.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np

from cache.base import Cache
from cache.chunk import CHUNK_EVENTS
from cache.errors import CacheMismatch, CacheUnavailable, StaleVersion
from cache.timeline import Timeline
from service.chores import Chores
from service.events import history_events
from service.features import History
from service.job import Array, Lane
from service.keeper import keep_rows
from service.library import Library
from service.memories import MOST_OVERTAKEN, Memories
from service.memory import AWAY, QUARANTINED, TRIMMED, Memory, nothing_known
from service.near import Near
from service.projecting import project
from service.projections import Projections
from service.question import Question
from service.rebuild import Plan, rebuild
from service.shelves import Slots

SHORT = 1_000
"""Events that are read within the time a request waits for the store; more get more of it."""


class Searcher:
    """The same as `Memories`, for models that find events before they rank."""

    def __init__(
        self,
        memories: Memories,
        cache: Cache,
        chores: Chores,
        clock: Callable[[], float],
        *,
        near_bytes: int,
        fetch_s: float | None = None,
    ) -> None:
        self._memories = memories
        self._cache = cache
        self._chores = chores
        self._clock = clock
        self._near: Near[Library] = Near(near_bytes)
        self._fetch_s = fetch_s

    async def remember(self, question: Question, candidates: Array) -> Memory:
        """The events that are found for candidates (C,), and their rows."""
        model, request = question.model, question.request
        if request.history is not None:
            timeline = Timeline.of(history_events(request.history)).upto(question.timestamp)
            seen = timeline.last(model.spec.receptive_field)
            history = History.of(seen, model.bundle.vocabulary, model.spec.tasks)
            library = Library(history, model.spec, model.bundle.vocabulary.categories)
            return await self._found("inline", library, question, candidates, [])
        key = (model.fingerprint, question.user_id)
        try:
            for _ in range(MOST_OVERTAKEN):
                library = await self._library(key, question)
                snapshot = library.snapshot
                degraded = [QUARANTINED] if snapshot and snapshot.quarantined else []
                if snapshot and not snapshot.version:
                    self._near.drop(key)
                    return nothing_known(model, "cold", degraded)
                try:
                    return await self._found("hit", library, question, candidates, degraded)
                except StaleVersion:
                    self._near.drop(key)
        except (CacheUnavailable, CacheMismatch):
            pass
        return nothing_known(model, "away", [AWAY])

    async def _library(self, key: tuple[str, str], question: Question) -> Library:
        """The user's history, known from the last time if it is still true."""
        model, now_s = question.model, self._clock()
        known = self._near.get(key, now_s)
        last = known.snapshot if known and now_s < known.good_until_s else None
        limit = model.spec.receptive_field
        patience = max(1.0, limit / SHORT)
        snapshot = await self._memories.fetch(
            question, limit, last, may_be_old=True, rows=False, patience=patience
        )
        least = question.request.min_version
        if least is not None and snapshot.version < least:
            snapshot = await self._memories.fetch(question, limit, rows=False, patience=patience)
        if known is not None and snapshot is last:
            return known
        library = Library.of(snapshot, model)
        if known is not None:
            library.before = known.projections if len(known.projections) else known.before
        if snapshot.good_until_s:
            self._near.put(key, library, now_s)
        return library

    async def _found(
        self,
        state: str,
        library: Library,
        question: Question,
        candidates: Array,
        degraded: list[str],
    ) -> Memory:
        model, history = question.model, library.history
        kinds = model.bundle.vocabulary.categories[candidates]
        events = len(history) - library.first
        slots = None
        if len(library.searched) <= model.spec.search:  # everybody finds everything
            places = library.searched
            recomputed, is_exact = await self._fill(library, places, question)
            feed = library.events_at(places)
        else:
            slots = Slots.of(kinds)
            asked = slots.categories.tolist()
            projections, recomputed, is_exact = await self._project(library, asked, question)
            feed = projections.of(asked)
        snapshot = library.snapshot
        if not is_exact or (snapshot and snapshot.trimmed and events < model.spec.history):
            degraded.append(TRIMMED)
        return Memory(
            "partial" if recomputed and state == "hit" else state,
            events,
            feed,
            recomputed,
            snapshot.version if snapshot else 0,
            library.written_at_s,
            degraded,
            slots=slots,
        )

    async def _project(
        self, library: Library, categories: list[int], question: Question
    ) -> tuple[Projections, int, bool]:
        """Keys and values of what is found for these categories; rows rebuilt, and exactly?"""
        projections, missing = library.projections_for(categories)
        if not missing:
            return projections, 0, True
        places = library.find(missing)  # (categories, K)
        filled = await self._fill(library, np.unique(places), question)
        events = library.events_at(places)
        projections.take_over(missing, events, library.before)
        library.before = Projections()
        new = [place for place, kind in enumerate(missing) if projections.missing([kind])]
        if new:
            question.check_deadline()
            events = {name: part[new] for name, part in events.items()}
            ready = await project(events, question, {}, each=question.model.spec.search)
            projections.put([missing[place] for place in new], events, ready)
        key, now_s = (question.model.fingerprint, question.user_id), self._clock()
        if self._near.get(key, now_s) is library:  # it has grown
            self._near.put(key, library, now_s)
        return projections, *filled

    async def _fill(self, library: Library, places: Array, question: Question) -> tuple[int, bool]:
        """Makes the rows at these places (ascending) valid; how many were rebuilt, and exactly?"""
        await self._read(library, places[~library.valid[places]], question)
        missing = places[~library.valid[places]]
        if not len(missing):
            return 0, True
        before = int(missing[0]) - question.model.spec.window
        await self._read(library, np.arange(max(before, 0), int(missing[-1]) + 1), question)
        plans: list[Plan] = []
        for plan in library.gaps(places):
            question.check_deadline()
            built = await rebuild(
                plan, library.history, library.rows, batcher=question.model.batcher,
                spec=question.model.spec, lane=Lane.RANK, deadline=question.deadline,
                timings=question.timings,
            )  # fmt: skip
            library.put(plan, built)
            plans.append(plan)
        is_exact = all(plan.is_exact for plan in plans)
        if library.snapshot is not None and is_exact:
            key = (question.model.fingerprint, question.user_id)
            marks = library.beside(plans)
            self._chores.start(key, keep_rows(self._cache, library.snapshot, library.rows, marks))
        return sum(plan.count for plan in plans), is_exact

    async def _read(self, library: Library, places: Array, question: Question) -> None:
        """Takes in the rows of the chunks in which these events lie."""
        chunks = library.chunks_with(places) if len(places) else []
        if library.snapshot is None or not chunks:
            return
        question.check_deadline()
        within_s = self._fetch_s and self._fetch_s * max(1.0, len(chunks) * CHUNK_EVENTS / SHORT)
        began = perf_counter()
        try:
            stored = await self._cache.fetch_rows(library.snapshot, chunks, within_s=within_s)
        finally:
            question.timings.cache += perf_counter() - began
        library.take(chunks, stored)
