"""A power law through some points: quality = ceiling - scale * size ** -exponent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """The fit, the standard error of its exponent, and the share of variance it explains.

    The error is nan with three points, which any power law passes through.
    """

    ceiling: float
    scale: float
    exponent: float
    exponent_error: float
    r2: float

    def __call__(self, sizes: Array) -> Array:
        return np.asarray(self.ceiling - self.scale * np.asarray(sizes, float) ** -self.exponent)


def fit_power_law(sizes: Array, qualities: Array, *, ceiling: float | None = None) -> PowerLaw:
    """Least squares in the qualities; with `ceiling` that one is taken as known.

    Needs three different sizes. For each exponent the rest is linear, so that one search is all.
    """
    sizes, qualities = np.asarray(sizes, float), np.asarray(qualities, float)
    if len(np.unique(sizes)) < 3:
        raise ValueError("a power law needs three different sizes or more")
    unit = np.exp(np.log(sizes).mean())  # so that no power overflows
    exponents = np.geomspace(0.01, 4, 200)
    for _ in range(4):  # finer around the best
        losses = [_solved(sizes / unit, qualities, e, ceiling)[1] for e in exponents]
        best = int(np.argmin(losses))
        around = exponents[max(0, best - 1)], exponents[min(len(exponents) - 1, best + 1)]
        exponent = float(exponents[best])
        exponents = np.linspace(*around, 50)
    (top, scale), loss = _solved(sizes / unit, qualities, exponent, ceiling)
    spread = float(((qualities - qualities.mean()) ** 2).sum())
    return PowerLaw(
        top,
        scale * unit**exponent,
        exponent,
        _error(sizes / unit, exponent, scale, loss, has_ceiling=ceiling is not None),
        1 - loss / spread if spread else float("nan"),
    )


def _solved(
    sizes: Array, qualities: Array, exponent: float, ceiling: float | None
) -> tuple[tuple[float, float], float]:
    """((ceiling, scale), sum of squares) for one exponent."""
    powers = sizes**-exponent
    if ceiling is None:
        columns = np.stack([np.ones_like(powers), -powers], 1)
        (top, scale), *_ = np.linalg.lstsq(columns, qualities, rcond=None)
    else:
        top, scale = ceiling, float(powers @ (ceiling - qualities) / (powers @ powers))
    missed = qualities - (top - scale * powers)
    return (float(top), float(scale)), float(missed @ missed)


def _error(sizes: Array, exponent: float, scale: float, loss: float, *, has_ceiling: bool) -> float:
    """Standard error of the exponent, from the curvature at the best fit."""
    powers = sizes**-exponent
    columns = [-powers, scale * powers * np.log(sizes)]
    if not has_ceiling:
        columns.append(np.ones_like(powers))
    free = len(sizes) - len(columns)
    if free < 1:
        return float("nan")
    slopes = np.stack(columns, 1)
    covariance = np.linalg.pinv(slopes.T @ slopes) * loss / free
    return float(np.sqrt(max(0.0, covariance[1, 1])))
