"""What a queue costs at best: the formula, against a queue that is played through."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.queueing import md1_quantile, played_quantile

SHARES = st.floats(0, 0.999)
LOADS = st.floats(0, 0.95)
TIMES = st.floats(1e-4, 10)


@pytest.mark.parametrize("load", [0.1, 0.5, 0.8])
def test_a_queue_played_through(load: float) -> None:
    """Half a million Poisson arrivals at a server of constant time wait as the formula says."""
    gaps = np.random.default_rng(0).exponential(1 / load, 500_000)
    # Lindley: what is left of the work when the next one comes, never less than none.
    work = np.concatenate([[0.0], np.cumsum(1 - gaps)])
    seen = work - np.minimum.accumulate(work) + 1
    for share in (0.5, 0.9, 0.99):
        assert md1_quantile(share, load, 1.0) == pytest.approx(np.quantile(seen, share), rel=0.05)


@pytest.mark.parametrize("load", [0.1, 0.5, 0.8])
def test_measured_times(load: float) -> None:
    """Times that are all the same are the formula's; whoever comes to an idle server, rested."""
    same = played_quantile(0.99, load, rested_s=[1.0], busy_s=[1.0])
    assert same == pytest.approx(md1_quantile(0.99, load, 1.0), rel=0.05)
    for share, wanted in ((0.25, 3.0), (0.75, 4.0)):
        assert played_quantile(share, 1e-6 * load, rested_s=[3.0, 4.0], busy_s=[9.0]) == wanted


@settings(max_examples=30)
@given(LOADS, TIMES)
def test_the_mean(load: float, service_s: float) -> None:
    """The quantiles' mean is Pollaczek and Khinchine's, services of equal length."""
    shares = (np.arange(400) + 0.5) / 400
    mean = float(np.mean([md1_quantile(share, load / service_s, service_s) for share in shares]))
    expected = service_s * (1 + load / (2 * (1 - load)))
    assert mean == pytest.approx(expected, rel=0.03)


@given(SHARES, SHARES, LOADS, TIMES)
def test_order(one: float, other: float, load: float, service_s: float) -> None:
    """Nobody is done sooner than a service takes; a larger share takes at least as long."""
    low, high = sorted((one, other))
    rate = load / service_s
    quick = md1_quantile(low, rate, service_s)
    assert service_s <= quick <= md1_quantile(high, rate, service_s)


@given(SHARES, LOADS, TIMES, st.floats(0.1, 10))
def test_units(share: float, load: float, service_s: float, factor: float) -> None:
    """Seconds or minutes: only load counts."""
    slow = md1_quantile(share, load / (service_s * factor), service_s * factor)
    assert slow == pytest.approx(
        factor * md1_quantile(share, load / service_s, service_s), rel=1e-6
    )


@given(SHARES, st.floats(1, 100), TIMES)
def test_too_much(share: float, load: float, service_s: float) -> None:
    """Where more comes than can be served there is no end to waiting."""
    assert md1_quantile(share, 1.0001 * load / service_s, service_s) == math.inf


@pytest.mark.parametrize("wrong", [(1.0, 1, 0.1), (-0.1, 1, 0.1), (0.5, -1, 0.1), (0.5, 1, -0.1)])
def test_nonsense_is_refused(wrong: tuple[float, float, float]) -> None:
    """No share of all, no negative rate and no negative time."""
    with pytest.raises(ValueError, match="no quantile"):
        md1_quantile(*wrong)
