"""What lies in the store for one user, factor by factor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from models.spec import Spec
from service.wanted import Wanted


@dataclass(frozen=True, slots=True)
class Factor:
    """One number of a plan, and why it is that."""

    name: str
    value: float
    unit: str
    why: str


def stored(wanted: Wanted) -> Iterator[Factor]:
    """In the order in which the factors are multiplied; the last one is the whole."""
    records = wanted.most_records * wanted.record_bytes
    yield from _records(wanted, records)
    summary = 0 if wanted.is_paper else wanted.summary_bytes
    if summary:
        yield Factor("summary of a user", summary, "bytes", _why_summary(wanted.spec))
    timeline = 0.0
    if not wanted.is_paper:
        timeline = wanted.footprint.user_bytes(0, wanted.events) - summary
        yield from _timeline(wanted, timeline)
    whole = records + summary + timeline
    yield Factor("bytes per user", whole, "bytes", "all that lies there for a user")


def _records(wanted: Wanted, records: float) -> Iterator[Factor]:
    spec, why = wanted.spec, "records x cells x bytes per cell"
    if wanted.cells:
        many, each = _why_records(wanted)
        yield Factor("records per user", wanted.most_records, "", many)
        yield Factor("cells per record", wanted.cells, "", each)
        cell = wanted.record_bytes / wanted.cells
        yield Factor("bytes per cell", cell, "bytes", _why_cell(wanted))
    elif spec.summary:
        why = f"the family {spec.family} keeps one summary of a user and nothing of an event"
    elif spec.kind.is_cached:
        why = "one layer attends to the items themselves: nothing of an event is cached"
    else:
        why = f"the family {spec.family} caches nothing: a request reads events alone"
    yield Factor("records of a user", records, "bytes", why)


def _why_records(wanted: Wanted) -> tuple[str, str]:
    spec = wanted.spec
    if wanted.is_paper:
        return "one window, as the paper counts", "one for every depth, as the paper counts"
    if spec.search:
        many = f"of every event: a search may find any of the newest {spec.history:,}"
    elif wanted.most_records < spec.reach:
        many = "of every event that a user has"
    else:
        many = (
            f"2 windows of {spec.window:,}: a request reads one, late events are recomputed "
            "from two"
        )
    return many, f"{spec.depth} layers; depth 0 is a table look-up and is not cached"


def _why_cell(wanted: Wanted) -> str:
    spec = wanted.spec
    if wanted.cell_bytes is not None:
        return "given; with key and overhead"
    return f"{_numbers(spec)} and a share of hash and chunk, as measured in Redis"


def _why_summary(spec: Spec) -> str:
    sums = f"{spec.summary_rows} x {spec.width + 1} x 4 (float32) of sums to add events to"
    return f"{spec.summary} tokens x {_numbers(spec)}, and {sums}; one value, as measured in Redis"


def _numbers(spec: Spec) -> str:
    number_bytes = {"float32": 4, "float16": 2, "int8": 1}[spec.cache_dtype]
    scale = " + 2 for the scale" if spec.cache_dtype == "int8" else ""
    return f"{spec.width} x {number_bytes} ({spec.cache_dtype}){scale}"


def _timeline(wanted: Wanted, timeline: float) -> Iterator[Factor]:
    many = "ids, times and feedback that the timeline keeps"
    said = "" if wanted.user_events is None else "given; "
    yield Factor("events per user", wanted.events, "", said + many)
    tasks = len(wanted.spec.tasks)
    each = f"times, hash, {tasks} task(s), an id of {wanted.id_bytes} bytes"
    yield Factor("bytes per event", wanted.footprint.event_bytes, "bytes", each)
    why = "events x bytes per event, and the user's keys"
    yield Factor("timeline of a user", timeline, "bytes", why)
