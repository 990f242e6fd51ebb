"""Timelines and rows in Redis (6.2 or later) or Valkey, shared by all replicas."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import compress
from typing import Any

from redis.exceptions import RedisClusterException, RedisError, ResponseError

from cache import keys
from cache.chunk import CHUNK_EVENTS
from cache.codec import CodecError, decode_head, decode_version, encode_version
from cache.errors import CacheUnavailable, StaleVersion
from cache.keeping import agreed_keep, wanted_keep
from cache.keys import RedisKeys
from cache.layout import Layout
from cache.patience import MOST_DAMAGES, Patience, was_late
from cache.raw import Answer, Question, Seal, Writes
from cache.reading import OnEvent, StoredRows, read, read_rows, read_stretch
from cache.redis_glance import sealed
from cache.redis_link import Command
from cache.redis_url import RedisUrl
from cache.script import Script
from cache.sent import Sent
from cache.snapshot import Change, Snapshot
from cache.stretch import Stretch
from cache.timeline import Timeline
from cache.writing import write

log = logging.getLogger(__name__)

FORGET_TIMEOUT_S = 60.0
"""After damage a forget searches the whole store for rows of the user."""

LOST = b"?"
"""In place of a bound: there is no timeline, but something that never outlives one by itself."""

PAGE = 32
"""Keys that are asked about at a time where all users are gone through."""

FAILURES = (RedisError, RedisClusterException, OSError)  # a TimeoutError is an OSError


class RedisCache:
    """One pool of connections; scripts make every write one atomic step."""

    is_elsewhere = True

    def __init__(
        self,
        url: str,
        *,
        keep: int | None = None,
        least_keep: int = 1,
        record_ttl_s: float = 30 * 86400.0,
        timeline_ttl_s: float | None = None,
        timeout_s: float = 0.5,
        acks: int = 0,
        replica_reads: bool = False,
        connections: int = 64,
        on_event: OnEvent = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        wanted_keep(keep, least_keep)
        self._keep, self._least_keep = keep, least_keep
        self._record_ttl_s, self._timeline_ttl_s = record_ttl_s, timeline_ttl_s
        self._timeout_s = timeout_s
        self._acks, self._replica_reads = acks, replica_reads
        self._on_event, self._clock = on_event, clock
        self._agreed: int | None = None
        self._slots = asyncio.Semaphore(connections)
        self._patience = Patience()
        self._link = RedisUrl.parse(url).link(
            timeout_s=timeout_s, connections=connections, replica_reads=replica_reads
        )
        self._fetch, self._append = Script("fetch.lua"), Script("append.lua")
        self._stretch = Script("stretch.lua")
        self._forget, self._quarantine = Script("forget.lua"), Script("quarantine.lua")
        self._note = Script("note.lua")

    def __repr__(self) -> str:
        return f"<RedisCache keep={self._agreed or 'not asked yet'}>"

    async def fetch(
        self,
        user_id: str,
        *,
        limit: int,
        upto: int | None = None,
        layout: Layout | None = None,
        around: Sent = (),
        known: Snapshot | None = None,
        within_s: float | None = None,
        may_be_old: bool = False,
        rows: bool = True,
    ) -> Snapshot:
        if (
            known is not None
            and known.would_answer(user_id, limit, upto, layout, self._clock())
            and await self._is_unchanged(known.seal, within_s or self._timeout_s)
        ):
            return known
        question = Question.about(user_id, limit, upto, layout, around, rows=rows)
        reading = self._read(question, may_be_old=may_be_old and self._replica_reads)
        return await self._patience.wait(reading, within_s)

    async def fetch_rows(
        self, snapshot: Snapshot, chunks: Sequence[int], *, within_s: float | None = None
    ) -> StoredRows:
        return await self._patience.wait(self._read_rows(snapshot, chunks), within_s)

    async def read_on(self, user_id: str, *, start: bytes, limit: int) -> Stretch:
        owner = keys.owner_of(user_id)
        place = RedisKeys(owner)
        async with self._translated():
            (found,) = await self._stretch(
                self._link, [place.timeline, place.index], [start, -(-limit // CHUNK_EVENTS) + 1]
            )
            version, head, bounds, chunks, more = found
            first = bounds[0] if bounds else b""
            answer = Answer(version, head, first=first, tail=list(zip(bounds, chunks, strict=True)))
            try:
                number, now_s = _version(place, answer), self._clock()
                return read_stretch(
                    owner, answer, start, version=number, now_s=now_s, is_end=not more
                )
            except CodecError:
                await self._put_aside(place, owner, answer)
        return Stretch(0, Timeline.empty(), is_end=True)

    async def append(self, change: Change) -> int:
        owner = keys.owner_of(change.user_id)
        writes = write(
            change,
            now_s=self._clock(),
            record_ttl_s=self._record_ttl_s,
            timeline_ttl_s=self._timeline_ttl_s,
        )
        confirming = self._confirming(RedisKeys(owner).floor) if change.statuses else ()
        if writes is None:
            if not confirming or not change.base:
                return change.base
            writes = Writes(change.user_id, owner, change.base)
        async with self._translated():
            version, *rest = await self._append(self._link, *self._called(writes), *confirming)
        if version is None:
            raise StaleVersion(f"Somebody wrote this user since version {change.base}.")
        self._check_acks(rest)
        return int(version)

    async def forget(self, user_id: str) -> None:
        owner = keys.owner_of(user_id)
        place = RedisKeys(owner)
        async with self._translated(FORGET_TIMEOUT_S):
            forgotten = 0
            while not forgotten:
                (version, head), aside = await self._link.send(
                    place.timeline,
                    ("HMGET", place.timeline, "v", "h"),
                    ("SMEMBERS", place.quarantine),
                )
                # Rows can outlive a timeline that was damaged, expired or evicted.
                is_sure = not aside and not self._timeline_ttl_s
                rows = await self._rows_of(place, owner, head, is_sure=is_sure)
                forgotten, *rest = await self._forget(
                    self._link,
                    [*place.forgotten, *sorted(aside), *rows],
                    [version or b"", head or b"", len(aside)],
                    *self._confirming(place.floor),
                )
        self._check_acks(rest)

    async def users(self, *, least: int = 0, below: int | None = None) -> AsyncGenerator[str, None]:
        async for page in self._scanned(keys.TIMELINES):
            found = page
            if least > 0 or below is not None:
                async with self._translated():
                    heads = await self._each(page, "HGET", "h")
                counts = map(_count, heads)
                fits = (least <= count and (below is None or count < below) for count in counts)
                found = list(compress(page, fits))
            for key in found:
                yield keys.owner_of_timeline(key).decode()

    async def note(self, name: str) -> bytes:
        key = keys.NOTE + name.encode()
        async with self._translated():
            (found,) = await self._link.send(key, ("GET", key))
        return found or b""

    async def replace_note(self, name: str, old: bytes, new: bytes) -> None:
        key = keys.NOTE + name.encode()
        confirming = self._confirming(key)[1:]
        async with self._translated():
            is_done, *rest = await self._note(self._link, [key], [old, new], *confirming)
        if not is_done:
            raise StaleVersion("Somebody wrote this note since it was read.")
        self._check_acks(rest)

    async def drop_rows(self, fingerprint: str) -> AsyncGenerator[int, None]:
        async for found in self._scanned(keys.rows_of_all(fingerprint)):
            async with self._translated():
                count = sum(await self._each(found, "UNLINK"))
            yield count

    async def ping(self) -> None:
        async with self._translated():
            await self._link.send(keys.KEEP, ("GET", keys.KEEP))
            await self._settled()

    async def close(self) -> None:
        await self._patience.close()
        await self._link.close()

    async def _scanned(self, pattern: bytes) -> AsyncIterator[list[bytes]]:
        """Keys that fit, some at a time; a scan takes as long as it takes."""
        page: list[bytes] = []
        try:
            async for key in self._link.scan(pattern):
                page.append(key)
                if len(page) == PAGE:
                    yield page
                    page = []
        except FAILURES as failed:
            raise _away(failed, self._timeout_s) from failed
        if page:
            yield page

    async def _each(self, found: Sequence[bytes], command: str, *more: str) -> list[Any]:
        """The same about every key, wherever it lives."""
        sent = (self._link.send(key, (command, key, *more)) for key in found)
        return [answer for (answer,) in await asyncio.gather(*sent)]

    async def _is_unchanged(self, seal: Seal, within_s: float) -> bool:
        """As inside `_translated`, whose layers would cost more than the question."""
        due_s = asyncio.get_running_loop().time() + within_s
        try:
            async with asyncio.timeout_at(due_s):
                return await self._link.is_unchanged(seal)
        except FAILURES as failed:
            if isinstance(failed, TimeoutError):
                if was_late(due_s):
                    return False  # it may have answered long ago: a fetch will tell
                self._patience.start(self._link.doubt(only_glances=True))
            raise _away(failed, within_s) from failed

    @asynccontextmanager
    async def _translated(self, timeout_s: float | None = None) -> AsyncIterator[None]:
        """One call's share of the pool and of time; what the client raises becomes ours."""
        timeout_s = timeout_s or self._timeout_s
        try:
            async with asyncio.timeout(timeout_s), self._slots:
                yield
        except FAILURES as failed:
            if isinstance(failed, TimeoutError):
                self._patience.start(self._link.doubt())
            raise _away(failed, timeout_s) from failed

    def _confirming(self, floor: bytes) -> tuple[Command, ...]:
        """What tells, behind a write on the same connection, how many replicas have it.

        WAIT is about the connection's own last write, and a repeated event writes nothing: so
        there always is one, of the version floor as it is.
        """
        if not self._acks:
            return ()
        return ("INCRBY", floor, 0), ("WAIT", self._acks, int(self._timeout_s * 500))

    def _check_acks(self, answers: Sequence[Any]) -> None:
        if answers and answers[-1] < self._acks:
            raise CacheUnavailable(
                f"Only {answers[-1]} of {self._acks} replicas confirmed a write in time."
            )

    async def _settled(self) -> int:
        """What the store keeps; asked once, at the first contact."""
        if self._agreed is None:
            wanted = wanted_keep(self._keep, self._least_keep)
            await self._link.send(keys.KEEP, ("SET", keys.KEEP, wanted, "NX"))
            (remembered,) = await self._link.send(keys.KEEP, ("GET", keys.KEEP))
            self._agreed = agreed_keep(remembered or b"", self._keep, self._least_keep)
            await self._warn_of_eviction()
        return self._agreed

    async def _warn_of_eviction(self) -> None:
        try:
            (memory,) = await self._link.send(keys.KEEP, ("INFO", "memory"))
        except ResponseError:
            return  # this user may not ask
        if (policy := str(memory.get("maxmemory_policy"))).startswith("allkeys"):
            log.warning(
                "Timelines may be evicted: maxmemory-policy is %s, not volatile-lru.", policy
            )

    async def _read(self, question: Question, *, may_be_old: bool) -> Snapshot:
        async with self._translated():
            keep = await self._settled()
            for _ in range(MOST_DAMAGES):
                answer = await self._answer(question, keep, may_be_old=may_be_old)
                place = RedisKeys(question.owner)
                try:
                    return read(
                        question,
                        answer,
                        version=_version(place, answer),
                        keep=keep,
                        now_s=self._clock(),
                        on_event=self._on_event,
                    )
                except CodecError:
                    if not may_be_old:  # a replica's damage says nothing about the primary
                        await self._put_aside(place, question.owner, answer)
                    may_be_old = False
        raise CacheUnavailable("The timeline was damaged again and again while it was read.")

    async def _read_rows(self, snapshot: Snapshot, chunks: Sequence[int]) -> StoredRows:
        place = RedisKeys(keys.owner_of(snapshot.user_id))
        bounds = [snapshot.stored.bounds[chunk] for chunk in chunks]
        fingerprint = snapshot.layout.fingerprint if snapshot.layout else ""
        async with self._translated():
            # The version is read behind the rows: they are of no later one.
            values, version = await self._link.send(
                place.timeline,
                ("HMGET", place.rows(fingerprint), *bounds),
                ("HGET", place.timeline, "v"),
            )
        if version != encode_version(place.timeline, snapshot.version):
            raise StaleVersion(f"Somebody wrote this user since version {snapshot.version}.")
        return read_rows(snapshot, chunks, values, now_s=self._clock(), on_event=self._on_event)

    async def _answer(self, question: Question, keep: int, *, may_be_old: bool) -> Answer:
        place = RedisKeys(question.owner)
        named = [place.timeline, place.index, place.quarantine]
        has_rows = question.layout and (question.wants_rows or question.wants_summary)
        fingerprint = question.layout.fingerprint if has_rows and question.layout else None
        if fingerprint:
            named.append(place.rows(fingerprint))
        (found,) = await self._fetch(
            self._link,
            named,
            [question.least, question.end or b"", question.reach, keep, *question.around],
            may_be_old=may_be_old,
        )
        version, head, quarantined, first, newer, bounds, chunks, rows, others, values, *last = (
            found
        )
        summary = last[0] if last and question.wants_summary else None
        watched = fingerprint if question.wants_rows or summary else None
        is_lost = first == LOST and version is None and not quarantined
        if is_lost and not self._timeline_ttl_s:
            self._on_event("evicted_timeline")
        return Answer(
            version=version,
            head=head,
            is_quarantined=bool(quarantined),
            first=first,
            newer=newer,
            tail=list(zip(bounds, chunks, strict=True)),
            elsewhere=list(zip(others, values, strict=True)),
            rows=rows,
            summary=summary,
            seal=sealed(place, version or b"", watched),
        )

    def _called(self, writes: Writes) -> tuple[list[bytes], list[bytes | int]]:
        place = RedisKeys(writes.owner)
        named = [place.timeline, place.index, place.floor]
        if writes.fingerprint:
            named.append(place.rows(writes.fingerprint))
        named += [place.rows(fingerprint) for fingerprint in writes.drop_fingerprints]
        arguments: list[bytes | int] = [
            encode_version(place.timeline, writes.base) if writes.base else b"",
            writes.head or b"",
            int(writes.wipe),
            int(writes.expires_at_s * 1000),
            int(self._record_ttl_s * 1000),
            int(writes.fingerprint is not None),
            int(writes.reset_rows),
            writes.oldest_rows,
            writes.most_rows,
            len(writes.drop_chunks),
            len(writes.put_chunks),
            len(writes.drop_rows),
            len(writes.put_rows),
            len(writes.untrue_keys),
            writes.untrue_chunks,
            *writes.drop_chunks,
            *(part for put in writes.put_chunks for part in put),
            *writes.drop_rows,
            *(part for put in writes.put_rows for part in put),
            *writes.untrue_keys,
        ]
        return named, arguments

    async def _put_aside(self, place: RedisKeys, owner: bytes, answer: Answer) -> None:
        """Moves a damaged timeline away, unless somebody wrote it since."""
        aside = place.aside(time.time_ns() // 1000)
        rows = await self._rows_of(place, owner, answer.head, is_sure=True)
        named = [place.timeline, place.index, place.quarantine, place.floor, *aside, *rows]
        arguments = [answer.version or b"", answer.head or b""]
        (is_done,) = await self._quarantine(self._link, named, arguments)
        if is_done:
            self._on_event("damaged_timeline")

    async def _rows_of(
        self, place: RedisKeys, owner: bytes, head: bytes | None, *, is_sure: bool
    ) -> list[bytes]:
        """The user's row keys: the head names them; without it the whole store is searched."""
        try:
            named = decode_head(owner, head).fingerprints if head else ()
        except CodecError:
            is_sure = False
            named = ()
        found = {place.rows(fingerprint) for fingerprint in named}
        if not is_sure:
            async for key in self._link.scan(place.rows_pattern):
                if place.is_rows(key):
                    found.add(key)
        return sorted(found)


def _away(failed: Exception, timeout_s: float) -> CacheUnavailable:
    if isinstance(failed, TimeoutError):
        return CacheUnavailable(f"Redis did not answer in {timeout_s} s.")
    return CacheUnavailable(f"Redis did not answer: {failed}")


def _count(value: bytes | None) -> int:
    """The count that every value keeps at the same place: see codec.py."""
    return int.from_bytes(value[4:8], "little") if value else 0


def _version(place: RedisKeys, answer: Answer) -> int:
    if answer.version is None:
        return 0
    return decode_version(place.timeline, answer.version)
