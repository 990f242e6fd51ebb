"""Law 3 where order carries the label: depth 2 learns it, depth 1 without time cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from models.synthetic import write_order_example

USERS = 600  # with fewer the best weights are chosen on too few

WAYS = {
    "two layers, order alone": (["--depth", "2", "--time-gap", "off", "--epochs", "80"], 0.95, 1.0),
    "two layers, with time": (["--depth", "2", "--time-gap", "on", "--epochs", "80"], 0.95, 1.0),
    "one layer, order alone": (["--depth", "1", "--time-gap", "off", "--epochs", "40"], 0.4, 0.6),
}


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("order")
    return write_order_example(folder, USERS, pairs=3, pairs_per_user=3, noise=2)


@pytest.mark.parametrize("way", WAYS)
def test_order_needs_a_second_layer(
    cli: Callable[..., tuple[int, str, str]], events: Path, tmp_path: Path, way: str
) -> None:
    """AUC on the holdout: nearly 1 through two layers, a coin through one that sees no time."""
    options, least, most = WAYS[way]
    out = tmp_path / "bundle"
    code, said, err = cli(
        "train", "--events", events, "--out", out, "--width", "32", "--json", *options
    )
    assert code == 0, err
    (figures,) = json.loads(said.splitlines()[-1])["metrics"].values()
    assert figures["targets"] == USERS
    assert least <= figures["auc"] <= most
