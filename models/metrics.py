"""How well scores rank labels: AUC over everything, GAUC within each group. Ties count half."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def auc(scores: Array, labels: Array) -> float:
    """The chance that a positive outranks a negative; nan where there is only one class."""
    return gauc(scores, labels, np.zeros(len(scores), np.int64))


def gauc(scores: Array, labels: Array, groups: Array) -> float:
    """AUC within each group, weighted by its size, over the groups that have both labels."""
    _, groups = np.unique(np.asarray(groups), return_inverse=True)
    areas, sizes = _areas(np.asarray(scores), np.asarray(labels), groups)
    has_both = ~np.isnan(areas)
    if not has_both.any():
        return float("nan")
    return float(np.average(areas[has_both], weights=sizes[has_both]))


def ndcg(scores: Array, labels: Array, groups: Array, cut: int = 10) -> float:
    """NDCG of the first `cut`, over the groups that have both labels; nan if there is none.

    Equal scores stay in the order in which they came.
    """
    found = []
    order = np.lexsort((-np.asarray(scores), groups))
    _, starts = np.unique(np.asarray(groups)[order], return_index=True)
    for ranked in np.split(np.asarray(labels)[order], starts[1:]):
        positives = int(ranked.sum())
        if 0 < positives < len(ranked):
            gains = 1 / np.log2(2 + np.arange(min(cut, len(ranked))))
            found.append(float(ranked[:cut] @ gains / gains[:positives].sum()))
    return float(np.mean(found)) if found else float("nan")


def _areas(scores: Array, labels: Array, groups: Array) -> tuple[Array, Array]:
    """(AUC, size) of every group, groups being numbered from 0; from one sort of everything."""
    if not len(scores) == len(labels) == len(groups):
        raise ValueError("scores, labels and groups differ in length")
    if np.isnan(scores).any():
        raise ValueError("a score is not a number")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("a label is neither 0 nor 1")
    order = np.lexsort((scores, groups))
    scores, groups = scores[order], groups[order]
    positive = labels[order].astype(np.int64)
    # A run of equal scores within one group is a block; its negatives count half for its positives.
    is_first = np.ones(len(order), bool)
    is_first[1:] = (groups[1:] != groups[:-1]) | (scores[1:] != scores[:-1])
    starts = np.flatnonzero(is_first)
    block_group = groups[starts]
    positives = _sums(positive, starts)
    negatives = _sums(1 - positive, starts)
    n_groups = int(groups[-1]) + 1 if len(groups) else 0
    group_positives = np.bincount(block_group, positives, n_groups)
    group_negatives = np.bincount(block_group, negatives, n_groups)
    before_group = np.cumsum(group_negatives) - group_negatives
    below = np.cumsum(negatives) - negatives - before_group[block_group]
    won = np.bincount(block_group, positives * (below + negatives / 2), n_groups)
    pairs = group_positives * group_negatives
    areas = np.divide(won, pairs, out=np.full(n_groups, np.nan), where=pairs > 0)
    return areas, group_positives + group_negatives


def _sums(values: Array, starts: Array) -> Array:
    return np.add.reduceat(values, starts) if len(starts) else values
