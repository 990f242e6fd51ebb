"""`marmot serve`, `backfill`, `doctor` and `key`. Heavy imports wait until a command needs them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from service import consume_cli, moving_cli, planning_cli

app = typer.Typer(no_args_is_help=True, add_completion=False)
app.command(
    epilog="Example: marmot plan --users 30e6 --window 6000 --depth 4 --cell-bytes 83 --simulate"
)(planning_cli.plan)
app.command(
    epilog="Example: marmot consume --stream 'redis://localhost?stream=events' "
    "--cache redis://localhost/1"
)(consume_cli.consume)
app.command(epilog="Example: marmot dump --cache lmdb:./var/cache --out timelines.dump")(
    moving_cli.dump
)
app.command(epilog="Example: marmot restore --cache redis://localhost --in timelines.dump")(
    moving_cli.restore
)

Bundle = Annotated[
    Path | None, typer.Option(help="Folder that `marmot train` wrote.", show_default="var/bundle")
]
Store = Annotated[
    str | None,
    typer.Option(
        "--cache",
        help="lmdb:PATH, redis://, rediss://, unix://, redis+cluster:// or redis+sentinel://.",
        show_default="lmdb:./var/cache",
    ),
]
Keep = Annotated[
    int | None,
    typer.Option(help="Newest events to keep per user.", show_default="what the model needs"),
]
Json = Annotated[bool, typer.Option("--json", help="End with one machine-readable line.")]


@app.command(
    epilog="Example: marmot serve --bundle var/bundle --cache lmdb:./var/cache --workers 2"
)
def serve(
    *,
    bundle: Bundle = None,
    bundle_key: Annotated[
        Path | None,
        typer.Option(help="Public Ed25519 key, PEM: no bundle without its signature."),
    ] = None,
    models_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of bundles that POST /v1/models may load.", show_default="none"),
    ] = None,
    retrieval: Annotated[
        Path | None,
        typer.Option(help="Bundle for /v1/retrieve and /v1/recommend.", show_default="none"),
    ] = None,
    prerank: Annotated[
        Path | None,
        typer.Option(help="Bundle for /v1/prerank and the chain.", show_default="none"),
    ] = None,
    cache: Store = None,
    keep: Keep = None,
    host: Annotated[str | None, typer.Option(show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None, typer.Option(help="0 takes a free one.", show_default="8000")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(help="File of API keys, from `marmot key`.", show_default="none")
    ] = None,
    no_keys: Annotated[
        bool | None, typer.Option("--no-keys", help="Listen beyond this machine without keys.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes.", show_default="1")] = None,
    provider: Annotated[
        str | None,
        typer.Option(help="Where graphs run: cpu, cuda, tensorrt, openvino.", show_default="cpu"),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Engine threads per worker.", show_default="CPUs / workers")
    ] = None,
    record_ttl_s: Annotated[
        int | None, typer.Option(help="Seconds records live unread.", show_default="30 days")
    ] = None,
    stale_ok_s: Annotated[
        float | None,
        typer.Option(
            help="Seconds that records of an older model of the lineage may be used.",
            show_default="never",
        ),
    ] = None,
    timeline_ttl_s: Annotated[
        int | None, typer.Option(help="Seconds timelines live unwritten.", show_default="for ever")
    ] = None,
    refresh_s: Annotated[
        float | None,
        typer.Option(help="Seconds before a summary is replaced.", show_default="0: at once"),
    ] = None,
    store_acks: Annotated[
        int | None,
        typer.Option(
            help="Replicas that have an event before it is acknowledged.", show_default="0"
        ),
    ] = None,
    drain_s: Annotated[
        float | None,
        typer.Option(help="Seconds between SIGTERM and closing.", show_default="1"),
    ] = None,
    answer_log: Annotated[
        Path | None,
        typer.Option(help="Folder for a sample of the answers, with scores.", show_default="none"),
    ] = None,
    answer_log_key: Annotated[
        Path | None,
        typer.Option(help="File with the key that its users are hashed with.", show_default="none"),
    ] = None,
    answer_log_share: Annotated[
        float | None, typer.Option(help="Share of the rank answers in it.", show_default="0.01")
    ] = None,
    otlp: Annotated[
        str | None,
        typer.Option(
            help="Send traces to this OTLP/HTTP collector, http://HOST:4318.", show_default="none"
        ),
    ] = None,
    log_format: Annotated[
        Literal["json", "console"] | None, typer.Option(show_default="console")
    ] = None,
) -> None:
    """Serve /v1/rank and /v1/events over HTTP.

    Every option is also an environment variable: MARMOT_BUNDLE, MARMOT_CACHE, …; the command
    line wins.
    """
    from service.host import run_service  # noqa: PLC0415
    from service.settings import read_settings  # noqa: PLC0415

    options: dict[str, Any] = {
        "bundle": bundle,
        "bundle_key": bundle_key,
        "models_dir": models_dir,
        "retrieval": retrieval,
        "prerank": prerank,
        "cache": cache,
        "keep": keep,
        "host": host,
        "port": port,
        "keys": keys,
        "no_keys": no_keys,
        "workers": workers,
        "provider": provider,
        "threads": threads,
        "record_ttl_s": record_ttl_s,
        "stale_ok_s": stale_ok_s,
        "timeline_ttl_s": timeline_ttl_s,
        "refresh_s": refresh_s,
        "store_acks": store_acks,
        "drain_s": drain_s,
        "answer_log": answer_log,
        "answer_log_key": answer_log_key,
        "answer_log_share": answer_log_share,
        "otlp": otlp,
        "log_format": log_format,
    }
    run_service(read_settings(**options))


@app.command(
    epilog="Example: marmot backfill --bundle var/bundle --events var/data/events.parquet "
    "--cache lmdb:./var/cache"
)
def backfill(
    events: Annotated[
        Path, typer.Option(help="CSV or Parquet: user_id, item_id, timestamp, tasks.")
    ],
    bundle: Bundle = None,
    cache: Store = None,
    keep: Keep = None,
    on: Annotated[
        Literal["here", "ray"], typer.Option(help="This process, or a Ray cluster's machines.")
    ] = "here",
    resume: Annotated[
        Path | None,
        typer.Option(help="Folder that knows which parts are done: goes on where it ended."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Fill the store from an events file; it merges as posted events do, twice changes nothing."""
    import asyncio  # noqa: PLC0415
    import dataclasses  # noqa: PLC0415
    import json  # noqa: PLC0415

    from service.host import fill_store, fill_store_in_parts  # noqa: PLC0415
    from service.settings import read_settings  # noqa: PLC0415

    settings = read_settings(bundle=bundle, cache=cache, keep=keep)
    if on == "here" and resume is None:
        done = asyncio.run(fill_store(settings, events))
    else:
        done = fill_store_in_parts(settings, events, on=on, resume=resume)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(done)))
    else:
        told = ", ".join(f"{count:,} {status}" for status, count in done.statuses.items())
        typer.echo(f"{done.users:,} users, {done.events:,} events: {told}")


@app.command(
    "export-state",
    epilog="Example: marmot export-state --bundle bundle --cache redis://localhost --out state",
)
def export_state(
    *,
    out: Annotated[Path, typer.Option(help="Folder for state-00000.npz, …; made if need be.")],
    bundle: Bundle = None,
    cache: Store = None,
    keep: Keep = None,
    as_json: Json = False,
) -> None:
    """Write the summary tokens of every user: user_ids, covered and tokens (users, tokens, width).

    For the families that summarise. Summaries that are behind are brought up to date first.
    """
    import asyncio  # noqa: PLC0415
    import dataclasses  # noqa: PLC0415
    import json  # noqa: PLC0415

    from service.host import write_state  # noqa: PLC0415
    from service.settings import read_settings  # noqa: PLC0415

    settings = read_settings(bundle=bundle, cache=cache, keep=keep)
    done = asyncio.run(write_state(settings, out))
    if as_json:
        typer.echo(json.dumps({"out": str(out), **dataclasses.asdict(done)}))
    else:
        typer.echo(f"{done.users:,} users in {done.files:,} file(s) in {out}")


@app.command(epilog="Example: marmot key --name shop --scopes rank,events --keys keys")
def key(
    *,
    scopes: Annotated[str, typer.Option(help="Of rank, events, read, admin, with commas.")],
    name: Annotated[str, typer.Option(help="One word, for logs and for you.")] = "key",
    rps: Annotated[
        float | None, typer.Option(help="Requests a second.", show_default="any")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(help="File to append the line to, instead of printing it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make an API key: prints the secret, this once, and the line for the keys file."""
    import json  # noqa: PLC0415

    from service.auth import append_key, make_key  # noqa: PLC0415

    secret, made = make_key(name, scopes, rps)
    if keys is not None:
        append_key(keys, made)
    if as_json:
        typer.echo(json.dumps({"secret": secret, "line": str(made)}))
    else:
        typer.echo(secret if keys is not None else f"{secret}\n{made}")


@app.command(epilog="Example: marmot doctor --bundle var/bundle --cache redis://localhost")
def doctor(
    *,
    bundle: Bundle = None,
    cache: Store = None,
    keep: Keep = None,
    host: Annotated[str | None, typer.Option(show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(show_default="8000")] = None,
    provider: Annotated[str | None, typer.Option(show_default="cpu")] = None,
    users: Annotated[
        float | None, typer.Option(min=1, help="Also: is there memory for so many?")
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at everything a service needs, and say what to do; exit code 1 if something is broken.

    Changes nothing, in the store or elsewhere. Reads MARMOT_… as `marmot serve` does.
    """
    import dataclasses  # noqa: PLC0415
    import json  # noqa: PLC0415

    from service.doctor import examine, is_broken  # noqa: PLC0415
    from service.settings import read_settings  # noqa: PLC0415

    settings = read_settings(
        bundle=bundle, cache=cache, keep=keep, host=host, port=port, provider=provider
    )
    findings = []
    for finding in examine(settings, None if users is None else int(users)):
        findings.append(finding)
        typer.echo(f"{finding.state:<8}{finding.part:<10}{finding.found}")
        if finding.todo:
            typer.echo(f"{'':<18}-> {finding.todo}")
    if as_json:
        told = [dataclasses.asdict(finding) for finding in findings]
        typer.echo(json.dumps({"ok": not is_broken(findings), "findings": told}))
    if is_broken(findings):
        raise typer.Exit(1)
