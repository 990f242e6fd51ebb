"""Giving up on a store does not end what was begun with it."""

from __future__ import annotations

import asyncio
import time

import pytest

from cache.errors import CacheUnavailable
from cache.patience import LATE_S, Patience


async def test_what_takes_too_long_goes_on() -> None:
    """The caller is told in time; the work ends by itself."""
    patience, may_end, has_ended = Patience(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await may_end.wait()
        has_ended.set()

    with pytest.raises(CacheUnavailable, match=r"0\.01"):
        await patience.wait(work(), 0.01)
    may_end.set()
    await has_ended.wait()
    await patience.close()


async def test_a_busy_loop_is_no_slow_store() -> None:
    """What came while our own loop was busy counts as in time."""
    patience, answer = Patience(), asyncio.get_running_loop().create_future()

    async def work() -> str:
        found: str = await answer
        await asyncio.sleep(0)  # a step or two, as a client takes them
        return found

    def be_busy() -> None:
        time.sleep(0.01 + 2 * LATE_S)  # what is tested is a loop that stands still
        answer.set_result("here")

    asyncio.get_running_loop().call_later(0.005, be_busy)
    assert await patience.wait(work(), 0.01) == "here"


async def test_failures_are_the_callers() -> None:
    """An error comes through; after the caller has gone it disturbs nobody."""
    patience, may_end = Patience(), asyncio.Event()

    async def fails() -> None:
        await may_end.wait()
        raise CacheUnavailable("later")

    with pytest.raises(CacheUnavailable, match="did not answer"):
        await patience.wait(fails(), 0.001)
    may_end.set()
    with pytest.raises(CacheUnavailable, match="later"):
        await patience.wait(fails(), 5)
    await patience.close()
