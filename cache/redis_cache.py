"""Timelines and rows in Redis (6.2 or later) or Valkey, shared by all replicas."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisAway
from redis.exceptions import RedisError

from cache import keys
from cache.codec import CodecError, decode_head, decode_version, encode_version
from cache.errors import CacheUnavailable, StaleVersion
from cache.keeping import agreed_keep, wanted_keep
from cache.keys import RedisKeys
from cache.layout import Layout
from cache.raw import Answer, Question, Seal, Writes
from cache.reading import OnEvent, read
from cache.redis_glance import Glances, sealed
from cache.script import Script
from cache.snapshot import Change, Snapshot
from cache.timeline import Event
from cache.writing import write

FORGET_TIMEOUT_S = 60.0
"""After damage a forget searches the whole store for rows of the user."""


class RedisCache:
    """One pool of connections; scripts make every write one atomic step."""

    def __init__(
        self,
        url: str,
        *,
        keep: int | None = None,
        least_keep: int = 1,
        record_ttl_s: float = 30 * 86400.0,
        timeline_ttl_s: float | None = None,
        timeout_s: float = 0.5,
        connections: int = 64,
        on_event: OnEvent = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        wanted_keep(keep, least_keep)
        self._keep, self._least_keep = keep, least_keep
        self._record_ttl_s, self._timeline_ttl_s = record_ttl_s, timeline_ttl_s
        self._timeout_s = timeout_s
        self._on_event, self._clock = on_event, clock
        self._agreed: int | None = None
        self._slots = asyncio.Semaphore(connections)
        # Our own timeout spans a whole call, and cancelling closes the connection in redis-py 8
        # (read_response, send_packed_command), so that no reply is left for the next caller.
        # One retry, on a lost connection only: the pool's are all dead after a server's restart.
        self._client: Any = Redis.from_pool(  # its types say bytes or str; ours are bytes
            ConnectionPool.from_url(
                url,
                protocol=2,
                decode_responses=False,
                socket_timeout=None,
                socket_connect_timeout=timeout_s,
                max_connections=connections,
                driver_info=None,
                retry=Retry(NoBackoff(), 1, supported_errors=(RedisAway,)),
            )
        )
        self._glances = Glances(self._client.connection_pool)
        self._fetch, self._append = Script("fetch.lua"), Script("append.lua")
        self._forget, self._quarantine = Script("forget.lua"), Script("quarantine.lua")

    def __repr__(self) -> str:
        return f"<RedisCache keep={self._agreed or 'not asked yet'}>"

    async def fetch(
        self,
        user_id: str,
        *,
        limit: int,
        upto: int | None = None,
        layout: Layout | None = None,
        around: Sequence[Event] = (),
        known: Snapshot | None = None,
    ) -> Snapshot:
        if (
            known is not None
            and known.would_answer(user_id, limit, upto, layout, self._clock())
            and await self._is_unchanged(known.seal)
        ):
            return known
        question = Question.about(user_id, limit, upto, layout, around)
        async with self._translated():
            keep = await self._settled()
            while True:
                answer = await self._answer(question, keep)
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
                    await self._put_aside(place, question.owner, answer)

    async def append(self, change: Change) -> int:
        writes = write(
            change,
            now_s=self._clock(),
            record_ttl_s=self._record_ttl_s,
            timeline_ttl_s=self._timeline_ttl_s,
        )
        if writes is None:
            return change.base
        async with self._translated():
            version = await self._append(self._client, *self._called(writes))
        if version is None:
            raise StaleVersion(f"Somebody wrote this user since version {writes.base}.")
        return int(version)

    async def forget(self, user_id: str) -> None:
        owner = keys.owner_of(user_id)
        place = RedisKeys(owner)
        async with self._translated(FORGET_TIMEOUT_S):
            forgotten = 0
            while not forgotten:
                version, head = await self._client.hmget(place.timeline, ["v", "h"])
                aside: list[bytes] = sorted(await self._client.smembers(place.quarantine))
                # Rows can outlive a timeline that was damaged, expired or evicted.
                is_sure = not aside and not self._timeline_ttl_s
                rows = await self._rows_of(place, owner, head, is_sure=is_sure)
                forgotten = await self._forget(
                    self._client,
                    [place.timeline, place.index, place.quarantine, place.floor, *aside, *rows],
                    [version or b"", head or b"", len(aside)],
                )

    async def ping(self) -> None:
        async with self._translated():
            await self._client.ping()
            await self._settled()

    async def close(self) -> None:
        await self._glances.close()
        await self._client.aclose()
        await self._client.connection_pool.disconnect()

    async def _is_unchanged(self, seal: Seal) -> bool:
        """As inside `_translated`, whose layers would cost more than the question."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._glances.is_unchanged(seal)
        except (RedisError, OSError) as failed:  # a TimeoutError is an OSError
            raise _away(failed, self._timeout_s) from failed

    @asynccontextmanager
    async def _translated(self, timeout_s: float | None = None) -> AsyncIterator[None]:
        """One call's share of the pool and of time; what the client raises becomes ours."""
        timeout_s = timeout_s or self._timeout_s
        try:
            async with asyncio.timeout(timeout_s), self._slots:
                yield
        except (RedisError, OSError) as failed:
            raise _away(failed, timeout_s) from failed

    async def _settled(self) -> int:
        """What the store keeps; asked once, at the first contact."""
        if self._agreed is None:
            wanted = wanted_keep(self._keep, self._least_keep)
            await self._client.set(keys.KEEP, wanted, nx=True)
            remembered: bytes = await self._client.get(keys.KEEP) or b""
            self._agreed = agreed_keep(remembered, self._keep, self._least_keep)
        return self._agreed

    async def _answer(self, question: Question, keep: int) -> Answer:
        place = RedisKeys(question.owner)
        named = [place.timeline, place.index, place.quarantine]
        has_rows = question.layout and question.wants_rows
        fingerprint = question.layout.fingerprint if has_rows and question.layout else None
        if fingerprint:
            named.append(place.rows(fingerprint))
        found = await self._fetch(
            self._client,
            named,
            [question.least, question.end or b"", question.reach, keep, *question.around],
        )
        version, head, quarantined, first, newer, bounds, chunks, rows, others, values = found
        return Answer(
            version=version,
            head=head,
            is_quarantined=bool(quarantined),
            first=first,
            newer=newer,
            tail=list(zip(bounds, chunks, strict=True)),
            elsewhere=list(zip(others, values, strict=True)),
            rows=rows,
            seal=sealed(place, version or b"", fingerprint),
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
            *writes.drop_chunks,
            *(part for put in writes.put_chunks for part in put),
            *writes.drop_rows,
            *(part for put in writes.put_rows for part in put),
        ]
        return named, arguments

    async def _put_aside(self, place: RedisKeys, owner: bytes, answer: Answer) -> None:
        """Moves a damaged timeline away, unless somebody wrote it since."""
        aside = place.aside(time.time_ns() // 1000)
        rows = await self._rows_of(place, owner, answer.head, is_sure=True)
        named = [place.timeline, place.index, place.quarantine, place.floor, *aside, *rows]
        arguments = [answer.version or b"", answer.head or b""]
        if await self._quarantine(self._client, named, arguments):
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
            async for key in self._client.scan_iter(match=place.rows_pattern, count=1000):
                if place.is_rows(key):
                    found.add(key)
        return sorted(found)


def _away(failed: Exception, timeout_s: float) -> CacheUnavailable:
    if isinstance(failed, TimeoutError):
        return CacheUnavailable(f"Redis did not answer in {timeout_s} s.")
    return CacheUnavailable(f"Redis did not answer: {failed}")


def _version(place: RedisKeys, answer: Answer) -> int:
    if answer.version is None:
        return 0
    return decode_version(place.timeline, answer.version)
