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

StreamCache = Annotated[
    str | None, typer.Option(help="With --stream: where its timelines and records are, lmdb:PATH.")
]
StreamBase = Annotated[
    Path | None, typer.Option("--from", help="With --stream: a bundle to start from.")
]
StreamHead = Annotated[
    float, typer.Option(min=0, max=1, help="With --stream: share of the log to fit the start to.")
]
StreamRefit = Annotated[
    bool,
    typer.Option("--refit/--no-refit", help="With --stream: fit items anew as the log grows."),
]
StreamCheckpoint = Annotated[
    Path | None, typer.Option(help="With --stream: file to go on from, and to write.")
]
StreamCheckpointEvents = Annotated[
    int, typer.Option(min=1, help="With --stream: events between checkpoints.")
]
StreamBundles = Annotated[
    Path | None, typer.Option(help="With --stream: folder for a bundle of each checkpoint.")
]
StreamCurve = Annotated[
    Path | None, typer.Option(help="With --stream: folder for quality over time.")
]
StreamMissRate = Annotated[
    float, typer.Option(min=0, max=0.9, help="With --stream: records left out while learning.")
]
StreamSample = Annotated[
    float, typer.Option(min=0.01, max=1, help="With --stream: share of the events to learn from.")
]


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
