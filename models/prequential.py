"""Prequential quality: every event is scored before it is learned from, and measured by stretches.

An event is scored as a request at the start of its session would have scored it.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from models.evaluate import rounded
from models.events import UNKNOWN
from models.metrics import auc, gauc

Array = np.ndarray[Any, Any]

#: One point of the curve: how many events came before its end, and how well they were foreseen.
Point = dict[str, Any]


class Prequential:
    """AUC and GAUC of the primary task over each `every` events; only the open stretch is held."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.points: list[Point] = []
        self.scores = np.zeros(0, np.float32)
        self.labels = np.zeros(0, np.int8)
        self.users = np.zeros(0, np.int64)

    def __repr__(self) -> str:
        return f"<Prequential {len(self.points)} points>"

    def add(self, scores: Array, labels: Array, users: Array) -> None:
        """scores, labels (T, tasks); users (T,)."""
        self.scores = np.concatenate([self.scores, scores[:, 0]])
        self.labels = np.concatenate([self.labels, labels[:, 0]])
        self.users = np.concatenate([self.users, users])
        while len(self.scores) >= self.every:
            self._close(self.every)

    def curve(self) -> list[Point]:
        """Every point, with what is open as the last one."""
        if len(self.scores):
            self._close(len(self.scores))
        return self.points

    def _close(self, count: int) -> None:
        scores, labels, users = self.scores[:count], self.labels[:count], self.users[:count]
        self.scores, self.labels = self.scores[count:], self.labels[count:]
        self.users = self.users[count:]
        known = labels != UNKNOWN
        scores, labels, users = scores[known], labels[known], users[known]
        before = self.points[-1]["events"] if self.points else 0
        self.points.append(
            {
                "events": before + count,
                "users": len(np.unique(users)),
                "auc": rounded(auc(scores, labels)),
                "gauc": rounded(gauc(scores, labels, users)),
            }
        )


def write_curve(out: Path, points: list[Point]) -> list[Path]:
    """curve.csv and curve.md in `out`, and curve.png where matplotlib is."""
    out.mkdir(parents=True, exist_ok=True)
    table, page = out / "curve.csv", out / "curve.md"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(points[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(points)
    page.write_text(markdown(points))
    picture = draw_curves(out / "curve.png", {"stream": points})
    return [table, page, *([picture] if picture else [])]


def markdown(points: list[Point]) -> str:
    """The curve as a table."""
    lines = ["| events | users | GAUC | AUC |", "|---|---|---|---|"]
    for point in points:
        shown = ("" if point[name] is None else f"{point[name]:.4f}" for name in ("gauc", "auc"))
        lines.append(f"| {point['events']:,} | {point['users']:,} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def draw_curves(path: Path, curves: dict[str, list[Point]]) -> Path | None:
    """GAUC and AUC over the events of each named stream; None without matplotlib."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        return None
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    for axes, measure in zip(figure.subplots(2, 1, sharex=True), ("gauc", "auc"), strict=True):
        for name, points in curves.items():
            known = [point for point in points if point[measure] is not None]
            places, values = [p["events"] for p in known], [p[measure] for p in known]
            axes.plot(places, values, ".-", label=name)
        axes.set_ylabel(measure.upper())
    axes.set_xlabel("events of the stream")
    axes.legend()
    figure.savefig(path, dpi=120)
    return path
