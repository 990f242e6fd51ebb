"""Item tables that are smaller than the catalogue: what they cost, share and keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from models.bundle import load_bundle
from models.embeddings.banded import AutoEmb, Banded
from models.embeddings.kinds import item_table
from models.embeddings.searching import Searching
from models.embeddings.shared_array import Lma
from models.embeddings.sizes import BANDED, EMBEDDINGS, numbers_of
from models.events import EventTable, read_events
from models.graph import GraphBuilder
from models.spec import Spec, SpecError
from models.synthetic import write_order_example
from models.train import Recipe
from models.width_search import searched
from tests.bundles import make_bundle
from tests.models.graphs import run, session

COMPRESSED = [name for name in EMBEDDINGS if name != "full"]
WIDTHS = {"autodim": (8, 4, 4, 1)}
SHAPE: dict[str, Any] = {"width": 32, "heads": 2, "depth": 1, "window": 4, "tasks": ("like",)}


def spec_of(embedding: str, **fields: Any) -> Spec:
    widths = WIDTHS.get(embedding, ())
    return Spec(**{**SHAPE, "embedding": embedding, "embedding_widths": widths, **fields})


@pytest.mark.parametrize("embedding", [name for name in COMPRESSED if name != "autodim"])
def test_a_table_keeps_to_its_budget(embedding: str) -> None:
    """Its weights are as many times fewer than full's as was asked for."""
    items = 20_000
    for compression in (4, 16):
        spec = spec_of(embedding, compression=compression)
        table = item_table(spec, items)
        weights = sum(weight.numel() for weight in table.parameters())
        assert weights <= 1.02 * table.rows * spec.width / compression
        assert weights >= 0.5 * table.rows * spec.width / compression


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("shape", [(7,), (2, 3), (1, 2, 0)])
def test_a_graph_looks_up_what_pytorch_does(embedding: str, shape: tuple[int, ...]) -> None:
    """Rows of any shape, known items and shared rows, none among them."""
    torch.manual_seed(0)
    table = item_table(spec_of(embedding), 90)
    with torch.no_grad():
        for weight in table.parameters():
            weight.normal_()
    random = np.random.default_rng(0)
    users, items = random.integers(0, 20, 500), random.integers(0, 90, 500)
    table.settle(users, items, items % 2 == 0)
    rows = random.integers(0, table.rows, shape)
    g = GraphBuilder()
    found = table.write(g, g.input("rows", "int64", *("abc"[: len(shape)])))
    g.output(found, "vectors", "float32", *("abc"[: len(shape)]), 32)
    (vectors,) = run(session(g.build("rank.onnx")[0]), {"rows": rows})
    with torch.no_grad():
        expected = table(torch.from_numpy(rows)).numpy()
    assert vectors.shape == (*shape, 32)
    assert np.abs(vectors - expected).max(initial=0.0) <= 1e-5


@pytest.mark.parametrize("embedding", COMPRESSED)
def test_a_fit_comes_closer_where_it_counts(embedding: str) -> None:
    """Vectors of items that are met often are kept better than the mean vector keeps them."""
    torch.manual_seed(0)
    table = item_table(spec_of(embedding, compression=4), 400)
    rows, random = table.rows, np.random.default_rng(0)
    items = np.minimum((random.pareto(1.0, 20_000) * 4).astype(np.int64), 399)
    users = random.integers(0, 5_000, len(items))
    table.settle(users, items, random.random(len(items)) < 0.5)
    weight = torch.from_numpy(np.bincount(items, minlength=rows) + 1.0).float()
    wanted = torch.randn(rows, 4) @ torch.randn(4, 32)
    with torch.no_grad():
        table.fit(wanted, weight)
        error = ((table(torch.arange(rows)) - wanted) ** 2).mean(dim=1) @ weight
    mean = (weight @ wanted) / weight.sum()
    trivial = ((wanted - mean) ** 2).mean(dim=1) @ weight
    assert float(error) < 0.9 * float(trivial)


def test_items_liked_by_the_same_users_share_memory() -> None:
    """Lma: the same likers, the same numbers; nobody in common, hardly any."""
    table = cast("Lma", item_table(spec_of("lma"), 100))
    likers = {0: range(10), 1: range(10), 2: range(10, 20)}
    pairs = np.array([(user, item) for item, users in likers.items() for user in users])
    table.settle(pairs[:, 0], pairs[:, 1], np.ones(len(pairs), bool))
    first, same, other = table(torch.tensor([0, 1, 2]))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_popular_items_get_the_wide_rows() -> None:
    """Mixed: who is met most comes first, behind the rows that unknown items share."""
    spec = spec_of("mixed")
    table = cast("Banded", item_table(spec, 200))
    items = np.concatenate([np.full(50, 123), np.full(20, 7), np.arange(200)])
    table.settle(items, items, items > 0)
    place = table.place.numpy()
    assert set(place[200:]) == set(range(spec.fallback_rows))
    assert (place[123], place[7]) == (spec.fallback_rows, spec.fallback_rows + 1)
    assert list(spec.embedding_widths) == sorted(spec.embedding_widths, reverse=True)


def test_autoemb_weighs_what_an_item_has() -> None:
    """The shares of a place add up to one, and bands that hold no row of it have none."""
    table = cast("AutoEmb", item_table(spec_of("autoemb"), 200))
    with torch.no_grad():
        for weight in (*table.controller.parameters(), *table.logits.parameters()):
            weight.normal_()
        shares = torch.cat(table.shares(torch.arange(table.rows)[:, None]), dim=1)
    assert torch.allclose(shares.sum(dim=1), torch.ones(table.rows))
    for band, (_, end) in enumerate(table.bands()):
        assert (shares[end:, band] == 0).all()
        assert (shares[:end, band] > 0).all()


def test_the_search_keeps_to_the_budget() -> None:
    """Autodim: the heaviest widths as far as the budget goes, the lightest where it is tight."""
    search = Searching(500, 32, 16, 8)
    with torch.no_grad():
        search.choice[:, -1] = 5.0  # the widest, wherever one asks
        search.choice[0, -1] = 50.0
    found = search.chosen()
    assert found[0] == max(search.widths)
    assert numbers_of(found, "autodim") <= 32 / 8


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> EventTable:
    return read_events(write_order_example(tmp_path_factory.mktemp("order"), 60))


def test_widths_are_searched_for_and_then_fixed(table: EventTable) -> None:
    """The same for the same seed; a spec that says them, or needs none, stays as it is."""
    spec = Spec(**{**SHAPE, "embedding": "autodim", "tasks": table.tasks})
    recipe = Recipe(epochs=1)
    found, again = (searched(table, spec, recipe, seed=1) for _ in range(2))
    assert found == again
    assert len(found.embedding_widths) == 4
    assert searched(table, found, recipe) == found
    assert searched(table, spec_of("qr"), recipe) == spec_of("qr")


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_a_spec_comes_back_from_its_manifest(embedding: str) -> None:
    """Full says nothing that it did not say before there were others."""
    spec = spec_of(embedding)
    told = spec.to_dict()
    assert Spec.from_dict(told) == spec
    assert ("compression" in told) == (embedding != "full")
    assert ("embedding_widths" in told) == (embedding in BANDED)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"embedding": "nope"}, "embedding must be one of full, qr, .*, not 'nope'"),
        ({"compression": 4}, "compression goes with another embedding than full"),
        ({"embedding": "qr", "embedding_widths": (1, 1, 1, 1)}, "qr has no widths of its own"),
        ({"embedding": "mixed", "embedding_widths": (1, 1)}, "must be 4 whole numbers"),
        ({"embedding": "mixed", "embedding_widths": (65, 1, 1, 1)}, "from 1 to 64"),
        ({"embedding": "hash", "compression": -1}, "compression must be between"),
    ],
    ids=str,
)
def test_a_spec_that_cannot_be_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        Spec(**fields)


@pytest.mark.parametrize("family", ["vista", "din"])
def test_other_families_take_them_too(family: str, tmp_path: Path) -> None:
    """Export proves every graph against PyTorch, so a bundle that was written is right."""
    depth = 1 if family == "din" else 2
    made = make_bundle(
        tmp_path / "bundle", family=family, depth=depth, embedding="mixed", compression=4
    )
    assert load_bundle(made).spec.embedding == "mixed"
