"""Guess: what is remembered of a user, used while the store is asked if it is still true."""

from __future__ import annotations

from asyncio import Task
from time import perf_counter

from cache.errors import CacheMismatch, CacheUnavailable
from cache.snapshot import Snapshot
from service.memory import Memory
from service.timings import Timings


class Guess:
    """A memory that may be run on, but nobody is told of before it is known to hold.

    The store is asked after the request has come, so what it confirms has every write before.
    """

    __slots__ = ("_known", "_timings", "found", "memory")

    def __init__(
        self, memory: Memory, known: Snapshot, found: Task[Snapshot], timings: Timings
    ) -> None:
        self.memory = memory
        #: What the store says: the snapshot that the memory is of, or another, or an error.
        self.found = found
        self._known = known
        self._timings = timings

    def __repr__(self) -> str:
        return (
            f"<Guess at version {self._known.version}, {'done' if self.found.done() else 'asked'}>"
        )

    async def holds(self) -> bool:
        """Whether the store says so; counted is the time that is waited for it."""
        began = perf_counter()
        try:
            return await self.found is self._known
        except (CacheUnavailable, CacheMismatch):
            return False
        finally:
            self._timings.cache += perf_counter() - began
