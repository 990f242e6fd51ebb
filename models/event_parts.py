"""An events file of any size, cut into parts that hold whole users and fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from models.event_file import FEEDBACK_TIMESTAMP, UNKNOWN, ColumnStream, EventColumns, Ids
from models.events import EventTable, read_events

ROWS_PER_PART = 1 << 16
MOST_PARTS = 256  # files open at once


@dataclass(frozen=True, slots=True)
class Parts:
    """Files with the events of different users each, in any order."""

    files: list[Path]
    tasks: tuple[str, ...]
    rows: int

    def __iter__(self) -> Iterator[EventTable]:
        for file in self.files:
            yield read_events(file, self.tasks)


def split_events(path: Path, folder: Path, *, least_parts: int = 1) -> Parts:
    """Checks the whole file, row by row, before any part of it is used.

    The same file makes the same parts; fewer than `least_parts` where some would be empty.
    """
    stream = ColumnStream(path)
    count = min(MOST_PARTS, max(least_parts, 1 + stream.source.rows // ROWS_PER_PART))
    files, rows = [folder / f"{part}.arrows" for part in range(count)], 0
    with ExitStack() as stack:
        # Streams, because a file with a footer remembers all that was ever written to it.
        writers: dict[int, pa.RecordBatchStreamWriter] = {}
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        for columns in stream:
            rows += len(columns.timestamps)
            table = _table(columns)
            parts = _parts(columns.users, count)
            order = np.argsort(parts, kind="stable")
            table, ends = table.take(order), np.cumsum(np.bincount(parts, minlength=count))
            for part in np.unique(parts).tolist():
                if part not in writers:
                    writer = pa.ipc.new_stream(files[part], table.schema, options=options)
                    writers[part] = stack.enter_context(writer)
                first = int(ends[part - 1]) if part else 0
                writers[part].write_table(table.slice(first, int(ends[part]) - first))
    pa.default_memory_pool().release_unused()
    return Parts([files[part] for part in sorted(writers)], stream.tasks, rows)


def _parts(users: Ids, count: int) -> np.ndarray[Any, Any]:
    """(rows,) int64: the part that each row's user belongs to."""
    of_user = [xxhash.xxh3_64_intdigest(user.encode()) % count for user in users.distinct]
    parts: np.ndarray[Any, Any] = np.array(of_user, np.int64)[users.rows]
    return parts


def _table(columns: EventColumns) -> pa.Table:
    def ids(found: Ids) -> pa.Array:
        return pa.array(found.distinct, pa.large_string()).take(pa.array(found.rows))

    labels = {
        name: pa.array(columns.labels[:, place], mask=columns.labels[:, place] == UNKNOWN)
        for place, name in enumerate(columns.tasks)
    }
    return pa.table(
        {
            "user_id": ids(columns.users),
            "item_id": ids(columns.items),
            "timestamp": columns.timestamps,
            FEEDBACK_TIMESTAMP: columns.feedback_timestamps,
            **labels,
        }
    )
