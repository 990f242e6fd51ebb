"""What every cache promises, over each store."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cache.errors import CacheMismatch, StaleVersion
from cache.layout import Layout
from cache.timeline import Event, Mark
from tests.cache.stores import LAYOUT, OTHER, ROW, Store, rows_of, some_events

DAY_S = 86400.0


class Clock:
    """A clock the test holds."""

    def __init__(self) -> None:
        self.now_s = 1_000_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def cache(store: Store) -> Any:
    return store.open()


async def post(cache: Any, user: str, events: list[Event], layout: Layout | None = LAYOUT) -> int:
    """Appends events, with rows for all of the newest hundred."""
    change = (await cache.fetch(user, limit=100, layout=layout, around=events)).merge(events)
    if layout:
        change = change.with_rows(*rows_of(len(change.timeline)))
    version: int = await cache.append(change)
    return version


async def test_nobody_has_an_empty_timeline(cache: Any) -> None:
    """An unknown user is a value: version 0, nothing in it, nothing wrong."""
    found = await cache.fetch("nobody", limit=10, layout=LAYOUT, upto=5)
    assert (found.version, len(found.timeline), len(found.rows)) == (0, 0, 0)
    assert (found.complete, found.trimmed, found.quarantined) == (True, False, False)
    assert found.written_at_s is None


async def test_statuses_say_what_became_of_each_event(store: Store) -> None:
    """Each event is judged after the ones before it, in one call as in many."""
    cache = store.open(keep=3)
    liked = {"like": Mark(1, 20)}
    events = [
        Event("b", 20), Event("a", 10), Event("b", 20), Event("b", 20, liked), Event("c", 30),
        Event("d", 40), Event("a", 10), Event("b", 20, {"like": Mark(0, 20)}),
    ]  # fmt: skip
    expected = [
        "appended", "inserted", "duplicate", "updated", "appended", "appended", "expired",
        "duplicate",
    ]  # fmt: skip
    together = (await cache.fetch("u", limit=5, around=events)).merge(events)
    assert list(together.statuses) == expected
    one_by_one = []
    for event in events:
        change = (await cache.fetch("u", limit=5, around=[event])).merge([event])
        one_by_one += change.statuses
        await cache.append(change)
    assert one_by_one == expected
    found = await cache.fetch("u", limit=5)
    assert list(found.timeline.item_ids) == ["b", "c", "d"]
    assert found.trimmed


async def test_users_are_listed(cache: Any) -> None:
    """Who has a timeline is listed, whatever the id looks like; who was forgotten is not."""
    ids = ["a", "a:b", "{a}", "*", "é/t:", "007", *map(str, range(20))]
    for user in [*ids, "gone"]:
        await post(cache, user, some_events(1), None)
    await cache.forget("gone")
    assert {user async for user in cache.users()} == set(ids)


async def test_an_append_leaves_earlier_rows(cache: Any) -> None:
    """An append at the end asks for its own row only."""
    await post(cache, "u", some_events(40))
    new = some_events(2, 40)
    change = (await cache.fetch("u", limit=100, layout=LAYOUT, around=new)).merge(new)
    assert (change.changed, len(change.timeline)) == (40, 42)
    assert change.valid.tolist() == [True] * 40 + [False] * 2


@pytest.mark.parametrize(
    ("event", "true"),
    [(Event("x", 1010), 11), (Event("item-10", 1010, {"like": Mark(1, 1010)}), 11)],
)
async def test_a_late_change_spoils_what_follows(cache: Any, event: Event, true: int) -> None:
    """Rows after a late event or late feedback are untrue, in every fingerprint; earlier stay."""
    await post(cache, "u", some_events(40))
    await post(cache, "u", some_events(1, 40), OTHER)
    change = (await cache.fetch("u", limit=100, layout=LAYOUT, around=[event])).merge([event])
    assert change.changed == true
    assert change.valid.tolist() == [True] * true + [False] * (len(change.timeline) - true)
    await cache.append(change)
    found = await cache.fetch("u", limit=100, layout=LAYOUT)
    assert np.flatnonzero(found.valid).tolist() == list(range(true))
    assert not (await cache.fetch("u", limit=100, layout=OTHER)).valid.any()


async def test_feedback_of_the_newest_event_spoils_nothing(cache: Any) -> None:
    """A row does not depend on its own feedback, so the usual late label costs no row."""
    await post(cache, "u", some_events(40))
    last = Event("item-39", 1039, {"like": Mark(1, 2000)})
    change = (await cache.fetch("u", limit=100, layout=LAYOUT, around=[last])).merge([last])
    assert (change.statuses, change.changed) == (("updated",), 40)
    await cache.append(change)
    found = await cache.fetch("u", limit=100, layout=LAYOUT)
    assert found.valid.all()
    assert found.timeline.labels(["like"])[-1, 0] == 1


async def test_fingerprints_never_mix(cache: Any) -> None:
    """Rows of one fingerprint are invisible to another, also where 8 digits are the same."""
    await post(cache, "u", some_events(10))
    twin = Layout(LAYOUT.fingerprint[:8] + "99999999", ROW, 100)
    for layout in (OTHER, twin):
        assert not (await cache.fetch("u", limit=100, layout=layout)).valid.any()
    assert (await cache.fetch("u", limit=100, layout=LAYOUT)).valid.all()


async def test_rows_can_be_written_back(cache: Any) -> None:
    """Rebuilt rows of a part are stored beside the ones that are there; the version stays."""
    await post(cache, "u", some_events(40), None)
    found = await cache.fetch("u", limit=10, upto=1019, layout=LAYOUT)
    version = await cache.append(found.merge([]).with_rows(*rows_of(10)))
    found = await cache.fetch("u", limit=10, upto=1024, layout=LAYOUT)
    assert found.valid.tolist() == [True] * 5 + [False] * 5
    assert await cache.append(found.merge([]).with_rows(*rows_of(10))) == version
    found = await cache.fetch("u", limit=100, layout=LAYOUT)
    assert np.flatnonzero(found.valid).tolist() == list(range(10, 25))
    assert found.version == version
    assert (await cache.fetch("u", limit=5)).merge([]).is_empty


async def test_depth_one_stores_no_rows(cache: Any, store: Store) -> None:
    """A layout of no bytes is always valid, and no record is ever written."""
    nothing = Layout(LAYOUT.fingerprint, np.dtype([]), 100)
    events = some_events(3)
    change = (await cache.fetch("u", limit=9, layout=nothing, around=events)).merge(events)
    assert change.valid.all()
    await cache.append(change.with_rows(np.zeros(3, nothing.row), np.ones(3, np.bool_)))
    assert (await cache.fetch("u", limit=9, layout=nothing)).valid.all()
    assert "rows" not in {store.kind(cell) for cell in store.cells()}


async def test_wrong_rows_are_refused(cache: Any) -> None:
    """Rows of another type or number are our own bug, and say so."""
    await post(cache, "u", some_events(3))
    change = (await cache.fetch("u", limit=9, layout=LAYOUT)).merge([])
    for rows, valid in [rows_of(2), (np.zeros(3, np.float32), np.ones(3, np.bool_))]:
        with pytest.raises(ValueError, match="This is a bug"):
            change.with_rows(rows, valid)
    await post(cache, "u", some_events(200))
    short = await cache.fetch("u", limit=9)
    with pytest.raises(RuntimeError, match="This is a bug"):
        short.merge([Event("old", 1)])


async def test_what_a_fetch_gives_cannot_be_changed(cache: Any) -> None:
    """Rows and marks of a snapshot are read-only."""
    await post(cache, "u", some_events(3))
    found = await cache.fetch("u", limit=9, layout=LAYOUT)
    for array in (found.rows, found.valid, found.timeline.timestamps):
        assert not array.flags.writeable


async def test_the_second_writer_is_stale(cache: Any) -> None:
    """Of two writers that read the same version, the later stores nothing and is told."""
    first, second = [Event("a", 1)], [Event("b", 2)]
    early = (await cache.fetch("u", limit=9, around=second)).merge(second)
    await post(cache, "u", first)
    with pytest.raises(StaleVersion):
        await cache.append(early)
    again = (await cache.fetch("u", limit=9, around=second)).merge(second)
    await cache.append(again)
    assert (await cache.fetch("u", limit=9)).timeline.item_ids == ("a", "b")


async def test_forgotten_is_forgotten(cache: Any, store: Store) -> None:
    """After forget no key or value holds the user's id or events; the neighbour stays."""
    user = "someone-to-forget"
    for name in (user, "neighbour"):
        await post(cache, name, some_events(90))
        await post(cache, name, some_events(1, 90), OTHER)
    assert any(user.encode() in cell[0] for cell in store.cells())
    await cache.forget(user)
    left = [part for cell, value in store.cells().items() for part in (*cell, value)]
    assert not any(user.encode() in part for part in left)
    await cache.forget("neighbour")
    assert all(store.kind(cell) == "store" for cell in store.cells())
    assert not any(b"item-" in value for value in store.cells().values())


async def test_a_stale_append_cannot_bring_a_user_back(cache: Any) -> None:
    """What was read before a forget is refused after it, timeline and rows alike."""
    await post(cache, "u", some_events(3))
    events = some_events(1, 3)
    late = (await cache.fetch("u", limit=9, layout=LAYOUT, around=events)).merge(events)
    rows = (await cache.fetch("u", limit=9, layout=OTHER)).merge([]).with_rows(*rows_of(3))
    await cache.forget("u")
    for change in (late, rows):
        with pytest.raises(StaleVersion):
            await cache.append(change)
    assert (await cache.fetch("u", limit=9)).version == 0


async def test_versions_only_grow(cache: Any) -> None:
    """No version repeats, not across forget and not when the user was never there between."""
    versions = []
    for at in range(5):
        versions += [await post(cache, "u", some_events(1, at))]
        versions += [await post(cache, "u", some_events(1, at + 10))]
        await cache.forget("u")
    assert versions == sorted(set(versions))
    assert versions[0] > 0


async def test_rows_of_a_former_life_are_not_used(cache: Any, store: Store) -> None:
    """Rows that outlive a timeline, whatever the reason, are not read for its successor."""
    await post(cache, "u", some_events(3))
    rows = {cell: value for cell, value in store.cells().items() if store.kind(cell) == "rows"}
    await cache.forget("u")
    await post(cache, "u", some_events(3), None)
    for cell, value in rows.items():
        store.put(cell, value)
    assert not (await cache.fetch("u", limit=9, layout=LAYOUT)).valid.any()


async def test_rows_are_kept_within_reach(cache: Any, store: Store) -> None:
    """Only the newest `reach` events have rows; what falls out goes in the same write."""
    near = Layout(LAYOUT.fingerprint, ROW, 40)
    for at in range(0, 400, 5):
        events = some_events(5, at)
        change = (await cache.fetch("u", limit=10, layout=near, around=events)).merge(events)
        await cache.append(change.with_rows(*rows_of(len(change.timeline))))
        assert sum(store.kind(cell) == "rows" for cell in store.cells()) <= 40 // 32 + 2
    found = await cache.fetch("u", limit=400, layout=near)
    assert found.valid[-40:].all()


async def test_other_rows_that_fell_behind_are_swept(cache: Any, store: Store) -> None:
    """Rows that fell out of reach while another fingerprint wrote go with their next write."""
    near = Layout(LAYOUT.fingerprint, ROW, 40)
    await post(cache, "u", some_events(64), near)
    await post(cache, "u", some_events(300, 64), OTHER)
    await post(cache, "u", some_events(1, 364), near)
    short = LAYOUT.fingerprint[:8].encode()
    kept = [c for c in store.cells() if store.kind(c) == "rows" and short in c[0]]
    assert len(kept) <= 40 // 32 + 2


async def test_expired_rows_are_absent(store: Store) -> None:
    """A row that was not written for its time to live is absent, also where its key remains."""
    clock, seen = Clock(), []
    cache = store.open(record_ttl_s=DAY_S, clock=clock, on_event=seen.append)
    await post(cache, "u", some_events(40))
    clock.now_s += 0.9 * DAY_S
    await post(cache, "u", some_events(1, 40))
    found = await cache.fetch("u", limit=100, layout=LAYOUT)
    assert (found.valid.all(), found.written_at_s) == (True, clock.now_s)
    clock.now_s += 0.2 * DAY_S
    found = await cache.fetch("u", limit=100, layout=LAYOUT)
    assert np.flatnonzero(found.valid).tolist() == list(range(32, 41))
    assert seen == ["expired_record"]
    await post(cache, "u", some_events(1, 41))
    assert (await cache.fetch("u", limit=100, layout=LAYOUT)).valid.all()


async def test_timelines_expire_only_if_told(store: Store) -> None:
    """With a time to live an unwritten timeline is empty afterwards, and new ones can begin."""
    clock = Clock()
    clock.now_s = 4_000_000_000.0  # the server's own clock must not expire it first
    cache = store.open(timeline_ttl_s=DAY_S, clock=clock)
    await post(cache, "u", some_events(40))
    clock.now_s += 2 * DAY_S
    assert len((await cache.fetch("u", limit=9, layout=LAYOUT)).timeline) == 0
    await post(cache, "u", some_events(2), None)
    found = await cache.fetch("u", limit=9, layout=LAYOUT)
    assert (len(found.timeline), found.valid.any()) == (2, False)
    await cache.forget("u")
    assert all(store.kind(cell) == "store" for cell in store.cells())


@pytest.mark.parametrize("damage", ["flip", "cut", "other user"])
async def test_damaged_rows_are_absent(store: Store, damage: str) -> None:
    """A damaged, cut or foreign record is absent and counted, and can be rebuilt."""
    seen: list[str] = []
    cache = store.open(on_event=seen.append)
    await post(cache, "u", some_events(40))
    await post(cache, "v", some_events(40))
    cells = store.cells()
    mine = min(c for c in cells if store.kind(c) == "rows" and b"u" in c[0].split(b":")[-1][:2])
    value = cells[mine]
    alien = next(v for c, v in cells.items() if store.kind(c) == "rows" and v.endswith(b"v"))
    store.put(
        mine, {"flip": value[:90] + b"\xff" + value[91:], "cut": value[:-5]}.get(damage, alien)
    )
    found = await cache.fetch("u", limit=100, layout=LAYOUT)
    assert np.flatnonzero(~found.valid).tolist() == list(range(32))
    assert seen == ["damaged_record"]
    await cache.append(found.merge([]).with_rows(*rows_of(40)))
    assert (await cache.fetch("u", limit=100, layout=LAYOUT)).valid.all()


@pytest.mark.parametrize("kind", ["version", "head", "chunk"])
@pytest.mark.parametrize("damage", ["flip", "gone"])
async def test_a_damaged_timeline_is_put_aside(store: Store, kind: str, damage: str) -> None:
    """It is counted and kept unseen; the user starts anew and says so; forget ends it."""
    seen: list[str] = []
    cache = store.open(on_event=seen.append)
    before = await post(cache, "u", some_events(70))
    cells = store.cells()
    cell = max(cell for cell in cells if store.kind(cell) == kind)
    value = cells[cell]
    flipped = value[:-1] + bytes([value[-1] ^ 1])
    store.put(cell, flipped if damage == "flip" else None)
    for _ in range(2):
        found = await cache.fetch("u", limit=100, layout=LAYOUT)
        assert (found.version, len(found.timeline), found.quarantined) == (0, 0, True)
    assert seen == ["damaged_timeline"]
    assert any(store.kind(cell) == "aside" for cell in store.cells())
    if damage == "flip":
        assert flipped in _aside_values(store)
    assert await post(cache, "u", some_events(3)) > before
    found = await cache.fetch("u", limit=100, layout=LAYOUT)
    assert (len(found.timeline), found.quarantined, found.valid.all()) == (3, True, True)
    await cache.forget("u")
    assert all(store.kind(cell) == "store" for cell in store.cells())
    assert not (await cache.fetch("u", limit=100)).quarantined


def _aside_values(store: Store) -> list[bytes]:
    return [value for cell, value in store.cells().items() if store.kind(cell) == "aside"]


async def test_the_store_remembers_what_it_keeps(store: Store) -> None:
    """Another keep, or one too small for the model, is refused in a sentence with both numbers."""
    with pytest.raises(CacheMismatch, match=r"keep=3 .* 5 "):
        store.open(keep=3, least_keep=5)
    cache = store.open(keep=50)
    await cache.ping()
    for options, numbers in [({"keep": 60}, r"50 .*60"), ({"least_keep": 70}, r"50 .*70")]:
        with pytest.raises(CacheMismatch, match=numbers):
            await store.open(**options).ping()
    found = await store.open().fetch("u", limit=1)
    assert found.keep == 50


async def test_a_new_store_keeps_a_thousand_or_more(store: Store) -> None:
    """Without a word a new store keeps 1,000 events, or what the model needs."""
    assert (await store.open(least_keep=1200).fetch("u", limit=1)).keep == 1200


async def test_an_append_is_small_however_long_the_timeline(store: Store) -> None:
    """One more event of 20,000 changes one chunk, one head, one version and one row chunk."""
    cache = store.open(keep=30_000)
    for at in range(0, 20_000, 2000):
        await post(cache, "u", some_events(2000, at))
    before = store.cells()
    await post(cache, "u", some_events(1, 20_000))
    after = store.cells()
    changed = [cell for cell in after if before.get(cell) != after[cell]]
    kinds = sorted({store.kind(cell) for cell in changed})
    assert [kind for kind in kinds if kind != "index"] == ["chunk", "head", "rows", "version"]
    assert len(changed) <= 7  # a new chunk: its place in Redis' index; rows out of reach go
    assert sum(len(after[cell]) for cell in changed) < 2 * 32 * (ROW.itemsize + 40)


async def test_awkward_ids(cache: Any) -> None:
    """Braces, slashes, colons and any script are as good as letters, at full length."""
    users = ["{x}", "}{", "a:b", "a/b", "é𝄞", "u" * 200, "{" * 128]
    for user in users:
        await post(cache, user, [Event("{item}:*", 1), Event("i" * 200, 2)])
    for user in users:
        found = await cache.fetch(user, limit=9, layout=LAYOUT)
        assert found.timeline.item_ids == ("{item}:*", "i" * 200)
        assert found.valid.all()
    for event in (Event("i" * 201, 1), Event("", 1)):
        if event.item_id:
            with pytest.raises(ValueError, match="bug"):
                await post(cache, "u", [event])


async def test_a_known_snapshot_is_the_answer_until_something_changes(store: Store) -> None:
    """Who shows what they have gets it back, but not after a write, a loss, expiry or a DELETE."""
    clock = Clock()
    cache = store.open(clock=clock, record_ttl_s=DAY_S)
    await post(cache, "u", some_events(50))
    known = await cache.fetch("u", limit=40, layout=LAYOUT)

    async def again(**other: Any) -> Any:
        asked = {"limit": 40, "layout": LAYOUT, "known": known} | other
        return await cache.fetch("u", **asked)

    assert await again() is known
    assert await again(upto=5000) is known
    assert await again(upto=1030) is not known
    assert await again(limit=39) is not known
    assert await again(layout=OTHER) is not known
    assert (await cache.fetch("v", limit=40, layout=LAYOUT, known=known)).version == 0
    clock.now_s += 2 * DAY_S
    assert not (await again()).valid.any()
    clock.now_s -= 2 * DAY_S
    for cell in list(store.cells()):
        if store.kind(cell) == "rows":
            store.put(cell, None)
    assert not (await again()).valid.any()
    await post(cache, "u", some_events(1, start=50))
    newer = await again()
    assert newer is not known
    assert len(newer.timeline) == 40
    known = await cache.fetch("u", limit=40, layout=LAYOUT)
    assert await again() is known
    await cache.forget("u")
    assert (await again()).version == 0


async def test_a_snapshot_without_all_rows_is_never_known(cache: Any) -> None:
    """Somebody may write the missing rows at the same version."""
    await post(cache, "u", some_events(5), layout=None)
    known = await cache.fetch("u", limit=5, layout=LAYOUT)
    assert await cache.fetch("u", limit=5, layout=LAYOUT, known=known) is not known


async def test_users_are_those_with_a_timeline(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody who is stored is listed, nobody else: not the forgotten, not the store's own."""
    monkeypatch.setattr("cache.lmdb_cache.USERS_AT_ONCE", 3)
    cache = store.open()
    assert [user async for user in cache.users()] == []
    names = {*map(str, range(20)), "ü", "{braces}:t:x", "a b", "h"}
    for user in [*names, "gone"]:
        await post(cache, user, some_events(3))
    await cache.forget("gone")
    assert {user async for user in cache.users()} == names
