"""`marmot dump` and `marmot restore`: files, pipes and progress around the mover."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

Store = Annotated[
    str,
    typer.Option(
        "--cache", help="lmdb:PATH, redis://, rediss://, unix://, redis+cluster:// or …sentinel://."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="End with one machine-readable line.")]


def dump(
    cache: Store,
    out: Annotated[str, typer.Option(help="File to write; - is stdout.")],
    *,
    as_json: Json = False,
) -> None:
    """Write every user's timeline to a file of JSON lines, for `marmot restore`.

    The store may be in use: users that come or go meanwhile may be missed. Records stay behind.
    """
    import asyncio  # noqa: PLC0415
    import sys  # noqa: PLC0415

    from service import mover  # noqa: PLC0415

    with _counting() as progress:
        if out == "-":
            moved = asyncio.run(mover.dump(cache, sys.stdout.buffer, progress))
        else:
            unfinished = Path(f"{out}.part")
            with _opened(unfinished, "wb") as file:
                moved = asyncio.run(mover.dump(cache, file, progress))
            unfinished.replace(out)
    _tell("dumped", moved, as_json=as_json, err=out == "-")


def restore(
    cache: Store,
    source: Annotated[str, typer.Option("--in", help="File of `marmot dump`; - is stdin.")],
    *,
    keep: Annotated[
        int | None,
        typer.Option(help="Newest events to keep per user.", show_default="as the dumped store"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Merge a dump's timelines into a store, as events are merged; twice changes nothing."""
    import asyncio  # noqa: PLC0415
    import sys  # noqa: PLC0415

    from cache.dump import Dump, lines_of  # noqa: PLC0415
    from cache.errors import DumpError  # noqa: PLC0415
    from service import mover  # noqa: PLC0415
    from service.errors import UsageError  # noqa: PLC0415

    with ExitStack() as stack:
        file = (
            sys.stdin.buffer if source == "-" else stack.enter_context(_opened(Path(source), "rb"))
        )
        try:
            found = Dump(lines_of(file), "stdin" if source == "-" else source)
        except DumpError as error:
            raise UsageError(str(error)) from error
        progress = stack.enter_context(_counting())
        moved = asyncio.run(mover.restore(cache, found, progress, keep=keep))
    _tell("restored", moved, as_json=as_json)


def _opened(path: Path, mode: str) -> Any:
    from service.errors import UsageError  # noqa: PLC0415

    try:
        return path.open(mode)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error


@contextmanager
def _counting() -> Iterator[Callable[[int], None]]:
    """Progress of work whose end nobody knows."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress, SpinnerColumn, TextColumn  # noqa: PLC0415

    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} users"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("users", total=None)
        yield lambda done: bar.update(task, completed=done)


def _tell(what: str, moved: Any, *, as_json: bool, err: bool = False) -> None:
    import dataclasses  # noqa: PLC0415
    import json  # noqa: PLC0415

    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(moved)), err=err)
    else:
        left_out = f"; {moved.damaged:,} had a damaged timeline" if moved.damaged else ""
        typer.echo(f"{what} {moved.users:,} users, {moved.events:,} events{left_out}", err=err)
