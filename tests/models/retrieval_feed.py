"""What a small retrieval graph is asked with: three users of eight records, of width 16."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

USERS, RECORDS, WIDTH, ITEMS = 3, 8, 16, 50


def retrieval_feed(random: np.random.Generator, *, seen: Array, wanted: int) -> dict[str, Array]:
    """Random histories of `ITEMS` items; `seen` (users, any) leave out rows; the best `wanted`."""
    shape = (USERS, RECORDS)
    return {
        "timestamp": np.full(USERS, 10**9),
        "items": random.integers(0, ITEMS, shape),
        "timestamps": np.sort(random.integers(0, 10**9, shape), axis=1),
        "feedback": random.integers(-1, 2, (*shape, 1)).astype(np.int8),
        "records": random.standard_normal((*shape, 1, WIDTH)).astype(np.float32),
        "seen": seen,
        "wanted": np.zeros((USERS, wanted), np.int8),
    }
