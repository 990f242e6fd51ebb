"""Callers for a long time: ranks and events at a steady rate, every reply checked."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import uvloop

from loadtest.client import Answer, Client, ClientError
from loadtest.driver import closed_loop
from loadtest.traffic import Request

USERS, HISTORY, CANDIDATES = 60, 30, 12
THEN = 1_000_000
"""All rank requests but every third are about this moment, whose scores no later event may move."""
EVENT_EVERY, NOW_EVERY = 10, 3
LAW = 1e-4
PROBE_S, PROBE_CALLERS = 3.0, 4


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, and what became of it."""

    kind: str  # rank, or event
    sent_s: float
    done_s: float
    outcome: str  # a rank's cache state, an event's status, a problem's name, or how the line broke
    status: int  # 0: no answer

    @property
    def is_good(self) -> bool:
        return self.status == 200 and self.outcome != "away"


@dataclass
class Crowd:
    """Everybody who asks one service, in a thread of its own."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    acknowledged: set[tuple[str, str]] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    """Replies that are somebody else's, or untrue."""

    def __post_init__(self) -> None:
        self._truth: dict[str, list[float]] = {}
        self._is_over = threading.Event()

    def settle(self) -> float:
        """Gives everybody a history, asks what is true; answers what a few callers get a second."""
        return uvloop.run(self._settle())

    def start(self, rate: float) -> None:
        """Asks at this rate, whatever becomes of the answers."""
        self._thread = threading.Thread(target=lambda: uvloop.run(self._go_on(rate)))
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join(60)

    def first_good(self, kind: str, since_s: float) -> float | None:
        """When such a request was answered well that was sent since then."""
        late = (each for each in reversed(self.asked[-5_000:]) if each.sent_s >= since_s)
        return min((a.done_s for a in late if a.kind == kind and a.is_good), default=None)

    def lost(self) -> set[tuple[str, str]]:
        """Acknowledged events that are not in their user's timeline."""
        return uvloop.run(self._lost())

    async def _settle(self) -> float:
        async with Client(self.url) as client:
            for user in _users():
                events = [
                    {"user_id": user, "item_id": (at * 7 + _number(user)) % 60, "timestamp": at,
                     "feedback": {"like": (at + _number(user)) % 2}}
                    for at in range(HISTORY)
                ]  # fmt: skip
                answer = await client.post("/v1/events", json.dumps({"events": events}).encode())
                assert answer.status == 200, answer.body
                self._truth[user] = await _scores(client, user)
            # Mixed as later on: users whom nobody writes are ranked for much less.
            mix = map(_probe, count(1))
            results = await closed_loop(client, PROBE_CALLERS, PROBE_S, mix, lambda _: None)
        return sum(result.ok for result in results) / PROBE_S

    async def _go_on(self, rate: float) -> None:
        began = time.monotonic()
        async with Client(self.url, timeout_s=20) as client, asyncio.TaskGroup() as group:
            for number in count():
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
                if self._is_over.is_set():
                    return
                ask = self._post if number % EVENT_EVERY == 0 else self._ask
                group.create_task(ask(client, number))

    async def _ask(self, client: Client, number: int) -> None:
        user = _user(number)
        then = THEN if number % NOW_EVERY else None
        answer = await self._sent(client, "rank", "/v1/rank", _rank(user, then))
        if answer is None or answer.status != 200:
            return
        told = json.loads(answer.body)
        scores = told["scores"]["like"]
        if told["user_id"] != user or sorted(told["ranking"]) != _candidates(user):
            self.wrong.append(f"{user} was told {told['user_id']} {told['ranking']}")
        elif then and _is_whole(told):
            pairs = zip(scores, self._truth[user], strict=True)
            if max(abs(score - true) for score, true in pairs) > LAW:
                self.wrong.append(f"{user} was told {scores}, not {self._truth[user]}")

    async def _post(self, client: Client, number: int) -> None:
        user, item = _user(number // EVENT_EVERY), f"soak-{number}"
        body = _event(user, item, number)
        answer = await self._sent(client, "event", "/v1/events", body)
        if answer is not None and answer.status == 200:
            self.acknowledged.add((user, item))

    async def _sent(self, client: Client, kind: str, path: str, body: bytes) -> Answer | None:
        sent_s = time.monotonic()
        try:
            answer = await client.post(path, body)
        except ClientError as error:
            self.asked.append(Asked(kind, sent_s, time.monotonic(), error.word, 0))
            return None
        self.asked.append(Asked(kind, sent_s, answer.done, _outcome(kind, answer), answer.status))
        return answer

    async def _lost(self) -> set[tuple[str, str]]:
        stored = set()
        async with Client(self.url) as client:
            for user in _users():
                answer = await client.get(f"/v1/users/{user}/timeline?limit=10000")
                events = json.loads(answer.body)["events"]
                stored |= {(user, event["item_id"]) for event in events}
        return self.acknowledged - stored


async def _scores(client: Client, user: str) -> list[float]:
    """What is true of a user; on a busy host the store may be late for a first try."""
    async with asyncio.timeout(30):
        while True:
            told = json.loads((await client.post("/v1/rank", _rank(user, THEN))).body)
            if _is_whole(told):
                found: list[float] = told["scores"]["like"]
                return found


def _is_whole(told: dict[str, Any]) -> bool:
    return told["cache"]["state"] in {"hit", "partial"} and not told["degraded"]


def _outcome(kind: str, answer: Answer) -> str:
    told: dict[str, Any] = json.loads(answer.body)
    if answer.status == 200:
        return str(told["cache"]["state"] if kind == "rank" else told["results"][0]["status"])
    problem = told["results"][0]["problem"] if "results" in told else told
    return str(problem["type"]).rsplit("/", 1)[-1]


def _users() -> Iterator[str]:
    return map(_user, range(USERS))


def _user(number: int) -> str:
    return f"user-{number % USERS}"


def _number(user: str) -> int:
    return int(user.removeprefix("user-"))


def _candidates(user: str) -> list[int]:
    """Everybody asks about others, so that no answer fits anybody else."""
    return list(range(100 * _number(user), 100 * _number(user) + CANDIDATES))


def _event(user: str, item: str, number: int) -> bytes:
    """One that comes after the moment about which most rank requests are."""
    event = {"user_id": user, "item_id": item, "timestamp": THEN + 1 + number}
    return json.dumps({"events": [event]}).encode()


def _probe(number: int) -> Request:
    if number % EVENT_EVERY == 0:
        user = _user(number // EVENT_EVERY)
        return Request("event", "/v1/events", _event(user, f"probe-{number}", number))
    then = THEN if number % NOW_EVERY else None
    return Request("rank", "/v1/rank", _rank(_user(number), then))


def _rank(user: str, timestamp: int | None) -> bytes:
    asked = {"user_id": user, "candidates": _candidates(user), "timestamp": timestamp}
    return json.dumps(asked).encode()
