"""History that counts: events without a task's feedback are there, and nobody attends to them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.spec import Spec, SpecError
from tests.models.graphs import (
    ITEMS,
    WIDTH,
    Timelines,
    encoded,
    full,
    left_padded,
    model_of,
    requested,
    run,
    sessions_of,
    timelines,
)

Array = np.ndarray[Any, Any]
laws = settings(max_examples=25)
CLOSE = 2e-4  # of logits
EXPORTED = 1e-4  # of probabilities
CANDIDATES = np.array([0, 3, ITEMS - 1, ITEMS, ITEMS + 1, 3])
sessions = cache(sessions_of)

SPECS = [
    Spec(width=WIDTH, heads=2, tasks=("like", "share"), fallback_rows=2, **fields)
    for fields in (
        {"depth": 1, "window": 5, "history_where": "share"},
        {"depth": 3, "window": 3, "history_where": "like"},
        {"depth": 3, "window": 5, "history_where": "share", "time_gap": False},
        {"family": "full", "depth": 3, "window": 3, "history_where": "share"},
        {"family": "stca", "depth": 2, "window": 5, "history_where": "like"},
        {"family": "stca", "depth": 2, "window": 5, "history_where": "share", "time_gap": False},
        {"family": "din", "depth": 1, "window": 5, "history_where": "share"},
        {"family": "sim", "depth": 1, "history": 9, "search": 3, "history_where": "share"},
        {"depth": 2, "window": 3, "history": 9, "search": 3, "history_where": "like"},
        {
            "depth": 2,
            "window": 3,
            "history": 9,
            "search": 3,
            "search_by": "attention",
            "history_where": "share",
        },
    )
]
specs = st.sampled_from(SPECS)
counts, seeds = st.integers(0, 30), st.integers(0, 10**6)


def served(spec: Spec, whole: Timelines, now: int) -> Array:
    """The rank graph's probabilities, from the newest events and what `encode` makes of them."""
    seen = slice(max(0, len(whole) - spec.reads), len(whole))
    feed = {"candidates": CANDIDATES[None], "timestamp": np.array([now]), **whole[seen].feed()}
    if spec.cached_depths:
        one_more = left_padded(whole, 1)  # the graph takes no timeline without events
        (rows,) = run(sessions(spec)["encode"], one_more.feed())
        feed["records"] = rows[:, 1:][:, seen]
    scores: Array = run(sessions(spec)["rank"], feed)[0][0]
    return scores


def by_search_or_not(spec: Spec, whole: Timelines, now: int) -> list[Array]:
    """Of the model on the whole, and of the rank graph where it reads what it would be given."""
    found = [full(model_of(spec), whole, CANDIDATES, now)]
    return found if spec.finds_first else [*found, served(spec, whole, now)]


@laws
@given(spec=specs, count=counts, seed=seeds)
def test_all_ways_are_one(spec: Spec, count: int, seed: int) -> None:
    """Full, cached and served scores are the same, and what is appended is what is encoded."""
    model, whole = model_of(spec), timelines(spec, count, seed=seed)
    now = int(whole.timestamps.max(initial=0)) + 7
    expected = full(model, whole, CANDIDATES, now)
    seen = slice(max(0, count - spec.reads), count)
    records = encoded(model, whole)[:, seen]
    assert np.abs(requested(model, whole[seen], records, CANDIDATES, now) - expected).max() <= CLOSE
    if not spec.finds_first:
        found = served(spec, whole, now)
        assert np.abs(found - 1 / (1 + np.exp(-expected))).max() <= EXPORTED


@laws
@given(spec=specs, count=st.integers(1, 20), seed=seeds)
def test_in_parallel_as_step_by_step(spec: Spec, count: int, seed: int) -> None:
    """Training over a whole timeline at once gives each event the score it had when it came."""
    model, whole = model_of(spec), timelines(spec, count, seed=seed)
    with torch.no_grad():
        ends = torch.arange(count)[None]
        together = model.forward_full(*whole.tensors, ends, whole.tensors[1])[0].numpy()
    records = encoded(model, whole)
    for place in range(count):
        seen, now = slice(max(0, place - spec.reads), place), int(whole.timestamps[0, place])
        item = whole.items[0, place : place + 1]
        alone = requested(model, whole[seen], records[:, seen], item, now)
        assert np.abs(together[place] - alone[0]).max() <= CLOSE


@laws
@given(data=st.data(), spec=specs, count=st.integers(1, 30), seed=seeds)
def test_what_does_not_count_moves_nothing(
    data: st.DataObject, spec: Spec, count: int, seed: int
) -> None:
    """Other items, other feedback in place of events that do not count: the same bits."""
    whole = timelines(spec, count, seed=seed)
    random = np.random.default_rng(data.draw(seeds))
    silent = ~spec.counted(whole.feedback)
    items, feedback = whole.items.copy(), whole.feedback.copy()
    items[silent] = random.integers(0, ITEMS, silent.sum())
    feedback[silent] = random.integers(-1, 2, (silent.sum(), len(spec.tasks)))
    feedback[silent, spec.where] = random.integers(-1, 1, silent.sum())
    other = Timelines(items, whole.timestamps, feedback)
    now = int(whole.timestamps.max()) + 7
    for one, two in zip(
        by_search_or_not(spec, whole, now), by_search_or_not(spec, other, now), strict=True
    ):
        assert np.array_equal(one, two)
    with torch.no_grad():
        model, ends = model_of(spec), torch.arange(count)[None]
        one, two = (
            model.forward_full(*each.tensors, ends, each.tensors[1])[~torch.from_numpy(silent)]
            for each in (whole, other)
        )
    assert torch.equal(one, two)


@laws
@given(spec=specs, count=counts, seed=seeds)
def test_nothing_that_counts_is_no_history(spec: Spec, count: int, seed: int) -> None:
    """Where no event counts, scores are those of who has none; one that does is heard."""
    whole = timelines(spec, count, seed=seed)
    now = int(whole.timestamps.max(initial=0)) + 7
    whole.feedback[..., spec.where] = np.minimum(whole.feedback[..., spec.where], 0)
    nobody = by_search_or_not(spec, whole[:0], now)
    for found, empty in zip(by_search_or_not(spec, whole, now), nobody, strict=True):
        assert np.abs(found - empty).max() <= 1e-6
    if count:
        whole.feedback[:, -1, spec.where] = 1
        for found, empty in zip(by_search_or_not(spec, whole, now), nobody, strict=True):
            assert np.abs(found - empty).max() > 1e-6


@laws
@given(spec=st.sampled_from([s for s in SPECS if s.search]), count=counts, seed=seeds)
def test_none_of_those_found_is_wasted(spec: Spec, count: int, seed: int) -> None:
    """A search among all events is the search among those that count."""
    whole = timelines(spec, count, seed=seed)
    now = int(whole.timestamps.max(initial=0)) + 7
    records = encoded(model_of(spec), whole)
    newest = np.arange(max(0, count - spec.history), count)
    counted = newest[spec.counted(whole.feedback[0, newest])]
    parts = (whole.items, whole.timestamps, whole.feedback)
    fewer = Timelines(*(part[:, counted] for part in parts))
    again = requested(model_of(spec), fewer, records[:, counted], CANDIDATES, now)
    assert np.abs(full(model_of(spec), whole, CANDIDATES, now) - again).max() <= CLOSE


def test_specs() -> None:
    """Told only where it is set; a task that is not there, or a summary, is refused."""
    assert "history_where" not in Spec().to_dict()
    spec = Spec(tasks=("like", "long"), history_where="long")
    assert spec.where == 1
    assert Spec.from_dict(spec.to_dict()) == spec
    with pytest.raises(SpecError, match="one of the tasks like, share, not 'long'"):
        Spec(tasks=("like", "share"), history_where="long")
    for family in ("vista", "elastic"):
        with pytest.raises(SpecError, match=f"the family {family} sums up every event"):
            Spec(family=family, history_where="like")
