"""Items are placed by who met them, and where that says nothing, nothing is made up."""

from __future__ import annotations

import numpy as np
import pytest

from models.baselines import MatrixFactorisation
from models.exposures import VECTORS, exposure_vectors, foretold
from models.metrics import auc

USERS, ITEMS = 120, 60


def meetings(seed: int = 0, *, strays: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Users of two kinds, who meet the items of their kind and now and then another."""
    random = np.random.default_rng(seed)
    users = np.repeat(np.arange(USERS), 8)
    kind = np.where(random.random(len(users)) < strays, 1 - users % 2, users % 2)
    return users, 2 * random.integers(0, ITEMS // 2, len(users)) + kind


def test_items_of_one_company_are_alike() -> None:
    """The first vector tells the kinds of items apart, and the log counts the meetings."""
    users, items = meetings()
    about = exposure_vectors(users, items, USERS, ITEMS, 0)
    assert about.shape == (ITEMS, 2 + VECTORS)
    even = about[np.arange(ITEMS) % 2 == 0, 2]
    odd = about[np.arange(ITEMS) % 2 == 1, 2]
    assert max(even.max(), odd.max()) * min(even.min(), odd.min()) < 0
    assert even.max() < odd.min() or odd.max() < even.min()
    often = np.log(np.maximum(np.bincount(items, minlength=ITEMS), 1))
    assert np.corrcoef(about[:, 1], often)[0, 1] == pytest.approx(1)
    assert np.array_equal(about, exposure_vectors(users, items, USERS, ITEMS, 0))


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_next_to_nothing_is_finite(count: int) -> None:
    """Few events, or none, and items that nobody met give finite vectors."""
    random = np.random.default_rng(0)
    users, items = random.integers(0, 5, count), random.integers(0, 9, count)
    about = exposure_vectors(users, items, 5, 11, 0)
    assert np.isfinite(about).all()
    assert (about[9:, 2:] == 0).all()
    assert np.isfinite(foretold(about, np.ones((11, 2)), np.bincount(items, minlength=11))).all()


def test_items_without_labels_are_known_by_their_company() -> None:
    """A user likes one kind: a factorisation that knows who met what, ranks items with no label."""
    users, items = meetings()
    random = np.random.default_rng(1)
    asked_users, asked = random.integers(0, USERS, 2_000), random.integers(0, ITEMS, 2_000)
    # Half of the users like their own kind's items, the other half the other kind's.
    taste = (np.arange(USERS) // 2) % 2
    likes = lambda u, i: ((i + u + taste[u]) % 2 == 0).astype(float)  # noqa: E731
    labelled = asked < ITEMS // 2
    about = exposure_vectors(users, items, USERS, ITEMS, 0)
    fitted = MatrixFactorisation.fit(
        asked_users[labelled],
        asked[labelled],
        likes(asked_users[labelled], asked[labelled]),
        USERS,
        ITEMS,
        factors=4,
        ridge=1.0,
        about=about,
    )
    new = ~labelled
    scores = fitted.scores(asked_users[new], asked[new])
    assert auc(scores, likes(asked_users[new], asked[new]).astype(np.int8)) > 0.9
