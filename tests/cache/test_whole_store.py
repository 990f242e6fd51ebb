"""What concerns a whole store: who is in it, notes between processes, rows of one fingerprint."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cache.errors import StaleVersion
from tests.cache.stores import LAYOUT, OTHER, Store, rows_of, some_events


async def post(cache: Any, user: str, count: int, *layouts: Any) -> None:
    """A timeline of `count` events, with rows of each layout."""
    for layout in layouts or (None,):
        events = some_events(count)
        change = (await cache.fetch(user, limit=100, layout=layout, around=events)).merge(events)
        if layout:
            change = change.with_rows(*rows_of(len(change.timeline)))
        await cache.append(change)


async def listed(cache: Any, **options: Any) -> set[str]:
    return {user async for user in cache.users(**options)}


async def test_everybody_is_listed(store: Store) -> None:
    """Each user with a timeline, whatever their id looks like; and nobody who is gone."""
    cache = store.open()
    users = {"a", "a:b", "é/{x}", "*", "t:u", *(f"user {at}" for at in range(100))}
    for user in users | {"gone"}:
        await post(cache, user, 1)
    await cache.forget("gone")
    assert await listed(cache) == users


async def test_users_are_told_apart_by_how_active_they_are(store: Store) -> None:
    """A band of event counts names just those users; together bands name everybody."""
    cache = store.open()
    for count in range(1, 12):
        await post(cache, f"{count}", count)
    assert await listed(cache, least=8) == {"8", "9", "10", "11"}
    assert await listed(cache, least=4, below=8) == {"4", "5", "6", "7"}
    assert await listed(cache, below=4) == {"1", "2", "3"}


async def test_a_note_is_replaced_only_where_it_was_read(store: Store) -> None:
    """A note is one value: who read another one writes nothing."""
    cache = store.open()
    assert await cache.note("plan") == b""
    await cache.replace_note("plan", b"", b"one \0 \xff")
    with pytest.raises(StaleVersion):
        await cache.replace_note("plan", b"", b"two")
    assert await cache.note("plan") == b"one \0 \xff"
    assert await cache.note("other") == b""
    await cache.replace_note("plan", b"one \0 \xff", b"")
    assert await cache.note("plan") == b""


async def test_of_many_who_write_a_note_one_does(store: Store) -> None:
    """Replacing is one atomic step."""
    cache = store.open()
    done = await asyncio.gather(
        *(cache.replace_note("plan", b"", b"%d" % at) for at in range(10)), return_exceptions=True
    )
    assert sum(result is None for result in done) == 1
    assert all(result is None or isinstance(result, StaleVersion) for result in done)
    assert done[int(await cache.note("plan"))] is None


async def test_rows_of_one_fingerprint_go(store: Store) -> None:
    """They are gone for every user, timelines and other rows stay; dropping again finds none."""
    cache = store.open()
    users = [f"user {at}" for at in range(50)]
    for user in users:
        await post(cache, user, 3, LAYOUT, OTHER)
    assert sum([count async for count in cache.drop_rows(LAYOUT.fingerprint)]) == len(users)
    for user in users:
        gone = await cache.fetch(user, limit=10, layout=LAYOUT)
        kept = await cache.fetch(user, limit=10, layout=OTHER)
        assert (len(gone.timeline), gone.valid.any(), kept.valid.all()) == (3, False, True)
    assert not any([count async for count in cache.drop_rows(LAYOUT.fingerprint)])
