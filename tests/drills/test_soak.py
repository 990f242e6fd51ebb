"""A service for ten minutes, with a fault every twenty seconds.

    make soak                       SOAK_S=3600 make soak for an hour

It is asked at a share of what it can take, through a proxy before a store that has on disk what it
acknowledges. Faults take turns: the store is killed, stopped, slow, its replies are cut, a worker
is killed. What may be refused is refused during a fault and shortly after; nothing else may fail.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests import plain
from tests.drills.crowd import Asked, Crowd
from tests.drills.proxy import Proxy, running_proxy
from tests.servers import Command, RedisServer, is_up, running_redis, wait_until

pytestmark = pytest.mark.soak

SOAK_S = float(os.environ.get("SOAK_S", "600"))
EVERY_S = float(os.environ.get("SOAK_EVERY_S", "20"))
LOAD = float(os.environ.get("SOAK_LOAD", "0.7"))
CAPACITY = 0.8
"""Of what a few callers get who ask one after another, as in `test_overload.py`."""
RECOVERY_S = {"store": 2.0, "worker": 8.0}
GROWTH, SLACK_MIB = 1.1, 8.0
PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass
class Fault:
    """One fault, while it lasted."""

    name: str
    began_s: float
    ended_s: float = 0.0
    back_s: float = 0.0

    @property
    def recovery_s(self) -> float:
        return RECOVERY_S["worker" if "worker" in self.name else "store"]

    def explains(self, each: Asked) -> bool:
        """A refusal, or a line that broke because its worker died."""
        if each.done_s < self.began_s or each.sent_s > self.ended_s + self.recovery_s:
            return False
        return each.status == 503 or ("worker" in self.name and each.status == 0)


@dataclass
class Stage:
    """What can go wrong here."""

    store: RedisServer
    proxy: Proxy
    service: Command

    @property
    def workers(self) -> list[int]:
        """Process ids, the oldest first."""
        pid = self.service.process.pid
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(each) for each in found if b"spawn_main" in _command_line(each)]

    def faults(self) -> Iterator[tuple[str, float, Callable[[], Any], Callable[[], Any]]]:
        """Name, seconds, beginning and end; without end."""
        proxy = self.proxy
        return cycle(
            [
                ("store killed", 1.0, self.store.kill, self.store.start),
                ("store stopped", 2.0, self.store.pause, self.store.resume),
                ("worker killed", 0.0, self._kill_worker, lambda: None),
                ("store slow", 3.0, lambda: setattr(proxy, "delay_s", 0.05),
                 lambda: setattr(proxy, "delay_s", 0.0)),
                ("replies cut", 1.0, lambda: setattr(proxy, "cut_after", 3),
                 lambda: setattr(proxy, "cut_after", None)),
            ]
        )  # fmt: skip

    def _kill_worker(self) -> None:
        """The youngest: the oldest shows whether memory grows."""
        os.kill(self.workers[-1], signal.SIGKILL)

    def memory_mib(self) -> float:
        """Of the oldest worker."""
        text = Path(f"/proc/{self.workers[0]}/statm").read_text()
        return int(text.split()[1]) * PAGE_MIB


@pytest.fixture
def stage(
    marmot: Callable[..., Any], tiny_bundle: Path, tmp_path: Path, free_port: int
) -> Iterator[tuple[Stage, str]]:
    """`marmot serve` with two workers, on a durable store behind a proxy."""
    # Written before it is acknowledged: enough for a store that is killed, if not for its host.
    durable = ("--appendonly", "yes", "--appendfsync", "no")
    with running_redis(tmp_path, *durable) as store, running_proxy(store.port) as proxy:
        service = marmot(
            "serve", "--bundle", tiny_bundle, "--cache", proxy.url, "--workers", "2",
            "--threads", "1", "--port", str(free_port), "--drain-s", "0",
            MARMOT_LOG_LEVEL="error", MARMOT_NEAR_MIB="8", MARMOT_TRUTH_SHARE="0.01",
        )  # fmt: skip
        url = f"http://127.0.0.1:{free_port}"
        wait_until(lambda: is_up(url) or service.process.poll() is not None, within_s=120)
        assert service.process.poll() is None, service.ends()
        found = Stage(store, proxy, service)
        wait_until(lambda: len(found.workers) == 2, within_s=60)
        yield found, url


def test_soak(stage: tuple[Stage, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing acknowledged is lost, nobody gets another's answer, memory is flat."""
    scene, url = stage
    crowd = Crowd(url)
    rate = LOAD * CAPACITY * crowd.settle()
    crowd.start(rate)
    faults: list[Fault] = []
    memory: list[float] = []
    began_s = time.monotonic()
    try:
        for name, seconds, begin, end in scene.faults():
            next_s = began_s + EVERY_S * (len(faults) + 1)
            if next_s > began_s + SOAK_S:
                break
            _wait(scene, memory, next_s)
            fault = Fault(name, time.monotonic())
            begin()
            _wait(scene, memory, fault.began_s + seconds)
            end()
            fault.ended_s = time.monotonic()
            faults.append(fault)
            fault.back_s = _back_after(crowd, fault)
        _wait(scene, memory, began_s + SOAK_S)
    finally:
        crowd.stop()
    lost = crowd.lost()
    unexplained = [each for each in crowd.asked if _is_failure(each) and not _why(each, faults)]
    shed = [each for each in unexplained if each.outcome == "overloaded"]
    unexplained = [each for each in unexplained if each.outcome != "overloaded"]
    checks = {each: _checked(url, each) for each in ("equal", "different")}
    quarter = len(memory) // 4
    before, after = median(memory[quarter : 2 * quarter]), median(memory[-quarter:])
    with capsys.disabled():
        _print(crowd, faults, began_s)
        _tell(
            f"{rate:.0f} requests/s for {SOAK_S:.0f} s: {len(crowd.acknowledged)} events "
            f"acknowledged, {len(lost)} of them lost; {len(crowd.wrong)} wrong replies; "
            f"{len(unexplained)} failures unexplained; {len(shed)} shed outside of faults; "
            f"sampled answers: {checks}; oldest worker: {before:.0f} MiB in the second quarter, "
            f"{after:.0f} in the last"
        )
    assert not lost
    assert crowd.wrong == []
    assert unexplained == []
    assert not checks["different"]
    assert after <= GROWTH * before + SLACK_MIB
    assert {each.back_s < each.recovery_s for each in faults} <= {True}


def _wait(scene: Stage, memory: list[float], until_s: float) -> None:
    """Until then, looking at the memory once a second."""
    while (left_s := until_s - time.monotonic()) > 0:
        with suppress(OSError, IndexError):
            memory.append(scene.memory_mib())
        time.sleep(min(left_s, 1.0))


def _back_after(crowd: Crowd, fault: Fault) -> float:
    """Seconds until ranking and events are as they were."""
    done = [
        wait_until(lambda kind=kind: crowd.first_good(kind, fault.ended_s), within_s=15.0)
        for kind in ("rank", "event")
    ]
    return max(done) - fault.ended_s


def _is_failure(each: Asked) -> bool:
    return each.status != 200


def _why(each: Asked, faults: list[Fault]) -> bool:
    return any(fault.explains(each) for fault in faults)


def _print(crowd: Crowd, faults: list[Fault], began_s: float) -> None:
    head = f"{'fault':<16}{'times':>6}{'ranks':>8}{'away':>7}{'refused':>9}{'cut':>6}"
    _tell(f"\n{head}{'events':>9}{'refused':>9}{'p99':>11}{'back after':>12}")
    quiet = [each for each in crowd.asked if not any(_during(each, fault) for fault in faults)]
    _row("none", 1, [each for each in quiet if each.sent_s > began_s], "-")
    for name in dict.fromkeys(fault.name for fault in faults):
        same = [fault for fault in faults if fault.name == name]
        asked = [each for each in crowd.asked if any(_during(each, fault) for fault in same)]
        _row(name, len(same), asked, f"{max(fault.back_s for fault in same):.2f} s")


def _during(each: Asked, fault: Fault) -> bool:
    return each.done_s >= fault.began_s and each.sent_s <= fault.ended_s + fault.recovery_s


def _row(name: str, times: int, asked: list[Asked], back: str) -> None:
    ranks = [each for each in asked if each.kind == "rank"]
    events = [each for each in asked if each.kind == "event"]
    took = sorted(each.done_s - each.sent_s for each in ranks if each.status == 200) or [0.0]
    _tell(
        f"{name:<16}{times:>6}{len(ranks):>8}{sum(r.outcome == 'away' for r in ranks):>7}"
        f"{sum(r.status == 503 for r in ranks):>9}{sum(not each.status for each in asked):>6}"
        f"{len(events):>9}{sum(e.status == 503 for e in events):>9}"
        f"{took[int(0.99 * (len(took) - 1))] * 1e3:>8.1f} ms{back:>12}"
    )


def _checked(url: str, result: str) -> float:
    """Sampled answers that were computed again in full, of all workers."""
    name = f'marmot_truth_checks_total{{result="{result}"}}'
    lines = plain.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def _command_line(pid: str) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _tell(line: str) -> None:
    print(line)  # noqa: T201 - the soak is there to tell
