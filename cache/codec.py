"""Bytes of every value in a store. No pickle, no guessing: what does not fit raises `CodecError`.

All numbers are little-endian. Every value begins alike, so that scripts can count without decoding:

    0  magic (2 bytes), format (1), zero (1)
    4  count of events (u32)
    8  checksum (u64): xxh3_64 of all from byte 16 on, seeded with bytes 0 to 7
    16 the rest, which ends with the owner's id, so that no value is believed in a foreign place;
       in a timeline chunk its timestamps (i64 per event) begin at byte 28
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from cache.head import Head
from cache.layout import Layout
from cache.summary import Summary
from cache.timeline import FeedbackColumn, Timeline

FORMAT = 1

_START = Struct("<2sBBIQ")  # magic, format, zero, count, checksum
_CHUNK = Struct("<HHII")  # bytes of the owner, feedback names, bytes of the names, bytes of the ids
_ROWS = Struct("<QddHHI")  # epoch, written at, expires at, bytes of owner, fingerprint, row type
_SUMMARY = Struct("<QH")  # behind what is as in rows: digest and bytes of the last event's key
_HEAD = Struct("<QdHHB3x")  # epoch, expires at, bytes of owner, fingerprints, trimmed
_CHUNK_BODY = _START.size + _CHUNK.size
_ROWS_BODY = _START.size + _ROWS.size
_SUMMARY_BODY = _ROWS_BODY + _SUMMARY.size
_HEAD_BODY = _START.size + _HEAD.size


class CodecError(Exception):
    """Bytes that are not what their place says. Never leaves the cache."""


class RowChunk(NamedTuple):
    """The rows of one chunk of events."""

    hashes: bytes  # u32 per event, 0 = no row
    rows: memoryview
    written_at_s: float
    expires_at_s: float
    epoch: int


def encode_chunk(owner: bytes, timeline: Timeline) -> bytes:
    """Column by column: longs, hashes, labels, text."""
    names = "\0".join(timeline.feedback).encode()
    item_ids = "\0".join(timeline.item_ids).encode()
    columns = timeline.feedback.values()
    if item_ids.count(b"\0") >= len(timeline) or names.count(b"\0") >= max(len(columns), 1):
        raise ValueError("This is a bug: an item id or a task with a zero byte came in.")
    return _sealed(
        b"mT",
        len(timeline),
        _CHUNK.pack(len(owner), len(timeline.feedback), len(names), len(item_ids)),
        timeline.timestamps.tobytes(),
        *(column.timestamps.tobytes() for column in columns),
        timeline.hashes.tobytes(),
        *(column.values.tobytes() for column in columns),
        names,
        item_ids,
        owner,
    )


def decode_chunks(
    owner: bytes, chunks: Sequence[tuple[bytes, bytes]]
) -> tuple[Timeline, list[int]]:
    """Joins chunks that follow one another, if each is this user's and begins with its bound."""
    if not chunks:
        return Timeline.empty(), []
    parts = [_parts(owner, bound, value) for bound, value in chunks]
    counts = [part.events for part in parts]
    if any(part.tasks != parts[0].tasks for part in parts):
        return Timeline.concat([_joined([part]) for part in parts]), counts
    return _joined(parts), counts


class _Parts(NamedTuple):
    """A chunk's bytes by column: joined with other chunks' before anybody looks at them."""

    events: int
    tasks: bytes | None  # None: there are none
    longs: list[bytes]  # timestamps, then per task those of its marks
    hashes: bytes
    labels: list[bytes]
    item_ids: bytes


def _joined(parts: Sequence[_Parts]) -> Timeline:
    """One timeline of parts with the same tasks."""
    tasks = parts[0].tasks
    timestamps, *said = (
        np.frombuffer(b"".join(column), np.int64)
        for column in zip(*[part.longs for part in parts], strict=True)
    )
    values = (
        np.frombuffer(b"".join(column), np.int8)
        for column in zip(*[part.labels for part in parts], strict=True)
    )
    return Timeline(
        tuple(b"\0".join([part.item_ids for part in parts]).decode().split("\0")),
        timestamps,
        np.frombuffer(b"".join([part.hashes for part in parts]), np.uint32),
        dict(
            zip(
                tasks.decode().split("\0") if tasks is not None else (),
                map(FeedbackColumn, values, said),
                strict=True,
            )
        ),
    )


def _parts(owner: bytes, bound: bytes, value: bytes) -> _Parts:
    count = _unsealed(b"mT", _CHUNK_BODY, value)
    owner_size, tasks, names_size, ids_size = _CHUNK.unpack_from(value, _START.size)
    wide = 8 * count
    small = _CHUNK_BODY + wide * (1 + tasks)
    marks = small + 4 * count
    text = marks + count * tasks
    ids = text + names_size
    stop = ids + ids_size
    if len(value) != stop + owner_size or value[stop:] != owner:
        raise CodecError("a timeline chunk of another user or size")
    item_ids = value[ids:stop]
    first = value[_CHUNK_BODY : _CHUNK_BODY + 8][::-1] + item_ids.partition(b"\0")[0]
    if not count or item_ids.count(b"\0") != count - 1 or first != bound:
        raise CodecError("a timeline chunk in a foreign place")
    return _Parts(
        count,
        value[text:ids] if tasks else None,
        [value[at : at + wide] for at in range(_CHUNK_BODY, small, wide)],
        value[small:marks],
        [value[at : at + count] for at in range(marks, text, count)],
        item_ids,
    )


def encode_rows(
    owner: bytes,
    layout: Layout,
    hashes: npt.NDArray[np.uint32],
    rows: npt.NDArray[Any],
    *,
    epoch: int,
    written_at_s: float,
    expires_at_s: float,
) -> bytes:
    """One row per event of a chunk, as they lie in memory."""
    fingerprint, row_type = _names(layout.fingerprint, layout.row)
    sizes = len(owner), len(fingerprint), len(row_type)
    return _sealed(
        b"mR",
        len(rows),
        _ROWS.pack(epoch, written_at_s, expires_at_s, *sizes),
        hashes.tobytes(),
        np.ascontiguousarray(rows).view(np.uint8).data,
        fingerprint,
        row_type,
        owner,
    )


def rows_decoder(owner: bytes, layout: Layout) -> Callable[[bytes], RowChunk]:
    """Decodes rows of one user and layout; anybody else's raise `CodecError`."""
    fingerprint, row_type = _names(layout.fingerprint, layout.row)
    end = fingerprint + row_type + owner
    sizes = (len(owner), len(fingerprint), len(row_type))
    size = layout.row.itemsize

    def decode(value: bytes) -> RowChunk:
        count = _unsealed(b"mR", _ROWS_BODY, value)
        epoch, written_at_s, expires_at_s, *found = _ROWS.unpack_from(value, _START.size)
        rows = _ROWS_BODY + 4 * count
        stop = rows + size * count
        if len(value) != stop + len(end) or tuple(found) != sizes or value[stop:] != end:
            raise CodecError("rows of another user, fingerprint or type")
        view = memoryview(value)[rows:stop]
        return RowChunk(value[_ROWS_BODY:rows], view, written_at_s, expires_at_s, epoch)

    return decode


def encode_summary(owner: bytes, layout: Layout, summary: Summary, *, epoch: int) -> bytes:
    """The summary of one user and layout; what a value counts here is the events it covers."""
    fingerprint, row_type = _names(layout.fingerprint, layout.summary)
    sizes = len(owner), len(fingerprint), len(row_type)
    return _sealed(
        b"mS",
        summary.covers,
        _ROWS.pack(epoch, summary.written_at_s, summary.expires_at_s, *sizes),
        _SUMMARY.pack(summary.digest, len(summary.last)),
        summary.row.tobytes(),
        summary.last,
        fingerprint,
        row_type,
        owner,
    )


def decode_summary(owner: bytes, layout: Layout, value: bytes) -> tuple[Summary, int]:
    """The summary, if it is this user's and layout's, and its epoch."""
    fingerprint, row_type = _names(layout.fingerprint, layout.summary)
    covers = _unsealed(b"mS", _SUMMARY_BODY, value)
    epoch, written_at_s, expires_at_s, *sizes = _ROWS.unpack_from(value, _START.size)
    digest, key_size = _SUMMARY.unpack_from(value, _ROWS_BODY)
    key = _SUMMARY_BODY + layout.summary.itemsize
    stop = key + key_size
    end = fingerprint + row_type + owner
    wanted = [len(owner), len(fingerprint), len(row_type)]
    if not covers or sizes != wanted or len(value) != stop + len(end) or value[stop:] != end:
        raise CodecError("a summary of another user, fingerprint or type")
    row = np.frombuffer(value, layout.summary, 1, _SUMMARY_BODY).reshape(())
    return Summary(row, covers, value[key:stop], digest, written_at_s, expires_at_s), epoch


def rows_expiry(value: bytes) -> float:
    """When rows or a summary of anybody expire (unix time); broken ones have expired."""
    try:
        _unsealed(b"mS" if value[:2] == b"mS" else b"mR", _ROWS_BODY, value)
    except CodecError:
        return 0.0
    return float(_ROWS.unpack_from(value, _START.size)[2])


def encode_head(owner: bytes, head: Head) -> bytes:
    """Without the version: that is the store's to give."""
    fingerprints = "".join(head.fingerprints).encode()
    numbers = (head.epoch, head.expires_at_s, len(owner), len(head.fingerprints), head.trimmed)
    return _sealed(b"mH", head.count, _HEAD.pack(*numbers), fingerprints, owner)


def decode_head(owner: bytes, value: bytes) -> Head:
    """The head, if it is this user's."""
    count = _unsealed(b"mH", _HEAD_BODY, value)
    epoch, expires_at_s, size, fingerprints, trimmed = _HEAD.unpack_from(value, _START.size)
    text = _HEAD_BODY
    stop = text + 8 * fingerprints
    if len(value) != stop + size or value[stop:] != owner:
        raise CodecError("a head of another user or size")
    names = value[text:stop].decode()
    return Head(
        count,
        epoch,
        bool(trimmed),
        expires_at_s,
        tuple(names[at : at + 8] for at in range(0, len(names), 8)),
    )


def encode_version(place: bytes, version: int) -> bytes:
    """Text, because scripts write it too: `append.lua` has the same two lines."""
    text = b"%d" % version
    return text + b":" + hashlib.sha1(text + place, usedforsecurity=False).hexdigest()[:16].encode()


def decode_version(place: bytes, value: bytes) -> int:
    """The number, if it was written for this place."""
    text = value.partition(b":")[0]
    if not text.isdigit() or encode_version(place, int(text)) != value:
        raise CodecError("a version that does not add up")
    return int(text)


def _sealed(magic: bytes, count: int, *parts: bytes | memoryview) -> bytes:
    start = _START.pack(magic, FORMAT, 0, count, 0)[:8]
    seal = xxhash.xxh3_64(seed=int.from_bytes(start, "little"))
    for part in parts:
        seal.update(part)
    return b"".join((start, seal.intdigest().to_bytes(8, "little"), *parts))


def _unsealed(magic: bytes, least: int, value: bytes) -> int:
    """Checks what all values share; answers the count."""
    if len(value) < least:
        raise CodecError("a short value")
    found, version, zero, count, seal = _START.unpack_from(value)
    if found != magic or version != FORMAT or zero:
        raise CodecError(f"not a {magic.decode()} value of format {FORMAT}")
    seed = int.from_bytes(value[:8], "little")
    if xxhash.xxh3_64_intdigest(memoryview(value)[16:], seed) != seal:
        raise CodecError("a checksum that does not fit")
    return int(count)


@lru_cache(maxsize=64)
def _names(fingerprint: str, row: np.dtype[Any]) -> tuple[bytes, bytes]:
    described: Mapping[str, Any] | str = repr(row.descr) if row.names else row.str
    return fingerprint.encode(), f"{described}/{row.itemsize}".encode()
