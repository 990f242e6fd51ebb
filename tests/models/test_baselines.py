import math

import numpy as np
import pytest

from models.baselines import (
    ItemBias,
    MatrixFactorisation,
    UserItemBias,
    evaluate_baselines,
    factorise,
)
from models.events import EventTable

USERS, ITEMS = 60, 40


def taste(seed: int = 0, *, noise: float = 0.1) -> EventTable:
    """Users like an item where both lean to the same side, with some noise, in random order."""
    random = np.random.default_rng(seed)
    user_side, item_side = random.integers(0, 2, USERS), random.integers(0, 2, ITEMS)
    items = np.concatenate([random.permutation(ITEMS)[:30] for _ in range(USERS)])
    users = np.repeat(np.arange(USERS), 30)
    likes = (user_side[users] == item_side[items]) ^ (random.random(len(users)) < noise)
    return EventTable(
        user_ids=[f"{user:02}" for user in range(USERS)],
        offsets=np.arange(0, len(users) + 1, 30),
        item_ids=[f"{item:02}" for item in range(ITEMS)],
        items=items,
        timestamps=np.arange(len(users)),
        tasks=("like",),
        labels=likes.astype(np.int8)[:, None],
        feedback_timestamps=np.arange(len(users))[:, None],
    )


def test_each_baseline_knows_what_it_can() -> None:
    """Where taste is a match of sides, factors find it and biases do not."""
    found = evaluate_baselines(taste(), factors=4)
    assert found["matrix factorisation"]["gauc"] > 0.8
    assert found["matrix factorisation"]["auc"] > 0.8
    assert found["item bias"]["gauc"] < 0.65


def test_same_seed_same_figures() -> None:
    """The figures are the same every time, and do not move with what is held out or unknown."""
    table = taste()
    figures = evaluate_baselines(table)
    assert evaluate_baselines(table) == figures
    held = table.is_held_out(0.1)
    users, items = table.users[~held], table.items[~held]
    flipped = EventTable(
        **{name: getattr(table, name) for name in EventTable.__slots__ if name != "labels"},
        labels=np.where(held[:, None], 1 - table.labels, table.labels),
    )
    for name, result in evaluate_baselines(flipped).items():
        assert result["auc"] == pytest.approx(1 - figures[name]["auc"])
    factors, _ = factorise(users, items, table.labels[~held, 0], USERS, ITEMS, 4)
    unknown = np.where(held, -1, table.labels[:, 0])
    again, _ = factorise(table.users, table.items, unknown, USERS, ITEMS, 4)
    assert np.array_equal(factors, again)


def test_biases_by_hand() -> None:
    """A bias is the mean of what is left over, pulled to nothing where little is known."""
    users, items = np.array([0, 0, 1]), np.array([0, 1, 0])
    labels = np.array([1.0, 0.0, 1.0])
    item = ItemBias.fit(items, labels, 3, ridge=1)
    assert item.scores(users, np.array([0, 1, 2])) == pytest.approx([8 / 9, 1 / 3, 2 / 3])
    both = UserItemBias.fit(users, items, labels, 2, 3)
    assert both.scores(np.array([1]), np.array([0])) > both.scores(np.array([0]), np.array([1]))


@pytest.mark.parametrize("label", [0, 1, -1])
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_nothing_to_learn(label: int, count: int) -> None:
    """One label only, next to no data or none at all gives finite factors, here zeros."""
    random = np.random.default_rng(0)
    users, items = random.integers(0, 5, count), random.integers(0, 9, count)
    factors, bias = factorise(users, items, np.full(count, label, np.int8), 5, 9, 16)
    assert factors.shape == (9, 16)
    assert bias.shape == (9,)
    assert (factors == 0).all()
    assert (bias == 0).all()


def test_items_never_seen() -> None:
    """An item without a label has zero factors and no bias."""
    table = taste()
    factors, bias = factorise(table.users, table.items, table.labels[:, 0], USERS, ITEMS + 1, 4)
    assert (factors[-1] == 0).all()
    assert bias[-1] == 0
    assert (np.abs(factors[:-1]).sum(1) > 0).all()


def test_more_groups_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Solving in blocks is solving at once."""
    table = taste()
    events = (table.users, table.items, table.labels[:, 0].astype(float), USERS, ITEMS)
    whole = MatrixFactorisation.fit(*events, factors=4)
    monkeypatch.setattr("models.baselines._BLOCK", 7)
    blocks = MatrixFactorisation.fit(*events, factors=4)
    assert np.allclose(whole.item_factors, blocks.item_factors)


def test_nobody_held_out() -> None:
    """Without a holdout there is nothing to measure, which is nan."""
    figures = evaluate_baselines(taste(), holdout=0)
    assert all(math.isnan(value) for result in figures.values() for value in result.values())
