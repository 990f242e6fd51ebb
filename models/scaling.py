"""`marmot scaling`: what memory buys. Windows, depths and widths are swept, a power law is fitted.

The measure is MARM's (arXiv 2411.09425): the vectors that a request's layers attend to, depth x
window x width numbers. Those of depth 0 are looked up by item; what must be stored is less.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.evaluate import measure
from models.events import EventTable
from models.fleet import Journal, On, spread
from models.power_law import PowerLaw, fit_power_law
from models.progress import Advance
from models.reference import Reference
from models.spec import Spec
from models.train import Recipe, train


class NoLaw(ValueError):
    """Too few figures to draw a curve through."""


@dataclass(frozen=True, slots=True)
class Point:
    """One trained model; bytes are per user, at a full window."""

    window: int
    depth: int
    width: int
    seed: int
    memory_bytes: int
    stored_bytes: int
    gauc: float
    auc: float


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all models of a sweep have in common."""

    table: EventTable
    heads: int
    holdout: float
    epochs: int | None


def sweep(
    table: EventTable,
    windows: Sequence[int],
    depths: Sequence[int],
    widths: Sequence[int],
    *,
    seeds: int = 1,
    heads: int = 4,
    holdout: float = 0.1,
    epochs: int | None = None,
    on: On = "here",
    journal: Journal | None = None,
    advance: Advance = lambda done, of: None,
) -> list[Point]:
    """A model for every combination and seed, in this order."""
    wanted = list(itertools.product(range(seeds), widths, depths, windows))
    shared = Conditions(table, heads, holdout, epochs)
    found = spread(trained, shared, wanted, len(wanted), on=on, journal=journal, advance=advance)
    return [Point(**point) for point in found]


def trained(conditions: Conditions, size: tuple[int, int, int, int]) -> dict[str, Any]:
    """Trains one model of a sweep, (seed, width, depth, window); returns a `Point` as a dict."""
    seed, width, depth, window = size
    table, holdout = conditions.table, conditions.holdout
    seen = table.take(~table.is_held_out(holdout)).of_seen_items()
    spec = Spec(depth=depth, window=window, width=width, heads=conditions.heads, tasks=table.tasks)
    model = train(seen, spec, Recipe(epochs=conditions.epochs), seed=seed).model
    reference = Reference(model, table, seen.item_ids)
    found = measure(table, holdout, reference.score_question)[table.tasks[0]]
    point = Point(
        window,
        depth,
        width,
        seed,
        depth * window * width * 4,
        spec.row.itemsize * window,
        float("nan") if (gauc := found["gauc"]) is None else gauc,
        float("nan") if (auc := found["auc"]) is None else auc,
    )
    return asdict(point)


def law_of(points: Sequence[Point]) -> PowerLaw:
    """GAUC against memory, over all points that have one; `NoLaw` for fewer than three sizes."""
    known = [point for point in points if np.isfinite(point.gauc)]
    sizes = np.array([point.memory_bytes for point in known])
    if len(np.unique(sizes)) < 3:
        raise NoLaw(
            f"{len(points) - len(known)} of {len(points)} models have no GAUC, for want of users "
            "with both labels among the held-out events: a power law needs one at three sizes"
        )
    return fit_power_law(sizes, np.array([point.gauc for point in known]))


def write_report(out: Path, points: Sequence[Point], law: PowerLaw) -> list[Path]:
    """scaling.csv, scaling.md and fit.json in `out`, and scaling.png where matplotlib is."""
    out.mkdir(parents=True, exist_ok=True)
    table, page, fit = out / "scaling.csv", out / "scaling.md", out / "fit.json"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(points[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(point) for point in points)
    page.write_text(markdown(points, law))
    fit.write_text(json.dumps(asdict(law)) + "\n")
    picture = _picture(out / "scaling.png", points, law)
    return [table, page, fit, *([picture] if picture else [])]


def markdown(points: Sequence[Point], law: PowerLaw) -> str:
    """The points as a table, and the law in words."""
    lines = [
        "| window | depth | width | seed | memory, bytes/user | stored, bytes/user | GAUC | AUC |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {p.window} | {p.depth} | {p.width} | {p.seed} | {p.memory_bytes:,} "
            f"| {p.stored_bytes:,} | {p.gauc:.4f} | {p.auc:.4f} |"
            for p in sorted(points, key=lambda point: point.memory_bytes)
        ),
        "",
        sentence(law),
    ]
    return "\n".join(lines) + "\n"


def sentence(law: PowerLaw) -> str:
    """The fit with its error."""
    error = f" ± {law.exponent_error:.3f}" if np.isfinite(law.exponent_error) else ""
    return (
        f"GAUC = {law.ceiling:.4f} - {law.scale:.4g} x bytes ^ -({law.exponent:.3f}{error}), "
        f"R² = {law.r2:.3f}"
    )


def _picture(path: Path, points: Sequence[Point], law: PowerLaw) -> Path | None:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        return None
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for depth in sorted({point.depth for point in points}):
        of = [point for point in points if point.depth == depth]
        sizes, gaucs = [p.memory_bytes for p in of], [p.gauc for p in of]
        axes.plot(sizes, gaucs, "o", label=f"depth {depth}")
    sizes = sorted(point.memory_bytes for point in points)
    line = np.geomspace(sizes[0], sizes[-1], 100)
    axes.plot(line, law(line), "-", color="0.4", label=f"power law, R² = {law.r2:.3f}")
    axes.set_xscale("log")
    axes.set_xlabel("memory: depth x window x width, bytes per user")
    axes.set_ylabel("GAUC")
    axes.legend()
    figure.savefig(path, dpi=120)
    return path
