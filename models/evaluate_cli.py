"""`marmot evaluate`: how well a bundle ranks what is held out, or a service has ranked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from models.command_options import Events, Json, OnOption, UsageError, open_both

if TYPE_CHECKING:
    from models.bundle import Bundle
    from models.examination import Examination

app = typer.Typer()


class NothingHeldOut(ValueError):
    """Events on which nothing can be measured."""


@app.command(epilog="Example: marmot evaluate --bundle var/bundle --events events.csv --via http")
def evaluate(
    *,
    events: Events,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Folder that `marmot train` wrote.", show_default="--replay needs none"),
    ] = None,
    via: Annotated[
        Literal["full", "cache", "http"],
        typer.Option(help="PyTorch, the cached graphs in this process, or a server."),
    ] = "full",
    url: Annotated[
        str | None, typer.Option(help="A running server; histories travel inline.")
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(min=0, max=0.9, help="Share held out.", show_default="the bundle's"),
    ] = None,
    catalogue: Annotated[
        bool | None,
        typer.Option(
            help="Rank held-out positives among all unseen items.",
            show_default="if trained with --negatives",
        ),
    ] = None,
    users: Annotated[
        int | None, typer.Option(min=1, help="Of how many users the catalogue is ranked; all.")
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(help="Log of `marmot serve --answer-log`: what it answered, not the holdout."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="The key that the log's users are hashed with.")
    ] = None,
    within_s: Annotated[
        int, typer.Option(min=1, help="Feedback counts so long after its answer.")
    ] = 86_400,
    period_s: Annotated[int, typer.Option(min=1, help="Drift is told by periods.")] = 86_400,
    on: OnOption = "here",
    as_json: Json = False,
) -> None:
    """AUC and GAUC on the holdout: one request per user at the split, ranked as served.

    With --catalogue HR@10, NDCG@10 and MRR: a user's requests together hold every item of the
    model that the user has not seen. With --replay AUC, GAUC, calibration and drift of what a
    service answered, by model, from the feedback that came afterwards.
    """
    if replay is not None:
        from models import replay_cli  # noqa: PLC0415

        if bundle is not None or url is not None or catalogue is not None:
            raise UsageError(
                "--replay tells of answers that were given: it takes no --bundle, "
                "--url or --catalogue"
            )
        replay_cli.replay(
            replay, key, events, within_s=within_s, period_s=period_s, as_json=as_json
        )
        return
    if bundle is None:
        raise UsageError("evaluate takes --bundle, or --replay")
    from models.examination import Examination  # noqa: PLC0415

    if url is not None and via != "http":
        raise UsageError(f"--url goes with --via http, not with --via {via}")
    loaded, table = open_both(bundle, events)
    if loaded.spec.stage != "rank":
        raise UsageError(f"{bundle} is a {loaded.spec.stage} model: evaluate takes one that ranks")
    trained = loaded.manifest["trained_on"]
    share = float(trained.get("holdout") or 0.1) if holdout is None else holdout
    if catalogue is None:
        catalogue = bool(trained.get("negatives"))
    if users is not None and not catalogue:
        raise UsageError("--users goes with --catalogue")
    if catalogue and on == "ray":
        raise UsageError("a catalogue is ranked in one process: leave out --on ray")
    exam = Examination(bundle.resolve(), table, share, via, url)
    found = _measured(exam, loaded, on=on, catalogue=catalogue, users=users)
    if not found:
        raise NothingHeldOut(f"{events}: no user has 5 events or more, so nothing is held out")
    if as_json:
        typer.echo(json.dumps({"via": via, "holdout": share, "metrics": found}))
        return
    for task, figures in found.items():
        shown = "  ".join(
            f"{name} {'undefined' if value is None else format(value, '.4f')}"
            for name, value in figures.items()
            if name not in ("targets", "users")
        )
        typer.echo(f"{task}  {shown}  ({figures['targets']} held-out events, via {via})")


def _measured(
    exam: Examination, bundle: Bundle, *, on: str, catalogue: bool, users: int | None
) -> dict[str, dict[str, Any]]:
    """Figures by task."""
    from models.catalogue_metrics import measure_catalogue  # noqa: PLC0415
    from models.evaluate import measure  # noqa: PLC0415
    from models.examination import on_ray  # noqa: PLC0415
    from models.progress import bar  # noqa: PLC0415

    table, share = exam.table, exam.holdout
    if on == "ray":
        with bar("asking") as advance:
            return measure(table, share, on_ray(exam, advance))
    with exam.evaluator(bundle, table, share, exam.url) as scorer, bar("asking") as advance:
        if not catalogue:
            return measure(table, share, scorer, advance)
        ids = list(bundle.vocabulary.ids)
        return measure_catalogue(table, share, ids, scorer, users=users, advance=advance)
