"""`marmot load`: one run against a running service."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
import uvloop
from rich.console import Console

from loadtest import arrivals, bench_cli, driver
from loadtest.client import Client, ClientError
from loadtest.report import render
from loadtest.results import Result, summary
from loadtest.traffic import Traffic, Universe

app = typer.Typer()
app.add_typer(bench_cli.app)

Drive = Callable[[Client, driver.Tick], Awaitable[list[Result]]]


class Arrivals(StrEnum):
    """The shapes an open loop's schedule can have."""

    POISSON = "poisson"
    UNIFORM = "uniform"


class LoadError(Exception):
    """A run that came to nothing."""


class NotReady(LoadError):
    """There is no service to put under load."""


@app.command(
    epilog="Example: marmot load --rate 200 --duration-s 60 --events var/data/events.parquet"
)
def load(
    *,
    url: Annotated[str, typer.Option(help="Where the service listens.")] = "http://127.0.0.1:8000",
    duration_s: Annotated[float, typer.Option(min=0.01, help="How long requests are due.")] = 60.0,
    rate: Annotated[float, typer.Option(min=0.01, help="Requests due each second.")] = 200.0,
    arrival: Annotated[
        Arrivals, typer.Option("--arrivals", help="How requests are spread over time.")
    ] = Arrivals.POISSON,
    closed: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Instead of a rate: N connections, never idle."),
    ] = None,
    connections: Annotated[int, typer.Option(min=1, help="Never more than these.")] = 1_000,
    candidates: Annotated[int, typer.Option(min=1, help="Candidates in a request.")] = 100,
    events_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of requests that are events.")
    ] = 0.05,
    task: Annotated[str, typer.Option(help="The task that events give feedback on.")] = "like",
    events: Annotated[
        Path | None, typer.Option(help="Take users and items from this events file.")
    ] = None,
    users: Annotated[int, typer.Option(min=1, help="Else: users 1 to N.")] = 943,
    items: Annotated[int, typer.Option(min=1, help="Else: items 1 to N.")] = 1_682,
    exponent: Annotated[
        float, typer.Option("--zipf", min=0.0, help="How unevenly users come; 0 is evenly.")
    ] = 1.0,
    timeout_s: Annotated[float, typer.Option(min=0.01, help="Then a request has failed.")] = 10.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed asks the same.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Put a running service under load, and time every request from the moment it was due.

    Requests come at --rate whether or not earlier ones were answered (open loop). With --closed,
    each connection asks again once it has its answer: that measures throughput, not waiting.
    """
    universe = Universe.of_events(events) if events else Universe.of_counts(users, items)
    traffic = Traffic(
        universe,
        candidates=candidates,
        events_share=events_share,
        exponent=exponent,
        task=task,
        seed=seed,
    )
    if closed is not None:
        connections = closed

    async def drive(client: Client, tick: driver.Tick) -> list[Result]:
        if closed is not None:
            return await driver.closed_loop(client, closed, duration_s, traffic, tick)
        if arrival is Arrivals.POISSON:
            schedule = arrivals.poisson(rate, duration_s, seed)
        else:
            schedule = arrivals.uniform(rate, duration_s)
        return await driver.open_loop(client, schedule, traffic, tick)

    cpu_s = time.process_time()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            fingerprint, results = runner.run(
                _run(url, connections, timeout_s, _progress(duration_s), drive)
            )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from None
    cpu_s = time.process_time() - cpu_s

    report: dict[str, Any] = {
        "kind": "load",
        "url": url,
        "fingerprint": fingerprint,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "mode": "open" if closed is None else "closed",
        "rate": rate if closed is None else None,
        "arrivals": arrival.value if closed is None else None,
        "connections": connections,
        "duration_s": duration_s,
        "candidates": candidates,
        "events_share": events_share,
        "users": len(universe.users),
        "items": len(universe.items),
        "seed": seed,
        "generator_cpu_s": round(cpu_s, 3),
        **summary(results),
    }
    Console().print(render(report))
    if as_json:
        typer.echo(orjson.dumps(report))
    if results and not report["ok"]:
        raise LoadError("no request was answered with 200")


async def _run(
    url: str, connections: int, timeout_s: float, tick: driver.Tick, drive: Drive
) -> tuple[str | None, list[Result]]:
    async with Client(url, connections=connections, timeout_s=timeout_s) as client:
        return await _ready(client), await drive(client, tick)


async def _ready(client: Client) -> str | None:
    """The fingerprint that the service says it serves; `NotReady` when it does not."""
    try:
        answer = await client.get("/health/ready")
    except ClientError as error:
        reason = str(error)
    else:
        if answer.status == 200:
            fingerprint = answer.headers.get(b"x-model-fingerprint")
            return None if fingerprint is None else fingerprint.decode("latin-1")
        reason = f"status {answer.status}"
    raise NotReady(f"{client.url}: the service is not ready ({reason}); `make serve` starts one")


def _progress(duration_s: float) -> driver.Tick:
    """A bar on stderr, drawn once a second: a livelier one would make the generator late."""
    if not sys.stderr.isatty():
        return lambda done: None
    start = drawn = time.monotonic()

    def tick(done: int) -> None:
        nonlocal drawn
        now = time.monotonic()
        if now - drawn >= 1.0:
            drawn = now
            share = min((now - start) / duration_s, 1.0)
            bar = "━" * round(40 * share)
            left = duration_s * (1.0 - share)
            sys.stderr.write(f"\r\x1b[K{bar:╌<40} {done:,} answered, {left:.0f} s left")
            if share == 1.0:
                sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    return tick
