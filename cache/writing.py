"""Turns a change into the one atomic step that stores it."""

from __future__ import annotations

import math
import secrets
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from cache.chunk import Chunk, chunks_for
from cache.codec import encode_chunk, encode_head, encode_rows, encode_summary
from cache.head import Head
from cache.keys import SUMMARY, owner_of, short
from cache.layout import Layout
from cache.raw import Writes
from cache.snapshot import Change, Mask, Rows

MOST_LATE = 64
"""Late events of one write that are looked after one by one; with more, all rows are untrue."""


def write(
    change: Change, *, now_s: float, record_ttl_s: float, timeline_ttl_s: float | None
) -> Writes | None:
    """None: there is nothing to store after all."""
    snapshot, merged = change.snapshot, change.merged
    owner = owner_of(change.user_id)
    old = snapshot.stored.head
    is_late = merged is not None and merged.is_late
    is_changed = change.has_news
    if not is_changed and old is None:
        return None  # rows of a timeline that is not there
    layout = snapshot.layout
    rowed = layout if layout and layout.row.itemsize else None
    own = short(layout.fingerprint) if layout and (rowed or layout.summary.itemsize) else None
    late = merged.late if merged else ()
    # Where rows depend on few events, most of them outlive a late one.
    is_spared = bool(late) and len(late) <= MOST_LATE and layout is not None and bool(layout.span)
    named = old.fingerprints if old else ()
    head = Head(
        count=merged.count if merged else old.count if old else 0,
        epoch=old.epoch if old else secrets.randbits(63),
        trimmed=(old is not None and old.trimmed) or (merged is not None and merged.has_trimmed),
        expires_at_s=now_s + timeline_ttl_s if timeline_ttl_s else 0.0,
        fingerprints=tuple(n for n in named if not is_late or (is_spared and n == own)),
    )
    is_reset = old is None or (is_late and not is_spared)
    rows = _RowWrites(change, rowed, is_reset)
    put_rows = rows.encode(owner, head.epoch, now_s, now_s + record_ttl_s)
    put_rows += _put_summary(
        change, owner, head.epoch, is_reset=is_reset, now_s=now_s, expires_at_s=now_s + record_ttl_s
    )
    if snapshot.summary and change.summary is None:
        rows.drop.append(SUMMARY)
    if own and put_rows and own not in head.fingerprints:
        head = _with_fingerprint(head, own)
        is_changed = True  # versions guard the list of fingerprints too
    if not is_changed and not put_rows:
        return None
    return Writes(
        user_id=change.user_id,
        owner=owner,
        base=change.base,
        wipe=old is None,
        head=encode_head(owner, head) if is_changed else None,
        put_chunks=[
            (chunk.bound, encode_chunk(owner, chunk.timeline))
            for chunk in (merged.put if merged else ())
        ],
        drop_chunks=merged.drop if merged else (),
        expires_at_s=head.expires_at_s,
        fingerprint=own,
        reset_rows=own is not None and is_reset,
        untrue_keys=late if own and not is_reset else (),
        untrue_chunks=chunks_for(layout.span) if is_spared and layout and layout.span else 0,
        put_rows=put_rows,
        drop_rows=rows.drop,
        oldest_rows=rows.oldest,
        most_rows=rows.in_reach,
        drop_fingerprints=[name for name in named if is_late and name != own],
    )


def _put_summary(
    change: Change,
    owner: bytes,
    epoch: int,
    *,
    is_reset: bool,
    now_s: float,
    expires_at_s: float,
) -> list[tuple[bytes, bytes]]:
    """A new summary, or the one that stays true where all that is kept beside it is removed."""
    layout, summary = change.snapshot.layout, change.summary
    if layout is None or summary is None or not (change.has_summary or is_reset):
        return []
    if change.has_summary:
        summary = replace(summary, written_at_s=now_s, expires_at_s=expires_at_s)
    return [(SUMMARY, encode_summary(owner, layout, summary, epoch=epoch))]


def _with_fingerprint(head: Head, own: str) -> Head:
    return Head(head.count, head.epoch, head.trimmed, head.expires_at_s, (*head.fingerprints, own))


class _RowWrites:
    """Which row chunks a change writes, and which fall out of reach."""

    def __init__(self, change: Change, layout: Layout | None, is_reset: bool) -> None:
        snapshot, merged = change.snapshot, change.merged
        self.layout = layout
        self.drop: list[bytes] = []
        self.oldest = b""
        self.in_reach = 0
        self._put: list[tuple[Chunk, Rows, Mask]] = []
        if self.layout is None:
            return
        stored = snapshot.stored
        chunks = merged.tail if merged else stored.tail
        known = set(stored.bounds)
        self.drop += merged.drop if merged else ()
        rows, valid, fresh = change.whole_rows()
        reach = math.inf if self.layout.reach is None else self.layout.reach - stored.newer
        position = len(valid)
        for chunk in reversed(chunks):
            stop, position = position, position - len(chunk)
            if len(valid) - stop >= reach:
                self.drop.append(chunk.bound)
                continue
            self.in_reach += 1
            self.oldest = chunk.bound
            is_new = is_reset or chunk.bound not in known
            if fresh[position:stop].any() or (is_new and valid[position:stop].any()):
                self._put.append((chunk, rows[position:stop], valid[position:stop]))
            elif chunk.bound in stored.useless:
                self.drop.append(chunk.bound)
        if len(valid) < reach or stored.newer:
            self.oldest = b""  # rows further back may still be within reach

    def encode(
        self, owner: bytes, epoch: int, now_s: float, expires_at_s: float
    ) -> list[tuple[bytes, bytes]]:
        if self.layout is None:
            return []
        return [
            (
                chunk.bound,
                encode_rows(
                    owner,
                    self.layout,
                    _marked(chunk, valid),
                    rows,
                    epoch=epoch,
                    written_at_s=now_s,
                    expires_at_s=expires_at_s,
                ),
            )
            for chunk, rows, valid in self._put
        ]


def _marked(chunk: Chunk, valid: Mask) -> npt.NDArray[np.uint32]:
    """The hashes of events that have a row, 0 for the others."""
    return np.where(valid, chunk.timeline.hashes, np.uint32(0))
