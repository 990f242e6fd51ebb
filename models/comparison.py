"""`marmot compare`: baselines and depths, one split, several seeds, the figures side by side."""

from __future__ import annotations

import math
from statistics import mean, stdev
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from models.baselines import evaluate_baselines
from models.evaluate import measure
from models.events import EventTable
from models.marm import Marm
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


def compare_models(
    table: EventTable, depths: list[int], seeds: int, *, holdout: float, epochs: int | None
) -> list[Row]:
    """A row per model: GAUC and AUC of the primary task, one figure per seed."""
    contestants: list[tuple[str, type[Marm], int]] = [
        ("no history" if depth == 0 else f"depth {depth}", Marm, depth) for depth in depths
    ]
    contestants.append(("depth 2, records with own feedback", FeedbackInRecord, 2))
    rows: dict[str, Row] = {}
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("comparing", total=seeds * (len(contestants) + 1))
        for seed in range(seeds):
            for name, figures in evaluate_baselines(table, holdout, seed=seed).items():
                _add(rows, name, figures)
            bar.advance(task)
            for name, kind, depth in contestants:
                bar.update(task, description=f"{name}, seed {seed}")
                _add(rows, name, _trained(kind, table, depth, seed, holdout, epochs))
                bar.advance(task)
    return list(rows.values())


def _trained(
    kind: type[Marm], table: EventTable, depth: int, seed: int, holdout: float, epochs: int | None
) -> dict[str, Any]:
    seen = table.take(~table.is_held_out(holdout)).of_seen_items()
    spec = Spec(depth=depth, tasks=table.tasks)
    trained = train(seen, spec, Recipe(epochs=epochs), seed=seed, kind=kind)
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
