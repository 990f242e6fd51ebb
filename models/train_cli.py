"""`marmot train`: what is asked for, checked before anything is read. Heavy imports wait."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from models.command_options import (
    Events,
    Json,
    StreamBase,
    StreamBundles,
    StreamCache,
    StreamCheckpoint,
    StreamCheckpointEvents,
    StreamCurve,
    StreamHead,
    StreamMissRate,
    StreamRefit,
    StreamSample,
    UsageError,
    share_the_cores,
)
from models.embeddings.sizes import DEFAULT_COMPRESSION, EMBEDDINGS
from models.family import FAMILIES, Family, default_depth
from models.spec import DEFAULT_FOUND, DEFAULT_SEARCHED, Spec

app = typer.Typer()


@app.command(epilog="Example: marmot train --events var/data/events.parquet --out var/bundle")
def train(
    *,
    events: Events,
    out: Annotated[Path, typer.Option(help="Folder of the bundle; replaced in one step.")],
    items: Annotated[Path | None, typer.Option(help="CSV or Parquet: item_id, name, …")] = None,
    stage: Annotated[
        Literal["rank", "retrieval", "prerank"],
        typer.Option(help="What for; the others take --ranker and read its records."),
    ] = "rank",
    ranker: Annotated[
        Path | None, typer.Option(help="Bundle of the ranking model that a stage learns from.")
    ] = None,
    family: Annotated[str, typer.Option(help=f"Kind of model: {', '.join(FAMILIES)}.")] = "marm",
    depth: Annotated[
        int | None, typer.Option(min=1, help="Attention layers.", show_default="4; din has 1")
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Events each layer sees.",
            show_default="100; retrieval 200, prerank 50",
        ),
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="Numbers in a vector.")] = 64,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads; they divide the width.")] = 4,
    summary: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of a summary.", show_default="vista 128, elastic 32"),
    ] = None,
    refresh_events: Annotated[
        int | None, typer.Option(min=1, help="Events between summaries.", show_default="50")
    ] = None,
    reconstruction: Annotated[
        float, typer.Option(min=0, help="Weight of what a summary must give back of the events.")
    ] = 0.1,
    tasks: Annotated[
        str | None, typer.Option(help="Columns to predict, the first one ranks: like,share")
    ] = None,
    time_gap: Annotated[
        Literal["on", "off"], typer.Option(help="Whether time counts, or order alone.")
    ] = "on",
    history: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Newest events to search in, or that a summary covers.",
            show_default="sim 10000, vista and elastic 1000000",
        ),
    ] = None,
    search: Annotated[
        int | None,
        typer.Option(min=1, help="Events to find in them.", show_default="100, with --history"),
    ] = None,
    search_by: Annotated[
        Literal["category", "attention"] | None,
        typer.Option(help="What is relevant.", show_default="category where the items have one"),
    ] = None,
    history_where: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help="Attend only to events whose feedback for this task is 1.",
            show_default="to all",
        ),
    ] = None,
    embedding: Annotated[
        str, typer.Option(help=f"How items become vectors: {', '.join(EMBEDDINGS)}.")
    ] = "full",
    compression: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many times smaller than full.", show_default=str(DEFAULT_COMPRESSION)
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the events, at most.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of a stage's training.", show_default="300")
    ] = None,
    index: Annotated[
        Literal["exact", "faiss"],
        typer.Option(help="How retrieval searches its items; faiss is an extra, for millions."),
    ] = "exact",
    user_embedding: Annotated[
        bool,
        typer.Option(
            "--user-embedding",
            help="Give retrieval's query a vector of each user; DELETE cannot reach it.",
        ),
    ] = False,
    learning_rate: Annotated[
        float, typer.Option(min=1e-6, max=1, help="Of ranking over whole timelines.")
    ] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bundle.")] = 0,
    cache_dtype: Annotated[
        Literal["float32", "float16", "int8"], typer.Option(help="Numbers in the cache.")
    ] = "float32",
    holdout: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of each user's newest events to hold out.")
    ] = 0.1,
    negatives: Annotated[
        int, typer.Option(min=0, max=1_000, help="Items drawn per event, if all are positives.")
    ] = 0,
    negative_sampling: Annotated[
        Literal["uniform", "popularity"], typer.Option(help="How likely each item is drawn.")
    ] = "uniform",
    name: Annotated[str, typer.Option(help="The model's name in answers.")] = "marmot",
    version: Annotated[
        str | None, typer.Option(help="Its version.", show_default="from the fingerprint")
    ] = None,
    lineage: Annotated[
        str | None,
        typer.Option(
            help="Models of one lineage and shape may lend records: serve --stale-ok-s.",
            show_default="none",
        ),
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="One pass in time order, over the cache's records.")
    ] = False,
    cache: StreamCache = None,
    base: StreamBase = None,
    head: StreamHead = 0.1,
    refit: StreamRefit = True,
    checkpoint: StreamCheckpoint = None,
    checkpoint_events: StreamCheckpointEvents = 10_000,
    bundles: StreamBundles = None,
    curve: StreamCurve = None,
    miss_rate: StreamMissRate = 0.05,
    sample: StreamSample = 1.0,
    as_json: Json = False,
) -> None:
    """Train on a log of events and export a bundle that `marmot serve` loads.

    The newest events of each user are held out; AUC and GAUC on them end up in the manifest, or,
    with --negatives, HR@10, NDCG@10 and MRR in the whole unseen catalogue for 1,000 users.
    """
    from models.events import read_events  # noqa: PLC0415
    from models.items import read_categories, read_names  # noqa: PLC0415

    _check_retrieval(stage, {"--index": index != "exact", "--user-embedding": user_embedding})
    names = read_names(items) if items else {}
    store = _store_of(cache, base, is_asked_for=stream)
    _check_where(history_where, is_followed=stage != "rank" or base is not None)
    if store:
        if stage != "rank" or (epochs or 1) > 1 or negatives or history is not None:
            raise UsageError("--stream is one pass: without --stage, --negatives and --history")
        told = _train_stream(
            events, out, names, store, base,
            None if base else {
                "family": family,
                "depth": default_depth(family) if depth is None else depth,
                "window": 100 if window is None else window,
                "width": width,
                "heads": heads,
                "time_gap": time_gap == "on",
                "embedding": embedding,
                "cache_dtype": cache_dtype,
                "history_where": history_where or "",
            },
            tasks,
            {"miss_rate": miss_rate, "sample": sample, **({} if refit else {"growth": 0.0})},
            {
                "head": head, "checkpoint": checkpoint, "checkpoint_events": checkpoint_events,
                "bundles": bundles, "curve": curve,
            },
            seed=seed, holdout=holdout, name=name, version=version, lineage=lineage,
        )  # fmt: skip
        typer.echo(json.dumps(told) if as_json else out)
        return
    if stage != "rank":
        if ranker is None:
            raise UsageError(f"--stage {stage} takes --ranker: the bundle whose records it reads")
        if epochs is not None:
            raise UsageError("--epochs is for ranking: a stage learns for --steps")
        told = _train_stage(
            stage, ranker, events, items, out,
            window=window, steps=steps, index=index, user_embedding=user_embedding,
            seed=seed, holdout=holdout, name=name, version=version,
        )  # fmt: skip
        typer.echo(json.dumps(told) if as_json else out)
        return
    if ranker is not None or steps is not None:
        raise UsageError("--ranker and --steps go with --stage retrieval or --stage prerank")
    categories = read_categories(items) if items else None
    if family == "sim" and history is None:
        history = DEFAULT_SEARCHED
    is_summarised = FAMILIES.get(family, Family()).summary > 0
    if is_summarised and (search is not None or search_by is not None):
        raise UsageError(f"the family {family} cannot search: leave out --search and --search-by")
    if history is None and (search is not None or search_by is not None):
        raise UsageError("--search and --search-by say how to search; --history says in how much")
    if history is not None and search_by == "category" and categories is None:
        where = f"{items} has no column of categories" if items else "there is no --items file"
        raise UsageError(f"--search-by category needs the items' categories, and {where}")
    searches = history is not None and not is_summarised
    wanted = None if tasks is None else [task.strip() for task in tasks.split(",")]
    table = read_events(events, wanted)
    spec = Spec(
        family=family,
        depth=default_depth(family) if depth is None else depth,
        window=100 if window is None else window,
        width=width,
        heads=heads,
        tasks=table.tasks,
        time_gap=time_gap == "on",
        embedding=embedding,
        compression=compression or 0,
        cache_dtype=cache_dtype,
        history=history or 0,
        search=(search or DEFAULT_FOUND) if searches else 0,
        search_by=search_by or ("attention" if categories is None and searches else "category"),
        summary=summary or 0,
        refresh_events=refresh_events or 0,
        history_where=history_where or "",
    )
    share_the_cores()
    from models.course import run_course  # noqa: PLC0415  (torch from here on)
    from models.train import Recipe  # noqa: PLC0415

    bundle = run_course(
        table,
        spec,
        out,
        names,
        categories=categories if spec.finds_first else None,
        recipe=Recipe(
            epochs=epochs,
            learning_rate=learning_rate,
            negatives=negatives,
            negative_sampling=negative_sampling,
            reconstruction=reconstruction,
        ),
        seed=seed,
        holdout=holdout,
        name=name,
        version=version,
        lineage=lineage,
    )
    answer = {
        "bundle": str(out),
        "fingerprint": bundle.fingerprint,
        "metrics": bundle.manifest["metrics"],
        "trained_on": bundle.manifest["trained_on"],
    }
    typer.echo(json.dumps(answer) if as_json else out)


def _store_of(cache: str | None, base: Path | None, *, is_asked_for: bool) -> str | None:
    """Where a stream keeps its records; None: there is no stream."""
    if is_asked_for and cache is None:
        raise UsageError("--stream takes --cache: the store of its records, lmdb:PATH")
    if not is_asked_for and (cache is not None or base is not None):
        raise UsageError("--cache and --from go with --stream")
    return cache


def _check_retrieval(stage: str, asked_for: dict[str, bool]) -> None:
    """Refuses options of retrieval where something else is trained."""
    for option, is_asked_for in asked_for.items():
        if is_asked_for and stage != "retrieval":
            raise UsageError(f"{option} goes with --stage retrieval")


def _check_where(where: str | None, *, is_followed: bool) -> None:
    if where is not None and is_followed:
        raise UsageError("--history-where is said of a ranking model at first: others follow it")


def _train_stream(
    events: Path,
    out: Path,
    names: dict[str, str],
    cache: str,
    base: Path | None,
    fields: dict[str, Any] | None,
    tasks: str | None,
    recipe: dict[str, Any],
    plan: dict[str, Any],
    **options: Any,
) -> dict[str, Any]:
    from models.bundle import load_bundle  # noqa: PLC0415
    from models.events import read_events  # noqa: PLC0415

    warm = load_bundle(base) if base else None
    wanted = None if tasks is None else [task.strip() for task in tasks.split(",")]
    table = read_events(events, warm.spec.tasks if warm else wanted)
    spec = warm.spec if warm else Spec(**(fields or {}), tasks=table.tasks)
    share_the_cores()
    from models.stream_course import StreamPlan, run_stream  # noqa: PLC0415  (torch from here on)
    from models.streaming import StreamRecipe  # noqa: PLC0415

    done = run_stream(
        table, spec, out, names, StreamPlan(cache, warm, **plan),
        recipe=StreamRecipe(**recipe), **options,
    )  # fmt: skip
    return {
        "bundle": str(out),
        "fingerprint": done.bundle.fingerprint,
        "metrics": done.bundle.manifest["metrics"],
        "trained_on": done.bundle.manifest["trained_on"],
        "curve": done.curve,
        "traffic": done.traffic.to_dict(),
    }


def _train_stage(
    stage: str,
    ranker: Path,
    events: Path,
    items: Path | None,
    out: Path,
    *,
    name: str,
    **options: Any,
) -> dict[str, Any]:
    from models.bundle import load_bundle  # noqa: PLC0415
    from models.events import read_events  # noqa: PLC0415
    from models.items import read_features  # noqa: PLC0415

    loaded = load_bundle(ranker)
    table = read_events(events, loaded.spec.tasks)
    categories = read_features(items) if items else {}
    share_the_cores()
    from models.stage_course import run_stage_course  # noqa: PLC0415  (torch from here on)

    bundle = run_stage_course(
        table, loaded, stage, out, categories,
        name=None if name == "marmot" else name, **options,
    )  # fmt: skip
    return {
        "bundle": str(out),
        "fingerprint": bundle.fingerprint,
        "reads": bundle.reads,
        "metrics": bundle.manifest["metrics"],
        "trained_on": bundle.manifest["trained_on"],
    }
