"""What a fetch and an append of the cache alone take, and what its records weigh."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from loadtest.contestants import Service

DTYPES = ("float32", "float16", "int8")
RECORDS = (100, 200, 1000)


@dataclass(slots=True)
class CacheTimes:
    """One store, record type and number of records."""

    service: Service
    dtype: str
    records: int
    fetch_s: list[float] = field(default_factory=list)
    append_s: list[float] = field(default_factory=list)
    size: dict[str, int | None] = field(default_factory=dict)

    async def turn(self, seconds: float) -> None:
        """Weighs before the first append, which adds to what is weighed."""
        stockroom = self.service.stockroom
        asked = {"dtype": self.dtype, "records": self.records}
        self.size = self.size or await stockroom.ask(work="size", **asked)
        self.fetch_s += await stockroom.turn(seconds, work="fetch", **asked)
        self.append_s += await stockroom.turn(seconds, work="append", **asked)

    def report(self) -> dict[str, Any]:
        """Bytes are of the record key alone; the timeline, which outlives records, is apart."""
        fetch_p50, fetch_p99 = np.percentile(self.fetch_s, [50, 99]).tolist()
        append_p50, append_p99 = np.percentile(self.append_s, [50, 99]).tolist()
        size = self.size
        vectors = self.records * (size["cached_depths"] or 0)
        record_bytes = size["record_bytes"]
        return {
            "store": self.service.place.name,
            "dtype": self.dtype,
            "records": self.records,
            "fetch_p50_ms": round(fetch_p50 * 1e3, 4),
            "fetch_p99_ms": round(fetch_p99 * 1e3, 4),
            "append_p50_ms": round(append_p50 * 1e3, 4),
            "append_p99_ms": round(append_p99 * 1e3, 4),
            "record_bytes": record_bytes,
            "timeline_bytes": size["timeline_bytes"],
            "bytes_per_vector": (
                round(record_bytes / vectors, 1) if record_bytes and vectors else None
            ),
        }
