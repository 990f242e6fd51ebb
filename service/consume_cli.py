"""`marmot consume`: the options of a consumer, and its last words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def consume(
    *,
    stream: Annotated[
        str, typer.Option(help="redis://HOST:PORT/DB?stream=NAME; rediss, unix, cluster, sentinel.")
    ],
    bundle: Annotated[
        Path | None,
        typer.Option(help="Folder that `marmot train` wrote.", show_default="var/bundle"),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(help="Where events go, as for serve.", show_default="lmdb:./var/cache"),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(help="Newest events to keep per user.", show_default="what the model needs"),
    ] = None,
    group: Annotated[str, typer.Option(help="Consumers of one group share the work.")] = "marmot",
    consumer: Annotated[
        str | None, typer.Option(help="This one's name in it.", show_default="host-process")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Entries at a time.")] = 500,
    claim_after_s: Annotated[
        float, typer.Option(min=0.1, help="When another's unfinished entries are taken over.")
    ] = 60.0,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="0 takes a free one.", show_default="8001"),
    ] = None,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="Stop when nothing is left.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="End with one machine-readable line.")
    ] = False,
) -> None:
    """Store the events of a Redis stream, each entry one event as /v1/events takes it.

    Acknowledged once stored; what is no event goes to the stream NAME:dead. SIGTERM ends it well.
    """
    import asyncio  # noqa: PLC0415
    import dataclasses  # noqa: PLC0415
    import json  # noqa: PLC0415

    from service.consuming import consume as run  # noqa: PLC0415
    from service.settings import read_settings  # noqa: PLC0415

    done = asyncio.run(
        run(
            read_settings(bundle=bundle, cache=cache, keep=keep, metrics_port=metrics_port),
            stream,
            group=group,
            consumer=consumer,
            batch=batch,
            claim_after_s=claim_after_s,
            until_empty=until_empty,
        )
    )
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(done)))
        return
    told = ", ".join(f"{count:,} {outcome}" for outcome, count in done.outcomes.items())
    left = "unknown" if done.waiting is None else f"{done.waiting + (done.pending or 0):,}"
    typer.echo(f"{done.entries:,} entries{f': {told}' if told else ''}; {left} left")
