"""An events file opened: CSV, Parquet or an Arrow stream by its content, and how it names a row
in a complaint.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

_PARQUET_MAGIC = b"PAR1"
_ARROW_MAGIC = b"\xff\xff\xff\xff"  # of a stream: what we write ourselves
_CSV_BLOCK_BYTES = 16 << 20
_STREAM_BLOCK_BYTES = 1 << 20  # several are read ahead
_STREAM_ROWS = 1 << 16
_CSV_ROW_BYTES = 16  # about the shortest there is


class EventsError(ValueError):
    """An events file that cannot be used; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Source:
    """An opened file: its columns' names, ways to read some, and how it names a row."""

    path: Path
    names: tuple[str, ...]
    is_text: bool
    rows: int  # of a CSV file an estimate, rather too many
    read: Callable[[Sequence[str]], pa.Table]
    stream: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]
    place: Callable[[int], str]

    def require(self, name: str) -> None:
        if name not in self.names:
            found = ", ".join(shown(known) for known in self.names)
            raise EventsError(f"{self.path} has no column {name} (it has {found})")

    def complain(self, row: int, name: str, what: str) -> EventsError:
        return EventsError(f"{self.path}, {self.place(int(row))}: {name} {what}")


def open_source(path: Path) -> Source:
    """Look at the header only; the rows are read when asked for."""
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except FileNotFoundError:
        raise EventsError(
            f"no events at {path}; `marmot data ml-100k --out DIR` fetches some to try"
        ) from None
    except OSError as error:
        raise EventsError(f"{path} can't be read: {error.strerror or error}") from error
    if not start:
        raise EventsError(f"{path} is empty")
    if start.startswith(_PARQUET_MAGIC):
        source = _open_parquet(path)
    elif start.startswith(_ARROW_MAGIC):
        source = _open_arrow(path)
    else:
        source = _open_csv(path, start)
    for name in source.names:
        if source.names.count(name) > 1:
            raise EventsError(f"{path} has the column {shown(name)} twice")
    return source


def _open_parquet(path: Path) -> Source:
    def read(names: Sequence[str]) -> pa.Table:
        try:
            return pq.ParquetFile(path).read(columns=list(names))
        except (pa.ArrowException, OSError) as error:
            raise EventsError(f"{path} can't be read as Parquet: {_first_line(error)}") from error

    def stream(names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        try:
            with pq.ParquetFile(path, pre_buffer=False) as file:
                yield from file.iter_batches(_STREAM_ROWS, columns=list(names))
        except (pa.ArrowException, OSError) as error:
            raise EventsError(f"{path} can't be read as Parquet: {_first_line(error)}") from error

    try:
        with pq.ParquetFile(path) as file:
            names, rows = tuple(file.schema_arrow.names), int(file.metadata.num_rows)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise EventsError(f"{path} can't be read as Parquet: {_first_line(error)}") from error
    return Source(path, names, False, rows, read, stream, lambda row: f"row {row + 1}")


def _open_arrow(path: Path) -> Source:
    @contextmanager
    def opened() -> Iterator[Any]:
        try:
            with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
                yield reader
        except (pa.ArrowException, OSError) as error:
            reason = f"{path} can't be read as an Arrow stream: {_first_line(error)}"
            raise EventsError(reason) from error

    def read(names: Sequence[str]) -> pa.Table:
        with opened() as reader:
            return reader.read_all().select(list(names))

    def stream(names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with opened() as reader:
            for batch in reader:
                yield batch.select(list(names))

    with opened() as reader:
        names = tuple(reader.schema.names)
    rows = path.stat().st_size // _CSV_ROW_BYTES
    return Source(path, names, False, rows, read, stream, lambda row: f"row {row + 1}")


def _open_csv(path: Path, start: bytes) -> Source:
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
        with _as_csv(path, len(names)):
            return pa_csv.read_csv(path, **_csv_options(wanted, _CSV_BLOCK_BYTES))

    def stream(wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with _as_csv(path, len(names)):
            yield from pa_csv.open_csv(path, **_csv_options(wanted, _STREAM_BLOCK_BYTES))

    rows = path.stat().st_size // _CSV_ROW_BYTES
    return Source(path, names, True, rows, read, stream, lambda row: f"line {_line(path, row)}")


def _csv_options(wanted: Sequence[str], block_bytes: int) -> dict[str, Any]:
    return {
        "read_options": pa_csv.ReadOptions(block_size=block_bytes),
        "parse_options": pa_csv.ParseOptions(newlines_in_values=True),
        "convert_options": pa_csv.ConvertOptions(
            column_types=dict.fromkeys(wanted, pa.large_binary()),
            include_columns=list(wanted),
            null_values=[""],
            strings_can_be_null=True,
        ),
    }


@contextmanager
def _as_csv(path: Path, width: int) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        ragged = _ragged_row(path, width)
        reason = ragged or f"{path} can't be read as CSV: {_first_line(error)}"
        raise EventsError(reason) from error


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


def shown(value: object) -> str:
    """A cell as a complaint quotes it."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return repr(text if len(text) <= 40 else text[:40] + "…")


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
