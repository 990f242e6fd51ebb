"""The border between the service and a store: what every cache promises.

A cache knows timelines (ids, times, feedback) and, per fingerprint, rows of a layout it does
not understand: one row per event, usable only for the event whose hash it carries, or one summary
of the first events, usable only with the last of them as it was.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol, runtime_checkable

from cache.layout import Layout
from cache.reading import StoredRows
from cache.sent import Sent
from cache.snapshot import Change, Snapshot
from cache.stretch import Stretch

__all__ = ["Cache", "Layout", "Notes", "StoredRows", "Sweeps"]


class Notes(Protocol):
    """What processes that share a store tell each other: small values by name, about no user."""

    async def note(self, name: str) -> bytes:
        """What the note says; empty if there is none. Raises `CacheUnavailable`."""
        ...

    async def replace_note(self, name: str, old: bytes, new: bytes) -> None:
        """Writes `new` where `old` stands, in one atomic step; empty is none.

        Raises `StaleVersion` if something else stands there, and `CacheUnavailable`.
        """
        ...


class Cache(Notes, Protocol):
    """Timelines and rows of many users, in one store."""

    is_elsewhere: bool
    """Whether an answer takes a round trip, in which others can be served."""

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
        """Reads the newest `limit` events with timestamp <= `upto`, and their rows: one round trip.

        Answers `known` itself if that is what it would read: a small round trip tells. With
        `around` (events about to be merged) it also reads what the merge will touch, and `upto`
        must be None. With `may_be_old` a replica may answer, if the store was opened so. Without
        `rows` none are read: `fetch_rows` reads those that are needed. Raises `CacheUnavailable`,
        after `within_s` or the store's own timeout.
        """
        ...

    async def fetch_rows(
        self, snapshot: Snapshot, chunks: Sequence[int], *, within_s: float | None = None
    ) -> StoredRows:
        """Reads the rows of these chunks of the snapshot's stored tail, ascending: one round trip.

        Raises `StaleVersion` if the user was written since the snapshot was read, and
        `CacheUnavailable`.
        """
        ...

    async def read_on(self, user_id: str, *, start: bytes, limit: int) -> Stretch:
        """Reads about `limit` events, oldest first, from an order key on (b"": the first).

        One round trip. What it answers about a user who is written meanwhile is told by versions.
        Raises `CacheUnavailable`.
        """
        ...

    async def append(self, change: Change) -> int:
        """Stores a merged snapshot in one atomic step; returns the user's new version.

        Raises `StaleVersion` if the user was written since the snapshot was read, and
        `CacheUnavailable`; nothing is stored then, or not on as many replicas as were asked for.
        A change that stores nothing is confirmed: its version is there, on as many replicas.
        """
        ...

    async def forget(self, user_id: str) -> None:
        """Removes every trace of the user, under every fingerprint. Raises `CacheUnavailable`."""
        ...

    def users(self, *, least: int = 0, below: int | None = None) -> AsyncGenerator[str, None]:
        """Every user with a timeline, in any order; who comes or goes meanwhile may be missed.

        Only those who have at least `least` events and fewer than `below`. Some may come twice.
        Raises `CacheUnavailable`.
        """
        ...

    def drop_rows(self, fingerprint: str) -> AsyncGenerator[int, None]:
        """Deletes the rows of one fingerprint; yields how many values, after each short step.

        Whoever stops and begins anew loses nothing but time. Raises `CacheUnavailable`.
        """
        ...

    async def ping(self) -> None:
        """Returns if the store answers; raises `CacheUnavailable`."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class Sweeps(Protocol):
    """A cache whose store expires nothing by itself."""

    def sweep(self) -> AsyncGenerator[int, None]:
        """Deletes rows that have expired; yields how many chunks, after each short transaction.

        Several processes may sweep one store at once. Raises `CacheUnavailable`.
        """
        ...
