"""What memory buys: the generated set asks for it, the fit finds it, the command reports it."""

from __future__ import annotations

import csv
import json
import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.evaluate import questions
from models.events import read_events
from models.power_law import fit_power_law
from models.scaling import NoLaw, Point, law_of
from models.synthetic_memory import write_memory_example
from service.marmot import run


@settings(max_examples=40)
@given(
    ceiling=st.floats(0.5, 1.0),
    scale=st.floats(0.05, 5.0),
    exponent=st.floats(0.1, 2.0),
    unit=st.sampled_from([1.0, 4_096.0]),
)
def test_a_power_law_is_found(ceiling: float, scale: float, exponent: float, unit: float) -> None:
    """Points of a power law give back its three numbers, in whatever unit sizes are."""
    sizes = np.array([1, 2, 4, 8, 16, 32])
    qualities = ceiling - scale * sizes**-exponent
    law = fit_power_law(sizes * unit, qualities)
    assert law.r2 == pytest.approx(1, abs=1e-4)
    assert law.exponent == pytest.approx(exponent, rel=0.02)
    assert np.abs(law(sizes * unit) - qualities).max() < 1e-3
    known = fit_power_law(sizes * unit, qualities, ceiling=ceiling)
    assert known.exponent == pytest.approx(exponent, rel=0.01)


def test_noise_shows_in_the_error() -> None:
    """The more the points scatter, the larger the exponent's error and the smaller R²."""
    sizes = np.array([8, 16, 32, 64, 128, 256.0])
    noise = np.random.default_rng(0).normal(0, 1, len(sizes))
    laws = [fit_power_law(sizes, 1 - sizes**-0.5 + s * noise) for s in (0.001, 0.02)]
    assert laws[0].exponent_error < laws[1].exponent_error
    assert laws[0].r2 > laws[1].r2


def test_three_sizes_at_least() -> None:
    """Through two sizes goes any power law."""
    with pytest.raises(ValueError, match="three different sizes"):
        fit_power_law(np.array([1, 1, 2]), np.array([0.1, 0.2, 0.3]))


def test_a_law_needs_figures() -> None:
    """Models whose GAUC is undefined are no points, and that is what is said."""
    points = [Point(n, 1, 8, 0, 32 * n, 0, gauc, 0.5) for n, gauc in ((4, 0.6), (8, math.nan))]
    with pytest.raises(NoLaw, match="1 of 2 models have no GAUC"):
        law_of(points)


@pytest.mark.parametrize("demand", [0.5, 1.0])
def test_what_memory_is_worth(tmp_path: Path, demand: float) -> None:
    """A memory of m events holds all probes but the share (m / 8) ** -demand, with their labels."""
    table = read_events(write_memory_example(tmp_path, 300, 0, demand=demand))
    for memory in (16, 32, 64):
        missing, total = 0, 0
        for question in questions(table, 0.1):
            past = question.history
            kept = table.items[past][-memory:]
            labels = dict(zip(table.items[past], table.labels[past, 0], strict=True))
            for item, label in zip(
                table.items[question.targets], table.labels[question.targets, 0], strict=True
            ):
                assert labels[item] == label
                missing += item not in kept
                total += 1
        assert missing / total == pytest.approx((memory / 8) ** -demand, abs=0.035)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table, a page, the fit with its error, and a picture where matplotlib is."""
    options = ["data", "memory", "--out", str(tmp_path), "--users", "20", "--events", "40"]
    assert run([*options, "--items", "60"]) == 0
    out = tmp_path / "scaling"
    options = [
        "scaling", "--events", str(tmp_path / "events.parquet"), "--out", str(out), "--epochs",
        "1", "--windows", "4,8,16", "--depths", "1", "--widths", "8", "--heads", "2",
    ]  # fmt: skip
    capsys.readouterr()
    assert run([*options, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"ceiling", "exponent", "exponent_error", "r2"} <= set(told["fit"])
    with (out / "scaling.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["memory_bytes"] for row in rows] == ["128", "256", "512"]
    assert [row["stored_bytes"] for row in rows] == ["0", "0", "0"]
    assert "R² = " in (out / "scaling.md").read_text()
    assert (out / "scaling.png").exists() == (find_spec("matplotlib") is not None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--windows", "4"], "three different sizes"),
        (["--windows", "4,x"], "--windows must be numbers"),
        (["--depths", "0,1"], "numbers above 0"),
    ],
)
def test_bad_sweeps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    """Bad usage is told before anything is read or trained."""
    usual = ["--events", "nowhere", "--out", str(tmp_path / "out"), "--widths", "8"]
    assert run(["scaling", *usual, "--depths", "1", *options]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
