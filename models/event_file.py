"""What an events file says, column by column, before it is sorted and merged. CSV or Parquet.

Every complaint is one sentence that names the file, the row and the field. A CSV row is named
by its line, a Parquet row by its number from 1.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.event_source import EventsError, Source, open_source, shown

ID_BYTES = 128
KEY_COLUMNS = ("user_id", "item_id", "timestamp")
FEEDBACK_TIMESTAMP = "feedback_timestamp"
RESERVED = frozenset({*KEY_COLUMNS, FEEDBACK_TIMESTAMP})
#: Seconds of up to 18 digits: twice the largest still fits an int64, which merging relies on.
TIMESTAMP_LIMIT = 10**18
UNKNOWN = -1

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True, eq=False)
class Ids:
    """A column of ids: the distinct ones, sorted by their UTF-8 bytes, and each row's index."""

    distinct: list[str]
    rows: np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class EventColumns:
    """The columns of an events file in the order of the file, checked but not merged."""

    users: Ids
    items: Ids
    timestamps: np.ndarray[Any, Any]  # (rows,) int64
    feedback_timestamps: np.ndarray[Any, Any]  # (rows,) int64
    tasks: tuple[str, ...]
    labels: np.ndarray[Any, Any]  # (rows, tasks) int8


def read_columns(path: Path | str, tasks: Sequence[str] | None = None) -> EventColumns:
    """Read an events file; `tasks` defaults to every column that holds nothing but 0 and 1."""
    source, others = _opened(Path(path))
    wanted = None if tasks is None else tuple(tasks)
    for name in wanted or ():
        if name in RESERVED:
            raise EventsError(f"{source.path}: the column {name} cannot be a task")
        source.require(name)
    if wanted is not None and len(set(wanted)) != len(wanted):
        raise EventsError(f"{source.path}: a task is named twice in {', '.join(wanted)}")
    has_feedback_time = FEEDBACK_TIMESTAMP in source.names
    columns = (
        *KEY_COLUMNS,
        *((FEEDBACK_TIMESTAMP,) if has_feedback_time else ()),
        *(others if wanted is None else wanted),
    )
    table = source.read(columns)
    if not table.num_rows:
        raise EventsError(f"{source.path} has a header but no events")
    if wanted is None:
        labels = _find_labels(source, table, others)
    else:
        labels = {name: _labels(source, name, table[name]) for name in wanted}
    return _columns(source, table, labels)


class ColumnStream:
    """The events of a file of any size, part by part; `tasks` is known when all have been read."""

    def __init__(self, path: Path) -> None:
        self.source, self.others = _opened(path)
        self._known: set[str] = set()
        self._faults: dict[str, EventsError] = {}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every column that holds nothing but 0 and 1, and at least one of them."""
        return tuple(n for n in self.others if n in self._known and n not in self._faults)

    def __iter__(self) -> Iterator[EventColumns]:
        rows = 0
        for batch in self.source.stream(self.source.names):
            if batch.num_rows:
                yield self._checked(pa.Table.from_batches([batch]), rows)
                rows += batch.num_rows
        if not rows:
            raise EventsError(f"{self.source.path} has a header but no events")
        if not self.tasks:
            faults = [self._faults[name] for name in self.others if name in self._faults]
            raise faults[0] if faults else _no_tasks(self.source)

    def _checked(self, table: pa.Table, first: int) -> EventColumns:
        """One part, whose rows are named as rows of the whole; its tasks are all the others."""
        place = self.source.place
        source = dataclasses.replace(self.source, place=lambda row: place(first + row))
        labels = {}
        for name in self.others:
            labels[name] = np.full(table.num_rows, UNKNOWN, np.int8)
            if name not in self._faults:
                try:
                    labels[name] = _labels(source, name, table[name])
                except EventsError as fault:
                    self._faults[name] = fault
                if (labels[name] != UNKNOWN).any():
                    self._known.add(name)
        return _columns(source, table, labels)


def _opened(path: Path) -> tuple[Source, tuple[str, ...]]:
    """A file with all the columns it must have, and the names of the others."""
    source = open_source(path)
    for name in KEY_COLUMNS:
        source.require(name)
    return source, tuple(name for name in source.names if name not in RESERVED)


def _columns(
    source: Source, table: pa.Table, labels: dict[str, np.ndarray[Any, Any]]
) -> EventColumns:
    users, items = (_ids(source, name, table[name]) for name in ("user_id", "item_id"))
    timestamps = _timestamps(source, "timestamp", table["timestamp"], None)
    feedback_timestamps = timestamps
    if FEEDBACK_TIMESTAMP in table.column_names:
        column = table[FEEDBACK_TIMESTAMP]
        feedback_timestamps = _timestamps(source, FEEDBACK_TIMESTAMP, column, timestamps)
    shape = (table.num_rows, len(labels))
    return EventColumns(
        users=users,
        items=items,
        timestamps=timestamps,
        feedback_timestamps=feedback_timestamps,
        tasks=tuple(labels),
        labels=np.stack(list(labels.values()), 1) if labels else np.empty(shape, np.int8),
    )


def _ids(source: Source, name: str, column: pa.ChunkedArray) -> Ids:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    values = _flat(column)
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        values = values.cast(pa.large_string())
    elif not _is_text(kind):
        raise EventsError(f"{source.path}: {name} must be text or whole numbers, not {kind}")
    encoded = values.cast(pa.large_binary()).dictionary_encode()
    if encoded.null_count:
        raise source.complain(int(np.argmax(_mask(encoded.is_null()))), name, "is empty")
    codes = encoded.indices.to_numpy().astype(np.int64)
    found: list[bytes] = encoded.dictionary.to_pylist()  # in the order of first appearance
    texts = []
    for code, raw in enumerate(found):
        reason = None
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            reason = "is not valid UTF-8"
        else:
            reason = fault_of(text)
            texts.append(text)
        if reason:
            raise source.complain(int(np.argmax(codes == code)), name, reason)
    order = sorted(range(len(found)), key=found.__getitem__)
    rank = np.empty(len(found), np.int64)
    rank[order] = np.arange(len(found))
    return Ids([texts[code] for code in order], rank[codes])


def fault_of(text: str) -> str | None:
    """Why an id cannot be one, as the end of a sentence."""
    if not text:
        return "is empty"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "is not valid UTF-8"
    if size > ID_BYTES:
        return f"is {size} bytes long, more than {ID_BYTES}: {shown(text)}"
    if _CONTROL.search(text):
        return f"contains a control character: {shown(text)}"
    return None


def _timestamps(
    source: Source, name: str, column: pa.ChunkedArray, default: np.ndarray[Any, Any] | None
) -> np.ndarray[Any, Any]:
    """Whole seconds; where the cell is empty, `default`'s."""
    values = _flat(column)
    if source.is_text:
        bad = pc.invert(pc.match_substring_regex(values, r"^[0-9]{1,18}$"))
    elif pa.types.is_integer(values.type) or pa.types.is_null(values.type):
        values = values.cast(pa.decimal128(38, 0)) if values.type == pa.uint64() else values
        values = values.cast(pa.int64()) if pa.types.is_null(values.type) else values
        bad = pc.or_(pc.less(values, 0), pc.greater_equal(values, TIMESTAMP_LIMIT))
    else:
        raise EventsError(f"{source.path}: {name} must be whole seconds, not {values.type}")
    bad = _mask(bad)
    if bad.any():
        row = int(np.argmax(bad))
        wanted = "must be whole seconds, 0 or more and at most 18 digits"
        raise source.complain(row, name, f"{wanted}, not {shown(values[row].as_py())}")
    if source.is_text:
        values = values.cast(pa.large_string())
    numbers = values.cast(pa.int64())
    empty = _mask(numbers.is_null())
    if not empty.any():
        return np.array(numbers.to_numpy(), np.int64)
    if default is None:
        raise source.complain(int(np.argmax(empty)), name, "is empty")
    return np.where(empty, default, numbers.fill_null(0).to_numpy())


def _labels(source: Source, name: str, column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """0, 1 or UNKNOWN for every row."""
    values, labels, good = _read_labels(column)
    if not good.all():
        row = int(np.argmin(good))
        found = shown(values[row].as_py())
        raise source.complain(row, name, f"must be 0, 1 or empty, not {found}")
    return labels


def _find_labels(
    source: Source, table: pa.Table, names: Sequence[str]
) -> dict[str, np.ndarray[Any, Any]]:
    """The labels of every column that holds nothing but 0 and 1, and at least one of them."""
    found = {}
    for name in names:
        _, labels, good = _read_labels(table[name])
        if good.all() and (labels != UNKNOWN).any():
            found[name] = labels
    if found:
        return found
    for name in names:
        _labels(source, name, table[name])  # complains of the first cell that is something else
    raise _no_tasks(source)


def _no_tasks(source: Source) -> EventsError:
    return EventsError(f"{source.path} has no task column with a 0 or a 1 in it")


def _read_labels(column: pa.ChunkedArray) -> tuple[Any, np.ndarray[Any, Any], Any]:
    """(cells, labels, which rows hold 0, 1 or nothing)."""
    values = _flat(column)
    kind = values.type
    if pa.types.is_null(kind):
        values = values.cast(pa.int8())
    elif _is_text(kind):
        values = values.cast(pa.large_binary())
    if _is_text(kind):
        zeros, ones, nothing = (
            _mask(pc.is_in(values, pa.array(texts, values.type)))
            for texts in ((b"0", b"0.0"), (b"1", b"1.0"), (b"", None))
        )
    elif pa.types.is_integer(values.type) or pa.types.is_floating(kind):
        zeros, ones = (_mask(pc.equal(values, pa.scalar(label, values.type))) for label in (0, 1))
        nothing = _mask(values.is_null(nan_is_null=True))
    else:
        nothing = _mask(values.is_null())
        zeros = ones = np.zeros(len(values), bool)
    labels = np.where(ones, 1, np.where(zeros, 0, UNKNOWN)).astype(np.int8)
    return values, labels, zeros | ones | nothing


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def _flat(column: pa.ChunkedArray) -> pa.Array:
    """One array, whatever the chunks; a dictionary gives its values."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    flat = column.combine_chunks()
    return flat if isinstance(flat, pa.Array) else pa.concat_arrays(flat.chunks)


def _mask(values: Any) -> np.ndarray[Any, Any]:
    """A boolean array of Arrow's as numpy, null as false."""
    flags: np.ndarray[Any, Any] = values.fill_null(False).to_numpy(zero_copy_only=False)
    return flags
