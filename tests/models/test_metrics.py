import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.metrics import auc, gauc

EVENTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=30
)


def by_pairs(scores: np.ndarray, labels: np.ndarray) -> float:
    """Every positive against every negative, a tie counting half."""
    above, below = scores[labels == 1][:, None], scores[labels == 0]
    if not above.size or not below.size:
        return math.nan
    return float(((above > below) + 0.5 * (above == below)).mean())


@given(EVENTS)
def test_auc_counts_pairs(events: list[tuple[int, int, int]]) -> None:
    """AUC is the share of pairs in the right order, ties counting half; nan with one class."""
    scores, labels, _ = np.array(events).T
    assert auc(scores, labels) == pytest.approx(by_pairs(scores, labels), nan_ok=True)


@given(EVENTS)
def test_gauc_is_a_weighted_mean(events: list[tuple[int, int, int]]) -> None:
    """GAUC is the mean of the groups' AUC, weighted by size, over groups with both labels."""
    scores, labels, groups = np.array(events).T
    areas, sizes = [], []
    for group in set(groups):
        area = by_pairs(scores[groups == group], labels[groups == group])
        if not math.isnan(area):
            areas.append(area)
            sizes.append((groups == group).sum())
    expected = np.average(areas, weights=sizes) if areas else math.nan
    assert gauc(scores, labels, groups) == pytest.approx(expected, nan_ok=True)


def test_nothing_to_measure() -> None:
    """No events, or one class alone, is nan and no error."""
    nothing = np.zeros(0)
    assert math.isnan(auc(nothing, nothing))
    assert math.isnan(gauc(nothing, nothing, nothing))
    assert math.isnan(auc(np.arange(3), np.ones(3)))


@pytest.mark.parametrize(
    ("scores", "labels"), [([1, 2], [1]), ([1, math.nan], [0, 1]), ([1, 2], [0, -1])]
)
def test_no_measure_of_nonsense(scores: list[float], labels: list[int]) -> None:
    """Scores that are no numbers and labels that are unknown are refused."""
    with pytest.raises(ValueError, match=r"score|label"):
        auc(np.array(scores), np.array(labels))
