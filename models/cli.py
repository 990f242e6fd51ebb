"""`marmot`'s commands of this room: `score`, `sign` and `inspect`, and those of other files.

Heavy imports wait for a need.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models import data_cli, evaluate_cli, items_cli, quality_cli, train_cli
from models.command_options import BundlePath, Events, Json, UsageError, open_both

if TYPE_CHECKING:
    from models.bundle import Bundle
    from models.events import EventTable

app = typer.Typer(no_args_is_help=True, add_completion=False)
app.add_typer(train_cli.app)
app.add_typer(data_cli.app)
app.add_typer(evaluate_cli.app)
app.add_typer(quality_cli.app)
app.add_typer(items_cli.app, name="items")


@app.command(
    epilog="Example: marmot score --bundle var/bundle --events events.csv --requests r.jsonl"
)
def score(
    *,
    bundle: BundlePath,
    events: Events,
    requests: Annotated[
        Path, typer.Option(help='Lines of {"user_id", "candidates", "timestamp"}.')
    ],
    ranker: Annotated[
        Path | None, typer.Option(help="The ranking model that a stage's bundle reads.")
    ] = None,
) -> None:
    """Score requests the slow, trusted way: PyTorch over whole timelines, no cache, no ONNX."""
    from models.progress import bar  # noqa: PLC0415
    from models.requests import read_requests  # noqa: PLC0415

    loaded, table = open_both(bundle, events)
    reference, tasks = _reference(loaded, ranker, table)
    import numpy as np  # noqa: PLC0415

    asked = list(read_requests(requests))  # all of them are good before one is answered
    with bar("scoring") as advance:
        for done, request in enumerate(asked, 1):
            scores = reference.score(request)  # (candidates, tasks)
            answer = {
                "user_id": request.user_id,
                "candidates": request.candidates,
                "scores": {
                    task: [None if np.isnan(value) else float(value) for value in scores[:, column]]
                    for column, task in enumerate(tasks)
                },
            }
            sys.stdout.write(json.dumps(answer, ensure_ascii=False) + "\n")
            advance(done, len(asked))


@app.command(epilog="Example: marmot sign var/bundle --key private.pem")
def sign(
    bundle: Annotated[Path, typer.Argument(help="Folder that `marmot train` wrote.")],
    *,
    key: Annotated[Path, typer.Option(help="Private Ed25519 key, PEM.")],
    as_json: Json = False,
) -> None:
    """Sign a bundle; `marmot serve --bundle-key` then takes no other than yours."""
    from models.bundle import MANIFEST, load_bundle  # noqa: PLC0415
    from models.signature import sign as sign_manifest  # noqa: PLC0415

    loaded = load_bundle(bundle)  # nobody puts their name to what does not fit
    written = sign_manifest(loaded.file(MANIFEST), key)
    told = {"signature": str(written), "fingerprint": loaded.fingerprint}
    typer.echo(json.dumps(told) if as_json else written)


@app.command(epilog="Example: marmot inspect var/bundle")
def inspect(
    bundle: Annotated[Path, typer.Argument(help="Folder that `marmot train` wrote.")],
    as_json: Json = False,
) -> None:
    """Show what a bundle is: its model, what it caches per user, what it was trained on."""
    from models.bundle import load_bundle  # noqa: PLC0415
    from models.inspection import describe  # noqa: PLC0415

    loaded = load_bundle(bundle)
    if as_json:
        typer.echo(json.dumps({**loaded.manifest, **describe(loaded)}))
        return
    for key, value in describe(loaded).items():
        typer.echo(f"{key:<22}{value}")


def _reference(
    loaded: Bundle, ranker: Path | None, table: EventTable
) -> tuple[Any, tuple[str, ...]]:
    """What scores the slow way, and the tasks it scores."""
    from models.bundle import load_bundle  # noqa: PLC0415
    from models.reference import Reference  # noqa: PLC0415

    if loaded.spec.stage == "rank":
        return Reference.of(loaded, table), loaded.spec.tasks
    if ranker is None:
        raise UsageError(f"a {loaded.spec.stage} bundle takes --ranker: the bundle that it reads")
    from models.stage_reference import StageReference  # noqa: PLC0415

    reference = StageReference(loaded, load_bundle(ranker), table)
    return reference, reference.tasks
