"""Reports with what makes them worth something: machine, command and commit; and a file of them."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from loadtest.processes import BenchError
from loadtest.tables import Report

KEPT = ("--out", "--note")
COMMIT = ("describe", "--always", "--abbrev=8", "--exclude=*")
#: Whether anything is changed but the figures, which the run before may have written.
CHANGED = ("diff", "--quiet", "HEAD", "--", ":/", ":(top,exclude)docs/figures")


def signed(report: Report, note: str | None, stolen: float | None = None) -> Report:
    """The report and where it comes from; `note` is what else a reader must know.

    `stolen` is the share of the processor that a virtual machine's host gave to others meanwhile.
    """
    return {
        **report,
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "stolen_share": stolen,
        },
        "command": shlex.join(["marmot", *_told(sys.argv[1:])]),
        "commit": _commit(),
        "note": note,
    }


def keep(file: Path, report: Report) -> None:
    """Writes the report in the place of an earlier one of its kind; others stay as they are."""
    reports = read(file) if file.exists() else {}
    reports[report["kind"]] = report
    text = orjson.dumps(reports, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}")
    draft.write_bytes(text + b"\n")
    draft.replace(file)


def read(file: Path) -> dict[str, Report]:
    """Reports by kind: all of a file that `--out` wrote, or the one on the last line of another."""
    try:
        text = file.read_bytes().strip()
    except FileNotFoundError:
        raise BenchError(f"no file at {file}; `marmot bench --out {file}` makes one") from None
    except OSError as error:
        raise BenchError(f"{file}: {error.strerror}") from error
    for part in (text, text.rpartition(b"\n")[2]):
        try:
            found: Any = orjson.loads(part)
            return {found["kind"]: found} if "kind" in found else _by_kind(found)
        except (ValueError, LookupError, TypeError, AttributeError):
            continue
    raise BenchError(f"{file}: it is none of `--out`, and its last line none of `--json`")


def origin(report: Report) -> str:
    """One sentence: how the figures came about."""
    machine = report["machine"]
    stolen = machine.get("stolen_share")
    parts = [
        f"{machine['cores']} cores ({machine['processor']})",
        *([f"{stolen:.0%} of their time taken by the host"] if stolen is not None else []),
        f"commit {report['commit']}" if report["commit"] else "no commit",
        *([report["note"]] if report["note"] else []),
    ]
    return f"`{report['command']}`: {', '.join(parts)}."


def _by_kind(found: dict[str, Report]) -> dict[str, Report]:
    return {report["kind"]: report for report in found.values()}


def _told(arguments: list[str]) -> Iterator[str]:
    """What was asked for, without where it is kept."""
    waiting = iter(arguments)
    for argument in waiting:
        if argument in KEPT:
            next(waiting, None)
        elif not argument.startswith(tuple(f"{option}=" for option in KEPT)):
            yield argument


def _commit() -> str | None:
    """Of the folder we run from; None where that is no checkout."""
    git, folder = shutil.which("git"), Path(__file__).parent
    if git is None:
        return None
    found, changed = (
        subprocess.run([git, "-C", folder, *words], capture_output=True, text=True, check=False)  # noqa: S603
        for words in (COMMIT, CHANGED)
    )
    return found.stdout.strip() + "-dirty" * (changed.returncode == 1) or None
