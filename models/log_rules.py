"""What becomes of a log's rows: ids, seconds and labels, or the reason why a row is none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.event_file import FEEDBACK_TIMESTAMP, ID_BYTES, RESERVED, UNKNOWN, fault_of
from models.event_source import shown
from models.log_formats import EVENT_COLUMNS
from models.log_rows import Array, Fault, Rows

#: Before the names of columns that say something of the item, until items.parquet is written.
ITEM_COLUMN = "item:"

_RULE = re.compile(r"([^<>=!]+?)(>=|<=|==|!=|>|<)(.+)")
_SECONDS = r"^[0-9]{1,18}(\.[0-9]*)?$"
_COMPARE = {
    ">=": np.greater_equal,
    "<=": np.less_equal,
    ">": np.greater,
    "<": np.less,
    "==": np.equal,
    "!=": np.not_equal,
}


class RuleError(ValueError):
    """A rule that says nothing."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Rule:
    """A column, or a comparison of its cells with a number or a word: 1, 0, or nothing if empty."""

    column: str
    sign: str = ""
    value: str = ""

    def labels(self, cells: pa.Array) -> tuple[Array, Array, str]:
        """((rows,) int8, which of them stand, what the others are not)."""
        empty = _mask(cells.is_null())
        if self.sign in ("==", "!=") and not _is_number(self.value):
            equal = _mask(pc.equal(cells, pa.scalar(self.value.encode(), cells.type)))
            labels = equal if self.sign == "==" else ~equal
            return np.where(empty, UNKNOWN, labels).astype(np.int8), np.ones(len(cells), bool), ""
        numbers, good = _numbers(cells)
        if not self.sign:
            good = empty | (good & np.isin(numbers, (0, 1)))
            return np.where(empty | ~good, UNKNOWN, numbers).astype(np.int8), good, "0, 1 or empty"
        labels = _COMPARE[self.sign](numbers, float(self.value))
        return np.where(empty | ~good, UNKNOWN, labels).astype(np.int8), empty | good, "a number"


def parse_task(text: str) -> tuple[str, Rule]:
    """`like=rating>=4` or `like=is_like`: a task's name and its rule."""
    name, equals, said = text.partition("=")
    if not equals or not name or not said or name in RESERVED:
        raise RuleError(f"a task is NAME=COLUMN or NAME=COLUMN>=NUMBER, not {text!r}")
    return name, parse_rule(said, may_be_plain=True)


def parse_rule(text: str, *, may_be_plain: bool = False) -> Rule:
    """`rating>=4`, `behavior==buy`."""
    if match := _RULE.fullmatch(text):
        column, sign, value = match.groups()
        if sign not in ("==", "!=") and not _is_number(value):
            raise RuleError(f"{text!r} compares with {value!r}, which is no number")
        return Rule(column, sign, value)
    if may_be_plain and not re.search(r"[<>=!]", text):
        return Rule(text)
    raise RuleError(f"a condition is COLUMN>=NUMBER or COLUMN==WORD, not {text!r}")


@dataclass(frozen=True, slots=True)
class Plan:
    """How rows become events; `columns` names theirs by ours, `positive` is a task of ones."""

    columns: Mapping[str, str]
    tasks: Mapping[str, Rule]
    where: Sequence[Rule] = ()
    positive: str | None = None
    per_s: int = 1
    item_columns: Mapping[str, str] | None = None

    @property
    def wanted(self) -> tuple[str, ...]:
        """Every column that must be read, once."""
        rules = [rule.column for rule in (*self.tasks.values(), *self.where)]
        return tuple(dict.fromkeys([*self.columns.values(), *rules, *(self.item_columns or ())]))

    @property
    def task_names(self) -> tuple[str, ...]:
        return (self.positive,) if self.positive else tuple(self.tasks)

    def events(self, rows: Rows) -> tuple[pa.Table, list[Fault]]:
        """The rows that are events, and what is wrong with the others, by line."""
        found = _Found(rows)
        keep = np.ones(rows.count, bool)
        for rule in self.where:
            keep &= found.labels(rule) == 1
        columns: dict[str, Any] = {}
        for name in EVENT_COLUMNS[:2]:
            columns[name] = found.ids(self.columns[name])
        columns["timestamp"] = found.seconds(self.columns["timestamp"], self.per_s)
        if FEEDBACK_TIMESTAMP in self.columns:
            source = self.columns[FEEDBACK_TIMESTAMP]
            columns[FEEDBACK_TIMESTAMP] = found.seconds(source, self.per_s, may_be_empty=True)
        for name, rule in self.tasks.items():
            labels = found.labels(rule)
            columns[name] = pa.array(labels, mask=labels == UNKNOWN)
        if self.positive:
            columns[self.positive] = pa.array(np.ones(rows.count, np.int8))
        for theirs, ours in (self.item_columns or {}).items():
            columns[ITEM_COLUMN + ours] = rows.cells[theirs].cast(pa.large_string(), safe=False)
        table = pa.table(columns).filter(pa.array(keep & found.good))
        faults = rows.faults + found.faults
        return table, sorted(faults, key=lambda fault: fault.line)


class _Found:
    """Rows as they are checked, field by field; a row is told of once."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.good = np.ones(rows.count, bool)
        self.faults: list[Fault] = []

    def labels(self, rule: Rule) -> Array:
        cells = self.rows.cells[rule.column]
        labels, stands, wanted = rule.labels(cells)
        self._tell(~stands, rule.column, cells, f"must be {wanted}, not")
        return labels

    def ids(self, name: str) -> pa.Array:
        cells = self.rows.cells[name]
        self._tell(_mask(cells.is_null()), name, None, "is empty")
        if (texts := _good_ids(cells)) is not None:
            return texts
        encoded = cells.dictionary_encode()
        reasons: dict[int, str] = {}
        for code, raw in enumerate(encoded.dictionary.to_pylist()):
            try:
                reason = fault_of(raw.decode())
            except UnicodeDecodeError:
                reason = "is not valid UTF-8"
            if reason:
                reasons[code] = reason
        if not reasons:
            return cells.cast(pa.large_string())
        codes = encoded.indices.fill_null(-1).to_numpy()
        for code, reason in reasons.items():
            self._tell(codes == code, name, None, reason)
        bad = pa.array(np.isin(codes, list(reasons)))
        return pc.if_else(bad, pa.scalar(b"?", cells.type), cells).cast(pa.large_string())

    def seconds(self, name: str, per_s: int, *, may_be_empty: bool = False) -> pa.Array:
        cells = self.rows.cells[name]
        empty = _mask(cells.is_null())
        if not may_be_empty:
            self._tell(empty, name, None, "is empty")
        good = _mask(pc.match_substring_regex(cells, _SECONDS))
        self._tell(~good & ~empty, name, cells, "must be a time as a whole number, not")
        clean = pc.if_else(pa.array(good), cells, pa.scalar(b"0", cells.type))
        whole = pc.replace_substring_regex(clean.cast(pa.large_string()), r"\..*", "")
        ticks = whole.cast(pa.int64())
        seconds = pc.divide(ticks, per_s) if per_s > 1 else ticks
        return pc.if_else(pa.array(empty), pa.scalar(None, pa.int64()), seconds)

    def _tell(self, bad: Array, name: str, cells: pa.Array | None, problem: str) -> None:
        for row in np.flatnonzero(bad & self.good).tolist():
            found = f" {shown(cells[row].as_py())}" if cells is not None else ""
            self.faults.append(Fault(int(self.rows.lines[row]), name, problem + found))
        self.good &= ~bad


def _good_ids(cells: pa.Array) -> pa.Array | None:
    """The cells as text, if none of them needs a closer look."""
    try:
        texts = cells.cast(pa.large_string())
    except pa.ArrowInvalid:
        return None
    odd = pc.or_(
        pc.greater(pc.binary_length(cells), ID_BYTES),
        pc.match_substring_regex(texts, r"[\x{0}-\x{1f}\x{7f}-\x{9f}]"),
    )
    return None if pc.any(odd).as_py() else texts


def _numbers(cells: pa.Array) -> tuple[Array, Array]:
    """((rows,) float64, which cells are numbers); others are 0."""
    pattern = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
    good = _mask(pc.match_substring_regex(cells, pattern))
    clean = pc.if_else(pa.array(good), cells, pa.scalar(b"0", cells.type))
    numbers = clean.cast(pa.large_string()).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.asarray(numbers), good


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _mask(values: Any) -> Array:
    """A boolean array of Arrow's as numpy, null as false."""
    return np.asarray(values.fill_null(False).to_numpy(zero_copy_only=False))
