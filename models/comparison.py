"""`marmot compare`: baselines and depths, one split, several seeds, the figures side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.baselines import evaluate_baselines
from models.catalogue_metrics import NAMES, measure_catalogue
from models.evaluate import Array, Question, measure
from models.events import EventTable
from models.family import default_depth
from models.fleet import Journal, On, spread
from models.items import numbered
from models.marm import Marm
from models.operations import operations
from models.positive_baselines import fit_positives, scorer
from models.progress import bar
from models.rank_time import rank_times_ms
from models.ranking_model import RankingModel
from models.reference import Reference
from models.spec import DEFAULT_FOUND, DEFAULT_SEARCHED, Spec
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


#: What `--families` knows beside them: marm that searches, instead of attending to a window.
SEARCH = "search"


def contestants(
    depths: list[int], families: list[str], tasks: tuple[str, ...], *, by_category: bool
) -> list[Contestant]:
    """Marm at these depths, with the other choice of records, and these families beside it.

    Those that search go by category where items have one.
    """
    found = [
        Contestant("no history" if depth == 0 else f"depth {depth}", Spec(depth=depth, tasks=tasks))
        for depth in depths
    ]
    two = Spec(depth=2, tasks=tasks)
    if 2 in depths:
        found.append(Contestant("depth 2, records with own feedback", two, FeedbackInRecord))
    found.extend(_named(name, tasks, by_category=by_category) for name in families)
    return found


def _named(name: str, tasks: tuple[str, ...], *, by_category: bool) -> Contestant:
    family = "marm" if name == SEARCH else name
    depth = min(2, default_depth(family))
    if name not in (SEARCH, "sim"):
        return Contestant(f"{name}, depth {depth}", Spec(family=family, depth=depth, tasks=tasks))
    by = "category" if by_category else "attention"
    spec = Spec(
        family=family,
        depth=depth,
        tasks=tasks,
        history=DEFAULT_SEARCHED,
        search=DEFAULT_FOUND,
        search_by=by,
    )
    return Contestant(f"{family}, depth {depth}, search by {by}", spec)


@dataclass(frozen=True, slots=True)
class Course:
    """What all contestants have in common: the split, the budget, and what is measured.

    With `negatives`, every event is a positive, and the whole catalogue is ranked for `users`.
    """

    holdout: float = 0.1
    epochs: int | None = None
    negatives: int = 0
    sampling: str = "uniform"
    users: int | None = None
    categories: Mapping[str, str] | None = None  # of items, by id, for those that search by them

    @property
    def figures(self) -> tuple[str, ...]:
        return NAMES if self.negatives else ("gauc", "auc", "ndcg@10")

    def baselines(self, table: EventTable, seed: int) -> dict[str, dict[str, Any]]:
        if not self.negatives:
            return {**evaluate_baselines(table, self.holdout, seed=seed)}
        known = table.take(~table.is_held_out(self.holdout)).of_seen_items().item_ids
        fitted = fit_positives(table, self.holdout, seed=seed)
        return {name: self._ranked(table, known, scorer(table, b)) for name, b in fitted.items()}

    def trained(self, model: Contestant, table: EventTable, seed: int) -> dict[str, Any]:
        """Figures of the primary task, and what the model weighs."""
        seen = table.take(~table.is_held_out(self.holdout)).of_seen_items()
        recipe = Recipe(
            epochs=self.epochs, negatives=self.negatives, negative_sampling=self.sampling
        )
        numbers = None if self.categories is None else numbered(seen.item_ids, self.categories)
        trained = train(seen, model.spec, recipe, seed=seed, kind=model.kind, categories=numbers)
        score = Reference(trained.model, table, seen.item_ids).score_question
        if self.negatives:
            found = self._ranked(table, seen.item_ids, score)
        else:
            found = dict(measure(table, self.holdout, score)[table.tasks[0]])
        weighs = {
            "parameters": sum(weight.numel() for weight in trained.model.parameters()),
            **_weighs(model.spec),
        }
        return found | weighs

    def _ranked(
        self, table: EventTable, known: list[str], score: Callable[[Question], Array]
    ) -> dict[str, Any]:
        found = measure_catalogue(table, self.holdout, known, score, users=self.users)
        return dict(found[table.tasks[0]])


CANDIDATES = 100
CACHED = "cached bytes per user"
OPERATIONS = f"multiply-adds, {CANDIDATES} candidates"
P50 = f"rank.onnx, {CANDIDATES} candidates, p50 ms"
WEIGHS = ("parameters", CACHED, OPERATIONS, P50)


def _weighs(spec: Spec) -> dict[str, int]:
    """Without layers nothing is read; where a search goes by category, it is for one of them."""
    request = operations(spec)
    return {
        CACHED: spec.row.itemsize * spec.reach + spec.summary_row.itemsize,
        OPERATIONS: request.per_request + CANDIDATES * request.per_candidate,
    }


def compare_models(
    table: EventTable,
    models: list[Contestant],
    seeds: int,
    course: Course,
    *,
    on: On = "here",
    journal: Journal | None = None,
) -> list[Row]:
    """A row per model: each figure of the primary task as a list, one for each seed.

    What a request of each runs is timed here at the end, on one thread, all in turns.
    """
    runs = [(model, seed) for seed in range(seeds) for model in (None, *models)]
    rows: dict[str, Row] = {}
    with bar("comparing") as advance:
        found = spread(
            _figures, (course, table), runs, len(runs), on=on, journal=journal, advance=advance
        )
    for each in found:
        for name, figures in each.items():
            _add(rows, name, figures, course.figures)
    with bar("timing") as advance:
        times = rank_times_ms([m.spec for m in models], candidates=CANDIDATES, advance=advance)
    for model, time_ms in zip(models, times, strict=True):
        rows[model.name][P50] = time_ms
    return list(rows.values())


def _figures(
    shared: tuple[Course, EventTable], run: tuple[Contestant | None, int]
) -> dict[str, dict[str, Any]]:
    """Of one model and seed, or of all baselines, by name."""
    (course, table), (model, seed) = shared, run
    if model is None:
        return course.baselines(table, seed)
    return {model.name: course.trained(model, table, seed)}


def _add(rows: dict[str, Row], model: str, found: dict[str, Any], names: Sequence[str]) -> None:
    row = rows.setdefault(model, {"model": model, **{name: [] for name in names}})
    for name in names:
        value = found[name]
        row[name].append(None if value is None or not math.isfinite(value) else value)
    row |= {name: found.get(name) for name in WEIGHS}


def markdown(rows: list[Row]) -> str:
    """Mean ± standard deviation over seeds, and what each model weighs."""
    names = [name for name, value in rows[0].items() if isinstance(value, list)]
    lines = [f"| {' | '.join(['model', *(name.upper() for name in names), *WEIGHS])} |"]
    lines.append("|---" * (1 + len(names) + len(WEIGHS)) + "|")
    for row in rows:
        weights = ("" if row[name] is None else _number(row[name]) for name in WEIGHS)
        cells = " | ".join([row["model"], *(_spread(row[name]) for name in names), *weights])
        lines.append(f"| {cells} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}"


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "undefined"
    return f"{mean(known):.4f}" + (f" ± {stdev(known):.4f}" if len(known) > 1 else "")
