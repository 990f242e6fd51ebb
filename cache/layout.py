"""What one fingerprint keeps of a user: the shape of its rows, which the cache does not read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Layout:
    """What one fingerprint keeps of a user: a row per event, for the newest `reach` events.

    A row may depend on its own event's item and time and on every event before it, or only on
    `span` of them, never on its own feedback or on anything later. With a `reach` of None rows are
    kept for as long as their events are.
    """

    fingerprint: str
    row: np.dtype[Any]
    reach: int | None
    span: int | None = None
