"""Rows read by position, and rows that hang on a few events before theirs, over each store."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.chunk import CHUNK_EVENTS, LEAST_EVENTS, pieces
from cache.errors import StaleVersion
from cache.layout import Layout
from cache.timeline import Event, Mark, Timeline
from tests.cache.stores import ROW, Store, some_events

SPAN = 6
FAR = Layout("0123456789abcdef", ROW, None, SPAN)


def true_rows(timeline: Timeline) -> Any:
    """Rows that know their own event, and of the `SPAN` before it the feedback too."""
    own = timeline.hashes.astype(np.uint64)
    likes = timeline.labels(["like"])[:, 0].astype(np.int64) + 2
    seen = (own * likes.astype(np.uint64)) % np.uint64(10**9 + 7)
    rows = np.zeros(len(timeline), ROW)
    rows["sum"] = own
    for back in range(1, SPAN + 1):
        rows["sum"][back:] += np.uint64(back) * seen[:-back]
    return rows


async def post(cache: Any, events: list[Event], *, limit: int, with_rows: bool = True) -> None:
    """Merges events, with rows for as much of the tail as they are known to be true for."""
    found = await cache.fetch("u", limit=limit + SPAN, layout=FAR, around=events)
    change = found.merge(events)
    if with_rows:
        valid = change.valid.copy()
        exact = 0 if found.complete else SPAN
        valid[exact:] = True
        rows = true_rows(change.timeline)
        rows[:exact] = change.rows[:exact]  # what they depend on was not read
        change = change.with_rows(rows, valid)
    await cache.append(change)


async def everything(cache: Any, limit: int = 10_000) -> tuple[Any, Any]:
    """A snapshot without rows, and all of them read by position."""
    found = await cache.fetch("u", limit=limit, layout=FAR, rows=False)
    assert not found.valid.any()
    return found, await cache.fetch_rows(found, range(len(found.stored.bounds)))


places = st.integers(0, 400)
steps = st.lists(
    st.tuples(
        st.sampled_from(["append", "late", "label", "late without rows"]),
        st.lists(places, min_size=1, max_size=6),
    ),
    max_size=8,
)


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(steps=steps)
async def test_late_events_leave_only_true_rows(store: Store, steps: Any) -> None:
    """Whatever comes late, and whatever is recomputed of it, no row that is found is untrue."""
    cache = store.open(keep=1_000)
    await cache.forget("u")
    await post(cache, some_events(200), limit=500)
    last = 2_000
    for what, where in steps:
        if what == "append":
            events = [Event(f"new-{last + n}", last + n) for n in range(len(where))]
            last += len(where)
        elif what == "label":
            events = [Event(f"item-{n}", 1000 + n, {"like": Mark(1, n)}) for n in where if n < 200]
        else:
            events = [Event(f"late-{n}", 1000 + n // 2) for n in where]
        if events:
            await post(cache, events, limit=20, with_rows="without" not in what)
    found, stored = await everything(cache)
    expected = true_rows(found.timeline)["sum"]
    assert (stored.rows["sum"] == expected)[stored.valid].all()
    if not any(what.startswith("late") for what, _ in steps):
        assert stored.valid[-20:].all()


async def test_a_late_event_spares_the_rest(store: Store) -> None:
    """One late event far back costs the rows of a few chunks, and a label as few."""
    cache = store.open(keep=1_000)
    await post(cache, some_events(900), limit=2_000)
    await post(cache, [Event("late", 1300), Event("item-5", 1005, {"like": Mark(1, 9)})], limit=40)
    _, stored = await everything(cache)
    assert (~stored.valid).sum() <= 2 * (2 + SPAN // LEAST_EVENTS + 2) * CHUNK_EVENTS
    assert (~stored.valid).sum() >= 2 * SPAN - 1


async def test_rows_by_position(store: Store) -> None:
    """The rows of some chunks, in their order; what nobody wrote is absent."""
    cache = store.open(keep=1_000)
    await post(cache, some_events(300), limit=1_000)
    found = await cache.fetch("u", limit=250, layout=FAR, upto=1290, rows=False)
    assert (len(found.timeline), found.rows.dtype, found.valid.any()) == (250, ROW, False)
    stored = await cache.fetch_rows(found, [1, 4])
    counts = found.stored.counts
    parts = [slice(sum(counts[:chunk]), sum(counts[: chunk + 1])) for chunk in (1, 4)]
    expected = true_rows((await cache.fetch("u", limit=1_000)).timeline)
    skipped = 300 - sum(counts)
    for part, at in zip(parts, (0, counts[1]), strict=True):
        size = part.stop - part.start
        wanted = expected[skipped + part.start : skipped + part.stop]["sum"]
        assert (stored.rows["sum"][at : at + size] == wanted).all()
    assert stored.valid.all()
    assert stored.good_until_s > 0


async def test_rows_of_another_version_are_refused(store: Store) -> None:
    """Whoever was written between the two reads is read again."""
    cache = store.open()
    await post(cache, some_events(50), limit=100)
    found = await cache.fetch("u", limit=100, layout=FAR, rows=False)
    await post(cache, some_events(1, 50), limit=100)
    with pytest.raises(StaleVersion):
        await cache.fetch_rows(found, [0])


async def test_rows_stay_as_long_as_their_events(store: Store) -> None:
    """Without a reach, rows leave with the chunks that are trimmed, and no sooner."""
    cache = store.open(keep=200)
    for start in range(0, 400, 50):
        await post(cache, some_events(50, start), limit=50)
    found, stored = await everything(cache)
    assert len(found.timeline) == 200
    assert stored.valid[CHUNK_EVENTS:].all()
    kept = sum(store.kind(cell) == "rows" for cell in store.cells())
    assert kept <= len(found.stored.bounds)


@given(st.integers(1, 1_000), st.booleans())
def test_chunks_are_not_small(count: int, is_last: bool) -> None:
    """However a page is cut, only its last chunk, and only the timeline's last page, are small."""
    events = Timeline.of_sorted([Event("x", at) for at in range(count)])
    sizes = [len(chunk) for chunk in pieces(events, is_last=is_last)]
    assert min(sizes[:-1] if is_last else sizes) >= LEAST_EVENTS if len(sizes) > 1 else True
