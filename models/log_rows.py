"""Rows of a log as columns of text, whatever the file is written in; and where each row stands."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from models.event_source import EventsError
from models.log_formats import Layout
from models.log_members import Block, Member, blocks

Array = np.ndarray[Any, Any]
_PARQUET_ROWS = 1 << 18
_HEAD_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a row; without a field, with all of it."""

    line: int
    field: str
    problem: str

    def __str__(self) -> str:
        return f"{self.field} {self.problem}".strip()


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows: cells as large_binary, null where empty. `end` is where to go on after them."""

    cells: Mapping[str, pa.Array]
    count: int
    lines: Array  # (count,) int64
    end: int
    next_line: int
    faults: list[Fault] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LogFile:
    """One file of a log with the layout that fits it."""

    member: Member
    layout: Layout
    names: tuple[str, ...]
    body: int  # where the rows begin
    first_line: int

    def read(self, wanted: tuple[str, ...], start: int, line: int) -> Iterator[Rows]:
        """The cells of the columns `wanted` from `start` on, or from the first row at 0."""
        if start <= self.body:
            start, line = self.body, self.first_line
        with self.member.open() as file:
            if self.layout.kind == "parquet":
                yield from _parquet(file, wanted, start)
                return
            quoted = self.layout.kind == "text" and self.layout.is_quoted
            for block in blocks(file, start, line, is_quoted=quoted):
                yield (
                    self._json(block, wanted)
                    if self.layout.kind == "json"
                    else self._text(block, wanted)
                )

    def place(self, line: int) -> str:
        """How a complaint names a row."""
        unit = "row" if self.layout.kind == "parquet" else "line"
        return f"{self.member.name}, {unit} {line}"

    def _text(self, block: Block, wanted: tuple[str, ...]) -> Rows:
        layout, data, ragged = self.layout, block.data, 0
        if len(layout.delimiter) > 1:
            data = data.replace(layout.delimiter.encode(), b"\t")

        def on_ragged(row: Any) -> str:
            nonlocal ragged
            ragged += 1
            return "skip"

        try:
            table = pa_csv.read_csv(
                pa.BufferReader(data),
                pa_csv.ReadOptions(
                    column_names=list(self.names), block_size=len(data) + 1, use_threads=False
                ),
                pa_csv.ParseOptions(
                    delimiter="\t" if len(layout.delimiter) > 1 else layout.delimiter,
                    quote_char='"' if layout.is_quoted else False,
                    newlines_in_values=layout.is_quoted,
                    invalid_row_handler=on_ragged,
                ),
                pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(wanted, pa.large_binary()),
                    include_columns=list(wanted),
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
        except pa.ArrowException as error:
            where = f"{self.member.name}, line {block.first_line}"
            raise EventsError(f"{where}: what follows can't be read as text: {error}") from error
        cells = {name: _flat(table[name]) for name in wanted}
        lines, faults = self._lines(data, block, table.num_rows, ragged)
        return Rows(cells, table.num_rows, lines, block.end, block.next_line, faults)

    def _lines(
        self, data: bytes, block: Block, count: int, ragged: int
    ) -> tuple[Array, list[Fault]]:
        """The line of each good row, and the others; walked only where lines and rows differ."""
        first, ends = block.first_line, data.count(b"\n") + (not data.endswith(b"\n"))
        if count == ends and not ragged:
            return np.arange(first, first + count), []
        lines, faults, line, width = [], [], first, len(self.names)
        delimiter = "\t" if len(self.layout.delimiter) > 1 else self.layout.delimiter
        text = io.StringIO(data.decode("latin-1"), newline="")
        quote = '"' if self.layout.is_quoted else None
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
        reader = csv.reader(text, delimiter=delimiter, quotechar=quote, quoting=quoting)
        for fields in reader:
            if len(fields) == width:
                lines.append(line)
            elif fields:
                faults.append(Fault(line, "", f"{len(fields)} fields where there must be {width}"))
            line = first + reader.line_num
        if len(lines) != count:  # two readers that do not agree on what a row is
            lines = list(range(first, first + count))
        return np.array(lines, np.int64), faults

    def _json(self, block: Block, wanted: tuple[str, ...]) -> Rows:
        found: dict[str, list[bytes | None]] = {name: [] for name in wanted}
        lines, faults = [], []
        for line, text in enumerate(block.data.split(b"\n"), block.first_line):
            if not text.strip():
                continue
            try:
                row = orjson.loads(text)
            except orjson.JSONDecodeError:
                row = None
            if not isinstance(row, dict):
                faults.append(Fault(line, "", "is not a JSON object"))
                continue
            lines.append(line)
            for name, cells in found.items():
                cells.append(_cell(row.get(name)))
        columns = {name: pa.array(cells, pa.large_binary()) for name, cells in found.items()}
        end = (block.end, block.next_line)
        return Rows(columns, len(lines), np.array(lines, np.int64), *end, faults)


def open_log(member: Member, layouts: tuple[Layout, ...], columns: Mapping[str, str]) -> LogFile:
    """The first layout whose columns the file has; `columns` go before those of the layout."""
    with member.open() as file:
        head = file.read(_HEAD_BYTES)
        if head.startswith(b"PAR1"):
            layout = replace(layouts[0], kind="parquet")
            file.seek(0)
            names = tuple(pq.ParquetFile(file).schema_arrow.names)
            return _chosen(member, [(layout, names, 0, 1)], columns)
    if not head:
        raise EventsError(f"{member.name} is empty")
    first, _, _ = head.partition(b"\n")
    body, start = len(first) + 1, first.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r")
    if start.lstrip().startswith(b"{"):
        row = orjson.loads(start) if _is_json(start) else {}
        kinds = [layout for layout in layouts if layout.kind == "json"] or [
            replace(layouts[0], kind="json")
        ]
        return _chosen(member, [(layout, tuple(row), 0, 1) for layout in kinds], columns)
    tried = []
    for layout in layouts:
        if layout.kind == "json":
            continue
        text = start.decode("utf-8", "replace")
        shape = replace(layout, kind="text", delimiter=_delimiter(layout, text))
        fields = _fields(text, shape)
        if layout.names:
            tried.append((shape, layout.names if len(layout.names) == len(fields) else (), 0, 1))
        elif columns and all(name.isdecimal() for name in columns.values()):
            tried.append((shape, tuple(str(n) for n in range(1, len(fields) + 1)), 0, 1))
        else:
            typed = (name.partition(":")[0] if layout.is_typed else name for name in fields)
            tried.append((shape, tuple(typed), body, 2))
    return _chosen(member, tried, columns)


Tried = tuple[Layout, tuple[str, ...], int, int]


def _chosen(member: Member, tried: list[Tried], columns: Mapping[str, str]) -> LogFile:
    for layout, names, body, line in tried:
        mapped = {**layout.columns, **columns}
        if set(mapped.values()) <= set(names):
            for name in names:
                if names.count(name) > 1:
                    raise EventsError(f"{member.name} has the column {name!r} twice")
            return LogFile(member, replace(layout, columns=mapped), names, body, line)
    layout, names, *_ = tried[-1]
    missing = [name for name in {**layout.columns, **columns}.values() if name not in names]
    has = f"it has {', '.join(map(repr, names))}" if names else "its rows have another number"
    raise EventsError(f"{member.name} has no column {missing[0]} ({has})")


def _fields(text: str, layout: Layout) -> list[str]:
    if not layout.is_quoted:
        return text.split(layout.delimiter)
    return next(csv.reader([text], delimiter=layout.delimiter), [])


def _delimiter(layout: Layout, header: str) -> str:
    """What a CSV file uses where its layout says a comma: the likeliest of the usual three."""
    if layout.delimiter != "," or layout.names:
        return layout.delimiter
    return max(",\t;", key=header.count)


def _is_json(text: bytes) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


def _cell(value: Any) -> bytes | None:
    """A JSON value as text would have it."""
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return b"1" if value else b"0"
    return value.encode() if isinstance(value, str) else orjson.dumps(value)


def _parquet(file: Any, wanted: tuple[str, ...], start: int) -> Iterator[Rows]:
    """Rows are counted, and named, from 1; `start` is how many are done."""
    done = 0
    with pq.ParquetFile(file, pre_buffer=False) as source:
        for batch in source.iter_batches(_PARQUET_ROWS, columns=list(wanted)):
            first, done = done, done + batch.num_rows
            if done <= start:
                continue
            cells = {name: _as_text(batch[name]) for name in wanted}
            lines = np.arange(first + 1, done + 1)
            yield Rows(cells, batch.num_rows, lines, done, done + 1)


def _as_text(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    elif pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    elif pa.types.is_floating(column.type):
        whole = pc.equal(pc.floor(column), column)
        if pc.all(whole).as_py() is not False:
            column = column.cast(pa.int64(), safe=False)
    return column.cast(pa.large_string()).cast(pa.large_binary())


def _flat(column: pa.ChunkedArray) -> pa.Array:
    flat = column.combine_chunks()
    return flat if isinstance(flat, pa.Array) else pa.concat_arrays(flat.chunks)


def head_of(file: LogFile, wanted: tuple[str, ...]) -> Rows | None:
    """The first rows of a file, to see what its columns hold."""
    return next(islice(file.read(wanted, 0, 1), 1), None)
