from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
import uvloop

from loadtest import arrivals
from loadtest.alarm import Alarm
from loadtest.client import Client, Garbled, TimedOut, Unreachable
from loadtest.driver import Tick, closed_loop, open_loop
from loadtest.results import Result
from loadtest.traffic import Traffic, Universe
from tests.loadtest.stage import Stage
from tests.ports import free_port

Loop = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> Loop:
    return request.param


def _run(loop: Loop, main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(main)


def _traffic(events_share: float = 0.0) -> Traffic:
    return Traffic(Universe.of_counts(20, 50), candidates=5, events_share=events_share)


def _ignore(done: int) -> None:
    pass


async def _open(
    stage: Stage, schedule: arrivals.Schedule, tick: Tick = _ignore, **options: Any
) -> list[Result]:
    async with Client(stage.url, **options) as client:
        return await open_loop(client, schedule, _traffic(0.2), tick)


def test_all_are_sent(stage: Stage, loop: Loop) -> None:
    """Every request of the schedule is sent once, not before it is due, and has its result."""
    results = _run(loop, _open(stage, arrivals.poisson(300.0, 1.0, seed=1)))
    assert len(results) == len(stage.asked) == len(arrivals.poisson(300.0, 1.0, seed=1))
    assert all(result.due <= result.sent <= result.done for result in results)
    assert {result.outcome for result in results} == {"200"}
    assert {result.cache_state for result in results if result.kind == "rank"} == {"hit"}
    assert results[0].server_timing.startswith("cache;dur=0.25")


def test_latency_counts_from_due(stage: Stage, loop: Loop) -> None:
    """While the server stalls, requests go on being sent, and those that wait show their wait."""
    stage.opens = lambda: len(stage.asked) >= 50
    results = _run(loop, _open(stage, arrivals.uniform(100.0, 1.0)))
    results.sort(key=lambda result: result.due)
    assert np.diff([result.due for result in results]) == pytest.approx(0.01, abs=1e-6)
    assert stage.opened_s
    waited = [result for result in results if result.due < stage.opened_s]
    assert len(waited) >= 50
    assert all(result.done >= stage.opened_s for result in waited)


def test_waiting_for_a_connection_counts(stage: Stage, loop: Loop) -> None:
    """A request that waits for a free connection is late, and its latency includes that wait."""
    begun: list[int] = []
    stage.opens = lambda: len(begun) >= 10
    schedule = arrivals.uniform(100.0, 0.1)
    results = _run(loop, _open(stage, schedule, begun.append, connections=1))
    last = max(results, key=lambda result: result.due)
    assert stage.opened_s
    assert last.due < stage.opened_s < last.sent
    assert last.done - last.due >= last.sent - last.due


def test_closed_loop(stage: Stage, loop: Loop) -> None:
    """A closed loop never has more requests under way than it has connections."""

    async def main() -> list[Result]:
        async with Client(stage.url) as client:
            return await closed_loop(client, 3, 60.0, itertools.islice(_traffic(), 40), _ignore)

    results: list[Result] = _run(loop, main())
    moments = [(r.sent, 1) for r in results] + [(r.done, -1) for r in results]
    under_way = list(itertools.accumulate(step for _, step in sorted(moments)))
    assert max(under_way) <= 3
    assert len(results) == 40


def test_a_closed_loop_ends(stage: Stage, loop: Loop) -> None:
    """After its time it asks nothing more, however much there would be to ask."""

    async def main() -> list[Result]:
        async with Client(stage.url) as client:
            return await closed_loop(client, 2, 0.1, _traffic(), _ignore)

    dues = [result.due for result in _run(loop, main())]
    assert max(dues, default=0.0) - min(dues, default=0.0) < 0.1


def test_refusals_are_results(stage: Stage, loop: Loop) -> None:
    """A status other than 200 is counted under its number, and stops nothing."""
    stage.statuses = itertools.cycle([200, 503])
    results = _run(loop, _open(stage, arrivals.uniform(200.0, 0.2)))
    assert [result.ok for result in results].count(False) == len(results) / 2
    assert {result.outcome for result in results} == {"200", "503"}


def test_silence_is_a_result(stage: Stage, loop: Loop) -> None:
    """A request without an answer in time is a result of its own, and the next ones are asked."""
    known: list[int] = []
    stage.opens = lambda: any(known)  # with the first result
    schedule = arrivals.uniform(20.0, 1.0)
    results = _run(loop, _open(stage, schedule, known.append, timeout_s=0.2))
    outcomes = [result.outcome for result in sorted(results, key=lambda result: result.due)]
    assert outcomes[0] == "timeout"
    assert "200" in outcomes
    assert len(outcomes) == 20


def test_the_late_answer_is_nobody_elses(stage: Stage, loop: Loop) -> None:
    """After a timeout, the next request on the client reads its own answer."""

    async def main() -> int:
        async with Client(stage.url, connections=1, timeout_s=0.2) as client:
            stage.opens = lambda: False
            with pytest.raises(TimedOut):
                await client.post("/v1/rank", b'{"candidates":[1]}')
            stage.opens = lambda: True
            client._timeout_s = 60.0
            answer = await client.post("/v1/rank", b'{"candidates":[1,2,3]}')
            return answer.body.count(b"0.5")

    assert _run(loop, main()) == 3


def test_nobody_there(loop: Loop) -> None:
    """Where nothing listens, the client says that there is nobody."""

    async def main() -> None:
        async with Client(f"http://127.0.0.1:{free_port()}") as client:
            await client.get("/health/ready")

    with pytest.raises(Unreachable, match=r"[Cc]onnect"):
        _run(loop, main())


def test_connections_end(loop: Loop) -> None:
    """A connection that the server closed while it was idle costs the next request nothing."""
    opened = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        await reader.readuntil(b"\r\n\r\n")
        # Keep-alive is promised, and then not kept.
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await reader.readuntil(b"\r\n\r\n") if opened == 1 else None
        writer.close()
        await writer.wait_closed()

    async def main() -> list[bytes]:
        server = await asyncio.start_server(once, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, Client(f"http://127.0.0.1:{port}") as client:
            return [(await client.get("/")).body for _ in range(2)]

    assert _run(loop, main()) == [b"ok", b"ok"]
    assert opened == 2


def test_not_http(loop: Loop) -> None:
    """A server that speaks something else is told apart from one that is silent."""

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"-ERR unknown command\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        server = await asyncio.start_server(other, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, Client(f"http://127.0.0.1:{port}") as client:
            await client.get("/")

    with pytest.raises(Garbled):
        _run(loop, main())


def test_alarm(loop: Loop) -> None:
    """An alarm never rings early, and not at all for a moment that has passed."""

    async def main() -> None:
        with Alarm() as alarm:
            for wait_s in (0.0105, 0.0002, -1.0, 0.003):
                moment = time.monotonic() + wait_s
                await alarm.until(moment)
                assert time.monotonic() >= moment

    _run(loop, main())
