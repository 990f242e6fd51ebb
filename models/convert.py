"""`marmot data convert`: a log as people have it becomes events.parquet and items.parquet.

Read block by block, so that memory does not grow with the log. Each block becomes a part on disk,
and a conversion that was interrupted goes on after its last part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models.convert_draft import Draft
from models.event_file import RESERVED, UNKNOWN
from models.event_source import EventsError
from models.log_formats import FORMATS, LogFormat
from models.log_items import read_items
from models.log_members import Member, find_members, is_archive
from models.log_rows import LogFile, head_of, open_log
from models.log_rules import Plan, Rule, parse_task

#: What the task of a log is called in which every event is a positive.
POSITIVE = "positive"

#: Called with how many bytes have been read, and of how many (0: not known).
Advance = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be converted, and how."""

    format: str
    source: Path
    out: Path
    columns: dict[str, str]
    tasks: dict[str, Rule]
    where: tuple[Rule, ...] = ()
    positive: str | None = None
    per_s: int | None = None
    stops: bool = True  # at the first row that is no event


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written, and how many rows of the log were no events."""

    events: Path
    items: Path | None
    count: int
    skipped: int
    tasks: tuple[str, ...]
    errors: Path | None


def convert(wish: Wish, advance: Advance = lambda done, of: None) -> Converted:
    """Raises `EventsError` at a row that is no event if `wish.stops`, else lists it."""
    kind = FORMATS[wish.format]
    members = _members(wish, kind)
    files = [open_log(member, kind.layouts, wish.columns) for member in members]
    plans = [_plan(wish, kind, file) for file in files]
    for file, plan in zip(files, plans, strict=True):
        if plan.task_names != plans[0].task_names:
            had, has = (", ".join(p.task_names) for p in (plans[0], plan))
            first = files[0].member.name
            raise EventsError(f"{file.member.name} has the tasks {has}, {first} has {had}")
    draft = Draft(wish.out, members, repr(wish))
    total, before = sum(member.size for member in members), 0
    for index, (file, plan) in enumerate(zip(files, plans, strict=True)):
        start = draft.start_of(index)
        for rows in file.read(plan.wanted, *start) if start else ():
            table, faults = plan.events(rows)
            if faults and wish.stops:
                raise EventsError(f"{file.place(faults[0].line)}: {faults[0]}")
            draft.add(index, table, rows, [(file.member.name, fault) for fault in faults])
            advance(before + rows.end, total)
        before += file.member.size
    if not draft.state.events:
        raise EventsError(f"{wish.source} holds no event")
    found = (
        table
        for member in (find_members(wish.source, kind.items) if is_archive(wish.source) else ())
        for table in read_items(wish.format, member)
    )
    items = draft.write_items(found)
    return Converted(
        draft.write_events(),
        items,
        draft.state.events,
        draft.state.skipped,
        plans[0].task_names,
        draft.close(),
    )


def _members(wish: Wish, kind: LogFormat) -> list[Member]:
    found = find_members(wish.source, kind.events)
    if kind.items and is_archive(wish.source):
        items = {member.name for member in find_members(wish.source, kind.items)}
        found = [member for member in found if member.name not in items]
    if not found:
        raise EventsError(f"{wish.source} holds no file named {' or '.join(kind.events)}")
    return found


def _plan(wish: Wish, kind: LogFormat, file: LogFile) -> Plan:
    layout, tasks = file.layout, wish.tasks
    for rule in (*tasks.values(), *wish.where):
        if rule.column not in file.names:
            has = ", ".join(map(repr, file.names))
            raise EventsError(f"{file.member.name} has no column {rule.column} (it has {has})")
    if not tasks and not wish.positive:
        usual = dict(map(parse_task, layout.tasks))
        tasks = {name: rule for name, rule in usual.items() if rule.column in file.names}
        if kind.finds_tasks:
            tasks = _found_tasks(file)
    return Plan(
        columns=layout.columns,
        tasks=tasks,
        where=wish.where,
        positive=wish.positive or (None if tasks else POSITIVE),
        per_s=wish.per_s or layout.per_s,
        item_columns=layout.item_columns,
    )


def _found_tasks(file: LogFile) -> dict[str, Rule]:
    """Every other column that holds nothing but 0 and 1 in the first rows, and one of them."""
    used = {*file.layout.columns.values(), *RESERVED}
    others = tuple(name for name in file.names if name not in used)
    rows = head_of(file, others) if others else None
    found: dict[str, Rule] = {}
    if rows is None:
        return found
    for name in others:
        labels, good, _ = Rule(name).labels(rows.cells[name])
        if good.all() and (labels != UNKNOWN).any():
            found[name] = Rule(name)
    return found
