"""A table for people; programs read the JSON line."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from loadtest.results import QUANTILES

LATE_MS = 1.0


def render(report: dict[str, Any]) -> RenderableType:
    """The report as one table and a few lines under it."""
    table = Table()
    table.add_column("milliseconds")
    for name in QUANTILES:
        table.add_column(name, justify="right")
    since = "due" if report["mode"] == "open" else "sent"
    for kind, quantiles in report["latency_ms"].items():
        if quantiles:
            table.add_row(f"{kind}, from {since}", *_cells(quantiles))
    table.add_section()
    for stage, quantiles in report["server_ms"].items():
        table.add_row(f"server: {stage}", *_cells(quantiles))
    table.add_section()
    if report["mode"] == "open" and report["late_ms"]:
        table.add_row("this generator, late", *_cells(report["late_ms"]))
    return Group(_title(report), table, *_lines(report))


def _title(report: dict[str, Any]) -> str:
    if report["mode"] == "open":
        load = f"{report['rate']:g} requests/s due ({report['arrivals']})"
    else:
        load = f"{report['connections']} connections, closed loop"
    return f"{report['url']}: {load}, {report['candidates']} candidates"


def _cells(quantiles: dict[str, float]) -> list[str]:
    return [f"{quantiles[name]:.2f}" for name in QUANTILES]


def _lines(report: dict[str, Any]) -> list[str]:
    answered = f"{report['ok']:,} of {report['requests']:,} answered"
    pace = f"in {report['elapsed_s']:.1f} s, {report['throughput_rps']:,.1f}/s"
    lines = [f"{answered} {pace} · generator used {report['generator_cpu_s']:.1f} CPU s"]
    if report["cache"]:
        states = ", ".join(f"{state} {count:,}" for state, count in report["cache"].items())
        lines.append(f"cache: {states} · degraded: {report['degraded']:,}")
    if report["errors"]:
        lines.append(
            "errors: " + ", ".join(f"{name} {count:,}" for name, count in report["errors"].items())
        )
    if report["mode"] == "open" and report["late_ms"].get("p99", 0.0) > LATE_MS:
        lines.append(
            f"1 in 100 requests was sent {report['late_ms']['p99']:.1f} ms late or more: "
            "the latencies above include it"
        )
    return lines
