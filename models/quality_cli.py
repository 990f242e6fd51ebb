"""`marmot compare`, `scaling` and `precision`: what a model is worth, and what of it costs what."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from models.command_options import (
    BundlePath,
    Events,
    Json,
    OnOption,
    UsageError,
    open_both,
    share_the_cores,
)

app = typer.Typer()


@app.command(epilog="Example: marmot compare --events var/data/events.parquet --seeds 3")
def compare(
    *,
    events: Events,
    depths: Annotated[str, typer.Option(help="Depths to train, 0 is no history.")] = "0,1,2,4",
    families: Annotated[
        str,
        typer.Option(
            help="Others to train beside them: din,sim,stca,full,vista,elastic; search is marm "
            "that searches."
        ),
    ] = "",
    items: Annotated[
        Path | None, typer.Option(help="Items file: families that search go by its category.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each; mean and deviation.")] = 3,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes, at most.")] = None,
    holdout: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share held out.")] = 0.1,
    negatives: Annotated[
        int, typer.Option(min=0, max=1_000, help="Drawn per event; the catalogue is ranked.")
    ] = 0,
    negative_sampling: Annotated[
        Literal["uniform", "popularity"], typer.Option(help="How likely each item is drawn.")
    ] = "uniform",
    users: Annotated[
        int | None, typer.Option(min=1, help="Of how many users the catalogue is ranked; all.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One epoch of sixty users: shows that it works.")
    ] = False,
    on: OnOption = "here",
    resume: Annotated[
        Path | None, typer.Option(help="Folder that knows which models are trained already.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train and evaluate baselines, depths and families on one split; prints a Markdown table."""
    from models.comparison import Course, compare_models, contestants, markdown  # noqa: PLC0415
    from models.events import read_events  # noqa: PLC0415
    from models.fleet import Journal, digest  # noqa: PLC0415
    from models.items import read_categories  # noqa: PLC0415

    share_the_cores()
    try:
        wanted = [int(depth) for depth in depths.split(",")]
    except ValueError as error:
        raise UsageError(f"--depths must be numbers like 0,1,2,4, not {depths!r}") from error
    table = read_events(events)
    named = [name.strip() for name in families.split(",") if name.strip()]
    categories = None if items is None else read_categories(items)
    models = contestants(wanted, named, table.tasks, by_category=categories is not None)
    if quick:
        table, seeds, epochs = table.take(table.users < 60).of_seen_items(), 1, 1
    course = Course(holdout, epochs, negatives, negative_sampling, users, categories)
    work = {"what": "compare", "models": [model.name for model in models], "seeds": seeds}
    work |= {"course": {**asdict(course), "categories": items and digest(items)}}
    work |= {"events": digest(events), "quick": quick}
    journal = None if resume is None else Journal(resume, work)
    rows = compare_models(table, models, seeds, course, on=on, journal=journal)
    typer.echo(json.dumps(rows) if as_json else markdown(rows))


@app.command(epilog="Example: marmot scaling --events var/data/events.parquet --out scaling")
def scaling(
    *,
    events: Events,
    out: Annotated[Path, typer.Option(help="Folder for the table, the fit and the picture.")],
    windows: Annotated[str, typer.Option(help="Events that each layer sees.")] = "25,50,100",
    depths: Annotated[str, typer.Option(help="Attention layers.")] = "1,2,4",
    widths: Annotated[str, typer.Option(help="Numbers in a vector.")] = "32,64",
    heads: Annotated[int, typer.Option(min=1, help="Attention heads; they divide widths.")] = 4,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each.")] = 1,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes, at most.")] = None,
    holdout: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share held out.")] = 0.1,
    on: OnOption = "here",
    resume: Annotated[
        Path | None, typer.Option(help="Folder that knows which models are trained already.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train over windows, depths and widths, and fit GAUC to bytes of memory by a power law."""
    from models.events import read_events  # noqa: PLC0415
    from models.fleet import Journal, digest  # noqa: PLC0415

    share_the_cores()
    from models.progress import bar  # noqa: PLC0415
    from models.scaling import law_of, sentence, sweep, write_report  # noqa: PLC0415

    sizes = [
        _numbers(name, text)
        for name, text in (("windows", windows), ("depths", depths), ("widths", widths))
    ]
    work = {"what": "scaling", "sizes": sizes, "seeds": seeds, "heads": heads}
    work |= {"holdout": holdout, "epochs": epochs}
    if len({w * d * n for w in sizes[0] for d in sizes[1] for n in sizes[2]}) < 3:
        raise UsageError("a power law needs three different sizes of memory or more")
    table = read_events(events)
    work |= {"events": digest(events)}
    with bar("training") as advance:
        points = sweep(
            table,
            *sizes,
            seeds=seeds,
            heads=heads,
            holdout=holdout,
            epochs=epochs,
            on=on,
            journal=None if resume is None else Journal(resume, work),
            advance=advance,
        )
    law = law_of(points)
    written = write_report(out, points, law)
    if as_json:
        told = {"files": [str(path) for path in written], "fit": asdict(law)}
        typer.echo(json.dumps(told))
        return
    typer.echo(sentence(law))


def _numbers(name: str, text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--{name} must be numbers like 1,2,4, not {text!r}") from error
    if any(number < 1 for number in found):
        raise UsageError(f"--{name} must be numbers above 0, not {text!r}")
    return found


@app.command(epilog="Example: marmot precision --bundle var/bundle --events events.parquet")
def precision(
    *,
    bundle: BundlePath,
    events: Events,
    holdout: Annotated[
        float | None,
        typer.Option(min=0, max=0.9, help="Share held out.", show_default="the bundle's"),
    ] = None,
    as_json: Json = False,
) -> None:
    """What --cache-dtype costs: bytes of a user's records against GAUC; prints a Markdown table."""
    from models.progress import bar  # noqa: PLC0415

    loaded, table = open_both(bundle, events)
    from models.precision import compare_forms, markdown  # noqa: PLC0415

    trained = float(loaded.manifest["trained_on"].get("holdout") or 0.1)
    with bar("measuring") as advance:
        rows = compare_forms(loaded, table, trained if holdout is None else holdout, advance)
    typer.echo(json.dumps(rows) if as_json else markdown(rows))
