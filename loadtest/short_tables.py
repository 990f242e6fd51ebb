"""The few figures that the README shows, out of all that `marmot bench --out` kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from loadtest.ledger import origin
from loadtest.tables import Column, Report, Section, markdown

NAMES = {"marmot": "Marmot", "marmot without near tier": "Marmot without its near tier",
         "fastapi": "plain FastAPI + ONNX Runtime", "kserve": "KServe's SDK",
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


SECTIONS: dict[str, Callable[[Report], Section]] = {"bench": _bench, "peers": _peers}
