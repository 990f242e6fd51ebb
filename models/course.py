"""`marmot train` from events to bundle: hold out, train, export, measure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from models import train
from models.bundle import Bundle, check_target, load_bundle
from models.catalogue_metrics import measure_catalogue
from models.evaluate import measure
from models.events import EventTable
from models.export import export
from models.items import numbered
from models.progress import bar
from models.reference import Reference
from models.spec import Spec
from models.width_search import searched

#: Ranking a whole catalogue takes a while for each; `marmot evaluate` asks about all of them.
MEASURED_USERS = 1_000

Array = np.ndarray[Any, Any]


class NothingToLearn(ValueError):
    """Events from which no model can be trained."""


def run_course(
    table: EventTable,
    spec: Spec,
    out: Path,
    names: dict[str, str],
    *,
    categories: Mapping[str, str] | None = None,
    recipe: train.Recipe | None = None,
    seed: int = 0,
    holdout: float = 0.1,
    name: str = "marmot",
    version: str | None = None,
    lineage: str | None = None,
) -> Bundle:
    """Trains on all but the holdout and leaves a verified bundle at `out`.

    `categories` are those of the items, by id, where a search goes by them.
    """
    check_target(out)
    seen = table.take(~table.is_held_out(holdout)).of_seen_items()
    if not (seen.labels >= 0).any():
        raise NothingToLearn("no event outside the holdout has a label: there is nothing to learn")
    recipe = recipe or train.Recipe()
    negatives = recipe.negatives
    if not negatives and not (seen.labels == 0).any():
        raise NothingToLearn(
            "every known label is 1, so that nothing can be told apart: --negatives 4 draws items "
            "to compare with"
        )
    numbers = None if categories is None else numbered(seen.item_ids, categories)
    trained = _trained(seen, spec, recipe, seed, numbers)
    reference = Reference(trained.model, table, seen.item_ids)
    metrics: dict[str, Any] = {}
    with bar("measuring") as advance:
        if holdout and negatives:
            metrics = measure_catalogue(
                table,
                holdout,
                seen.item_ids,
                reference.score_question,
                users=MEASURED_USERS,
                advance=advance,
            )
        elif holdout:
            metrics = measure(table, holdout, reference.score_question, advance)
    export(
        trained.model,
        seen.item_ids,
        [names.get(item_id) for item_id in seen.item_ids],
        out,
        name=name,
        version=version,
        lineage=lineage,
        trained_on={
            "events": len(seen),
            "users": len(seen.user_ids),
            "items": len(seen.item_ids),
            "holdout": holdout,
            **(
                {"negatives": negatives, "negative_sampling": recipe.negative_sampling}
                if negatives
                else {}
            ),
            "seed": seed,
            "epochs": trained.epochs,
            "steps": trained.steps,
            "validation_loss": _finite(trained.validation_loss),
        },
        metrics=metrics,
    )
    return load_bundle(out)


def _trained(
    seen: EventTable, spec: Spec, recipe: train.Recipe, seed: int, categories: Array | None
) -> train.Trained:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=None)

        def show(now: train.Progress) -> None:
            bar.update(
                task,
                completed=now.step,
                total=now.most_steps,
                description=f"epoch {now.epoch}  loss {now.loss:.4f}"
                + (f"  validation {now.validation_loss:.4f}" if now.epoch > 1 else ""),
            )

        torch.set_flush_denormal(True)
        spec = searched(seen, spec, recipe, seed=seed, categories=categories, on_step=show)
        return train.train(seen, spec, recipe, seed=seed, categories=categories, on_step=show)


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
