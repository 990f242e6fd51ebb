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

from loadtest import ledger
from loadtest.bench import measure
from loadtest.bench_tables import sections_of
from loadtest.crew import crews
from loadtest.filling import filling
from loadtest.memory import memory
from loadtest.plan import Plan, Tick
from loadtest.processes import BenchError
from loadtest.short_tables import short
from loadtest.stolen import Ticks, stolen_share
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
    memory_requests: Annotated[
        int | None,
        typer.Option(min=20, help="Instead: memory over so many requests of all sizes."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=2, help="Instead: CPU time with so many workers and with one.")
    ] = None,
    backfill: Annotated[
        int | None,
        typer.Option(min=1, help="Instead: a backfill of so many events, and of four times those."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Keep the report in this file, one of each kind.")
    ] = None,
    note: Annotated[
        str | None, typer.Option(help="Kept with it: what else a reader must know.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="For each contestant and size.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Tables for a page.")] = False,
) -> None:
    """Compare the service with the bare graph and the machine, in turns, in one run.

    Starts the service itself: one worker, one engine thread. Ratios tell; milliseconds are this
    machine's at this moment. All known users fit into the service's near tier, and come again; with
    MARMOT_NEAR_MIB=0 in the environment it has none, and every request is like a user's first.
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
        if memory_requests is not None:
            work = memory(plan, memory_requests, tick)
        elif workers is not None:
            work = crews(plan, workers, tick)
        elif backfill is not None:
            work = filling(plan, backfill, tick)
        else:
            work = _race(plan, peers_dir, tick) if peers else measure(plan, tick)
        before = Ticks.now()
        measured = _run(work)
        report = ledger.signed(measured, note, stolen_share(before, Ticks.now()))
    if out is not None:
        ledger.keep(out, report)
    _show(report, as_markdown=as_markdown)
    if as_json:
        typer.echo(orjson.dumps(report))


@app.command(epilog="Example: marmot bench --out bench.json; marmot table bench.json --short")
def table(
    file: Annotated[Path, typer.Argument(help="What `marmot bench` wrote: --out, or --json.")],
    is_short: Annotated[
        bool, typer.Option("--short", help="Only what the README shows, and where it comes from.")
    ] = False,
) -> None:
    """Turn what `marmot bench` kept into Markdown."""
    reports = ledger.read(file)
    try:
        shown = (
            short(reports)
            if is_short
            else "\n".join(markdown(sections_of(report)) for report in reports.values())
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise BenchError(f"{file}: not all figures that a table has are in it") from error
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
