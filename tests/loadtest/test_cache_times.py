"""The cache measured alone, through the command that people use."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from loadtest.cache_times import DTYPES, RECORDS
from loadtest.cli import app


def test_fetch_append_and_bytes(tiny_bundle: Path) -> None:
    """Every record type and size has its times, and in Redis its bytes: smaller numbers, fewer."""
    ended = CliRunner().invoke(
        app,
        [
            "bench", "--bundle", str(tiny_bundle), "--store", "redis", "--candidates", "5",
            "--records", "8", "--hit-rate", "", "--seconds", "0.02", "--json",
        ],
    )  # fmt: skip
    assert ended.exit_code == 0, ended.output
    rows = json.loads(ended.stdout.splitlines()[-1])["cache"]
    assert [(row["dtype"], row["records"]) for row in rows] == [
        (dtype, records) for dtype in DTYPES for records in RECORDS
    ]
    for row in rows:
        assert min(row["fetch_p50_ms"], row["append_p50_ms"], row["timeline_bytes"]) > 0
    wide, half, narrow = (
        next(r["bytes_per_vector"] for r in rows if (r["dtype"], r["records"]) == (dtype, 1000))
        for dtype in DTYPES
    )
    assert wide > half > narrow > 16  # as many numbers of one byte each
