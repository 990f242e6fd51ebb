"""Consumer: events from a stream into the store, acknowledged once they are stored.

What cannot be an event goes to the dead-letter stream with a sentence. What cannot be stored now is
tried again until it is, and nothing behind it is read meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from cache.timeline import Event
from service.consumer_metrics import ConsumerMetrics
from service.errors import InternalError, InvalidRequest, Problem, StreamAway
from service.events import to_event, too_late
from service.logging import log
from service.schemas import parse_event
from service.stream import FIELD, Entry, EventStream

USERS_AT_ONCE = 16
WAIT_S = 0.5
"""How long a read waits for entries, and so a stop for the read."""
SHORT_WAIT_S = 0.01  # where nothing more is expected
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 5.0
MOST_TRIES = 5
"""Of an event that fails for a reason nobody foresaw; then it must not hold up the others."""

START = b"0-0"

#: Stores a user's events and says what became of each; raises `Problem`.
Write = Callable[[str, Sequence[Event]], Awaitable[Sequence[str]]]


@dataclass(slots=True)
class Waiting:
    """An entry that is good, and how often it was tried in vain."""

    entry: Entry
    user_id: str
    event: Event
    tries: int = 0


@dataclass(slots=True)
class Consumer:
    """Reads, stores, acknowledges; several may share a group, here or elsewhere."""

    stream: EventStream
    write: Write
    metrics: ConsumerMetrics
    batch: int = 500
    claim_after_s: float = 60.0
    max_future_s: int = 86_400
    #: Where this consumer's own unacknowledged entries are read on; None once there are no more.
    _own: bytes | None = field(default=START, init=False)
    _cursor: bytes = field(default=START, init=False)
    _claims_at: float = field(default=0.0, init=False)

    def __repr__(self) -> str:
        return f"<Consumer of {self.stream!r}>"

    async def run(self, stop: asyncio.Event, *, until_empty: bool = False) -> None:
        """Goes on until stopped, or until nothing is left; what it was given last is settled."""
        pause_s = FIRST_PAUSE_S
        while not stop.is_set():
            try:
                entries = await self._next(SHORT_WAIT_S if until_empty else WAIT_S)
                if entries:
                    await self._settle(entries, stop)
                elif until_empty and await self._is_empty():
                    return
                pause_s = FIRST_PAUSE_S
            except StreamAway as away:
                self._failed("stream", away)
                self._own = START  # what was stored and not acknowledged is given again
                await _pause(stop, pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _is_empty(self) -> bool:
        lag = await self.stream.lag()
        return not lag.waiting and not lag.pending

    async def _next(self, wait_s: float) -> list[Entry]:
        """Own entries of an earlier life first, then those of the dead, then new ones."""
        if self._own is not None:
            if found := await self.stream.reread(self._own, self.batch):
                self._own = found[-1].id
                return found
            self._own = None
        if time.monotonic() >= self._claims_at:
            self._cursor, found = await self.stream.claim(
                self._cursor, self.batch, self.claim_after_s
            )
            if self._cursor == START:
                self._claims_at = time.monotonic() + self.claim_after_s / 2
            if found:
                self.metrics.claimed(len(found))
                return found
        return await self.stream.read(self.batch, wait_s)

    async def _settle(self, entries: Sequence[Entry], stop: asyncio.Event) -> None:
        began = time.perf_counter()
        waiting = await self._judged(entries)
        pause_s = FIRST_PAUSE_S
        while waiting:
            waiting = await self._store(waiting)
            if not waiting or stop.is_set():
                break  # what is left stays pending, and is given to whoever comes next
            await _pause(stop, pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        self.metrics.settled(time.perf_counter() - began)

    async def _judged(self, entries: Sequence[Entry]) -> list[Waiting]:
        """The good ones; the others are put aside."""
        latest, good, gone = int(time.time()) + self.max_future_s, [], []
        for entry in entries:
            if not entry.fields:
                gone.append(entry)
                continue
            try:
                good.append(_judge(entry, latest))
            except InvalidRequest as problem:
                await self._bury(entry, problem)
        if gone:
            log.warning("entries were deleted before they were stored", entries=len(gone))
            await self.stream.acknowledge(gone)
            self.metrics.became(["vanished"] * len(gone))
        return good

    async def _store(self, waiting: Sequence[Waiting]) -> list[Waiting]:
        """Stores and acknowledges; returns what has to be tried again."""
        by_user: dict[str, list[Waiting]] = {}
        for each in waiting:
            by_user.setdefault(each.user_id, []).append(each)
        few = asyncio.Semaphore(USERS_AT_ONCE)

        async def store(user_id: str, own: list[Waiting]) -> Sequence[str] | Problem:
            try:
                async with few:
                    return await self.write(user_id, [each.event for each in own])
            except Problem as problem:
                return problem
            except Exception:
                log.exception("unforeseen failure while recording")
                return InternalError()

        outcomes = await asyncio.gather(*(store(*each) for each in by_user.items()))
        done: list[Entry] = []
        again: list[Waiting] = []
        for own, outcome in zip(by_user.values(), outcomes, strict=True):
            if isinstance(outcome, Problem):
                again += await self._failed_ones(own, outcome)
            else:
                self.metrics.became(outcome)
                done += [each.entry for each in own]
        await self.stream.acknowledge(done)
        return again

    async def _failed_ones(self, own: Iterable[Waiting], problem: Problem) -> list[Waiting]:
        """What is worth another try: the store comes back, a failure nobody foresaw may not."""
        self._failed("store", problem)
        again = []
        for each in own:
            each.tries += isinstance(problem, InternalError)
            if each.tries < MOST_TRIES:
                again.append(each)
            else:
                await self._bury(each.entry, problem)
        return again

    async def _bury(self, entry: Entry, problem: Problem) -> None:
        await self.stream.bury(entry, str(problem))
        await self.stream.acknowledge([entry])
        self.metrics.became(["dead"])
        log.warning("entry put aside", entry=entry.id.decode(), stream=self.stream.dead.decode())

    def _failed(self, what: str, error: Exception) -> None:
        self.metrics.failed(what)
        log.warning(f"the {what} is away", error=str(error))


def _judge(entry: Entry, latest: int) -> Waiting:
    body = entry.fields.get(FIELD)
    if body is None:
        raise InvalidRequest("the entry has no field event")
    sent = parse_event(body)
    if problem := too_late(sent, latest):
        raise problem
    return Waiting(entry, str(sent["user_id"]), to_event(sent))


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
