"""A part of a timeline, read forward: how a long one is walked without holding it."""

from __future__ import annotations

from dataclasses import dataclass

from cache.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive events at one version of a user; 0 = there is no timeline."""

    version: int
    timeline: Timeline
    is_end: bool
    """There are no events behind it."""
