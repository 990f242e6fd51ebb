"""The laws of a cache, over each store, against a plain reference."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache import chunk
from cache.errors import StaleVersion
from cache.layout import Layout
from cache.sent import Sent
from cache.timeline import Event, Mark, Timeline
from tests.cache.stores import LAYOUT, OTHER, ROW, Store, some_events

laws = settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
marks = st.builds(Mark, st.integers(0, 1), st.integers(0, 3))
events = st.builds(
    Event,
    st.sampled_from(["a", "b", "é", "𝄞", "{x}"]),
    st.integers(0, 30),
    st.dictionaries(st.sampled_from(["like", "share"]), marks, max_size=2),
)
SHORT = Layout(LAYOUT.fingerprint, ROW, 10)
SHORT_OTHER = Layout(OTHER.fingerprint, ROW, 7)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of four: few events fill, split and trim many."""
    monkeypatch.setattr(chunk, "CHUNK_EVENTS", 4)


@pytest.fixture
def cache(store: Store, request: pytest.FixtureRequest) -> Any:
    return store.open(keep=getattr(request, "param", 1000))


async def post(cache: Any, user: str, batch: Sent, limit: int = 5) -> tuple[str, ...]:
    """Merges a batch, walking again while others write."""
    while True:
        snapshot = await cache.fetch(user, limit=limit, around=batch)
        change = snapshot.merge(batch)
        try:
            await cache.append(change)
        except StaleVersion:
            continue
        return change.statuses


def plain(timeline: Timeline | Iterable[Event]) -> list[tuple[int, str, dict[str, Mark]]]:
    found = timeline.events() if isinstance(timeline, Timeline) else timeline
    return [(event.timestamp, event.item_id, dict(event.feedback)) for event in found]


@pytest.mark.parametrize("cache", [1, 7, 20, 1000], indirect=True)
@laws
@given(data=st.data(), sent=st.lists(events, max_size=60))
async def test_any_order_any_batches(
    cache: Any, new_user: Callable[[], str], data: st.DataObject, sent: list[Event]
) -> None:
    """A timeline is a function of the set of events sent, trimming included."""
    user = new_user()
    order = data.draw(st.permutations(sent + data.draw(st.lists(st.sampled_from(sent or [None])))))
    order = [event for event in order if event]
    while order:
        size = data.draw(st.integers(1, 12))
        batch: Sent = order[:size]
        if data.draw(st.booleans()):  # as columns, each event once and in order
            batch = Timeline.of(batch)
        await post(cache, user, batch, limit=data.draw(st.sampled_from([1, 5, 50])))
        order = order[size:]
    expected = Timeline.of(sent)
    snapshot = await cache.fetch(user, limit=1000)
    keep = snapshot.keep
    assert plain(snapshot.timeline) == plain(expected.last(keep))
    assert snapshot.complete
    assert snapshot.trimmed == (len(expected) > keep)


def true_rows(timeline: Timeline) -> Any:
    """Each row is a function of all its inputs: its event, and everything before it."""
    rows = np.zeros(len(timeline), ROW)
    before = b""
    for at, event in enumerate(timeline.events()):
        rows["sum"][at] = xxhash.xxh3_64_intdigest(before + event.key)
        before += event.key + repr(sorted(event.feedback.items())).encode()
    return rows


@laws
@given(data=st.data())
async def test_rows_are_true(cache: Any, new_user: Callable[[], str], data: st.DataObject) -> None:
    """No row is ever given for an event whose inputs changed since, whoever wrote in between."""
    user = new_user()
    sent: list[Event] = []
    for _ in range(data.draw(st.integers(1, 12))):
        layout = data.draw(st.sampled_from([SHORT, SHORT_OTHER, None]))
        step = data.draw(st.sampled_from(["post", "post", "post", "rebuild", "forget"]))
        limit = data.draw(st.sampled_from([1, 6, 12, 200]))
        if step == "forget":
            await cache.forget(user)
            sent = []
        elif step == "post":
            batch = data.draw(st.lists(events, min_size=1, max_size=15))
            given: Sent = Timeline.of(batch) if data.draw(st.booleans()) else batch
            snapshot = await cache.fetch(user, limit=limit, layout=layout, around=given)
            change = snapshot.merge(given)
            sent += batch
            whole = Timeline.of(sent)
            _check(change, whole, layout)
            assert not change.valid[change.changed :].any() or layout is None
            await cache.append(_filled(data, change, whole, layout))
        else:
            upto = data.draw(st.one_of(st.none(), st.integers(0, 30)))
            snapshot = await cache.fetch(user, limit=limit, upto=upto, layout=layout)
            await cache.append(_filled(data, snapshot.merge([]), Timeline.of(sent), layout))
        for layout_read in (SHORT, SHORT_OTHER):
            upto = data.draw(st.one_of(st.none(), st.integers(0, 30)))
            snapshot = await cache.fetch(user, limit=limit, upto=upto, layout=layout_read)
            whole = Timeline.of(sent)
            seen = whole if upto is None else whole.upto(upto)
            assert plain(snapshot.timeline) == plain(seen.last(limit))
            assert snapshot.complete == (len(seen) <= limit)
            _check(snapshot, seen, layout_read)


def _check(found: Any, whole: Timeline, layout: Layout | None) -> None:
    if layout is None:
        assert found.valid.all()
        return
    end = whole.before(found.timeline.key(0)) if len(found.timeline) else 0
    expected = true_rows(whole)[end : end + len(found.timeline)]
    assert (found.rows["sum"] == expected["sum"])[found.valid].all()


def _filled(data: st.DataObject, change: Any, whole: Timeline, layout: Layout | None) -> Any:
    """The change with true rows for some of its events."""
    if layout is None or not len(change.timeline) or data.draw(st.booleans()):
        return change
    start = whole.before(change.timeline.key(0))
    rows = true_rows(whole)[start : start + len(change.timeline)]
    size = len(rows)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), np.bool_)
    rows[~(mask | change.valid)] = 0
    return change.with_rows(rows, mask | change.valid)


def liked(event: Event) -> Event:
    return Event(event.item_id, event.timestamp, {"like": Mark(1, 1)})


async def test_writers_at_once_lose_nothing(cache: Any) -> None:
    """Eight writers of one user, walking again when stale, store every event once."""
    sent = some_events(48)
    batches = [sent[at::8] for at in range(8)]

    async def client(batch: list[Event]) -> None:
        for event in batch:
            await post(cache, "shared", [event])
            await post(cache, "shared", [liked(event)])

    await asyncio.gather(*(client(batch) for batch in batches))
    found = await cache.fetch("shared", limit=100)
    assert plain(found.timeline) == plain(map(liked, sent))
