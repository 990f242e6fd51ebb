"""`marmot compare`: baselines and depths, one split, several seeds, the figures side by side."""

from __future__ import annotations

import math
from statistics import mean, stdev
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from models.baselines import evaluate_baselines
from models.evaluate import measure
from models.events import EventTable
from models.family import default_depth
from models.marm import Marm
from models.ranking_model import RankingModel
from models.reference import Reference
from models.spec import Spec
from models.train import Recipe, train

Row = dict[str, Any]


class FeedbackInRecord(Marm):
    """The other choice: an event's record also knows the event's own feedback."""

    def __init__(self, spec: Spec, items: int, *, dropout: float = 0.0) -> None:
        super().__init__(spec, items, dropout=dropout)
        self.own = nn.Parameter(torch.zeros(len(spec.tasks), 3, spec.width))

    def _exposed(self, start: Tensor, feedback: Tensor) -> Tensor:
        states = torch.arange(-1, 2, dtype=feedback.dtype)
        state = (feedback[..., None] == states).to(start.dtype)
        return start + torch.einsum("...ts,tsw->...w", state, self.own)


class Contestant(NamedTuple):
    """A model to train, and what its row is called."""

    name: str
    spec: Spec
    kind: type[RankingModel] | None = None


def contestants(depths: list[int], families: list[str], tasks: tuple[str, ...]) -> list[Contestant]:
    """Marm at these depths, with the other choice of records, and these families beside it."""
    found = [
        Contestant("no history" if depth == 0 else f"depth {depth}", Spec(depth=depth, tasks=tasks))
        for depth in depths
    ]
    two = Spec(depth=2, tasks=tasks)
    found.append(Contestant("depth 2, records with own feedback", two, FeedbackInRecord))
    for family in families:
        spec = Spec(family=family, depth=min(2, default_depth(family)), tasks=tasks)
        found.append(Contestant(f"{family}, depth {spec.depth}", spec))
    return found


def compare_models(
    table: EventTable,
    models: list[Contestant],
    seeds: int,
    *,
    holdout: float,
    epochs: int | None,
) -> list[Row]:
    """A row per model: GAUC and AUC of the primary task, one figure per seed."""
    rows: dict[str, Row] = {}
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("comparing", total=seeds * (len(models) + 1))
        for seed in range(seeds):
            for name, figures in evaluate_baselines(table, holdout, seed=seed).items():
                _add(rows, name, figures)
            bar.advance(task)
            for model in models:
                bar.update(task, description=f"{model.name}, seed {seed}")
                _add(rows, model.name, _trained(model, table, seed, holdout, epochs))
                bar.advance(task)
    return list(rows.values())


def _trained(
    model: Contestant, table: EventTable, seed: int, holdout: float, epochs: int | None
) -> dict[str, Any]:
    seen = table.take(~table.is_held_out(holdout)).of_seen_items()
    trained = train(seen, model.spec, Recipe(epochs=epochs), seed=seed, kind=model.kind)
    reference = Reference(trained.model, table, seen.item_ids)
    return dict(measure(table, holdout, reference.score_question)[table.tasks[0]])


def _add(rows: dict[str, Row], model: str, figures: dict[str, Any]) -> None:
    row = rows.setdefault(model, {"model": model, "gauc": [], "auc": []})
    for name in ("gauc", "auc"):
        value = figures[name]
        row[name].append(None if value is None or not math.isfinite(value) else value)


def markdown(rows: list[Row]) -> str:
    """Mean ± standard deviation over seeds."""
    lines = ["| model | GAUC | AUC |", "|---|---|---|"]
    for row in rows:
        cells = " | ".join(_spread(row[name]) for name in ("gauc", "auc"))
        lines.append(f"| {row['model']} | {cells} |")
    return "\n".join(lines)


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "undefined"
    return f"{mean(known):.4f}" + (f" ± {stdev(known):.4f}" if len(known) > 1 else "")
