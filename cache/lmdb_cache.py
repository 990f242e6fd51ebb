"""Timelines and rows in LMDB: embedded, durable, shared by the processes of one host."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import lmdb

from cache import keys, lmdb_store
from cache.codec import CodecError, decode_version, encode_version
from cache.errors import CacheUnavailable, StaleVersion
from cache.keeping import agreed_keep, wanted_keep
from cache.keys import LmdbKeys
from cache.layout import Layout
from cache.lmdb_room import HEADROOM_BYTES, Room
from cache.lmdb_store import Txn
from cache.lmdb_writer import LmdbWriter
from cache.patience import MOST_DAMAGES, Patience
from cache.raw import Answer, Question
from cache.reading import OnEvent, StoredRows, read, read_rows, read_stretch
from cache.sent import Sent
from cache.snapshot import Change, Snapshot
from cache.stretch import Stretch
from cache.timeline import Timeline
from cache.writing import write

T = TypeVar("T")

SWEEP_KEYS = 1000
"""Keys that one transaction of a sweep looks at."""

USERS_AT_ONCE = 1000
"""Users that one transaction lists."""


class LmdbCache:
    """Reads inline, for a microsecond; writes on a thread of its own. Open it after a fork."""

    is_elsewhere = False

    def __init__(
        self,
        path: str | Path,
        *,
        keep: int | None = None,
        least_keep: int = 1,
        record_ttl_s: float = 30 * 86400.0,
        timeline_ttl_s: float | None = None,
        map_size_gib: float = 64.0,
        is_durable: bool = True,
        on_event: OnEvent = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._record_ttl_s, self._timeline_ttl_s = record_ttl_s, timeline_ttl_s
        self._on_event, self._clock = on_event, clock
        most_bytes = int(map_size_gib * 2**30)
        try:
            Path(path).mkdir(parents=True, exist_ok=True)
            self._env = lmdb.open(
                str(path),
                map_size=most_bytes + HEADROOM_BYTES,
                max_readers=1024,
                sync=is_durable,
                metasync=is_durable,
            )
        except (lmdb.Error, OSError) as failed:
            raise CacheUnavailable(f"LMDB cannot open {path}: {failed}") from failed
        try:
            self._keep = self._agree(keep, least_keep)
        except BaseException:
            self._env.close()
            raise
        self._room = Room(self._env, most_bytes)
        self._writer = LmdbWriter(self._env)
        self._patience = Patience()
        self._is_open = True

    def __repr__(self) -> str:
        return f"<LmdbCache {self._env.path()} keep={self._keep}>"

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
            and self._read(partial(lmdb_store.is_unchanged, seal=known.seal))
        ):
            return known
        question = Question.about(user_id, limit, upto, layout, around, rows=rows)
        for _ in range(MOST_DAMAGES):
            answer = self._answer(question)
            try:
                return read(
                    question,
                    answer,
                    version=_version(question.owner, answer),
                    keep=self._keep,
                    now_s=self._clock(),
                    on_event=self._on_event,
                )
            except CodecError:
                await self._patience.wait(self._put_aside(question.owner, answer), within_s)
        raise CacheUnavailable("The timeline was damaged again and again while it was read.")

    async def fetch_rows(
        self, snapshot: Snapshot, chunks: Sequence[int], *, within_s: float | None = None
    ) -> StoredRows:
        owner = keys.owner_of(snapshot.user_id)
        fingerprint = snapshot.layout.fingerprint if snapshot.layout else ""
        bounds = [snapshot.stored.bounds[chunk] for chunk in chunks]
        version, values = self._read(
            partial(lmdb_store.rows_at, owner=owner, fingerprint=fingerprint, bounds=bounds)
        )
        if version != encode_version(LmdbKeys(owner).version, snapshot.version):
            raise StaleVersion(f"Somebody wrote this user since version {snapshot.version}.")
        return read_rows(snapshot, chunks, values, now_s=self._clock(), on_event=self._on_event)

    async def read_on(self, user_id: str, *, start: bytes, limit: int) -> Stretch:
        owner = keys.owner_of(user_id)
        answer, is_end = self._read(lambda txn: lmdb_store.stretch(txn, owner, start, limit))
        try:
            version = _version(owner, answer)
            return read_stretch(
                owner, answer, start, version=version, now_s=self._clock(), is_end=is_end
            )
        except CodecError:
            await self._put_aside(owner, answer)
            return Stretch(0, Timeline.empty(), is_end=True)

    async def append(self, change: Change) -> int:
        writes = write(
            change,
            now_s=self._clock(),
            record_ttl_s=self._record_ttl_s,
            timeline_ttl_s=self._timeline_ttl_s,
        )
        if writes is None:
            return change.base
        return await self._written(lambda txn: lmdb_store.apply(txn, writes, self._room))

    async def forget(self, user_id: str) -> None:
        owner = keys.owner_of(user_id)
        await self._written(lambda txn: lmdb_store.forget(txn, owner))

    async def users(self, *, least: int = 0, below: int | None = None) -> AsyncGenerator[str, None]:
        start: bytes | None = keys.LMDB_HEADS
        while start is not None:
            look = partial(
                lmdb_store.owners, start=start, limit=USERS_AT_ONCE, least=least, below=below
            )
            owners, start = await asyncio.to_thread(self._read, look)
            for owner in owners:
                yield owner.decode()

    async def note(self, name: str) -> bytes:
        key = keys.LMDB_NOTE + name.encode()
        return self._read(lambda txn: bytes(txn.get(key, b"")))

    async def replace_note(self, name: str, old: bytes, new: bytes) -> None:
        key = keys.LMDB_NOTE + name.encode()
        await self._written(lambda txn: lmdb_store.replace_note(txn, key, old, new))

    async def ping(self) -> None:
        self._read(lambda txn: txn.get(keys.LMDB_KEEP))

    async def close(self) -> None:
        if self._is_open:
            self._is_open = False
            await self._patience.close()
            await asyncio.to_thread(self._writer.close)
            self._env.close()

    async def sweep(self) -> AsyncGenerator[int, None]:
        """Deletes rows that have expired; yields how many chunks, after each short transaction."""
        start: bytes | None = keys.LMDB_ROWS
        while start is not None:
            now_s = self._clock()
            look = partial(lmdb_store.expired_rows, start=start, limit=SWEEP_KEYS, now_s=now_s)
            expired, start = await asyncio.to_thread(self._read, look)
            count = 0
            if expired:
                count = await self._written(
                    partial(lmdb_store.delete_expired, row_keys=expired, now_s=now_s)
                )
            yield count

    async def drop_rows(self, fingerprint: str) -> AsyncGenerator[int, None]:
        start: bytes | None = keys.LMDB_ROWS
        while start is not None:
            look = partial(
                lmdb_store.rows_of, fingerprint=fingerprint, start=start, limit=SWEEP_KEYS
            )
            found, start = await asyncio.to_thread(self._read, look)
            if found:
                yield await self._written(partial(lmdb_store.delete_rows, row_keys=found))
            else:
                yield 0

    def _agree(self, keep: int | None, least_keep: int) -> int:
        wanted = wanted_keep(keep, least_keep)
        txn: Txn
        with self._env.begin() as txn:
            remembered = txn.get(keys.LMDB_KEEP)
        if remembered is None:
            with self._env.begin(write=True) as txn:
                txn.put(keys.LMDB_KEEP, b"%d" % wanted, overwrite=False)
                remembered = txn.get(keys.LMDB_KEEP)
        return agreed_keep(remembered, keep, least_keep)

    def _answer(self, question: Question) -> Answer:
        return self._read(lambda txn: lmdb_store.answer(txn, question, self._keep))

    def _read(self, look: Callable[[Txn], T]) -> T:
        if not self._is_open:
            raise CacheUnavailable("LMDB is closed.")
        try:
            with self._env.begin() as txn:
                return look(txn)
        except lmdb.Error as failed:
            raise CacheUnavailable(f"LMDB did not answer: {failed}") from failed

    async def _written(self, work: Callable[[Txn], T]) -> T:
        if not self._is_open:
            raise CacheUnavailable("LMDB is closed.")
        return await asyncio.wrap_future(self._writer.submit(work))

    async def _put_aside(self, owner: bytes, answer: Answer) -> None:
        if await self._written(partial(lmdb_store.put_aside, owner=owner, seen=answer)):
            self._on_event("damaged_timeline")


def _version(owner: bytes, answer: Answer) -> int:
    if answer.version is None:
        return 0
    return decode_version(LmdbKeys(owner).version, answer.version)
