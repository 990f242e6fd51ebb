"""Tables that people read on a screen or in Markdown; programs read the JSON line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of each row: where it stands in the report, its heading, how it is written."""

    key: str
    heading: str
    form: str = ",.2f"

    def cell(self, row: Report) -> str:
        value = row[self.key]
        return "-" if value is None else format(value, self.form)


@dataclass(frozen=True, slots=True)
class Section:
    """A table with a sentence above it."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Report]


def on_screen(sections: Sequence[Section]) -> RenderableType:
    """All tables, one under the other."""
    shown: list[RenderableType] = []
    for section in sections:
        table = Table()
        for column in section.columns:
            table.add_column(column.heading, justify="left" if column.form == "" else "right")
        for row in section.rows:
            table.add_row(*(column.cell(row) for column in section.columns))
        shown += [section.title, table]
    return Group(*shown)


def markdown(sections: Sequence[Section]) -> str:
    """The same tables for a page."""
    return "\n".join(_markdown(section) for section in sections)


def _markdown(section: Section) -> str:
    heads = [column.heading for column in section.columns]
    rules = ["---" if column.form == "" else "---:" for column in section.columns]
    rows = [[column.cell(row) for column in section.columns] for row in section.rows]
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, rules, *rows)]
    return "\n".join([section.title, "", *lines, ""])
