"""What every cache promises of summaries, over each store."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cache.errors import StaleVersion
from cache.layout import NO_ROWS, Layout
from cache.snapshot import Change
from cache.summary import Summary
from cache.timeline import Event, Mark
from tests.cache.stores import LAYOUT, Store, some_events

KIND = np.dtype([("tokens", np.float32, (3,)), ("sums", np.float32, (2, 2))])
OURS = Layout("0123456789abcdef", NO_ROWS, 20, summary=KIND)
THEIRS = Layout("fedcba9876543210", NO_ROWS, 20, summary=KIND)


@pytest.fixture
def cache(store: Store) -> Any:
    return store.open()


def row_of(value: float) -> Any:
    row = np.zeros((), KIND)
    row["tokens"], row["sums"] = value, -value
    return row


async def post(cache: Any, user: str, events: list[Event], layout: Layout | None = OURS) -> Change:
    change: Change = (await cache.fetch(user, limit=20, layout=layout, around=events)).merge(events)
    await cache.append(change)
    return change


async def summarised(cache: Any, user: str, covers: int, layout: Layout = OURS) -> None:
    """Stores a summary of the first events of a short timeline."""
    snapshot = await cache.fetch(user, limit=100, layout=layout)
    summary = Summary.upto(snapshot.timeline, covers, row_of(covers), covers)
    await cache.append(snapshot.merge(()).with_summary(summary))


async def found(cache: Any, user: str, layout: Layout = OURS) -> Summary | None:
    summary: Summary | None = (await cache.fetch(user, limit=20, layout=layout)).summary
    return summary


async def test_it_comes_back_as_it_was_stored(cache: Any) -> None:
    """One fetch brings the summary beside the newest events; nobody can change what it holds."""
    await post(cache, "u", some_events(50))
    await summarised(cache, "u", 40)
    snapshot = await cache.fetch("u", limit=5, layout=OURS)
    summary = snapshot.summary
    assert (summary.covers, summary.row) == (40, row_of(40))
    assert len(snapshot.timeline) == 5
    assert summary.end_in(snapshot.stored.timeline) == len(snapshot.stored.timeline) - 10
    assert summary.written_at_s <= summary.expires_at_s
    with pytest.raises(ValueError, match="read-only"):
        summary.row["tokens"] = 1.0


async def test_nobody_reads_that_of_another_model(cache: Any) -> None:
    """Law 6: a summary is its fingerprint's alone, and rows and summaries are not mixed up."""
    await post(cache, "u", some_events(30))
    await summarised(cache, "u", 20)
    assert await found(cache, "u", THEIRS) is None
    other_kind = Layout(
        OURS.fingerprint, NO_ROWS, 20, summary=np.dtype([("tokens", np.float32, (7,))])
    )
    assert await found(cache, "u", other_kind) is None
    assert await found(cache, "u", LAYOUT) is None


async def test_what_comes_later_leaves_it_true(cache: Any) -> None:
    """Appended events, also of another model's writer, and late ones behind what it covers."""
    await post(cache, "u", some_events(30))
    await summarised(cache, "u", 20)
    await post(cache, "u", some_events(5, 30))
    await post(cache, "u", some_events(5, 35), THEIRS)
    await post(cache, "u", [Event("late", 1025)])
    summary = await found(cache, "u")
    assert summary is not None
    assert (summary.covers, summary.row) == (20, row_of(20))


@pytest.mark.parametrize("writer", [OURS, THEIRS, LAYOUT, None])
@pytest.mark.parametrize(
    "change",
    [
        Event("late", 1003),
        Event("item-3", 1003, {"like": Mark(1, 9_999)}),
        Event("item-19", 1019, {"like": Mark(1, 9_999)}),
    ],
    ids=["inserted", "updated", "updated at its end"],
)
async def test_a_change_of_what_it_covers_ends_it(
    cache: Any, change: Event, writer: Layout | None
) -> None:
    """Whoever writes, under any fingerprint: an untrue summary is not there any more."""
    await post(cache, "u", some_events(30))
    await summarised(cache, "u", 20)
    await post(cache, "u", [change], writer)
    assert await found(cache, "u") is None


@pytest.mark.parametrize("writer", [OURS, THEIRS])
async def test_feedback_of_the_newest_event_is_seen_by_its_digest(
    cache: Any, writer: Layout
) -> None:
    """It spoils no row, so rows stay; a summary that ends there is known not to be true."""
    await post(cache, "u", some_events(30))
    await summarised(cache, "u", 30)
    before = await cache.fetch("u", limit=20, layout=OURS)
    assert before.summary.end_in(before.timeline) == 20
    await post(cache, "u", [Event("item-29", 1029, {"like": Mark(1, 9_999)})], writer)
    after = await cache.fetch("u", limit=20, layout=OURS)
    assert after.summary is None or after.summary.end_in(after.timeline) is None


async def test_it_is_stored_against_the_version_it_was_made_from(cache: Any) -> None:
    """Who was overtaken learns it, and nothing is stored."""
    await post(cache, "u", some_events(30))
    snapshot = await cache.fetch("u", limit=100, layout=OURS)
    await post(cache, "u", [Event("late", 1003)])
    summary = Summary.upto(snapshot.timeline, 20, row_of(20), 20)
    with pytest.raises(StaleVersion):
        await cache.append(snapshot.merge(()).with_summary(summary))
    assert await found(cache, "u") is None


async def test_it_goes_with_its_user(store: Store) -> None:
    """Law 7: forgotten is forgotten, and a new life does not inherit it."""
    cache = store.open()
    await post(cache, "u", some_events(30))
    await summarised(cache, "u", 20)
    left = {cell: value for cell, value in store.cells().items() if store.kind(cell) == "rows"}
    assert left
    await cache.forget("u")
    assert not any(b"u" in cell[0].split(b":")[-1] for cell in store.cells() if cell in left)
    await post(cache, "u", some_events(30))
    for cell, value in left.items():
        store.put(cell, value)
    assert await found(cache, "u") is None


async def test_it_expires(store: Store) -> None:
    """As rows do; what expired is as if it had not been there, and goes when LMDB is swept."""
    now_s = [1e9]
    cache = store.open(clock=lambda: now_s[0], record_ttl_s=3600.0)
    await post(cache, "u", some_events(30))
    await summarised(cache, "u", 20)
    assert await found(cache, "u") is not None
    now_s[0] += 3601.0
    assert await found(cache, "u") is None
    if hasattr(cache, "sweep"):
        assert [count async for count in cache.sweep()] == [1]


async def test_damage_is_absence(store: Store) -> None:
    """A broken one is counted and not there; so is that of another user."""
    told: list[str] = []
    cache = store.open(on_event=told.append)
    for user in ("u", "v"):
        await post(cache, user, some_events(30))
        await summarised(cache, user, 20)
    rows = {cell: value for cell, value in store.cells().items() if store.kind(cell) == "rows"}
    mine, other = sorted(rows, key=lambda cell: b"v" in cell[0].split(b":")[-1][-2:])
    store.put(mine, rows[mine][:-9] + b"?" + rows[mine][-8:])
    store.put(other, rows[mine])
    assert await found(cache, "u") is None
    assert await found(cache, "v") is None
    assert told == ["damaged_record"] * 2


@pytest.mark.parametrize("limit", [1, 40, 1000])
async def test_reading_on_gives_the_whole_timeline(cache: Any, limit: int) -> None:
    """Stretch after stretch, each from the last event of the one before."""
    events = [Event(f"item-{at}", 1000 + at // 3) for at in range(150)]
    for start in range(0, 150, 50):
        await post(cache, "u", events[start : start + 50])
    version = (await cache.fetch("u", limit=1)).version
    seen: list[bytes] = []
    start = b""
    while True:
        part = await cache.read_on("u", start=start, limit=limit)
        assert part.version == version
        fresh = [part.timeline.key(at) for at in range(len(part.timeline))]
        seen += fresh[1:] if seen else fresh
        if part.is_end or not fresh[1:]:
            break
        start = fresh[-1]
    assert seen == sorted(event.key for event in events)[: len(seen)]
    assert len(seen) == 150 or limit == 1
    nobody = await cache.read_on("nobody", start=b"", limit=limit)
    assert (nobody.version, len(nobody.timeline), nobody.is_end) == (0, 0, True)


async def test_users_are_listed(cache: Any) -> None:
    """Everyone with a timeline, whatever the id holds."""
    users = {"u", "a:b", "{x}", "é"}
    for user in users:
        await post(cache, user, some_events(3))
    assert {user async for user in cache.users()} == users
