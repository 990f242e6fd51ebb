"""Records of an older model of the lineage, for a while, where the new one has none of a user yet.

Off by default: it is the one exception from law 6, and every such answer says so.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

from cache.layout import Layout
from cache.snapshot import Snapshot
from service.lineage import Lineages
from service.registry import Model

Fetch = Callable[[Layout], Awaitable[Snapshot]]


class Stale:
    """Finds records that may be used although they are another model's."""

    def __init__(
        self, lineages: Lineages, *, ok_s: float, share: float, clock: Callable[[], float]
    ) -> None:
        self._lineages = lineages
        self._ok_s = ok_s
        self._share = share
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Stale up to {self._ok_s:g} s>"

    @property
    def is_sampled(self) -> bool:
        """Whether this one is to be compared with the truth."""
        return random.random() < self._share  # noqa: S311

    async def find(self, model: Model, snapshot: Snapshot, fetch: Fetch) -> Snapshot | None:
        """The same user with all records of one elder, none of them of the model itself."""
        if not len(snapshot.timeline) or snapshot.valid.any():
            return None
        for layout in await self._lineages.elders(model):
            found = await fetch(layout)
            is_whole = len(found.timeline) > 0 and bool(found.valid.all())
            if is_whole and (found.written_at_s or 0.0) > self._clock() - self._ok_s:
                return found
        return None
