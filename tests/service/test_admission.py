"""Who is let in when the house is full, and until when they are served."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from service.admission import CALM_S, CROWD_S, Admission
from service.errors import DeadlineExceeded, Overloaded
from service.job import Lane
from service.pace import COST_PER_MS, Pace
from service.timings import Timings
from tests import plain

RANK = {"user_id": "u", "candidates": list(range(1, 51))}
HEAD = (
    b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
)


class Waits:
    """As much of a batcher as is asked."""

    before = 0.0
    before_events = 0.0

    def wait_s(self, lane: Lane) -> float:
        return self.before + (self.before_events if lane is Lane.EVENT else 0.0)


class Clock:
    """A clock the test holds."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def queue() -> Waits:
    return Waits()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission(queue: Waits, clock: Clock) -> Admission:
    return Admission(queue, few=8, queue_s=0.02, crowd_s=0.2, clock=clock)  # type: ignore[arg-type]


@pytest.fixture
def is_refused(admission: Admission, clock: Clock) -> Callable[..., bool]:
    """Whether somebody is who came in so long ago, with so many others."""

    def asked(waited_s: float = 0.0, company: int = 9) -> bool:
        try:
            admission.check(Timings(clock() - waited_s), company)
        except Overloaded:
            return True
        return False

    return asked


def test_a_standing_queue_is_short(
    queue: Waits, clock: Clock, is_refused: Callable[..., bool]
) -> None:
    """Long for a moment after it was short; from then on nobody comes until it is shorter."""
    queue.before = 0.004
    assert not is_refused()
    queue.before = 0.1
    clock.now += 0.9 * CROWD_S
    assert not is_refused()
    queue.before = 0.015
    clock.now += 0.2 * CROWD_S
    assert not is_refused()
    queue.before = 0.1
    assert is_refused()
    queue.before = 0.004
    clock.now += 1.1 * CALM_S
    assert not is_refused()
    queue.before = 0.1
    assert not is_refused()


def test_a_crowd_may_come_at_once(queue: Waits, is_refused: Callable[..., bool]) -> None:
    """A queue that is long for a moment lets more in, but not any number."""
    assert not is_refused()
    queue.before = 0.1
    assert not is_refused()
    queue.before = 0.3
    assert not is_refused(company=8)
    assert is_refused()


def test_the_more_are_refused_the_shorter_is_the_queue(
    queue: Waits, clock: Clock, is_refused: Callable[..., bool]
) -> None:
    """Half of the few and a quarter of the queue in a flood, all of it after a moment of calm."""
    queue.before = 0.015
    assert not is_refused()
    queue.before = 0.3
    assert is_refused()
    queue.before = 0.015
    assert not is_refused()  # one is no flood
    queue.before = 0.3
    assert [is_refused() for _ in range(50)] == [True] * 50
    queue.before = 0.015
    assert is_refused(company=5)
    assert not is_refused(company=4)
    queue.before = 0.004
    assert not is_refused()
    queue.before = 0.015
    clock.now += 1.1 * CALM_S
    assert not is_refused()


def test_no_crowd_follows_a_flood(queue: Waits, is_refused: Callable[..., bool]) -> None:
    """Where more than a few were refused lately, a long queue takes nobody, not for a moment."""
    assert not is_refused()
    queue.before = 0.3
    assert is_refused()
    queue.before = 0.1
    assert not is_refused()
    queue.before = 0.3
    assert is_refused()
    queue.before = 0.1
    assert is_refused()


def test_waiting_for_the_loop_counts(clock: Clock, is_refused: Callable[..., bool]) -> None:
    """What came in long before its turn has queued; being held up once is no reason to refuse."""
    assert not is_refused()
    assert not is_refused(waited_s=0.1)
    clock.now += 2 * CROWD_S
    assert is_refused(waited_s=0.1)
    assert is_refused(waited_s=0.1)


def test_who_cannot_be_served_in_time_is_told_at_once(
    admission: Admission, queue: Waits, clock: Clock
) -> None:
    """503 where the wait would outlast the deadline, 504 where it has passed."""
    queue.before = 0.01
    now = clock()
    admission.check(Timings(now, deadline=now + 1), 9)
    with pytest.raises(Overloaded, match="deadline"):
        admission.check(Timings(now, deadline=now + 0.005), 9)
    with pytest.raises(DeadlineExceeded):
        admission.check(Timings(now, deadline=now - 1), 9)


def test_the_pace_follows_the_engine() -> None:
    """An estimate to start with, then what runs really took, the large ones above all."""
    pace = Pace()
    assert pace.seconds_for(COST_PER_MS) == pytest.approx(0.001)
    for _ in range(50):
        pace.saw(100 * COST_PER_MS, 0.3)
        pace.saw(1, 0.001)
    assert pace.seconds_for(COST_PER_MS) == pytest.approx(0.003, rel=0.05)


def test_a_machine_that_stands_still_is_not_slow() -> None:
    """One run that takes a hundred times as long changes nothing; two in ten are the pace."""
    pace = Pace()
    for _ in range(20):
        pace.saw(COST_PER_MS, 0.002)
    pace.saw(COST_PER_MS, 0.2)
    assert pace.seconds_for(COST_PER_MS) == pytest.approx(0.002)
    pace.saw(COST_PER_MS, 0.2)
    assert pace.seconds_for(COST_PER_MS) > 0.02
    assert "pairs/ms" in repr(pace)


def test_a_run_that_cost_nothing_is_no_pace() -> None:
    pace = Pace()
    pace.saw(COST_PER_MS, 0.002)
    before = pace.seconds_for(COST_PER_MS)
    for _ in range(20):
        pace.saw(0, 0.1)
    assert pace.seconds_for(COST_PER_MS) == before


def test_events_give_way(queue: Waits, clock: Clock, is_refused: Callable[..., bool]) -> None:
    """What waits for ranking and for events before them counts for events, and only for them."""
    events = Admission(queue, few=8, lane=Lane.EVENT, clock=clock)  # type: ignore[arg-type]
    assert not is_refused()
    queue.before_events = 0.3
    assert not is_refused()
    for queue.before, queue.before_events in ((0.0, 0.3), (0.3, 0.0)):
        with pytest.raises(Overloaded):
            events.check(Timings(clock()), 9)
    assert "EVENT" in repr(events)


@contextmanager
def stalled(running: Any) -> Iterator[None]:
    """The engine's thread stands still, and one caller has not finished sending."""
    held = threading.Event()
    engine = running.house.registry.active.engine
    engine.submit("rank", engine.bundle.example(), lambda *_: held.wait(300), lambda: True)
    with plain.line(running.port) as line:
        line.sendall(HEAD % b"/v1/events")
        try:
            yield
        finally:
            held.set()


@pytest.mark.parametrize(
    "path", [b"/v1/rank", b"/v1/rank:batch", b"/v1/events", b"/v2/models/marmot/infer"]
)
def test_a_full_house_refuses_before_it_reads(
    serve: Callable[..., Any], until: Callable[..., Any], path: bytes
) -> None:
    """503 with Retry-After to a head alone; health answers, and who was let in is served."""
    running = serve()
    batcher = running.house.registry.active.batcher
    with ThreadPoolExecutor(2) as callers, stalled(running):
        until(lambda: running.house.in_flight == 1)
        accepted = [callers.submit(running.rank, **RANK)]
        until(lambda: batcher.is_busy)
        accepted.append(callers.submit(running.rank, **RANK))
        until(lambda: batcher.wait_s(Lane.RANK) > 0)
        for admission in (running.house.admission, running.house.event_admission):
            admission._few, admission._queue_s, admission._crowd_s = 1, 0.0, 0.0
        with plain.line(running.port) as line:
            line.sendall(HEAD % path)
            head, _, body = line.recv(65_536).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 1" in head
            assert "waiting" in str(json.loads(body))
            # The rest of the body may still come, and the connection goes on.
            line.sendall(b" " * 100 + b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
            assert line.recv(65_536).startswith(b"HTTP/1.1 200")
        assert running.client.get("/health/ready").status_code == 200
        assert not any(each.done() for each in accepted)
    assert [each.result()["cache"]["state"] for each in accepted] == ["cold", "cold"]


@pytest.mark.parametrize("path", ["/v1/rank", "/v1/events"])
def test_a_timeout_in_the_head(serve: Callable[..., Any], path: str) -> None:
    """`X-Request-Timeout-Ms` is a deadline: 504 when it has passed, and nothing was done."""
    running = serve()
    event = {"user_id": "u", "item_id": 1, "timestamp": 1}
    body = RANK if path == "/v1/rank" else {"events": [event]}
    before = running.runs

    def status(timeout: str, **fields: Any) -> int:
        headers = {"x-request-timeout-ms": timeout}
        return int(running.client.post(path, json={**body, **fields}, headers=headers).status_code)

    assert status("0") == 504
    assert status("0.000001") == 504
    assert running.runs == before
    assert running.timeline("u")["version"] == 0
    assert status("60000") == 200
    for nonsense in ("soon", "-1", "1e3", "nan", "1" * 13):
        assert status(nonsense) == 422


def test_the_lesser_deadline_counts(serve: Callable[..., Any]) -> None:
    """Of `deadline_ms` and `X-Request-Timeout-Ms`, whichever is sooner; the default is for none."""
    running = serve(default_deadline_ms=1e-6)

    def status(deadline_ms: float | None, timeout: str | None) -> int:
        headers = {"x-request-timeout-ms": timeout} if timeout else {}
        fields = {} if deadline_ms is None else {"deadline_ms": deadline_ms}
        answer = running.client.post("/v1/rank", json={**RANK, **fields}, headers=headers)
        return int(answer.status_code)

    assert status(None, None) == 504
    assert status(60_000, None) == status(None, "60000") == status(60_000, "60000") == 200
    assert status(0, "60000") == status(60_000, "0") == 504


def test_a_batch_shares_its_timeout(serve: Callable[..., Any]) -> None:
    """Each request of a batch ends with the head's timeout."""
    running = serve()
    answer = running.client.post(
        "/v1/rank:batch", json={"requests": [RANK, RANK]}, headers={"x-request-timeout-ms": "0"}
    )
    assert [result["problem"]["status"] for result in answer.json()["results"]] == [504, 504]


def test_events_are_stored_or_refused(serve: Callable[..., Any]) -> None:
    """A flood of events of few users: 200 and stored, or 503 with Retry-After and not stored."""
    running = serve(few=2, event_queue_limit_ms=0.001, work_limit_ms=2.0)
    refused, stored = [], set()

    def flood(caller: int) -> None:
        with plain.Client(running.url) as client:
            for at in range(40):
                item = f"{caller}-{at}"
                event = {"user_id": f"u{at % 2}", "item_id": item, "timestamp": at}
                answer = client.post("/v1/events", json={"events": [event]})
                if answer.status_code == 200:
                    assert "status" in answer.json()["results"][0]
                    stored.add((f"u{at % 2}", item))
                else:
                    refused.append((answer.status_code, answer.headers["retry-after"]))

    with ThreadPoolExecutor(8) as callers:
        list(callers.map(flood, range(8)))
    assert set(refused) == {(503, "1")}
    assert stored == {
        (user, event["item_id"])
        for user in ("u0", "u1")
        for event in running.timeline(user)["events"]
    }
