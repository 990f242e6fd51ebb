import numpy as np
import pytest

from loadtest import arrivals


def test_poisson_rate() -> None:
    """A Poisson schedule has the rate that was asked for, in its count and in its gaps."""
    schedule = arrivals.poisson(200.0, 100.0, seed=1)
    assert len(schedule) == pytest.approx(20_000, rel=0.03)
    gaps = np.diff(schedule)
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 200, rel=0.03)  # exponential: as wide as it is long


def test_poisson_memory() -> None:
    """Disjoint stretches of a Poisson schedule are independent, with a variance like their mean."""
    counts, _ = np.histogram(arrivals.poisson(50.0, 1_000.0, seed=2), bins=1_000, range=(0, 1_000))
    assert counts.var() == pytest.approx(counts.mean(), rel=0.15)
    assert abs(np.corrcoef(counts[:-1], counts[1:])[0, 1]) < 0.1


def test_poisson_order() -> None:
    """A schedule is in order and ends within its duration."""
    schedule = arrivals.poisson(1_000.0, 3.0, seed=3)
    assert (np.diff(schedule) >= 0).all()
    assert schedule[0] >= 0
    assert schedule[-1] < 3.0


def test_seed() -> None:
    """The same seed gives the same schedule, another seed another."""
    first = arrivals.poisson(100.0, 10.0, seed=4)
    assert (first == arrivals.poisson(100.0, 10.0, seed=4)).all()
    other = arrivals.poisson(100.0, 10.0, seed=5)
    assert len(first) != len(other) or (first != other).any()


def test_uniform() -> None:
    """A uniform schedule is evenly spaced."""
    schedule = arrivals.uniform(50.0, 2.0)
    assert len(schedule) == 100
    assert np.diff(schedule) == pytest.approx(0.02)
