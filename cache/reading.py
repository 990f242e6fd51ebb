"""Turns what a store answered into a snapshot: the only place where stored bytes are believed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from cache.chunk import Chunk
from cache.codec import CodecError, decode_chunks, decode_head, decode_summary, rows_decoder
from cache.head import Head
from cache.keys import owner_of
from cache.layout import NO_ROWS, Layout
from cache.raw import Answer, Question
from cache.snapshot import Mask, Rows, Snapshot, Stored
from cache.stretch import Stretch
from cache.summary import Summary
from cache.timeline import Timeline, frozen

ALL = np.ones(0, np.bool_)

OnEvent = Callable[[str], None]


def read(
    question: Question,
    answer: Answer,
    *,
    version: int,
    keep: int,
    now_s: float,
    on_event: OnEvent,
) -> Snapshot:
    """Raises `CodecError` if the timeline is damaged; damaged rows are absent and counted."""
    head = _head(question.owner, answer, now_s)
    tail = _present(answer.tail[::-1]) if head else []
    bounds = [bound for bound, _ in tail]
    timeline, counts = decode_chunks(question.owner, tail)
    elsewhere = [_chunk(question.owner, found) for found in sorted(_present(answer.elsewhere))]
    has_first = not tail or bounds[0] == answer.first
    if head and has_first and not answer.newer:
        _check_count(head, timeline)
    epoch = head.epoch if head else 0
    rows = _Rows(question.owner, question.layout, epoch, now_s, on_event)
    rows.read(bounds, counts, answer.rows[::-1] if head else (), timeline.hashes)
    summary = _summary(question, head, answer.summary, now_s, on_event)
    stop = len(timeline) if question.upto is None else _stop(timeline, question.upto)
    start = max(stop - question.limit, 0)
    return Snapshot(
        user_id=question.user_id,
        version=version,
        timeline=timeline[start:stop],
        rows=rows.rows[start:stop],
        valid=rows.valid[start:stop],
        written_at_s=rows.written_at_s,
        trimmed=head is not None and head.trimmed,
        complete=has_first and start == 0,
        quarantined=answer.is_quarantined,
        keep=keep,
        limit=question.limit,
        good_from=int(timeline.timestamps[stop - 1]) if stop else 0,
        good_until_s=(
            _good_until_s(head, rows, rows.valid[start:stop] if question.rows else ALL, summary)
            if stop == len(timeline) and not answer.newer
            else 0.0
        ),
        summary=summary,
        layout=question.layout,
        seal=answer.seal,
        stored=Stored(
            head,
            tuple(elsewhere) if head else (),
            bounds,
            counts,
            timeline,
            rows.rows,
            rows.valid,
            tuple(rows.useless),
            answer.newer if head else 0,
            len(question.sent),
        ),
        skipped=start,
    )


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Rows of some chunks, one after the other, and which of them are there and true."""

    rows: Rows
    valid: Mask
    written_at_s: float | None
    """Unix time of the newest write among them."""
    good_until_s: float
    """Unix time when the first of them expires."""


def read_rows(
    snapshot: Snapshot,
    chunks: Sequence[int],
    values: Sequence[bytes | None],
    *,
    now_s: float,
    on_event: OnEvent,
) -> StoredRows:
    """What a store answered for some chunks of a snapshot's tail, at the snapshot's version."""
    stored, stops = snapshot.stored, list(accumulate(snapshot.stored.counts))
    counts = [stored.counts[chunk] for chunk in chunks]
    hashes = [stored.timeline.hashes[stops[c] - stored.counts[c] : stops[c]] for c in chunks]
    epoch = stored.head.epoch if stored.head else 0
    found = _Rows(owner_of(snapshot.user_id), snapshot.layout, epoch, now_s, on_event)
    joined = np.concatenate(hashes) if hashes else np.zeros(0, np.uint32)
    found.read([stored.bounds[chunk] for chunk in chunks], counts, values, joined)
    return StoredRows(found.rows, found.valid, found.written_at_s, found.good_until_s)


def read_stretch(
    owner: bytes, answer: Answer, start: bytes, *, version: int, now_s: float, is_end: bool
) -> Stretch:
    """The part of a timeline that an answer's tail, oldest first here, has from a key on.

    Raises `CodecError` if it is damaged.
    """
    if _head(owner, answer, now_s) is None:
        return Stretch(version, Timeline.empty(), is_end=True)
    timeline, _ = decode_chunks(owner, _present(answer.tail))
    return Stretch(version, timeline[timeline.before(start) : len(timeline)], is_end)


def _summary(
    question: Question, head: Head | None, value: bytes | None, now_s: float, on_event: OnEvent
) -> Summary | None:
    if head is None or value is None or question.layout is None:
        return None
    try:
        summary, epoch = decode_summary(question.owner, question.layout, value)
    except CodecError:
        on_event("damaged_record")
        return None
    if summary.expires_at_s <= now_s:
        on_event("expired_record")
        return None
    return summary if epoch == head.epoch else None


def _good_until_s(head: Head | None, rows: _Rows, valid: Mask, summary: Summary | None) -> float:
    """When the first of what was read expires; 0 where somebody may yet write a row."""
    if head is None or not valid.all():
        return 0.0
    until_s = min(rows.good_until_s, head.expires_at_s or math.inf)
    return min(until_s, summary.expires_at_s) if summary else until_s


def _head(owner: bytes, answer: Answer, now_s: float) -> Head | None:
    if answer.head is None:
        if answer.version is not None:
            raise CodecError("a version without a head")
        return None
    if answer.version is None:
        raise CodecError("a head without a version")
    head = decode_head(owner, answer.head)
    if head.expires_at_s:
        if head.expires_at_s <= now_s or not answer.first:  # the index was evicted: as good as gone
            return None
    elif not answer.first:
        raise CodecError("a head without chunks")
    return head


def _present(chunks: Sequence[tuple[bytes, bytes | None]]) -> list[tuple[bytes, bytes]]:
    found = [(bound, value) for bound, value in chunks if value is not None]
    if len(found) < len(chunks):
        raise CodecError("a chunk is missing")
    return found


def _chunk(owner: bytes, found: tuple[bytes, bytes]) -> Chunk:
    return Chunk(found[0], decode_chunks(owner, [found])[0])


def _check_count(head: Head, timeline: Timeline) -> None:
    if len(timeline) != head.count:
        raise CodecError(f"{len(timeline)} events where {head.count} should be")


def _stop(timeline: Timeline, upto: int) -> int:
    return int(np.searchsorted(timeline.timestamps, upto, side="right"))


class _Rows:
    """Joins the row chunks of a tail; each row counts only for the event whose hash it carries."""

    def __init__(
        self,
        owner: bytes,
        layout: Layout | None,
        epoch: int,
        now_s: float,
        on_event: OnEvent,
    ) -> None:
        self._layout = layout
        self._owner = owner
        self._epoch = epoch
        self._now_s = now_s
        self._on_event = on_event
        self.written_at_s: float | None = None
        self.good_until_s = math.inf
        self.useless: list[bytes] = []

    def read(
        self,
        bounds: Sequence[bytes],
        counts: Sequence[int],
        values: Sequence[bytes | None],
        expected: npt.NDArray[np.uint32],
    ) -> None:
        """`expected` are the hashes of the chunks' events."""
        if not self._layout or not self._layout.row.itemsize:
            self.rows = frozen(np.zeros(len(expected), NO_ROWS))
            self.valid = frozen(np.ones(len(expected), np.bool_))
            return
        if not any(values):
            self.rows = frozen(np.zeros(len(expected), self._layout.row))
            self.valid = frozen(np.zeros(len(expected), np.bool_))
            return
        size = self._layout.row.itemsize
        hashes: list[bytes] = []
        rows: list[bytes | memoryview] = []
        decode = rows_decoder(self._owner, self._layout)
        for bound, count, value in zip(bounds, counts, values, strict=True):
            here = 0  # rows found for this chunk
            try:
                found = decode(value) if value else None
            except CodecError:
                self._on_event("damaged_record")
                found = None
            if found and found.expires_at_s <= self._now_s:
                self._on_event("expired_record")
                self.useless.append(bound)
            elif found and found.epoch == self._epoch:
                here = min(len(found.hashes) // 4, count)
                hashes.append(found.hashes[: 4 * here])
                rows.append(found.rows[: size * here])
                self.written_at_s = max(self.written_at_s or 0.0, found.written_at_s)
                self.good_until_s = min(self.good_until_s, found.expires_at_s)
            if here < count:
                hashes.append(bytes(4 * (count - here)))
                rows.append(bytes(size * (count - here)))
        self.rows = np.frombuffer(b"".join(rows), self._layout.row)
        self.valid = frozen(np.frombuffer(b"".join(hashes), np.uint32) == expected)
