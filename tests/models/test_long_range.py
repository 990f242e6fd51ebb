"""The long-range set: one event far back decides, and nothing else tells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from models.data_cli import app
from models.events import EventTable, read_events
from models.long_range import LongRange, write_long_range

SMALL = LongRange(users=200, distance=60, topics=10, topics_per_user=4, noise_items=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    write_long_range(folder := tmp_path_factory.mktemp("long"), SMALL, seed=3)
    return folder


@pytest.fixture(scope="module")
def table(folder: Path) -> EventTable:
    return read_events(folder / "events.parquet")


def test_one_event_far_back_decides(table: EventTable, folder: Path) -> None:
    """A probe has the label of the one other event of its category, about `distance` back."""
    items = pq.read_table(folder / "items.parquet")
    category = dict(zip(*(items[name].to_pylist() for name in items.column_names), strict=True))
    for user in range(SMALL.users):
        span = table.user(user)
        seen = [category[table.item_ids[item]] for item in table.items[span]]
        labels = table.labels[span, 0]
        probes = [i for i, item in enumerate(table.items[span]) if table.item_ids[item][0] == "p"]
        assert len(probes) == SMALL.topics_per_user
        for probe in probes:
            (decider,) = [i for i, name in enumerate(seen[:probe]) if name == seen[probe]]
            assert labels[decider] == labels[probe]
            assert SMALL.distance - 4 <= probe - decider <= SMALL.distance + 12
        others = sorted({*range(len(seen))} - {*probes, *range(SMALL.topics_per_user)})
        assert (labels[others] == -1).all()


def test_items_tell_nothing(table: EventTable) -> None:
    """Every item that has labels is liked as often as not, and coins do not follow one another."""
    known = table.labels[:, 0] >= 0
    likes = np.bincount(table.items[known], table.labels[known, 0])
    count = np.bincount(table.items[known])
    assert np.abs(likes[count > 0] / count[count > 0] - 0.5).max() < 0.2
    coins = table.labels[known, 0].reshape(SMALL.users, -1)[:, : SMALL.topics_per_user]
    assert np.abs(np.corrcoef(coins.T) - np.eye(SMALL.topics_per_user)).max() < 0.25


@pytest.mark.parametrize("distance", [20, 60, 61, 500])
def test_half_of_the_probes_are_held_out(tmp_path: Path, distance: int) -> None:
    """Training keeps half of each user's probes, and the request at the split asks for the rest."""
    shape = LongRange(users=3, distance=distance, topics_per_user=4)
    table = read_events(write_long_range(tmp_path, shape)[0])
    held = table.is_held_out(0.1)
    assert held.sum() == 3 * shape.held_out
    assert (table.labels[held] >= 0).sum() == 3 * 2
    assert (table.labels[~held] >= 0).sum() == 3 * (4 + 2)


def test_seed(tmp_path: Path, folder: Path) -> None:
    """The same seed gives the same events, another one does not."""
    again = write_long_range(tmp_path / "again", SMALL, seed=3)[0]
    other = write_long_range(tmp_path / "other", SMALL, seed=4)[0]
    assert pq.read_table(again) == pq.read_table(folder / "events.parquet")
    assert pq.read_table(other) != pq.read_table(again)
    assert sorted(file.name for file in again.parent.iterdir()) == [
        "events.parquet",
        "items.parquet",
    ]


def test_command(tmp_path: Path) -> None:
    """`marmot data long-range` answers with the path alone; numbers without sense are bad usage."""
    options = ["long-range", "--out", str(tmp_path), "--users", "4", "--distance", "40"]
    result = CliRunner().invoke(app, [*options, "--topics-per-user", "4"])
    assert result.exit_code == 0
    assert result.stdout == f"{tmp_path / 'events.parquet'}\n"
    told = CliRunner().invoke(app, [*options, "--topics-per-user", "4", "--json"]).stdout
    assert json.loads(told)["items"] == str(tmp_path / "items.parquet")
    more = CliRunner().invoke(app, [*options, "--topics-per-user", "4", "--topics", "30"])
    assert more.exit_code == 0
    names = pq.read_table(tmp_path / "items.parquet")["item_id"].to_pylist()
    assert sum(name.startswith("topic") for name in names) == 30
    for wrong in (
        ["--topics-per-user", "3"],
        ["--topics-per-user", "10"],
        ["--topics-per-user", "4", "--topics", "3"],
        ["--users", "0"],
    ):
        assert CliRunner().invoke(app, [*options, *wrong]).exit_code == 2
