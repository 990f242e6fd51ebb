"""Work behind the scenes that one process on a store does for all of them, a little at a time.

Records of a version that was loaded are built from the stored timelines, those of the most active
users first; records of one that was let go are deleted. Who does it says so in a note, and how far
it has come; whoever finds that nobody has said so lately goes on from there. No user is named:
what is done already shows, and is passed over quickly.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, field, replace
from time import perf_counter
from typing import Self

import orjson

from cache.base import Cache
from cache.errors import CacheError, StaleVersion
from service.errors import Contended, StoreAway
from service.job import Lane
from service.logging import log
from service.metrics import Metrics
from service.recorder import Recorder
from service.registry import Model
from service.rollout import Rollout
from service.rollouts import Rollouts
from service.timings import Timings

#: The note about them, in the store.
NOTE = "errands"

BANDS: tuple[tuple[int, int | None], ...] = ((512, None), (128, 512), (32, 128), (0, 32))
"""Users by how many events they have, the most active first."""
LEASE_S = 15.0
"""Who has said nothing for so long has ended."""
NEWS_S = 2.0
"""How often the note is written anew."""
DEADLINE_S = 60.0
"""What one user may take: who is in the last lane may wait."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the records of one fingerprint have come."""

    band: int = 0
    #: Users of the bands before, and of this one too.
    before: int = 0
    users: int = 0

    @property
    def is_done(self) -> bool:
        return self.band == len(BANDS)


@dataclass(frozen=True, slots=True)
class Ledger:
    """The note: who works, until when nobody else should, and how far everything is."""

    holder: str = ""
    until_s: float = 0.0
    rebuilt: dict[str, Progress] = field(default_factory=dict)

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """What cannot be read is forgotten: the work is done again, which changes nothing."""
        try:
            found = orjson.loads(value)
            rebuilt = {name: Progress(**each) for name, each in found["rebuilt"].items()}
            return cls(str(found["holder"]), float(found["until_s"]), rebuilt)
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()

    def encode(self) -> bytes:
        return orjson.dumps(asdict(self))

    def progress(self, fingerprint: str) -> Progress:
        return self.rebuilt.get(fingerprint, Progress())


class Lost(Exception):
    """Somebody else has taken over, or the work is not wanted any more."""


class Errands:
    """Looks every `poll_s` whether there is something to do that nobody does."""

    def __init__(
        self,
        cache: Cache,
        rollouts: Rollouts,
        metrics: Metrics,
        *,
        poll_s: float = 1.0,
        users_per_s: float = 100.0,
        share: float = 0.1,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cache, self._rollouts, self._metrics = cache, rollouts, metrics
        self._poll_s, self._least_s = poll_s, 1.0 / users_per_s
        #: How long a rest is for each second of work.
        self._rests = 1.0 / share - 1.0
        self._clock = clock
        self._name = secrets.token_hex(8)
        self._note, self._ledger = b"", Ledger()
        self._news_s = 0.0
        self._stop = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def __repr__(self) -> str:
        return f"<Errands {'closed' if self._task.done() else 'open'}>"

    async def close(self) -> None:
        """Finishes the user or the step it is at."""
        self._stop.set()
        await self._task

    async def users(self) -> dict[str, int]:
        """Users whose records were built, by fingerprint; what was known last if it is away."""
        ledger = self._ledger
        with suppress(CacheError):
            ledger = Ledger.decode(await self._cache.note(NOTE))
        return {name: progress.users for name, progress in ledger.rebuilt.items()}

    async def _run(self) -> None:
        while not self._stop.is_set():
            try:
                await self._look()
            except (CacheError, StoreAway, Lost):
                pass  # the store is away, or somebody else goes on
            except Exception:
                log.exception("work behind the scenes failed")
            await self._rest(self._poll_s)
        with suppress(CacheError, Lost):  # the next one need not wait
            await self._release()

    async def _look(self) -> None:
        wanted = self._rollouts.wanted
        if wanted is None or not self._has_work(wanted):
            return
        await self._read()
        if self._ledger.until_s > self._clock() and self._ledger.holder != self._name:
            return
        for fingerprint in wanted.swept:
            await self._sweep(fingerprint)
        for version, model in self._rollouts.ready().items():
            entry = wanted.entries.get(version)
            if entry and entry.is_rebuilt and not self._ledger.progress(model.fingerprint).is_done:
                await self._rebuild(model)
        await self._release()

    def _has_work(self, wanted: Rollout) -> bool:
        """By what is known here; the note knows better."""
        return bool(wanted.swept) or any(
            entry.is_rebuilt and not self._ledger.progress(entry.fingerprint).is_done
            for entry in wanted.entries.values()
        )

    async def _rebuild(self, model: Model) -> None:
        """Writes what a version misses; users that have their records cost one read."""
        progress = self._ledger.progress(model.fingerprint)
        progress = replace(progress, users=progress.before)
        if model.layout is None:  # it caches nothing
            progress = Progress(len(BANDS))
        await self._note_progress(model, progress)
        recorder = Recorder(self._cache, deadline_s=DEADLINE_S, lane=Lane.REBUILD)
        for band in range(progress.band, len(BANDS)):
            least, below = BANDS[band]
            async with aclosing(self._cache.users(least=least, below=below)) as users:
                async for user in users:
                    began = perf_counter()
                    with suppress(Contended):  # whoever writes them all the time writes rows too
                        await recorder.record(model, user, (), Timings())
                    self._metrics.built(model.version)
                    progress = replace(progress, users=progress.users + 1)
                    if perf_counter() > self._news_s:
                        await self._note_progress(model, progress)
                    await self._breathe(perf_counter() - began)
                    self._check_wanted(model)
            progress = Progress(band + 1, progress.users, progress.users)
            await self._note_progress(model, progress)
        log.info("records built", users=progress.users, **model.name)

    def _check_wanted(self, model: Model) -> None:
        if self._stop.is_set() or self._rollouts.ready().get(model.version) is not model:
            raise Lost

    async def _note_progress(self, model: Model, progress: Progress) -> None:
        rebuilt = {**self._ledger.rebuilt, model.fingerprint: progress}
        await self._hold(replace(self._ledger, rebuilt=rebuilt))

    async def _sweep(self, fingerprint: str) -> None:
        """Deletes until nothing is found: other processes may have written a last one."""
        deleted, found = 0, -1
        while found:
            found = 0
            await self._hold(self._ledger)
            async with aclosing(self._cache.drop_rows(fingerprint)) as steps:
                began = perf_counter()
                async for count in steps:
                    found += count
                    await self._breathe(perf_counter() - began)
                    if perf_counter() > self._news_s:
                        await self._hold(self._ledger)
                    if self._stop.is_set() or fingerprint not in self._swept():
                        raise Lost
                    began = perf_counter()
            deleted += found
            await self._rest(2 * self._poll_s if found else 0.0)
        rebuilt = {name: p for name, p in self._ledger.rebuilt.items() if name != fingerprint}
        await self._hold(replace(self._ledger, rebuilt=rebuilt))
        await self._rollouts.change(lambda now: now.without_swept(fingerprint))
        log.info("records deleted", fingerprint=fingerprint, chunks=deleted)

    def _swept(self) -> tuple[str, ...]:
        wanted = self._rollouts.wanted
        return wanted.swept if wanted else ()

    async def _hold(self, ledger: Ledger) -> None:
        """Writes how far everything is, and that we go on."""
        held = replace(ledger, holder=self._name, until_s=self._clock() + LEASE_S)
        await self._write(held)
        self._news_s = perf_counter() + NEWS_S

    async def _release(self) -> None:
        if self._ledger.holder == self._name:
            await self._write(replace(self._ledger, holder="", until_s=0.0))

    async def _read(self) -> None:
        self._note = await self._cache.note(NOTE)
        self._ledger = Ledger.decode(self._note)

    async def _write(self, ledger: Ledger) -> None:
        note = ledger.encode()
        try:
            await self._cache.replace_note(NOTE, self._note, note)
        except StaleVersion as error:
            raise Lost from error
        self._note, self._ledger = note, ledger

    async def _breathe(self, took_s: float) -> None:
        await self._rest(max(self._rests * took_s, self._least_s - took_s))

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
