from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
import uvloop

from loadtest import arrivals
from loadtest.alarm import Alarm
from loadtest.client import Client, Garbled, TimedOut, Unreachable
from loadtest.driver import closed_loop, open_loop
from loadtest.results import Result
from loadtest.traffic import Traffic, Universe
from tests.loadtest.stage import Stage

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


async def _open(stage: Stage, schedule: arrivals.Schedule, **options: Any) -> list[Result]:
    async with Client(stage.url, **options) as client:
        return await open_loop(client, schedule, _traffic(0.2), _ignore)


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
    stage.stall_s = 0.5
    results = _run(loop, _open(stage, arrivals.uniform(100.0, 1.0)))
    results.sort(key=lambda result: result.due)
    latencies = np.array([result.done - result.due for result in results])
    start = results[0].due
    for result, latency in zip(results, latencies, strict=True):
        if result.due - start < 0.4:
            assert latency >= 0.5 - (result.due - start) - 0.02
    assert np.median(latencies) < 0.25  # it was over after half a second


def test_waiting_for_a_connection_counts(stage: Stage, loop: Loop) -> None:
    """A request that waits for a free connection is late, and its latency includes that wait."""
    stage.stall_s = 0.3
    results = _run(loop, _open(stage, arrivals.uniform(100.0, 0.1), connections=1))
    last = max(results, key=lambda result: result.due)
    assert last.sent - last.due > 0.15
    assert last.done - last.due >= last.sent - last.due


def test_closed_loop(stage: Stage, loop: Loop) -> None:
    """A closed loop never has more requests under way than it has connections."""

    async def main() -> list[Result]:
        async with Client(stage.url) as client:
            return await closed_loop(client, 3, 0.3, _traffic(), _ignore)

    results: list[Result] = _run(loop, main())
    moments = [(r.sent, 1) for r in results] + [(r.done, -1) for r in results]
    under_way = list(itertools.accumulate(step for _, step in sorted(moments)))
    assert max(under_way) <= 3
    assert len(results) > 10


def test_refusals_are_results(stage: Stage, loop: Loop) -> None:
    """A status other than 200 is counted under its number, and stops nothing."""
    stage.statuses = itertools.cycle([200, 503])
    results = _run(loop, _open(stage, arrivals.uniform(200.0, 0.2)))
    assert [result.ok for result in results].count(False) == len(results) / 2
    assert {result.outcome for result in results} == {"200", "503"}


def test_silence_is_a_result(stage: Stage, loop: Loop) -> None:
    """A request without an answer in time is a result of its own, and the next one is asked."""
    stage.stall_s = 0.4
    results = _run(loop, _open(stage, arrivals.uniform(20.0, 1.0), timeout_s=0.2))
    outcomes = [result.outcome for result in sorted(results, key=lambda result: result.due)]
    assert outcomes[0] == "timeout"
    assert outcomes[-1] == "200"


def test_the_late_answer_is_nobody_elses(stage: Stage, loop: Loop) -> None:
    """After a timeout, the next request on the client reads its own answer."""

    async def main() -> int:
        async with Client(stage.url, connections=1, timeout_s=0.2) as client:
            stage.stall_s = 0.4
            with pytest.raises(TimedOut):
                await client.post("/v1/rank", b'{"candidates":[1]}')
            stage.one_by_one = asyncio.Lock()
            answer = await client.post("/v1/rank", b'{"candidates":[1,2,3]}')
            return answer.body.count(b"0.5")

    assert _run(loop, main()) == 3


def test_nobody_there(loop: Loop) -> None:
    """Where nothing listens, the client says that there is nobody."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    async def main() -> None:
        async with Client(f"http://127.0.0.1:{port}") as client:
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
