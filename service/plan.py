"""How large a deployment is, from its inputs: pure arithmetic, every factor with its reason.

Two ways of counting. The paper's: every user has `window` events, each with a cell at every depth.
Ours: depth 0 is a table look-up, so `depth - 1` depths are cached; the records of two windows are
kept, so that late events can be recomputed; and timelines, the truth, are kept beside them. What
other families keep, read and run follows from their spec.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cache.chunk import CHUNK_EVENTS
from models.operations import operations, summing
from models.spec import Spec
from service.errors import UsageError
from service.footprint import size_class
from service.storage import Factor, stored
from service.wanted import Wanted

GIB = 1 << 30

#: Of a core, with the runtime's kernels, for models of about the default size; `--bench` measures.
ASSUMED_MULTIPLY_ADDS_S = 25e9
#: Of a request or an event, apart from the graph.
ASSUMED_OVERHEAD_MS = 0.4
#: Reads of one user, by one shard.
ASSUMED_FETCHES_S = 10_000
#: Among the candidates of one request: each finds other events.
ASSUMED_CATEGORIES = 10
#: Of a shard's memory: the rest is for buffers, forks and growth.
FILL = 0.75
#: Of a core: with random arrivals p99 is four times p50 at half load, and grows from there.
UTILISATION = 0.5


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
    of_user = list(stored(wanted))
    user_bytes = of_user[-1].value
    total_bytes = wanted.users * user_bytes
    full = ", every one of them full" if wanted.user_events is None else ""
    factors = [
        Factor("users", wanted.users, "", "given"),
        *of_user,
        Factor("all users", total_bytes, "bytes", f"users x bytes per user{full}"),
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


def _memory(wanted: Wanted, total_bytes: float) -> Iterator[Factor]:
    rounding = 1.0
    if not wanted.is_paper:
        footprint, held = wanted.footprint, (wanted.most_records, wanted.events)
        rounding = footprint.allocated_bytes(*held) / footprint.user_bytes(*held)
        value = footprint.chunk_bytes(CHUNK_EVENTS) or wanted.summary_bytes or footprint.page_bytes
        why = f"jemalloc sets {size_class(value):,} bytes aside for a value of {value:,}, and so on"
        yield Factor("allocator", rounding, "x", why)
    one_copy = total_bytes * rounding
    memory = one_copy * (1 + wanted.copies)
    why = "all users" if wanted.is_paper else "all users x allocator"
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
    work, runs = _request_work(wanted)
    request_ms = _measured_ms(wanted.bench or {}, wanted.candidates)
    if request_ms is None:
        request_ms = _cost_ms(work)
        billions = ASSUMED_MULTIPLY_ADDS_S / 1e9
        why = f"assumed {billions:g} billion multiply-adds a second (--bench: measured)"
    else:
        why = "measured by `marmot bench`"
    why = f"{why}; {runs}, {wanted.candidates} candidates"
    yield Factor("CPU per request", request_ms, "ms", why)
    work, runs = _event_work(wanted.spec)
    yield Factor("CPU per event", event_ms := _cost_ms(work), "ms", f"assumed: {runs}")
    yield Factor("events", wanted.events_s, "1/s", "users x events a day")
    cores = (wanted.requests_s * request_ms + wanted.events_s * event_ms) / 1e3
    yield Factor("busy cores", cores, "", "requests and events a second x their CPU time")
    yield Factor(
        "replicas",
        max(1, math.ceil(cores / UTILISATION)),
        "",
        f"workers of one core, busy {UTILISATION:.0%} of the time",
    )


def _cost_ms(multiply_adds: float) -> float:
    return ASSUMED_OVERHEAD_MS + multiply_adds / ASSUMED_MULTIPLY_ADDS_S * 1e3


def _request_work(wanted: Wanted) -> tuple[float, str]:
    """Multiply-adds of a request, and what runs."""
    spec, work = wanted.spec, operations(wanted.spec)
    batch = min(ASSUMED_CATEGORIES, wanted.candidates) if spec.finds_first else 1
    many = batch * work.per_request + wanted.candidates * work.per_candidate
    if spec.finds_first:
        runs = f"rank.onnx over {spec.attends:,} found events for each of {batch} categories"
    elif spec.search:
        runs = f"rank.onnx, which searches {spec.history:,} events for every candidate and layer"
    elif spec.encodes:
        runs = f"rank.onnx, which makes the records of {spec.reads:,} events"
    else:
        tokens = f" and {spec.summary} tokens" if spec.summary else ""
        runs = f"rank.onnx over {spec.reads:,} events{tokens}"
    return many, runs


def _event_work(spec: Spec) -> tuple[float, str]:
    """Multiply-adds of an event, and what runs."""
    if spec.summary:
        return summing(spec), f"its share of summarise.onnx, once for {spec.refresh_events} events"
    if not spec.cached_depths:
        return 0, "it is stored, and nothing runs"
    once = operations(replace(spec, history=0, search=0))
    return once.per_request + once.per_candidate, "append.onnx, one query over a window of records"


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
    reads, why = _read(wanted)
    yield Factor("read per request", reads, "bytes", f"{why}; less with a near tier")
    spec, tail = wanted.spec, CHUNK_EVENTS / 2
    each = wanted.record_bytes + wanted.footprint.event_bytes
    summary = wanted.summary_bytes
    around = min(spec.window + tail, wanted.events) * each + summary
    yield Factor("read per event", around, "bytes", "a window in whole chunks, to add it to")
    share = summary / spec.refresh_events if summary else 0.0
    written = (tail * each + share) * (1 + wanted.copies)
    why = "the last chunk, half full" + (", a summary now and then" if summary else "")
    yield Factor("written per event", written, "bytes", f"{why}, to every copy")
    total = wanted.requests_s * reads + wanted.events_s * (around + written)
    yield Factor("network", total, "bytes/s", "requests read; events read and write")


def _read(wanted: Wanted) -> tuple[float, str]:
    """Bytes that a request takes from the store, and what they are."""
    spec, event, record = wanted.spec, wanted.footprint.event_bytes, wanted.record_bytes
    if spec.finds_first:
        history = min(spec.history, wanted.events)
        found = _chunks_with(min(ASSUMED_CATEGORIES, wanted.candidates) * spec.search, history)
        why = f"ids and times of {history:,} events"
        why += f", and records of {found:,.0f} chunks of them" if record else ""
        return history * event + found * CHUNK_EVENTS * record, why
    events = min(spec.reads + CHUNK_EVENTS / 2, wanted.events)
    why = f"{spec.reads:,} events{' with their records' if record else ''}, in whole chunks"
    why += ", and the summary" if spec.summary else ""
    return events * (event + record) + wanted.summary_bytes, why


def _chunks_with(found: int, history: int) -> float:
    """Chunks in which so many events lie that are scattered over a history."""
    chunks = max(history / CHUNK_EVENTS, 1.0)
    return chunks * (1 - (1 - 1 / chunks) ** found)
