"""`marmot plan`: how large a deployment is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from service.errors import UsageError

if TYPE_CHECKING:
    from models.spec import Spec
    from service.plan import Plan
    from service.simulation import Point
    from service.storage import Factor


def plan(
    *,
    users: Annotated[float, typer.Option(min=1, help="How many; 30e6 is a number.")] = 1e6,
    events_a_day: Annotated[float, typer.Option(min=0, help="Of one user.")] = 20.0,
    family: Annotated[
        str | None,
        typer.Option(help="marm, vista, stca, …", show_default="marm, or the bundle's"),
    ] = None,
    window: Annotated[int | None, typer.Option(min=1, show_default="100, or the bundle's")] = None,
    depth: Annotated[int | None, typer.Option(min=0, show_default="4, or the bundle's")] = None,
    width: Annotated[int | None, typer.Option(min=1, show_default="64, or the bundle's")] = None,
    dtype: Annotated[
        Literal["float32", "float16", "int8"] | None,
        typer.Option(help="Of cached records.", show_default="float32, or the bundle's"),
    ] = None,
    history: Annotated[
        int | None, typer.Option(min=1, help="Events that a search, or a summary, reaches back.")
    ] = None,
    search: Annotated[int | None, typer.Option(min=1, help="Events found for a candidate.")] = None,
    requests_s: Annotated[float, typer.Option(min=0, help="Rank requests a second.")] = 1_000.0,
    candidates: Annotated[int, typer.Option(min=1, help="In one request.")] = 500,
    cell_bytes: Annotated[
        float | None,
        typer.Option(min=0, help="Of one (event, depth). Without --bundle: the paper's count."),
    ] = None,
    keep: Annotated[int | None, typer.Option(min=1, help="Events kept of a user.")] = None,
    user_events: Annotated[
        int | None, typer.Option(min=0, help="Stored of a user on average; as many as are kept.")
    ] = None,
    id_bytes: Annotated[int, typer.Option(min=1, help="Of an item's id.")] = 8,
    bundle: Annotated[Path | None, typer.Option(help="Take the model's shape from it.")] = None,
    bench: Annotated[
        Path | None, typer.Option(help="What `marmot bench --json` printed on this machine.")
    ] = None,
    shard_gib: Annotated[float, typer.Option(min=0.001, help="Memory of a Redis shard.")] = 64.0,
    copies: Annotated[int, typer.Option(min=0, help="Replicas of each shard.")] = 1,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Also replay Zipf traffic: hit rate by memory.")
    ] = False,
    zipf: Annotated[float, typer.Option(min=0, help="How unevenly users come; 0 evenly.")] = 1.0,
    plot: Annotated[Path, typer.Option(help="Where --simulate draws its picture.")] = Path(
        "plan.png"
    ),
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Say what a deployment takes: bytes per user and in total, Redis, replicas, network.

    Every factor stands with its reason; what was assumed and not measured says so.
    """
    from service.plan import plan as plan_of  # noqa: PLC0415
    from service.wanted import Wanted  # noqa: PLC0415

    if users != int(users):
        raise UsageError(f"--users must be a whole number, not {users:g}")
    shape: dict[str, Any] = {
        "family": family, "window": window, "depth": depth, "width": width, "cache_dtype": dtype,
        "history": history, "search": search,
    }  # fmt: skip
    spec = _spec(bundle, {name: value for name, value in shape.items() if value is not None})
    wanted = Wanted(
        int(users),
        spec,
        events_a_day=events_a_day,
        requests_s=requests_s,
        candidates=candidates,
        cell_bytes=cell_bytes,
        is_paper=cell_bytes is not None and bundle is None and spec.kind.is_cached,
        keep=keep,
        user_events=user_events,
        id_bytes=id_bytes,
        shard_gib=shard_gib,
        copies=copies,
        bench=_bench(bench),
    )
    found = plan_of(wanted)
    _show_plan(found)
    answer = found.to_dict()
    if simulate:
        from models.progress import bar  # noqa: PLC0415
        from service.simulation import simulate as replay  # noqa: PLC0415

        with bar("simulate") as progress:
            points = replay(wanted, exponent=zipf, seed=seed, progress=progress)
        _show_points(points)
        drawn = _draw(points, plot, zipf)
        answer |= {"simulation": [asdict(point) for point in points], "plot": drawn}
    if as_json:
        typer.echo(json.dumps(answer))


def _spec(bundle: Path | None, given: dict[str, Any]) -> Spec:
    from models.bundle import load_bundle  # noqa: PLC0415
    from models.family import default_depth  # noqa: PLC0415
    from models.spec import Spec  # noqa: PLC0415

    if bundle is not None:
        base = load_bundle(bundle).spec
    else:
        base, given = Spec(), {"depth": default_depth(given.get("family", "marm")), **given}
    if base.stage != "rank":
        raise UsageError(f"{bundle} reads another model's records: plan with the bundle of that")
    # Heads divide the width and weigh nothing here.
    return replace(base, **given, heads=1)


def _bench(path: Path | None) -> dict[str, Any] | None:
    """The last line of the file."""
    if path is None:
        return None
    try:
        lines = path.read_text().strip().splitlines()
        found = json.loads(lines[-1])
    except FileNotFoundError:
        raise UsageError(f"no file at {path}; `marmot bench --json > {path}` makes one") from None
    except (OSError, ValueError, IndexError) as error:
        raise UsageError(f"--bench {path}: cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"--bench {path} is not a line that `marmot bench --json` prints")
    return found


def _show_plan(found: Plan) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    table.add_column("factor")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("why", style="dim")
    for factor in found.factors:
        table.add_row(factor.name, _said(factor), factor.why)
    console = Console()
    console.print(table)
    console.print(
        f"{size(found.user_bytes)} per user, {size(found.total_bytes)} for all; "
        f"{size(found.memory_bytes)} of Redis memory on {found.shards:,} shard(s); "
        f"{found.replicas:,} replica(s); {size(found.network_bytes_s)}/s of network",
        highlight=False,
    )


def _said(factor: Factor) -> str:
    if factor.unit.startswith("bytes"):
        return size(factor.value) + factor.unit.removeprefix("bytes")
    number = f"{factor.value:,.0f}" if factor.value == int(factor.value) else f"{factor.value:,.3g}"
    return f"{number} {factor.unit}".strip()


def size(value_bytes: float) -> str:
    """Bytes in powers of 1,000, as disks and papers count."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if value_bytes < 1_000 or unit == "TB":
            break
        value_bytes /= 1_000
    return f"{value_bytes:,.1f} {unit}"


def _show_points(points: Sequence[Point]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for name in ("of all cached", "memory", "hit rate"):
        table.add_column(name, justify="right")
    for point in points:
        table.add_row(f"{point.share:.0%}", size(point.memory_bytes), f"{point.hit_rate:.1%}")
    Console().print(table)


def _draw(points: Sequence[Point], path: Path, exponent: float) -> str | None:
    """Where the picture is; None, and a sentence, without matplotlib."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ModuleNotFoundError:
        typer.echo("No picture: matplotlib is not installed (the extra `plots`).", err=True)
        return None
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([point.memory_bytes / 1e9 for point in points], [p.hit_rate for p in points], "o-")
    axes.set(
        xscale="log",
        ylim=(0, 1.02),
        xlabel="memory for what is cached, GB",
        ylabel="hit rate",
        title=f"LRU under Zipf traffic, exponent {exponent:g}",
    )
    axes.grid(alpha=0.3)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise UsageError(f"--plot {path}: {error.strerror or error}") from error
    return str(path)
