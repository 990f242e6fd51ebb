"""The few figures that the README shows, out of all that `marmot bench --out` kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from loadtest.ledger import origin
from loadtest.tables import Column, Report, Section, markdown

NAMES = {"marmot": "Marmot", "fastapi": "plain FastAPI + ONNX Runtime", "kserve": "KServe's SDK",
         "litserve": "LitServe", "bentoml": "BentoML"}  # fmt: skip


def short(reports: Mapping[str, Report]) -> str:
    """Markdown: a small table for each kind there is, under it where it comes from."""
    parts = []
    for kind, section_of in SECTIONS.items():
        if kind in reports:
            parts += [markdown([section_of(reports[kind])]), origin(reports[kind]) + "\n"]
    return "\n".join(parts)


def _bench(report: Report) -> Section:
    rows = [
        {**shape, "size": f"{shape['candidates']} x {shape['records']}, {shape['store']}"}
        for shape in report["shapes"]
    ]
    return Section(
        "Beside the bare graph, one worker, one engine thread, in turns:",
        (
            Column("size", "candidates x records", ""),
            Column("bare_p50_ms", "bare, ms"),
            Column("inside_ratio", "app in process / bare"),
            Column("one_p50_ms", "one connection p50, ms"),
            Column("saturated_share", "eight: answers / bare runs"),
            Column("open_p99_ms", "half load p99, ms", ",.1f"),
            Column("md1_p99_ms", "M/D/1 p99, ms", ",.1f"),
            Column("inline_ratio", "recomputed / cached", ",.1f"),
        ),
        rows,
    )


def _peers(report: Report) -> Section:
    size = report["candidates"][0]
    rows = [
        {**row, "name": NAMES.get(row["peer"], row["peer"])}
        for row in report["peers"]
        if row["candidates"] == size
    ]
    return Section(
        f"The same graph and the same Redis value, one engine thread, {size} candidates, in turns:",
        (
            Column("name", "server", ""),
            Column("one_rps", "one connection: answers/s", ",.0f"),
            Column("one_p99_ms", "p99, ms", ",.1f"),
            Column("saturated_rps", "eight: answers/s", ",.0f"),
            Column("saturated_p99_ms", "p99, ms", ",.1f"),
        ),
        rows,
    )


def memory(report: Report) -> Section:
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


def workers(report: Report) -> Section:
    """CPU of a request by number of workers."""
    return Section(
        f"CPU milliseconds of a request, {report['records']} records, the same arrivals for all, "
        "in turns:",
        (
            Column("store", "store", ""),
            Column("candidates", "candidates", ",d"),
            Column("workers", "workers", ",d"),
            Column("service_cpu_ms", "service", ",.3f"),
            Column("generator_cpu_ms", "generator", ",.3f"),
            Column("store_cpu_ms", "store", ",.3f"),
            Column("p99_ms", "p99, ms", ",.1f"),
        ),
        report["workers"],
    )


def backfill(report: Report) -> Section:
    """Events a second of processor time, and peak memory."""
    return Section(
        f"`marmot backfill`, {report['events_per_user']} events of each user, one thread:",
        (
            Column("events_per_cpu_s", "events per CPU second", ",.0f"),
            Column("bare_events_per_cpu_s", "bare encode.onnx", ",.0f"),
            Column("share", "share", ".0%"),
            Column("events", "events", ",d"),
            Column("peak_mib", "peak, MiB", ",.0f"),
            Column("larger_events", "events", ",d"),
            Column("larger_peak_mib", "peak, MiB", ",.0f"),
        ),
        [report],
    )


SECTIONS: dict[str, Callable[[Report], Section]] = {
    "bench": _bench,
    "peers": _peers,
    "workers": workers,
    "memory": memory,
    "backfill": backfill,
}
