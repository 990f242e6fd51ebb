"""`marmot bench`: the service, its limit and its peers. `marmot table`: what it said, on a page."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
import uvloop
from rich.console import Console
from rich.progress import Progress

from loadtest.bench import Plan, Tick, measure
from loadtest.bench_tables import sections_of
from loadtest.processes import BenchError
from loadtest.stores import Store
from loadtest.tables import markdown, on_screen

app = typer.Typer()

WIDTH = 150  # of a screen that is none: a file keeps whole lines


@app.command(epilog="Example: marmot bench --bundle var/bundle --store redis --json")
def bench(
    *,
    bundle: Annotated[Path, typer.Option(help="Folder that `marmot train` wrote.")] = Path(
        "var/bundle"
    ),
    window: Annotated[
        int | None,
        typer.Option(min=1, help="Instead: an untrained bundle whose layers see so many events."),
    ] = None,
    store: Annotated[Store, typer.Option(help="Started for this run, empty.")] = Store.LMDB,
    cache: Annotated[
        str | None,
        typer.Option(help="Instead of --store: its users bench-… are replaced, and stay."),
    ] = None,
    candidates: Annotated[
        str, typer.Option(help="Candidates in a request; several, with commas between.")
    ] = "100,500",
    records: Annotated[
        str, typer.Option(help="Events that a user has; several, at most the bundle's window.")
    ] = "100",
    hit_rate: Annotated[
        str, typer.Option(help="Percent of requests whose records are stored; '' for none.")
    ] = "0,50,90,99,100",
    load: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Open loop: share of what saturates.")
    ] = 0.5,
    cache_times: Annotated[
        bool, typer.Option(help="Whether the cache is measured alone, too.")
    ] = True,
    peers: Annotated[
        bool, typer.Option("--peers", help="Instead: other servers; `make peers` installs them.")
    ] = False,
    peers_dir: Annotated[Path, typer.Option(help="Where their environments are.")] = Path(
        "var/peers"
    ),
    seconds: Annotated[float, typer.Option(min=0.01, help="For each contestant and size.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Tables for a page.")] = False,
) -> None:
    """Compare the service with the bare graph and the machine, in turns, in one run.

    Starts the service itself: one worker, one engine thread. Ratios tell; milliseconds are this
    machine's at this moment. All known users fit into the service's near tier; with
    MARMOT_NEAR_MIB=0 in the environment it has none.
    """
    plan = Plan(
        bundle,
        window=window,
        store=store,
        cache=cache,
        candidates=_numbers(candidates, "--candidates", least=1, most=100_000),
        records=_numbers(records, "--records", least=0, most=100_000),
        hit_rates=[percent / 100 for percent in _numbers(hit_rate, "--hit-rate", least=0, most=100)]
        if hit_rate
        else [],
        load=load,
        has_cache_times=cache_times,
        seconds=seconds,
    )
    if peers and len(plan.records) > 1:
        raise typer.BadParameter("--peers takes one size", param_hint="--records")
    with _bar() as tick:
        report = _run(_race(plan, peers_dir, tick) if peers else measure(plan, tick))
    _show(report, as_markdown=as_markdown)
    if as_json:
        typer.echo(orjson.dumps(report))


@app.command(epilog="Example: marmot bench --json > bench.txt; marmot table bench.txt")
def table(
    file: Annotated[Path, typer.Argument(help="What `marmot bench --json` wrote.")],
) -> None:
    """Turn the last line of `marmot bench --json` into Markdown."""
    try:
        report = orjson.loads(file.read_bytes().strip().rpartition(b"\n")[2])
        shown = markdown(sections_of(report))
    except FileNotFoundError:
        raise BenchError(f"no file at {file}; `marmot bench --json > {file}` makes one") from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BenchError(f"{file}: its last line is none of `marmot bench --json`") from error
    typer.echo(shown)


async def _race(plan: Plan, folder: Path, tick: Tick) -> dict[str, Any]:
    from loadtest.peers.race import race  # noqa: PLC0415  (brings the Redis client)

    return await race(plan, folder, tick)


@contextmanager
def _bar() -> Iterator[Tick]:
    """A bar on stderr."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda done, steps: progress.update(
            task, description="measuring", completed=done, total=steps
        )


def _run(work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _show(report: dict[str, Any], *, as_markdown: bool) -> None:
    sections = sections_of(report)
    if as_markdown:
        typer.echo(markdown(sections))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(on_screen(sections))


def _numbers(text: str, option: str, *, least: int, most: int) -> list[int]:
    """Whole numbers with commas between."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and least <= int(part) <= most for part in parts):
        raise typer.BadParameter(f"{text!r} is no list of sizes", param_hint=option)
    return [int(part) for part in parts]
