"""Law 3 where order carries the label: depth 2 learns it, depth 1 without time cannot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Command

WAYS = {
    "two layers, order alone": ["--depth", "2", "--time-gap", "off", "--epochs", "60"],
    "two layers, with time": ["--depth", "2", "--time-gap", "on", "--epochs", "60"],
    "one layer, order alone": ["--depth", "1", "--time-gap", "off", "--epochs", "30"],
}
EXAMPLE = ["--users", "1000", "--pairs", "3", "--noise", "2"]


@pytest.fixture(scope="session")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Command]]:
    """One `marmot train` each, all at once, on what `marmot data order` wrote."""
    folder = tmp_path_factory.mktemp("order")
    code, out, err = Command("data", "order", "--out", folder, *EXAMPLE).ends()
    assert code == 0, err
    events = Path(out.strip())
    commands = {
        way: Command(
            "train", "--events", events, "--out", folder / way, "--width", "32", "--json",
            *options,
        )
        for way, options in WAYS.items()
    }  # fmt: skip
    yield commands
    for command in commands.values():
        command.stop()


@pytest.mark.parametrize(
    ("way", "least", "most"), [*zip(WAYS, (0.95, 0.95, 0.4), (1.0, 1.0, 0.6), strict=True)]
)
def test_order_needs_a_second_layer(
    trainings: dict[str, Command], way: str, least: float, most: float
) -> None:
    """AUC on the holdout: nearly 1 through two layers, a coin through one that sees no time."""
    code, out, err = trainings[way].ends()
    assert code == 0, err
    (figures,) = json.loads(out.splitlines()[-1])["metrics"].values()
    assert figures["targets"] == 1_000
    assert least <= figures["auc"] <= most
