"""What an events file says, column by column, before it is sorted and merged. CSV or Parquet.

Every complaint is one sentence that names the file, the row and the field. A CSV row is named
by its line, a Parquet row by its number from 1.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

ID_BYTES = 128
KEY_COLUMNS = ("user_id", "item_id", "timestamp")
FEEDBACK_TIMESTAMP = "feedback_timestamp"
#: Seconds of up to 18 digits: twice the largest still fits an int64, which merging relies on.
TIMESTAMP_LIMIT = 10**18
UNKNOWN = -1

_PARQUET_MAGIC = b"PAR1"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CSV_BLOCK_BYTES = 16 << 20


class EventsError(ValueError):
    """An events file that cannot be used; the message says where and why."""


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
    source = _open(Path(path))
    for name in KEY_COLUMNS:
        source.require(name)
    reserved = {*KEY_COLUMNS, FEEDBACK_TIMESTAMP}
    wanted = None if tasks is None else tuple(tasks)
    for name in wanted or ():
        if name in reserved:
            raise EventsError(f"{source.path}: the column {name} cannot be a task")
        source.require(name)
    if wanted is not None and len(set(wanted)) != len(wanted):
        raise EventsError(f"{source.path}: a task is named twice in {', '.join(wanted)}")
    others = tuple(name for name in source.names if name not in reserved)
    has_feedback_time = FEEDBACK_TIMESTAMP in source.names
    columns = (
        *KEY_COLUMNS,
        *((FEEDBACK_TIMESTAMP,) if has_feedback_time else ()),
        *(others if wanted is None else wanted),
    )
    table = source.read(columns)
    if not table.num_rows:
        raise EventsError(f"{source.path} has a header but no events")
    users, items = (_ids(source, name, table[name]) for name in ("user_id", "item_id"))
    timestamps = _timestamps(source, "timestamp", table["timestamp"], None)
    feedback_timestamps = timestamps
    if has_feedback_time:
        column = table[FEEDBACK_TIMESTAMP]
        feedback_timestamps = _timestamps(source, FEEDBACK_TIMESTAMP, column, timestamps)
    if wanted is None:
        labels = _find_labels(source, table, others)
    else:
        labels = {name: _labels(source, name, table[name]) for name in wanted}
    shape = (table.num_rows, len(labels))
    return EventColumns(
        users=users,
        items=items,
        timestamps=timestamps,
        feedback_timestamps=feedback_timestamps,
        tasks=tuple(labels),
        labels=np.stack(list(labels.values()), 1) if labels else np.empty(shape, np.int8),
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """An opened file: its columns' names, a way to read some, and how it names a row."""

    path: Path
    names: tuple[str, ...]
    is_text: bool
    read: Callable[[Sequence[str]], pa.Table]
    place: Callable[[int], str]

    def require(self, name: str) -> None:
        if name not in self.names:
            found = ", ".join(_shown(known) for known in self.names)
            raise EventsError(f"{self.path} has no column {name} (it has {found})")

    def complain(self, row: int, name: str, what: str) -> EventsError:
        return EventsError(f"{self.path}, {self.place(int(row))}: {name} {what}")


def _open(path: Path) -> _Source:
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except FileNotFoundError:
        raise EventsError(f"{path} does not exist") from None
    except OSError as error:
        raise EventsError(f"{path} can't be read: {error.strerror or error}") from error
    if not start:
        raise EventsError(f"{path} is empty")
    source = _open_parquet(path) if start.startswith(_PARQUET_MAGIC) else _open_csv(path, start)
    for name in source.names:
        if source.names.count(name) > 1:
            raise EventsError(f"{path} has the column {_shown(name)} twice")
    return source


def _open_parquet(path: Path) -> _Source:
    def read(names: Sequence[str]) -> pa.Table:
        try:
            return pq.ParquetFile(path).read(columns=list(names))
        except (pa.ArrowException, OSError) as error:
            raise EventsError(f"{path} can't be read as Parquet: {_first_line(error)}") from error

    try:
        names = tuple(pq.ParquetFile(path).schema_arrow.names)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise EventsError(f"{path} can't be read as Parquet: {_first_line(error)}") from error
    return _Source(path, names, False, read, lambda row: f"row {row + 1}")


def _open_csv(path: Path, start: bytes) -> _Source:
    if b"\0" in start:
        raise EventsError(f"{path} is neither Parquet nor CSV in UTF-8")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = tuple(next((row for row in csv.reader(file) if row), ()))
    except (UnicodeDecodeError, csv.Error):
        # Decoding runs ahead of the header, so the fault may lie in a row further down.
        names = _header_bytes(path, start)
    if not names:
        raise EventsError(f"{path} is empty")

    def read(wanted: Sequence[str]) -> pa.Table:
        try:
            return pa_csv.read_csv(
                path,
                read_options=pa_csv.ReadOptions(block_size=_CSV_BLOCK_BYTES),
                parse_options=pa_csv.ParseOptions(newlines_in_values=True),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(wanted, pa.large_binary()),
                    include_columns=list(wanted),
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
        except (pa.ArrowException, OSError) as error:
            ragged = _ragged_row(path, len(names))
            reason = ragged or f"{path} can't be read as CSV: {_first_line(error)}"
            raise EventsError(reason) from error

    return _Source(path, names, True, read, lambda row: f"line {_line(path, row)}")


def _header_bytes(path: Path, start: bytes) -> tuple[str, ...]:
    lines = start.removeprefix(b"\xef\xbb\xbf").splitlines()
    try:
        header = lines[0].decode()
    except UnicodeDecodeError as error:
        raise EventsError(f"{path} is neither Parquet nor CSV in UTF-8") from error
    return tuple(next(csv.reader([header]), ()))


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(first line, fields) of each row of a CSV file, the header included, blank lines not."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        reader = csv.reader(file)
        line = 1
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1


def _line(path: Path, row: int) -> int:
    """Where a data row stands in the file; slow, and only walked to word a complaint."""
    try:
        for index, (line, _) in enumerate(_rows(path)):
            if index == row + 1:
                return line
    except csv.Error:
        pass
    return row + 2


def _ragged_row(path: Path, width: int) -> str | None:
    try:
        for line, fields in _rows(path):
            if len(fields) != width:
                return f"{path}, line {line}: {len(fields)} fields where the header has {width}"
    except csv.Error:
        pass
    return None


def _ids(source: _Source, name: str, column: pa.ChunkedArray) -> Ids:
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
            reason = _fault(raw, text)
            texts.append(text)
        if reason:
            raise source.complain(int(np.argmax(codes == code)), name, reason)
    order = sorted(range(len(found)), key=found.__getitem__)
    rank = np.empty(len(found), np.int64)
    rank[order] = np.arange(len(found))
    return Ids([texts[code] for code in order], rank[codes])


def _fault(raw: bytes, text: str) -> str | None:
    if not raw:
        return "is empty"
    if len(raw) > ID_BYTES:
        return f"is {len(raw)} bytes long, more than {ID_BYTES}: {_shown(text)}"
    if _CONTROL.search(text):
        return f"contains a control character: {_shown(text)}"
    return None


def _timestamps(
    source: _Source, name: str, column: pa.ChunkedArray, default: np.ndarray[Any, Any] | None
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
        raise source.complain(row, name, f"{wanted}, not {_shown(values[row].as_py())}")
    if source.is_text:
        values = values.cast(pa.large_string())
    numbers = values.cast(pa.int64())
    empty = _mask(numbers.is_null())
    if not empty.any():
        return np.array(numbers.to_numpy(), np.int64)
    if default is None:
        raise source.complain(int(np.argmax(empty)), name, "is empty")
    return np.where(empty, default, numbers.fill_null(0).to_numpy())


def _labels(source: _Source, name: str, column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """0, 1 or UNKNOWN for every row."""
    values, labels, good = _read_labels(column)
    if not good.all():
        row = int(np.argmin(good))
        found = _shown(values[row].as_py())
        raise source.complain(row, name, f"must be 0, 1 or empty, not {found}")
    return labels


def _find_labels(
    source: _Source, table: pa.Table, names: Sequence[str]
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
    raise EventsError(f"{source.path} has no task column with a 0 or a 1 in it")


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


def _shown(value: object) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return repr(text if len(text) <= 40 else text[:40] + "…")


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
