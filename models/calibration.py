"""Whether probabilities are what they say, and whether scores are still spread as they were."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

BINS = 10
#: A share that is nothing would make the index infinite.
LEAST_SHARE = 1e-4


def reliability(scores: Array, labels: Array, bins: int = BINS) -> list[dict[str, float]]:
    """Mean score and share of positives in each bin of equal width that holds anything.

    scores in [0, 1] and labels of 0 and 1, both (N,).
    """
    place = np.minimum((np.asarray(scores, np.float64) * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    said = np.bincount(place, scores, bins)
    came = np.bincount(place, labels, bins)
    return [
        {
            "from": at / bins,
            "to": (at + 1) / bins,
            "count": int(counts[at]),
            "score": float(said[at] / counts[at]),
            "rate": float(came[at] / counts[at]),
        }
        for at in np.flatnonzero(counts).tolist()
    ]


def ece(scores: Array, labels: Array, bins: int = BINS) -> float:
    """Expected calibration error: |mean score - share of positives|, mean over all in the bins.

    Naeini et al., 2015 (Obtaining well calibrated probabilities using Bayesian binning). nan of
    nothing.
    """
    found = reliability(scores, labels, bins)
    apart = [each["count"] * abs(each["score"] - each["rate"]) for each in found]
    return float(sum(apart) / len(scores)) if len(scores) else float("nan")


def psi(reference: Array, scores: Array, bins: int = BINS) -> float:
    """Population stability index: sum of (p - q) ln(p / q) over quantile bins of the reference.

    p is the share of `scores` in a bin, q that of the `reference`, both (N,) of their own. 0 for
    the same spread; nan where either is empty.
    """
    if not len(reference) or not len(scores):
        return float("nan")
    edges = np.unique(np.quantile(reference, np.arange(1, bins) / bins))
    p, q = (np.maximum(_shares(each, edges), LEAST_SHARE) for each in (scores, reference))
    return float(((p - q) * np.log(p / q)).sum())


def _shares(values: Array, edges: Array) -> Array:
    """The share of the values in each bin; one on an edge is below it."""
    counts = np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1)
    shares: Array = counts / len(values)
    return shares
