"""Wanted: what a deployment must carry, and what follows from its model alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.spec import Spec
from service.footprint import Footprint

DAY_S = 86_400
DEFAULT_KEEP = 1_000


def kept_events(spec: Spec, keep: int | None) -> int:
    """Events that a store keeps of each user, where nobody says how many: enough to rebuild."""
    return keep or max(spec.least_keep, DEFAULT_KEEP)


def kept_records(spec: Spec, events: int) -> int:
    """Of so many kept events, those whose rows stay: all of them where any may be searched for."""
    if not spec.cached_depths:
        return 0
    return events if spec.search else min(spec.reach, events)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a deployment must carry."""

    users: int
    spec: Spec
    events_a_day: float = 20.0  # of one user
    requests_s: float = 1_000.0
    candidates: int = 500
    cell_bytes: float | None = None  # None: the footprint's
    is_paper: bool = False  # counted as the paper counts
    keep: int | None = None
    user_events: int | None = None  # None: as many as are kept
    id_bytes: int = 8
    shard_gib: float = 64.0
    copies: int = 1  # replicas of every shard
    bench: Mapping[str, Any] | None = None  # the last line of `marmot bench --json`

    @property
    def events_s(self) -> float:
        return self.users * self.events_a_day / DAY_S

    @property
    def events(self) -> int:
        """Of a user, in the store."""
        kept = kept_events(self.spec, self.keep)
        return kept if self.user_events is None else min(self.user_events, kept)

    @property
    def most_records(self) -> int:
        """Events of a user that have records."""
        return self.spec.window if self.is_paper else kept_records(self.spec, self.events)

    @property
    def cells(self) -> int:
        """Of one record."""
        return self.spec.depth if self.is_paper else self.spec.cached_depths

    @property
    def footprint(self) -> Footprint:
        return Footprint(self.spec, self.id_bytes)

    @property
    def record_bytes(self) -> float:
        """Of one event at all its depths."""
        cell = self.footprint.cell_bytes if self.cell_bytes is None else self.cell_bytes
        return self.cells * cell

    @property
    def summary_bytes(self) -> int:
        """Of one user who has enough events for one."""
        return self.footprint.summary_bytes if self.events >= self.spec.refresh_events else 0
