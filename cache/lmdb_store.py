"""How a user lies in LMDB: what is read and written inside one transaction."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from struct import unpack_from
from typing import Any

from cache import keys
from cache.codec import encode_version, rows_expiry
from cache.errors import StaleVersion
from cache.keys import LmdbKeys
from cache.lmdb_room import Room
from cache.raw import Answer, Question, Seal, Writes

Txn = Any  # py-lmdb's types say bytes or memoryview everywhere; without buffers=True it is bytes
Cursor = Any


def answer(txn: Txn, question: Question, keep: int) -> Answer:
    """The same walk as `fetch.lua`."""
    place = LmdbKeys(question.owner)
    version, head = txn.get(place.version), txn.get(place.head)
    cursor = txn.cursor()
    is_quarantined = cursor.set_range(place.quarantine) and cursor.key().startswith(
        place.quarantine
    )
    if head is None:
        return Answer(version, head, is_quarantined)
    prefix, size = place.chunks, len(place.chunks)
    first = cursor.key()[size:] if _seek(cursor, prefix, prefix) else b""
    newer = _count_newer(cursor, prefix, question)
    tail: list[tuple[bytes, bytes | None]] = []
    seen, least = 0, question.least
    found = _seek_before(cursor, prefix, question.end)
    while found and seen < least:
        key, value = cursor.item()
        tail.append((key[size:], value))
        if len(tail) > 1 or not _is_cut(value, question.upto):
            seen += _count(value)
        found = cursor.prev() and cursor.key().startswith(prefix)
    row_keys: list[bytes] = []
    if question.layout and question.wants_rows:
        start = place.rows(question.layout.fingerprint)
        row_keys = [start + bound for bound, _ in tail]
    rows = [txn.get(key) for key in row_keys]
    summary = None
    if question.layout and question.wants_summary:
        key = place.rows(question.layout.fingerprint) + keys.SUMMARY
        summary = txn.get(key)
        row_keys += [key] if summary else []
    seal = (place.version, version, *row_keys)
    known = {bound for bound, _ in tail}
    elsewhere = [
        (bound, txn.get(prefix + bound))
        for bound in _touched(cursor, place, question, _count(head), keep)
        if bound not in known
    ]
    return Answer(version, head, is_quarantined, first, newer, tail, elsewhere, rows, summary, seal)


def stretch(txn: Txn, owner: bytes, start: bytes, limit: int) -> tuple[Answer, bool]:
    """The same walk as `stretch.lua`: chunks, oldest first, and whether they end the timeline."""
    place = LmdbKeys(owner)
    prefix, size = place.chunks, len(place.chunks)
    cursor = txn.cursor()
    found = _seek(cursor, prefix + start, prefix) and cursor.key() == prefix + start
    found = found or _seek_before(cursor, prefix, start) or _seek(cursor, prefix, prefix)
    chunks: list[tuple[bytes, bytes | None]] = []
    seen = 0
    while found and seen < limit:
        key, value = cursor.item()
        chunks.append((key[size:], value))
        seen += _count(value)
        found = cursor.next() and cursor.key().startswith(prefix)
    first = chunks[0][0] if chunks else b""
    answer = Answer(txn.get(place.version), txn.get(place.head), first=first, tail=chunks)
    return answer, not found


def rows_at(
    txn: Txn, owner: bytes, fingerprint: str, bounds: Sequence[bytes]
) -> tuple[bytes | None, list[bytes | None]]:
    """The version, and the rows of these chunks."""
    place = LmdbKeys(owner)
    start = place.rows(fingerprint)
    return txn.get(place.version), [txn.get(start + bound) for bound in bounds]


def is_unchanged(txn: Txn, seal: Seal) -> bool:
    """Whether the user is at the version of an answer, and its row chunks are still there."""
    key, value, *others = seal  # the version's, then those of the row chunks
    if txn.get(key) != value:
        return False
    cursor = txn.cursor()
    return all(map(cursor.set_key, others))


def apply(txn: Txn, writes: Writes, room: Room) -> int:
    """The same step as `append.lua`; refused while there is still room to forget."""
    place = LmdbKeys(writes.owner)
    expected = encode_version(place.version, writes.base) if writes.base else None
    if txn.get(place.version) != expected:
        raise StaleVersion(f"Somebody wrote this user since version {writes.base}.")
    room.check(txn, writes)
    if writes.wipe:
        txn.delete(place.head)
        _delete_all(txn, place.chunks)
    for bound in writes.drop_chunks:
        txn.delete(place.chunk(bound))
    for bound, value in writes.put_chunks:
        txn.put(place.chunk(bound), value)
    version = writes.base
    if writes.head is not None:
        version = _next_version(txn, writes.base)
        txn.put(place.version, encode_version(place.version, version))
        txn.put(place.head, writes.head)
    if writes.fingerprint:
        _drop_untrue(txn, place, writes)
        _write_rows(txn, place.rows(writes.fingerprint), writes)
    for fingerprint in writes.drop_fingerprints:
        _delete_all(txn, place.rows(fingerprint))
    return version


def forget(txn: Txn, owner: bytes) -> None:
    """The floor stays; it names nobody."""
    place = LmdbKeys(owner)
    if txn.get(place.version) or txn.get(place.head):
        _raise_floor(txn, txn.get(place.version))
    txn.delete(place.version)
    txn.delete(place.head)
    for prefix in (place.chunks, place.all_rows, place.quarantine):
        _delete_all(txn, prefix)


def put_aside(txn: Txn, owner: bytes, seen: Answer) -> bool:
    """Moves a damaged timeline away, unless somebody wrote it since."""
    place = LmdbKeys(owner)
    if (txn.get(place.version), txn.get(place.head)) != (seen.version, seen.head):
        return False
    _raise_floor(txn, seen.version)
    aside = place.aside(time.time_ns() // 1000)
    damaged = [(key, txn.get(key)) for key in (place.version, place.head)]
    damaged += _items(txn, place.chunks)
    for key, value in damaged:
        if value is not None:
            txn.put(aside + key[:1] + key[len(place.head) :], value)
            txn.delete(key)
    _delete_all(txn, place.all_rows)
    return True


def owners(
    txn: Txn, start: bytes, limit: int, least: int, below: int | None
) -> tuple[list[bytes], bytes | None]:
    """Users with a timeline of that size among the next `limit`, and where to go on."""
    found: list[bytes] = []
    cursor = txn.cursor()
    there = _seek(cursor, start, keys.LMDB_HEADS)
    for _ in range(limit):
        if not there:
            return found, None
        count = _count(cursor.value())
        if count >= least and (below is None or count < below):
            found.append(keys.owner_of_head(cursor.key()))
        there = cursor.next() and cursor.key().startswith(keys.LMDB_HEADS)
    return found, cursor.key() if there else None


def replace_note(txn: Txn, key: bytes, old: bytes, new: bytes) -> None:
    """Writes a note where nobody else did."""
    if txn.get(key, b"") != old:
        raise StaleVersion("Somebody wrote this note since it was read.")
    if new:
        txn.put(key, new)
    else:
        txn.delete(key)


def rows_of(
    txn: Txn, fingerprint: str, start: bytes, limit: int
) -> tuple[list[bytes], bytes | None]:
    """Row keys of one fingerprint among the next `limit` of all, and where to go on."""
    found: list[bytes] = []
    cursor = txn.cursor()
    there = _seek(cursor, start, keys.LMDB_ROWS)
    for _ in range(limit):
        if not there:
            return found, None
        if keys.is_rows_of(cursor.key(), fingerprint):
            found.append(cursor.key())
        there = cursor.next() and cursor.key().startswith(keys.LMDB_ROWS)
    return found, cursor.key() if there else None


def delete_rows(txn: Txn, row_keys: list[bytes]) -> int:
    """Says how many were there."""
    return sum(txn.delete(key) for key in row_keys)


def expired_rows(
    txn: Txn, start: bytes, limit: int, now_s: float
) -> tuple[list[bytes], bytes | None]:
    """Expired row keys among the next `limit`, and where to go on."""
    expired: list[bytes] = []
    cursor = txn.cursor()
    found = cursor.set_range(start)
    for _ in range(limit):
        if not found or not cursor.key().startswith(keys.LMDB_ROWS):
            return expired, None
        if rows_expiry(cursor.value()) <= now_s:
            expired.append(cursor.key())
        found = cursor.next()
    return expired, cursor.key() if found else None


def delete_expired(txn: Txn, row_keys: list[bytes], now_s: float) -> int:
    """Deletes those that nobody wrote again; says how many."""
    count = 0
    for key in row_keys:
        value = txn.get(key)
        if value is not None and rows_expiry(value) <= now_s:
            count += txn.delete(key)
    return count


def _count(value: bytes | None) -> int:
    """The count that every value keeps at the same place."""
    return int(unpack_from("<I", value, 4)[0]) if value and len(value) >= 8 else 0


def _is_cut(value: bytes, upto: int | None) -> bool:
    """Whether a chunk ends after `upto`: any number of its events may be before, or only one."""
    last = 28 + 8 * (_count(value) - 1)  # where the newest timestamp is: see codec.py
    return upto is not None and len(value) >= last + 8 and unpack_from("<q", value, last)[0] > upto


def _seek(cursor: Cursor, key: bytes, prefix: bytes) -> bool:
    """To the first key from here on."""
    return bool(cursor.set_range(key)) and cursor.key().startswith(prefix)


def _seek_before(cursor: Cursor, prefix: bytes, end: bytes | None) -> bool:
    """To the last chunk before `end`, or the last of all."""
    limit = prefix + end if end is not None else prefix[:-1] + b"\x01"
    found = cursor.prev() if cursor.set_range(limit) else cursor.last()
    return bool(found) and cursor.key().startswith(prefix)


def _count_newer(cursor: Cursor, prefix: bytes, question: Question) -> int:
    """Events in chunks from `end` on; rows are kept for the newest only, so far and no further."""
    if question.end is None:
        return 0
    newer = 0
    stop = prefix + question.end
    found = _seek_before(cursor, prefix, None)
    while found and cursor.key() >= stop and newer < max(question.reach, 1):
        newer += max(_count(cursor.value()), 1)
        found = cursor.prev()
    return newer


def _touched(
    cursor: Cursor, place: LmdbKeys, question: Question, count: int, keep: int
) -> list[bytes]:
    """Bounds of chunks that events fall into, and of the front if it will overflow."""
    prefix, size = place.chunks, len(place.chunks)
    bounds: dict[bytes, None] = {}
    around = question.around
    for key in around:
        found = _seek(cursor, prefix + key, prefix) and cursor.key() == prefix + key
        if found or _seek_before(cursor, prefix, key) or _seek(cursor, prefix, prefix):
            bounds[cursor.key()[size:]] = None
    excess = count + len(around) - keep
    found = bool(around) and _seek(cursor, prefix, prefix)
    while found and excess > 0:
        bounds[cursor.key()[size:]] = None
        excess -= max(_count(cursor.value()), 1)
        found = cursor.next() and cursor.key().startswith(prefix)
    return list(bounds)


def _write_rows(txn: Txn, prefix: bytes, writes: Writes) -> None:
    if writes.reset_rows:
        _delete_all(txn, prefix)
    for bound in writes.drop_rows:
        txn.delete(prefix + bound)
    for bound, value in writes.put_rows:
        txn.put(prefix + bound, value)
    if writes.oldest_rows:
        _delete_all(txn, prefix, before=prefix + writes.oldest_rows)


def _drop_untrue(txn: Txn, place: LmdbKeys, writes: Writes) -> None:
    """Removes the rows of so many chunks, from that of each key on."""
    if not writes.fingerprint:
        return
    prefix, rows = place.chunks, place.rows(writes.fingerprint)
    cursor = txn.cursor()
    for key in writes.untrue_keys:
        is_there = _seek(cursor, prefix + key, prefix) and cursor.key() == prefix + key
        found = is_there or _seek_before(cursor, prefix, key) or _seek(cursor, prefix, prefix)
        for _ in range(writes.untrue_chunks):
            if not found:
                break
            txn.delete(rows + cursor.key()[len(prefix) :])
            found = cursor.next() and cursor.key().startswith(prefix)


def _items(txn: Txn, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    cursor = txn.cursor()
    found = cursor.set_range(prefix)
    while found and cursor.key().startswith(prefix):
        yield cursor.item()
        found = cursor.next()


def _delete_all(txn: Txn, prefix: bytes, before: bytes | None = None) -> None:
    cursor = txn.cursor()
    found = cursor.set_range(prefix)
    while found and cursor.key().startswith(prefix):
        if before is not None and cursor.key() >= before:
            return
        found = cursor.delete() and bool(cursor.key())


def _next_version(txn: Txn, base: int) -> int:
    floor = int(txn.get(keys.LMDB_FLOOR, b"0"))
    return max(time.time_ns() // 1000, base + 1, floor + 1)


def _raise_floor(txn: Txn, version: bytes | None) -> None:
    """No later version may repeat one of a user that is gone."""
    text = (version or b"").partition(b":")[0]
    seen = int(text) if text.isdigit() and len(text) < 17 else 0  # longer: damaged
    floor = int(txn.get(keys.LMDB_FLOOR, b"0"))
    txn.put(keys.LMDB_FLOOR, b"%d" % max(floor, seen, time.time_ns() // 1000))
