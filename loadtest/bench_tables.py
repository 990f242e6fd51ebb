"""Which figures of a bench stand in which table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loadtest.tables import Column, Report, Section

WHICH = (Column("store", "store", ""), Column("size", "candidates x records", ""))


def sections_of(report: Report) -> list[Section]:
    """The tables of a report, whichever kind it is."""
    if report["kind"] in ONE_TABLE:
        return [ONE_TABLE[report["kind"]](report)]
    if report["kind"] == "peers":
        return [_peers(report, candidates) for candidates in report["candidates"]]
    shapes = [{**shape, "size": _size(shape)} for shape in report["shapes"]]
    found = [
        _limit(report, shapes), _inside(shapes), _closed(shapes), _open(report, shapes),
        _cpu(shapes),
    ]  # fmt: skip
    mixes = [{**shape, **mix} for shape in shapes for mix in shape["hit_rates"]]
    return found + [_hit_rates(mixes)] * bool(mixes) + [_cache(report)] * bool(report["cache"])


def _size(shape: dict[str, Any]) -> str:
    return f"{shape['candidates']} x {shape['records']}"


def _limit(report: Report, shapes: list[Report]) -> Section:
    libraries = ", ".join(f"{name} {rate:,.0f}" for name, rate in report["gemm"].items())
    first = report["stores"][0]  # the bare graph knows no store
    return Section(
        f"float32 products of 1024 x 1024 on one thread: {libraries} GFLOP/s. The bare rank.onnx "
        "loop on one thread:",
        (
            Column("size", "candidates x records", ""),
            Column("mflop", "MFLOP"),
            Column("bare_p50_ms", "p50, ms", ",.3f"),
            Column("rested_p50_ms", "after 1 ms of rest, ms", ",.3f"),
            Column("bare_rps", "runs/s", ",.0f"),
            Column("bare_gflops", "GFLOP/s", ",.1f"),
            Column("bare_gemm_share", "share of the products' rate", ".0%"),
        ),
        [shape for shape in shapes if shape["store"] == first],
    )


def _inside(shapes: list[Report]) -> Section:
    return Section(
        "The app and the bare graph in one process, without sockets, 25 of each in turns; CPU time "
        "with what is counted when the answer has gone:",
        (
            *WHICH,
            Column("inside_bare_p50_ms", "bare p50, ms", ",.3f"),
            Column("inside_p50_ms", "app p50, ms", ",.3f"),
            Column("inside_ratio", "app / bare", ",.3f"),
            Column("inside_bare_cpu_ms", "bare CPU, ms", ",.3f"),
            Column("inside_cpu_ms", "app CPU, ms", ",.3f"),
        ),
        shapes,
    )


def _closed(shapes: list[Report]) -> Section:
    return Section(
        "The service, one worker with one engine thread, records from the store; the same events "
        "sent inline, so that all is computed again:",
        (
            *WHICH,
            Column("one_p50_ms", "one connection p50, ms", ",.3f"),
            Column("one_p99_ms", "p99, ms", ",.3f"),
            Column("p50_ratio", "p50 / bare"),
            Column("inline_p50_ms", "inline p50, ms", ",.3f"),
            Column("inline_ratio", "inline / cached"),
        ),
        shapes,
    )


def _open(report: Report, shapes: list[Report]) -> Section:
    return Section(
        f"Eight connections; and Poisson arrivals at {report['load']:.0%} of what those had "
        "answered, from the moment a request was due, beside a queue with the same arrivals that "
        "serves each in the bare graph's time (M/D/1), and one that serves each in a time the bare "
        "loop took, after a rest where it was idle (played):",
        (
            *WHICH,
            Column("saturated_rps", "eight: answers/s", ",.0f"),
            Column("saturated_share", "answers / bare runs"),
            Column("saturated_p99_ms", "p99, ms", ",.3f"),
            Column("open_rps", "arrivals/s", ",.0f"),
            Column("open_p99_ms", "p99, ms", ",.3f"),
            Column("md1_p99_ms", "M/D/1 p99, ms", ",.3f"),
            Column("played_p99_ms", "played p99, ms", ",.3f"),
        ),
        shapes,
    )


def _cpu(shapes: list[Report]) -> Section:
    return Section(
        "CPU milliseconds of a request, one connection (0 of a store that is no process of ours):",
        (
            *WHICH,
            Column("service_cpu_ms", "service", ",.3f"),
            Column("generator_cpu_ms", "generator", ",.3f"),
            Column("store_cpu_ms", "store", ",.3f"),
        ),
        shapes,
    )


def _hit_rates(mixes: list[Report]) -> Section:
    return Section(
        "Some users' records are in the store, the others' have to be built from their events:",
        (
            *WHICH,
            Column("hit_rate", "hit rate", ".0%"),
            Column("seen_hit_rate", "as answered", ".1%"),
            Column("one_p50_ms", "one connection p50, ms", ",.3f"),
            Column("one_p99_ms", "p99, ms", ",.3f"),
            Column("saturated_rps", "eight: answers/s", ",.0f"),
            Column("saturated_p99_ms", "p99, ms", ",.3f"),
        ),
        mixes,
    )


def _cache(report: Report) -> Section:
    return Section(
        "The cache alone, nothing remembered between calls; bytes as Redis counts them, a vector "
        "being one event at one cached depth:",
        (
            Column("store", "store", ""),
            Column("dtype", "records of", ""),
            Column("records", "records", ",d"),
            Column("fetch_p50_ms", "fetch p50, ms", ",.3f"),
            Column("fetch_p99_ms", "p99, ms", ",.3f"),
            Column("append_p50_ms", "append p50, ms", ",.3f"),
            Column("append_p99_ms", "p99, ms", ",.3f"),
            Column("bytes_per_vector", "bytes per vector", ",.1f"),
            Column("timeline_bytes", "timeline, bytes", ",d"),
        ),
        report["cache"],
    )


def _peers(report: Report, candidates: int) -> Section:
    return Section(
        f"{candidates} candidates, {report['records']} records, one process with one engine "
        f"thread; open loop with {report['open_rps'][str(candidates)]:,.0f} arrivals/s for all:",
        (
            Column("peer", "server", ""),
            Column("one_rps", "one connection: answers/s", ",.0f"),
            Column("one_p50_ms", "p50, ms", ",.3f"),
            Column("one_p99_ms", "p99, ms", ",.3f"),
            Column("saturated_rps", "eight: answers/s", ",.0f"),
            Column("saturated_p50_ms", "p50, ms", ",.3f"),
            Column("saturated_p99_ms", "p99, ms", ",.3f"),
            Column("open_p50_ms", "open loop: p50, ms", ",.3f"),
            Column("open_p99_ms", "p99, ms", ",.3f"),
        ),
        [row for row in report["peers"] if row["candidates"] == candidates],
    )


def _memory(report: Report) -> Section:
    """Memory of one process over many requests."""
    return Section(
        "Resident memory of one process, after the first 5% of the requests and every further 5%, "
        "none refused:",
        (
            Column("requests", "requests", ",d"),
            Column("warm_mib", "after 5%, MiB", ",.1f"),
            Column("least_mib", "least", ",.1f"),
            Column("greatest_mib", "greatest", ",.1f"),
            Column("swing", "largest change", ".1%"),
        ),
        [report],
    )


def _workers(report: Report) -> Section:
    """CPU of a request by number of workers."""
    return Section(
        f"CPU milliseconds of a request, {report['records']} records, in turns; the load is each "
        "worker's share of what saturates one:",
        (
            Column("store", "store", ""),
            Column("candidates", "candidates", ",d"),
            Column("workers", "workers", ",d"),
            Column("load_per_worker", "load", ".0%"),
            Column("bare_cpu_ms", "bare runs in as many processes", ",.3f"),
            Column("service_cpu_ms", "service", ",.3f"),
            Column("generator_cpu_ms", "generator", ",.3f"),
            Column("store_cpu_ms", "store", ",.3f"),
            Column("p99_ms", "p99, ms", ",.1f"),
        ),
        report["workers"],
    )


def _backfill(report: Report) -> Section:
    """Events a second, by the clock and of processor time, and peak memory."""
    return Section(
        f"`marmot backfill`, {report['events_per_user']} events of each user, one engine thread:",
        (
            Column("events_per_s", "events/s", ",.0f"),
            Column("bare_events_per_s", "bare encode.onnx", ",.0f"),
            Column("share", "share", ".0%"),
            Column("events_per_cpu_s", "events per CPU s", ",.0f"),
            Column("bare_events_per_cpu_s", "bare", ",.0f"),
            Column("cpu_share", "share", ".0%"),
            Column("events", "events", ",d"),
            Column("peak_mib", "peak, MiB", ",.0f"),
            Column("anonymous_peak_mib", "anonymous", ",.0f"),
            Column("larger_events", "events", ",d"),
            Column("larger_peak_mib", "peak, MiB", ",.0f"),
            Column("larger_anonymous_peak_mib", "anonymous", ",.0f"),
        ),
        [report],
    )


ONE_TABLE: dict[str, Callable[[Report], Section]] = {
    "memory": _memory,
    "workers": _workers,
    "backfill": _backfill,
}
