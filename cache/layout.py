"""What one fingerprint keeps of a user: the shape of its rows, which the cache does not read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Layout:
    """What one fingerprint keeps of a user: a row per event, for the newest `reach` events.

    A row may depend on its own event's item and time and on every event before it, never on
    its own feedback or on anything later.
    """

    fingerprint: str
    row: np.dtype[Any]
    reach: int
