"""What one fingerprint keeps of a user: the shape of what it caches, which is not read here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

NO_ROWS: np.dtype[Any] = np.dtype([])


@dataclass(frozen=True, slots=True)
class Layout:
    """What one fingerprint keeps of a user: a row per event, for the newest `reach` events, or one
    `summary` of the first events, or neither.

    A row may depend on its own event's item and time and on every event before it, or only on
    `span` of them, never on its own feedback or on anything later. With a `reach` of None rows are
    kept for as long as their events are. A summary depends on all it covers, feedback included, and
    on nothing later.
    """

    fingerprint: str
    row: np.dtype[Any]
    reach: int | None
    span: int | None = None
    summary: np.dtype[Any] = NO_ROWS
