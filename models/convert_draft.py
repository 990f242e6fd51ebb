"""Draft: the parts of a conversion under way, and how far it has come."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.log_members import Member
from models.log_rows import Fault, Rows
from models.log_rules import ITEM_COLUMN

#: More faulty rows than this are counted, but not written down.
MOST_FAULTS = 10_000
ERRORS = "errors.csv"
#: Where the parts wait, inside the folder of the result.
FOLDER = ".convert"


@dataclass(slots=True)
class State:
    """How far a conversion has come, in the file `member` up to byte (or row) `end`."""

    wish: str
    member: int = 0
    end: int = 0
    line: int = 1
    parts: int = 0
    events: int = 0
    skipped: int = 0
    errors_bytes: int = 0


class Draft:
    """Takes up what an interrupted conversion of the same files left, or begins anew."""

    def __init__(self, out: Path, members: Sequence[Member], wish: str) -> None:
        self.out, self.folder, self.errors = out, out / FOLDER, out / ERRORS
        told = [wish, *(f"{member.name} {member.stamp}" for member in members)]
        identity = hashlib.sha256("\n".join(told).encode()).hexdigest()
        found = self._left()
        if found and found.wish == identity:
            self.state = found
            if self.errors.exists():
                os.truncate(self.errors, found.errors_bytes)
            return
        self.state = State(identity)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.errors.unlink(missing_ok=True)
        self.folder.mkdir(parents=True)

    def _left(self) -> State | None:
        try:
            return State(**json.loads((self.folder / "state.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def start_of(self, member: int) -> tuple[int, int] | None:
        """Where to go on in a file: (end, line); None if all of it has been read."""
        if member < self.state.member:
            return None
        return (self.state.end, self.state.line) if member == self.state.member else (0, 1)

    def add(
        self, member: int, table: pa.Table, rows: Rows, faults: Sequence[tuple[str, Fault]]
    ) -> None:
        """Keeps a block's events, and then says so: an interruption loses a block at most."""
        state = self.state
        if table.num_rows:
            pq.write_table(table, self._part(state.parts), compression="zstd")
            state.parts += 1
        if faults:
            self._tell(faults)
        state.member, state.end, state.line = member, rows.end, rows.next_line
        state.events += table.num_rows
        state.skipped += len(faults)
        half = self.folder / "state.half"
        half.write_text(json.dumps(asdict(state)))
        half.replace(self.folder / "state.json")

    def _tell(self, faults: Sequence[tuple[str, Fault]]) -> None:
        is_new = not self.errors.exists()
        with self.errors.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if is_new:
                writer.writerow(("file", "line", "field", "problem"))
            for name, fault in faults[: max(0, MOST_FAULTS - self.state.skipped)]:
                writer.writerow((name, fault.line, fault.field, fault.problem))
        self.state.errors_bytes = self.errors.stat().st_size

    def write_events(self) -> Path:
        """events.parquet of all parts, in one step."""
        path = self.out / "events.parquet"
        half = self.folder / "events.parquet"
        with pq.ParquetFile(self._part(0)) as first:
            schema = first.schema_arrow
        names = [name for name in schema.names if not name.startswith(ITEM_COLUMN)]
        with pq.ParquetWriter(half, pa.schema([schema.field(name) for name in names])) as writer:
            for table in self._parts(names):
                writer.write_table(table)
        half.replace(path)
        return path

    def write_items(self, found: Iterable[pa.Table]) -> Path | None:
        """items.parquet of what describes the items, or of what the events themselves say."""
        half, path = self.folder / "items.parquet", self.out / "items.parquet"
        writer: pq.ParquetWriter | None = None
        try:
            for table in found if (mentioned := self._mentioned()) is None else (mentioned,):
                writer = writer or pq.ParquetWriter(half, table.schema)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            return None
        half.replace(path)
        return path

    def _mentioned(self) -> pa.Table | None:
        """The items of the events with what is first said of each; as large as the catalogue."""
        with pq.ParquetFile(self._part(0)) as first:
            said = [name for name in first.schema_arrow.names if name.startswith(ITEM_COLUMN)]
        if not said:
            return None
        names = ["item_id", *said]
        known: list[pa.Table] = []
        ids = pa.chunked_array([], pa.large_string())
        for table in self._parts(names):
            codes = table["item_id"].combine_chunks().dictionary_encode().indices.to_numpy()
            first = table.take(np.unique(codes, return_index=True)[1])
            known.append(first.filter(pc.invert(pc.is_in(first["item_id"], ids))))
            ids = pa.chunked_array([*ids.chunks, *known[-1]["item_id"].chunks])
        all_of_them = pa.concat_tables(known)
        return all_of_them.rename_columns([name.removeprefix(ITEM_COLUMN) for name in names])

    def close(self) -> Path | None:
        """Removes the parts; the file of errors stays, if there are any."""
        shutil.rmtree(self.folder)
        return self.errors if self.errors.exists() else None

    def _parts(self, names: list[str]) -> Iterator[pa.Table]:
        for part in range(self.state.parts):
            yield pq.read_table(self._part(part), columns=names)

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:06}.parquet"
