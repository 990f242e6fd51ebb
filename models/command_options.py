"""What the commands of this room have in common: options, and how they begin."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from models.bundle import Bundle
    from models.events import EventTable

Events = Annotated[
    Path, typer.Option(help="CSV or Parquet: user_id, item_id, timestamp, a column per task.")
]
BundlePath = Annotated[Path, typer.Option("--bundle", help="Folder that `marmot train` wrote.")]
OnOption = Annotated[
    Literal["here", "ray"],
    typer.Option("--on", help="This process, or a Ray cluster's machines."),
]
Json = Annotated[bool, typer.Option("--json", help="End with one machine-readable line.")]


class UsageError(Exception):
    """Options that do not go together."""

    exit_code = 2


def share_the_cores() -> None:
    """Before torch is loaded: its threads wait asleep.

    They spin by default, which made a step eight times slower beside other work on two cores.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def open_both(bundle: Path, events: Path) -> tuple[Bundle, EventTable]:
    """A bundle, and events with a column for each of its tasks."""
    from models.bundle import load_bundle  # noqa: PLC0415
    from models.events import read_events  # noqa: PLC0415

    loaded: Any = load_bundle(bundle)
    return loaded, read_events(events, loaded.spec.tasks)
