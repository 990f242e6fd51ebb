"""What the store says about a whole timeline, beside its chunks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Head:
    """One per stored timeline, written in the same step as its chunks."""

    count: int
    epoch: int
    """Drawn when the timeline was born. Rows of an earlier life of this user do not carry it."""

    trimmed: bool = False
    expires_at_s: float = 0.0
    """Unix time; 0 = never."""

    fingerprints: tuple[str, ...] = ()
    """First 8 digits of those that have rows here: what a late event or a forget must remove."""
