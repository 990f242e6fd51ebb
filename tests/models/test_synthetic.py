import json
from collections import Counter
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from models.data_cli import app
from models.events import read_events
from models.synthetic import OrderEvent, order_events, write_order_example

SHAPES = st.fixed_dictionaries(
    {
        "users": st.integers(1, 20),
        "seed": st.integers(0, 5),
        "pairs": st.integers(3, 6),
        "pairs_per_user": st.integers(1, 3),
        "noise": st.integers(2, 12),
    }
)


def timelines(**shape: int) -> list[list[OrderEvent]]:
    events = order_events(**shape)
    return [list(timeline) for _, timeline in groupby(events, key=lambda event: event.user_id)]


@settings(max_examples=40)
@given(SHAPES)
def test_label_is_the_order(shape: dict[str, int]) -> None:
    """A probe is liked exactly if its A came before its B, each once; nothing else has a label."""
    for timeline in timelines(**shape):
        assert len(timeline) >= 5
        items = [event.item_id for event in timeline]
        for event in timeline:
            if not event.item_id.startswith("probe"):
                assert event.like is None
                continue
            pair = event.item_id.removeprefix("probe")
            assert items.count(f"a{pair}") == items.count(f"b{pair}") == 1
            assert event.like == (items.index(f"a{pair}") < items.index(f"b{pair}"))


@settings(max_examples=40)
@given(SHAPES)
def test_time_says_nothing(shape: dict[str, int]) -> None:
    """Everybody has the same timestamps, and each probe's gaps to the history share one bucket."""
    everybody = timelines(**shape)
    length = 3 * shape["pairs_per_user"] + shape["noise"]
    assert len({tuple(event.timestamp for event in one[:length]) for one in everybody}) == 1
    history = everybody[0][: length - shape["pairs_per_user"]]
    probes = everybody[0][length - shape["pairs_per_user"] : length]
    buckets = {
        (probe.timestamp - event.timestamp).bit_length() for probe in probes for event in history
    }
    assert len(buckets) == 1


def test_classes_have_the_same_sets() -> None:
    """Over many users the items before a liked probe are distributed as before any other."""
    seen: dict[int, Counter[str]] = {0: Counter(), 1: Counter()}
    sizes = Counter[int]()
    for timeline in timelines(users=2_000, seed=3):
        *history, probe = timeline
        assert probe.like is not None
        sizes[probe.like] += 1
        seen[probe.like].update(event.item_id for event in history)
    assert abs(sizes[1] / 2_000 - 0.5) < 0.05
    for item in seen[0]:
        assert abs(seen[0][item] / sizes[0] - seen[1][item] / sizes[1]) < 0.12


def test_holdout_is_a_probe(tmp_path: Path) -> None:
    """A tenth held out is each user's last probe, and probes are left to train on."""
    table = read_events(write_order_example(tmp_path, 50))
    held = table.is_held_out(0.1)
    assert held.sum() == 50
    assert (table.labels[held] >= 0).all()
    assert (table.labels[~held] >= 0).sum() == 150
    assert table.tasks == ("like",)


def test_one_pair(tmp_path: Path) -> None:
    """With a single pair half of the users train on their probe and the others are evaluated."""
    table = read_events(write_order_example(tmp_path, 50, pairs=1, pairs_per_user=1))
    held = table.is_held_out(0.1)
    assert (table.labels[held] >= 0).sum() == 25
    assert (table.labels[~held] >= 0).sum() == 25


@pytest.mark.parametrize(("pairs_per_user", "noise"), [(1, 15), (2, 13), (4, 27), (8, 55)])
def test_the_most_noise(tmp_path: Path, pairs_per_user: int, noise: int) -> None:
    """As much noise as is allowed leaves labels on both sides of the holdout; one more does not."""
    shape = {"pairs_per_user": pairs_per_user, "noise": noise}
    table = read_events(write_order_example(tmp_path, 20, **shape))
    held = table.is_held_out(0.1)
    assert (table.labels[held] >= 0).any()
    assert (table.labels[~held] >= 0).any()
    with pytest.raises(ValueError, match=f"noise must be at most {noise} "):
        next(order_events(20, pairs_per_user=pairs_per_user, noise=noise + 1))


def test_seed(tmp_path: Path) -> None:
    """The same seed gives the same bytes, another one does not."""
    one = write_order_example(tmp_path / "one", 20, 1).read_bytes()
    assert write_order_example(tmp_path / "two", 20, 1).read_bytes() == one
    assert write_order_example(tmp_path / "three", 20, 2).read_bytes() != one
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["events.csv"]


@pytest.mark.parametrize(
    "shape",
    [
        {"users": 0},
        {"noise": -1},
        {"pairs": 0},
        {"pairs": 2, "pairs_per_user": 3},
        {"pairs_per_user": 1, "noise": 0},
        {"noise": 2**18},
        {"noise": 28},
        {"pairs_per_user": 1, "noise": 16},
    ],
)
def test_shapes_without_sense(shape: dict[str, int]) -> None:
    """A shape that could not be evaluated is refused."""
    with pytest.raises(ValueError, match=r"must|needs"):
        next(order_events(**shape))


def test_command(tmp_path: Path) -> None:
    """`marmot data order` answers with the path alone; a shape without sense is bad usage."""
    run = CliRunner().invoke
    result = run(app, ["order", "--out", str(tmp_path), "--users", "10"])
    assert result.exit_code == 0
    assert result.stdout == f"{tmp_path / 'events.csv'}\n"
    one_pair = run(app, ["order", "--out", str(tmp_path), "--pairs", "1", "--json"])
    assert json.loads(one_pair.stdout)["users"] == 2_000
    assert run(app, ["order", "--out", str(tmp_path), "--users", "0"]).exit_code == 2
    no_sense = ["--pairs", "1", "--pairs-per-user", "2"]
    assert run(app, ["order", "--out", str(tmp_path), *no_sense]).exit_code == 2
    assert run(app, ["order", "--out", str(tmp_path), "--noise", "40"]).exit_code == 2
    assert "Example: marmot data order" in run(app, ["order", "--help"]).stdout


def test_sets_alone_do_not_tell() -> None:
    """The best guess from a probe's own item is worth nothing: every pair's coin is fair."""
    likes = np.zeros((8, 2))
    for timeline in timelines(users=2_000, seed=0):
        for event in timeline[-4:]:
            likes[int(event.item_id.removeprefix("probe")), int(event.like or 0)] += 1
    assert (np.abs(likes[:, 1] / likes.sum(1) - 0.5) < 0.08).all()
