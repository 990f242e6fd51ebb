"""`marmot evaluate --replay`: what the log of a service's own answers says of its quality."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from models.answer_log import UserHash, read_answers
from models.command_options import UsageError
from models.events import read_events
from models.replay import join, report


def replay(
    folder: Path,
    key: Path | None,
    events: Path,
    *,
    within_s: int,
    period_s: int,
    as_json: bool,
) -> None:
    """Prints the figures of a log, by model and task."""
    if key is None:
        raise UsageError("--replay takes --key: the file of `marmot serve --answer-log-key`")
    hashed, answers = UserHash.read(key), read_answers(folder)
    told = report(join(answers, read_events(events), hashed, within_s), period_s)
    if as_json:
        typer.echo(json.dumps(told))
        return
    for version, model in told["models"].items():
        typer.echo(
            f"{version}  {model['answers']:,} answers, {model['candidates']:,} candidates, "
            f"{len(model['periods'])} period(s)"
        )
        for task, figures in model["tasks"].items():
            shown = "  ".join(f"{name} {_shown(figures[name])}" for name in FIGURES)
            typer.echo(f"  {task}  {shown}  ({figures['with_feedback']:,} with feedback)")


FIGURES = ("auc", "gauc", "ece", "psi")


def _shown(value: Any) -> str:
    return "undefined" if value is None else format(value, ".4f")
