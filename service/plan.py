"""How large a deployment is, from its inputs: pure arithmetic, every factor with its reason.

Two ways of counting. The paper's: every user has `window` events, each with a cell at every depth.
Ours: depth 0 is a table look-up, so `depth - 1` depths are cached; the records of two windows are
kept, so that late events can be recomputed; and timelines, the truth, are kept beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cache.chunk import CHUNK_EVENTS
from models.spec import Spec
from service.errors import UsageError
from service.footprint import Footprint, size_class

DAY_S = 86_400
GIB = 1 << 30
DEFAULT_KEEP = 1_000

#: Of a core, with the runtime's kernels, for models of about the default size; `--bench` measures.
ASSUMED_MULTIPLY_ADDS_S = 25e9
#: Of a request or an event, apart from the graph.
ASSUMED_OVERHEAD_MS = 0.4
#: Reads of one user, by one shard.
ASSUMED_FETCHES_S = 10_000
#: Of a shard's memory: the rest is for buffers, forks and growth.
FILL = 0.75
#: Of a core: with random arrivals p99 is four times p50 at half load, and grows from there.
UTILISATION = 0.5


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a deployment must carry."""

    users: int
    spec: Spec
    events_a_day: float = 20.0  # of one user
    requests_s: float = 1_000.0
    candidates: int = 500
    cell_bytes: float | None = None  # None: the footprint's
    is_paper: bool = False  # counted as the paper counts
    keep: int | None = None
    id_bytes: int = 8
    shard_gib: float = 64.0
    copies: int = 1  # replicas of every shard
    bench: Mapping[str, Any] | None = None  # the last line of `marmot bench --json`

    @property
    def events_s(self) -> float:
        return self.users * self.events_a_day / DAY_S

    @property
    def most_records(self) -> int:
        """Events of a user that have records."""
        return self.spec.window if self.is_paper else self.spec.reach

    @property
    def cells(self) -> int:
        """Of one record."""
        return self.spec.depth if self.is_paper else self.spec.cached_depths

    @property
    def footprint(self) -> Footprint:
        return Footprint(self.spec, self.id_bytes)

    @property
    def record_bytes(self) -> float:
        """Of one event at all its depths."""
        cell = self.footprint.cell_bytes if self.cell_bytes is None else self.cell_bytes
        return self.cells * cell


@dataclass(frozen=True, slots=True)
class Factor:
    """One number of a plan, and why it is that."""

    name: str
    value: float
    unit: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The factors in the order in which they are multiplied, then what comes out."""

    factors: Sequence[Factor]
    user_bytes: float
    total_bytes: float
    memory_bytes: float
    shards: int
    replicas: int
    network_bytes_s: float
    assumed: Sequence[str] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "plan", **asdict(self)}


def plan(wanted: Wanted) -> Plan:
    """Everything that follows from what is wanted."""
    if wanted.keep is not None and wanted.keep < wanted.spec.least_keep:
        raise UsageError(
            f"--keep {wanted.keep:,} is too small: exact rebuilds of this model need "
            f"{wanted.spec.least_keep:,} events"
        )
    stored = list(_stored(wanted))
    user_bytes = stored[-1].value
    total_bytes = wanted.users * user_bytes
    factors = [
        Factor("users", wanted.users, "", "given"),
        *stored,
        Factor("all users", total_bytes, "bytes", "users x bytes per user, every one of them full"),
    ]
    memory = list(_memory(wanted, total_bytes))
    compute = list(_compute(wanted))
    network = list(_network(wanted))
    assumed = [f.name for f in (*memory, *compute) if f.why.startswith("assumed")]
    return Plan(
        [*factors, *memory, *compute, *network],
        user_bytes,
        total_bytes,
        memory_bytes=next(f.value for f in memory if f.name == "Redis memory"),
        shards=int(next(f.value for f in memory if f.name == "Redis shards")),
        replicas=int(compute[-1].value),
        network_bytes_s=network[-1].value,
        assumed=assumed,
    )


def _stored(wanted: Wanted) -> Iterator[Factor]:
    """What lies in the store for a user; the last factor is the whole."""
    yield from _records(wanted)
    records = wanted.most_records * wanted.record_bytes
    yield Factor("records of a user", records, "bytes", "records x cells x bytes per cell")
    timeline = 0.0
    if not wanted.is_paper:
        keep = wanted.keep or max(wanted.spec.least_keep, DEFAULT_KEEP)
        tasks = len(wanted.spec.tasks)
        yield Factor("events per user", keep, "", "ids, times and feedback that the timeline keeps")
        yield Factor(
            "bytes per event",
            wanted.footprint.event_bytes,
            "bytes",
            f"times, hash, {tasks} task(s), an id of {wanted.id_bytes} bytes",
        )
        timeline = wanted.footprint.user_bytes(0, keep)
        why = "events x bytes per event, and the user's keys"
        yield Factor("timeline of a user", timeline, "bytes", why)
    yield Factor("bytes per user", records + timeline, "bytes", "all that lies there for a user")


def _records(wanted: Wanted) -> Iterator[Factor]:
    window, depth = wanted.spec.window, wanted.spec.depth
    if wanted.is_paper:
        many, each = "one window, as the paper counts", "one for every depth, as the paper counts"
    else:
        many = f"2 windows of {window:,}: a request reads one, late events are recomputed from two"
        each = f"{depth} layers; depth 0 is a table look-up and is not cached"
    yield Factor("records per user", wanted.most_records, "", many)
    yield Factor("cells per record", wanted.cells, "", each)
    cell = wanted.record_bytes / wanted.cells if wanted.cells else 0.0
    yield Factor("bytes per cell", cell, "bytes", _why_cell(wanted))


def _why_cell(wanted: Wanted) -> str:
    spec = wanted.spec
    if wanted.cell_bytes is not None:
        return "given; with key and overhead"
    number_bytes = {"float32": 4, "float16": 2, "int8": 1}[spec.cache_dtype]
    scale = " + 2 for the scale" if spec.cache_dtype == "int8" else ""
    return (
        f"{spec.width} x {number_bytes} ({spec.cache_dtype}){scale} and a share of hash and "
        "chunk, as measured in Redis"
    )


def _memory(wanted: Wanted, total_bytes: float) -> Iterator[Factor]:
    rounding = 1.0
    if not wanted.is_paper and wanted.spec.cached_depths:
        chunk = wanted.footprint.chunk_bytes(CHUNK_EVENTS)
        rounding = size_class(chunk) / chunk
        yield Factor(
            "allocator",
            rounding,
            "x",
            f"jemalloc sets {size_class(chunk):,} bytes aside for a chunk of {chunk:,}",
        )
    one_copy = total_bytes * rounding
    memory = one_copy * (1 + wanted.copies)
    why = "all users x allocator" if rounding > 1 else "all users"
    yield Factor("Redis memory", memory, "bytes", f"{why} x {1 + wanted.copies} copies")
    room = wanted.shard_gib * GIB * FILL
    by_memory = math.ceil(one_copy / room)
    yield Factor(
        "shards by memory",
        by_memory,
        "",
        f"one copy in shards of {wanted.shard_gib:g} GiB, {FILL:.0%} of each for data",
    )
    fetches_s = wanted.requests_s + wanted.events_s
    by_rate = math.ceil(fetches_s / ASSUMED_FETCHES_S)
    yield Factor(
        "shards by rate",
        by_rate,
        "",
        f"assumed {ASSUMED_FETCHES_S:,} reads a second by each, for {fetches_s:,.0f} a second",
    )
    yield Factor("Redis shards", max(by_memory, by_rate, 1), "", "the larger of the two")


def _compute(wanted: Wanted) -> Iterator[Factor]:
    spec = wanted.spec
    history = 3 * spec.depth * spec.window * spec.width**2
    each = spec.depth * (6 * spec.width**2 + 2 * (spec.window + 1) * spec.width)
    cost_ms = ASSUMED_OVERHEAD_MS + history / ASSUMED_MULTIPLY_ADDS_S * 1e3
    request_ms = _measured_ms(wanted.bench or {}, wanted.candidates)
    if request_ms is None:
        request_ms = cost_ms + wanted.candidates * each / ASSUMED_MULTIPLY_ADDS_S * 1e3
        billions = ASSUMED_MULTIPLY_ADDS_S / 1e9
        why = f"assumed {billions:g} billion multiply-adds a second (--bench: measured)"
    else:
        why = "measured by `marmot bench`"
    yield Factor("CPU per request", request_ms, "ms", f"{why}; {wanted.candidates} candidates")
    yield Factor("CPU per event", cost_ms, "ms", "assumed: one query over a window of records")
    yield Factor("events", wanted.events_s, "1/s", "users x events a day")
    cores = (wanted.requests_s * request_ms + wanted.events_s * cost_ms) / 1e3
    yield Factor("busy cores", cores, "", "requests and events a second x their CPU time")
    yield Factor(
        "replicas",
        max(1, math.ceil(cores / UTILISATION)),
        "",
        f"workers of one core, busy {UTILISATION:.0%} of the time",
    )


def _measured_ms(bench: Mapping[str, Any], candidates: int) -> float | None:
    """CPU of a request of that size: on the line through the two sizes measured next to it."""
    try:
        costs_ms = {
            int(s["candidates"]): float(s["service_cpu_ms"]) for s in bench.get("shapes", ())
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError("--bench is not a line that `marmot bench --json` prints") from error
    if not costs_ms:
        return None
    near = sorted(sorted(costs_ms, key=lambda size: abs(size - candidates))[:2])
    if len(near) == 1:
        return costs_ms[near[0]] * candidates / near[0]
    low, high = near
    slope = (costs_ms[high] - costs_ms[low]) / (high - low)
    return max(costs_ms[low] + slope * (candidates - low), 0.0)


def _network(wanted: Wanted) -> Iterator[Factor]:
    event_bytes = wanted.record_bytes + wanted.footprint.event_bytes
    read = (wanted.spec.window + CHUNK_EVENTS / 2) * event_bytes
    yield Factor(
        "bytes per read", read, "bytes", "a window, in whole chunks; less with a near tier"
    )
    written = CHUNK_EVENTS / 2 * event_bytes * (1 + wanted.copies)
    yield Factor("bytes per write", written, "bytes", "the last chunk, half full, to every copy")
    total = (wanted.requests_s + wanted.events_s) * read + wanted.events_s * written
    yield Factor("network", total, "bytes/s", "requests read; events read and write")
