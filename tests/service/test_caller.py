"""Who waits: work of many jobs ends with its caller; and whether others are likely to come."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

import pytest

from service.caller import APART_S, QUIET, Caller, CallerGone, Callers, Line
from service.job import Job


async def test_work_ends_with_its_caller() -> None:
    """A caller who hangs up cancels what was done for them."""
    said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    has_begun, outcome = asyncio.Event(), []

    async def work() -> None:
        has_begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            outcome.append("cancelled")
            raise

    async def hang_up() -> None:
        await has_begun.wait()
        await said.put({"type": "http.request"})
        await said.put({"type": "http.disconnect"})

    ended, _ = await asyncio.gather(
        Caller(said.get).waits_for(work()), hang_up(), return_exceptions=True
    )
    assert isinstance(ended, asyncio.CancelledError)
    assert outcome == ["cancelled"]


@pytest.mark.parametrize("receive", [None, asyncio.Event().wait])
async def test_work_is_waited_for(receive: Any) -> None:
    """Its result is the caller's, and so is its failure."""

    async def succeed() -> int:
        return 7

    async def fail() -> int:
        raise ValueError("no")

    assert await Caller(receive).waits_for(succeed()) == 7
    with pytest.raises(ValueError, match="no"):
        await Caller(receive).waits_for(fail())


async def test_a_lost_connection_ends_what_queues_for_it() -> None:
    """The job that is waited for then; not one before; and none is begun for who has gone."""
    first, second = (Job("rank", {}, {}, future=asyncio.Future()) for _ in range(2))
    line = Line()
    caller = Caller(line=line)
    caller.waits_on(first)
    caller.waits_on(None)
    caller.waits_on(second)
    line.lose()
    assert [job.is_gone for job in (first, second)] == [False, True]
    caller.waits_on(None)
    with pytest.raises(CallerGone):
        caller.waits_on(first)
    line.lose()
    assert not first.is_gone


@pytest.mark.parametrize("company", [2, 9])
def test_nobody_is_alone_where_others_came_lately(company: int) -> None:
    """A caller is alone after so many who were, and not before; one in company begins it anew."""
    callers = Callers()
    for _ in range(2):
        assert [callers.is_alone(1, 7) for _ in range(QUIET + 2)] == [False] * QUIET + [True] * 2
        assert not callers.is_alone(company, 7)


@pytest.mark.parametrize(("apart_s", "is_alone"), [(0.5 * APART_S, False), (2 * APART_S, True)])
def test_whoever_waited_unseen_for_the_loop_is_not_alone(apart_s: float, is_alone: bool) -> None:
    """While a run keeps the loop nobody sees who comes: they are told by their connections."""
    moments = count(1.0, apart_s)
    callers = Callers(clock=lambda: next(moments))
    assert [callers.is_alone(1, 7) for _ in range(QUIET + 1)][-1]
    assert [callers.is_alone(1, number) for number in range(8, 10)] == [is_alone] * 2
