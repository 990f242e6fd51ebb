"""Callers that go on while a store misbehaves, and what became of all they asked."""

from __future__ import annotations

import re
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests import plain
from tests.drills.pulse import running_pulse
from tests.servers import Running, wait_until

RANKS_PER_S, EVENTS_PER_S = 100, 20
USERS = [f"user-{at}" for at in range(20)]
CANDIDATES = list(range(10))
BACK_WITHIN_S = 2.0
CACHE_MS = re.compile(r"cache;dur=([0-9.]+)")


@dataclass(frozen=True)
class Ranked:
    """One answer to a rank request."""

    sent_s: float
    done_s: float
    status: int
    state: str
    cache_ms: float  # that the service says it spent on the store

    @property
    def is_away(self) -> bool:
        return self.state == "away"


@dataclass(frozen=True)
class Posted:
    """One answer to an event."""

    user: str
    item: str
    sent_s: float
    done_s: float
    status: int
    has_retry_after: bool

    @property
    def is_acknowledged(self) -> bool:
        return self.status == 200


@dataclass(frozen=True)
class Outcome:
    """A row of the table."""

    drill: str
    ranked: int
    failed: int
    posted: int
    refused: int
    excused: int  # of those, while the machine stood still
    lost: int
    away: int
    waited_ms: float  # for the store, by 99 of 100 answers that had to do without
    back_s: float | None
    shed: int = 0  # rank requests that were refused, as they should be


@dataclass
class Load:
    """Ranks and events at a steady pace from two threads, each answer kept."""

    running: Running
    ranks: list[Ranked] = field(default_factory=list)
    posts: list[Posted] = field(default_factory=list)
    back_s: float | None = None  # of time that the machine had

    def __enter__(self) -> Load:
        self._stack = ExitStack()
        self._pulse = self._stack.enter_context(running_pulse())
        for user in USERS:
            show(self.running, user, 9)
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(self._rank, RANKS_PER_S)),
            threading.Thread(target=self._repeat, args=(self._post, EVENTS_PER_S)),
        ]
        for thread in self._threads:
            thread.start()
        self.hold(0.3)
        wait_until(lambda: not self.ranks[-1].is_away)
        self._settled_s = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(30)
        self._excused = sum(map(self._is_excused, self.posts))
        self._stack.close()

    def hold(self, seconds: float) -> None:
        """Until so much has been asked and answered, an event among it."""
        target, began_s = len(self.ranks) + int(seconds * RANKS_PER_S), time.monotonic()
        wait_until(lambda: len(self.ranks) >= target, within_s=10 * seconds + 60)
        wait_until(lambda: self.posts and self.posts[-1].sent_s > began_s)

    def until_back(self, since_s: float | None = None) -> None:
        """Until ranking and events have both come back; keeps how long that took."""
        since_s = since_s or time.monotonic()
        ranked = wait_until(lambda: self._first_ranked(since_s))
        posted = wait_until(lambda: self._first_posted(since_s))
        back_s = max(ranked, posted)
        self.back_s = back_s - since_s - self._pulse.stood_s(since_s, back_s)

    def outcome(self, drill: str) -> Outcome:
        """Counts; every acknowledged event is looked for in its timeline."""
        away = sorted(rank.cache_ms for rank in self.ranks if rank.is_away)
        return Outcome(
            drill,
            len(self.ranks),
            sum(rank.status != 200 for rank in self.ranks),
            len(self.posts),
            sum(not post.is_acknowledged for post in self.posts),
            self._excused,
            self._lost(),
            len(away),
            away[int(0.99 * (len(away) - 1))] if away else 0.0,
            self.back_s,
        )

    @property
    def asked(self) -> int:
        """Answers without the store for which it was asked; the others have spent no time on it."""
        return sum(rank.cache_ms > 0 for rank in self._away)

    @property
    def away_s(self) -> float:
        """From the first answer without the store to the last."""
        return self._away[-1].done_s - self._away[0].sent_s if self._away else 0.0

    @property
    def _away(self) -> list[Ranked]:
        return [rank for rank in self.ranks if rank.is_away and rank.sent_s > self._settled_s]

    def _is_excused(self, post: Posted) -> bool:
        """Whether an event was refused because nothing ran here for a while, the store included."""
        return not post.is_acknowledged and self._pulse.stood_s(post.sent_s, post.done_s) > 0

    def _first_ranked(self, since_s: float) -> float | None:
        good = (
            r.done_s for r in self.ranks if r.sent_s > since_s and r.state in ("hit", "partial")
        )
        return next(good, None)

    def _first_posted(self, since_s: float) -> float | None:
        good = (p.sent_s for p in self.posts if p.sent_s > since_s and p.is_acknowledged)
        return next(good, None)

    def _lost(self) -> int:
        stored = {
            (user, event["item_id"])
            for user in USERS
            for event in self.running.timeline(user)["events"]
        }
        said = {(post.user, post.item) for post in self.posts if post.is_acknowledged}
        return len(said - stored)

    def _repeat(self, ask: Any, per_s: int) -> None:
        began = time.monotonic()
        with plain.Client(self.running.url) as client:
            count = 0
            while not self._is_over.wait(max(0.0, began + count / per_s - time.monotonic())):
                ask(client, count)
                count += 1

    def _rank(self, client: httpx.Client, count: int) -> None:
        sent_s = time.monotonic()
        body = {"user_id": USERS[count % len(USERS)], "candidates": CANDIDATES}
        answer = client.post("/v1/rank", json=body)
        is_good = answer.status_code == 200
        found = CACHE_MS.search(answer.headers["server-timing"])
        self.ranks.append(
            Ranked(
                sent_s,
                time.monotonic(),
                answer.status_code,
                answer.json()["cache"]["state"] if is_good else "",
                float(found[1]) if found else 0.0,
            )
        )

    def _post(self, client: httpx.Client, count: int) -> None:
        sent_s = time.monotonic()
        user, item = USERS[count % len(USERS)], f"item-{count}"
        event = {"user_id": user, "item_id": item, "timestamp": 1000 + count}
        answer = client.post("/v1/events", json={"events": [event]})
        self.posts.append(
            Posted(
                user,
                item,
                sent_s,
                time.monotonic(),
                answer.status_code,
                "retry-after" in answer.headers,
            )
        )


def show(running: Running, user: str, count: int) -> None:
    """Gives somebody a history; who was refused on a slow machine asks again."""
    events = [{"user_id": user, "item_id": at, "timestamp": at} for at in range(count)]
    wait_until(lambda: running.client.post("/v1/events", json={"events": events}).is_success)
