"""How events enter a timeline: pure, the same for every store.

A timeline is a function of what was sent. Merging one event after another and trimming to the
newest `keep` after each gives the same set in any order and any batches, because an event that
once was too old can only become older.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cache.chunk import Chunk
from cache.page import Page
from cache.sent import Sent, events_of, run_behind, run_of
from cache.timeline import Timeline

MAX_KEY_BYTES = 8 + 200  # what an LMDB key has room for, beside a user's id

Status = Literal["appended", "inserted", "updated", "duplicate", "expired"]


@dataclass(frozen=True, slots=True)
class Merged:
    """A timeline's chunks after merging, and what that did to the ones that were read."""

    statuses: tuple[Status, ...]
    tail: tuple[Chunk, ...]  # oldest first, up to the end of the timeline
    timeline: Timeline  # the tail as one
    put: tuple[Chunk, ...]
    drop: tuple[bytes, ...]  # bounds
    count: int  # events of the whole timeline
    has_trimmed: bool  # an event was too old to keep: stored before, or sent now
    cut: int  # events trimmed from the front of the tail that was read
    spoiled: tuple[bytes, bool] | None  # first key whose row (False) or next row (True) is untrue
    is_late: bool  # something other than the end changed: rows of others are untrue too
    late: tuple[bytes, ...]  # order keys of all that changed before the end


def merge(
    elsewhere: Sequence[Chunk],
    tail: Sequence[Chunk],
    sent: Sent,
    *,
    count: int,
    keep: int,
) -> Merged:
    """Merges events into the chunks they fall into; the caller has read all those.

    What follows the end of the timeline and itself is added as it is; the rest, one by one.
    `tail` runs to the end of the timeline; `elsewhere` is older and need not be contiguous, but
    begins with the first chunk of all when the timeline may grow beyond `keep`.
    """
    stored = [*elsewhere, *tail]
    pages = [Page(chunk) for chunk in stored] or [Page(None)]
    bounds = [page.bound for page in pages]
    end = pages[-1].last_key
    statuses: list[Status] = []
    changes: list[tuple[bytes, bool]] = []
    front = 0  # the oldest page that is not empty
    run_at = run_behind(end, sent)
    for event in events_of(sent, run_at):
        key = event.key
        at = max(bisect_right(bounds, key) - 1, front)
        page = pages[at]
        _check(len(key))
        known = page.find(key)
        if known is not None:
            changed = page.update(known, event)
            statuses.append("updated" if changed else "duplicate")
            if changed:
                changes.append((key, True))
            continue
        if count >= keep and key < pages[front].first_key:
            statuses.append("expired")
            continue
        is_end = key > pages[-1].last_key
        page.insert(key, event)
        changes.append((key, False))
        statuses.append("appended" if is_end else "inserted")
        count += 1
        if count > keep:
            front = _trim(pages, front, 1)
            count = keep
    if run_at < len(sent):
        run = run_of(sent, run_at)
        _check(8 + max(map(len, map(str.encode, run.item_ids))))
        changes.append((run.key(0), False))
        statuses += ["appended"] * len(run)
        pages[-1].extend(run)
        count += len(run)
        if count > keep:
            _trim(pages, front, count - keep)
            count = keep
    closed = [page.close(is_last=page is pages[-1]) for page in pages]
    before = {chunk.bound: chunk for chunk in stored}
    after = {chunk.bound: chunk for chunks in closed for chunk in chunks}
    spoiled = min(changes, default=None)
    return Merged(
        statuses=tuple(statuses),
        tail=tuple(chunk for chunks in closed[len(elsewhere) :] for chunk in chunks),
        timeline=Timeline.concat([page.timeline for page in pages[len(elsewhere) :]]),
        put=tuple(chunk for bound, chunk in after.items() if before.get(bound) is not chunk),
        drop=tuple(bound for bound in before if bound not in after),
        count=count,
        has_trimmed="expired" in statuses or any(page.trimmed for page in pages),
        cut=sum(page.trimmed for page in pages[len(elsewhere) :]),
        spoiled=spoiled,
        is_late=spoiled is not None and spoiled[0] < end,
        late=tuple(sorted({key for key, _ in changes if key < end})),
    )


def _trim(pages: Sequence[Page], front: int, count: int) -> int:
    """Drops the oldest events, at least one of all stays; says which page is the oldest then."""
    while count:
        here = min(count, len(pages[front]))
        pages[front].trim(here)
        count -= here
        while not len(pages[front]):
            front += 1
    return front


def _check(key_bytes: int) -> None:
    if key_bytes > MAX_KEY_BYTES:
        raise ValueError(f"This is a bug: an item id of {key_bytes - 8} bytes came in.")
