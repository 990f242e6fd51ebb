"""Search in long histories: what is found, and that the rest is as without it."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.search import found_by_category, found_by_score
from models.sequences import NEVER_S
from models.spec import Spec, SpecError
from service.shelves import Shelves, Slots
from tests.models.graphs import (
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
laws = settings(max_examples=30)
EXPORTED = 1e-3  # of logits
sessions = cache(sessions_of)
CANDIDATES = np.array([0, 3, 19, 20, 21, 3])

specs = st.builds(
    Spec,
    family=st.sampled_from(["marm", "sim"]),
    depth=st.just(1),
    window=st.sampled_from([1, 3]),
    width=st.just(WIDTH),
    heads=st.just(2),
    tasks=st.just(("like", "share")),
    time_gap=st.booleans(),
    fallback_rows=st.just(2),
    history=st.sampled_from([6, 30]),
    search=st.sampled_from([1, 4, 30]),
    search_by=st.sampled_from(["category", "attention"]),
    history_where=st.sampled_from(["", "share"]),
).flatmap(
    lambda spec: st.sampled_from([1, 2, 3] if spec.family == "marm" else [1]).map(
        lambda depth: dataclasses.replace(spec, depth=depth)
    )
)
counts, seeds = st.integers(0, 40), st.integers(0, 10**6)


def encoded_from(spec: Spec, whole: Timelines) -> Array:
    """The records of a whole timeline."""
    return encoded(model_of(spec), whole)


@laws
@given(spec=specs, count=counts, seed=seeds)
def test_as_many_as_there_are(spec: Spec, count: int, seed: int) -> None:
    """With K >= the history, a candidate attends to the whole of it."""
    spec = dataclasses.replace(spec, history=50, search=50)
    whole = timelines(spec, count, seed=seed)
    now = int(whole.timestamps.max(initial=0))
    wide = dataclasses.replace(spec, history=0, search=0, window=50, search_by="category")
    plain = model_of(wide)
    weights = {n: w for n, w in model_of(spec).state_dict().items() if n != "categories"}
    plain.load_state_dict(weights)
    expected = requested(plain, whole, encoded_from(spec, whole), CANDIDATES, now)
    assert np.abs(full(model_of(spec), whole, CANDIDATES, now) - expected).max() <= 1e-5


@laws
@given(spec=specs, count=counts, seed=seeds)
def test_full_is_cached(spec: Spec, count: int, seed: int) -> None:
    """The whole timeline computed at once is what candidates make of the records that are read."""
    whole = timelines(spec, count, seed=seed)
    now = int(whole.timestamps.max(initial=0)) + 7
    found = full(model_of(spec), whole, CANDIDATES, now)
    seen, first = encoded_from(spec, whole), max(0, count - spec.reads)
    again = requested(model_of(spec), whole[first:], seen[:, first:], CANDIDATES, now)
    assert np.abs(found - again).max() <= 1e-4


@laws
@given(
    data=st.data(),
    count=st.integers(0, 12),
    most=st.integers(1, 14),
    seen=st.integers(0, 12),
)
def test_found_by_category(data: st.DataObject, count: int, most: int, seen: int) -> None:
    """Events of the candidate's category come first, newest first; the newest others fill up."""
    kinds = data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    wanted = data.draw(st.integers(0, 2))
    seen = min(seen, count)
    places = sorted(range(seen), key=lambda place: (kinds[place] != wanted, -place))[:most]
    found = found_by_category(
        torch.tensor([[wanted]]),
        torch.tensor([kinds], dtype=torch.int64).reshape(1, count),
        (torch.arange(count) < seen)[None, None],
        most,
    )
    assert torch.nonzero(found[0, 0]).flatten().tolist() == sorted(places)


@laws
@given(seed=seeds, count=st.integers(0, 12), most=st.integers(1, 14), seen=st.integers(0, 12))
def test_found_by_score(seed: int, count: int, most: int, seen: int) -> None:
    """The highest scores among the events that are seen, whatever the others' are."""
    scores = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 1, count)))
    found = found_by_score(scores, (torch.arange(count) < seen)[None, None], most)
    best = sorted(range(min(seen, count)), key=lambda place: -float(scores[0, 0, place]))[:most]
    assert torch.nonzero(found[0, 0]).flatten().tolist() == sorted(best)


def test_defaults_stay_as_they_were() -> None:
    """A model without search is described as before there was any."""
    told = Spec().to_dict()
    assert not {"history", "search", "search_by"} & told.keys()
    assert Spec.from_dict(told) == Spec()
    found = Spec(history=500, search=20, search_by="attention")
    assert Spec.from_dict(found.to_dict()) == found


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"history": 100}, "go together"),
        ({"search": 100}, "go together"),
        ({"history": 10, "search": 5, "search_by": "luck"}, "search by one of"),
        ({"history": 10, "search": 5, "family": "stca"}, "cannot search; those can: marm, sim"),
        ({"history": -1, "search": 5}, "history must be between"),
    ],
)
def test_specs_without_sense(fields: dict[str, Any], said: str) -> None:
    """Options that do not go together are refused in a sentence."""
    with pytest.raises(SpecError, match=said):
        Spec(**fields)


def served(spec: Spec, whole: Timelines, records: Array, candidates: Array, now: int) -> Array:
    """The rank graph's logits of candidates that may attend to all of a history."""
    names = spec.row.names or ()
    feed = {
        "candidates": candidates[None],
        "timestamp": np.array([now]),
        **whole.feed(),
        **dict(zip(names, [records], strict=bool(names))),
    }
    scores = run(sessions(spec)["rank"], feed)[0][0]
    found: Array = np.log(scores / (1 - scores))
    return found


def at(whole: Timelines, places: Array) -> Timelines:
    parts = (whole.items, whole.timestamps, whole.feedback)
    return Timelines(*(part[:, places] for part in parts))


def sought(spec: Spec, whole: Timelines, records: Array, now: int) -> Array:
    """Logits of the graphs that take apart what is kept and what is asked."""
    names = spec.row.names or ()
    events = {**whole.feed(), **dict(zip(names, [records], strict=bool(names)))}
    for name, part in events.items():
        last = np.full_like(part[:, :1], NEVER_S if name == "timestamps" else 0)
        events[name] = np.concatenate([part, last], axis=1)
    made = run(sessions(spec)["project"], events)
    ready = {"timestamps": events["timestamps"]}
    ready |= dict(zip((p.name for p in sessions(spec)["project"].get_outputs()), made, strict=True))
    asked = {"candidates": CANDIDATES[None], "timestamp": np.array([now])}
    scores = run(sessions(spec)["found"], {**asked, **ready})[0][0]
    logits: Array = np.log(scores / (1 - scores))
    return logits


@laws
@given(spec=specs, count=counts, seed=seeds, padding=st.integers(0, 3))
def test_graphs_search_as_the_model(spec: Spec, count: int, seed: int, padding: int) -> None:
    """The graph's scores are the trusted ones: of each layer's finds, or of what was found."""
    whole = timelines(spec, count, seed=seed)
    now = int(whole.timestamps.max(initial=0))
    records, expected = encoded_from(spec, whole), full(model_of(spec), whole, CANDIDATES, now)
    first = max(0, count - spec.reads)
    # What does not count as history is left out before the graphs of a search.
    counted = first + np.flatnonzero(spec.counted(whole.feedback[0, first:]))
    if not spec.finds_first and count - first > spec.search:
        found = sought(spec, at(whole, counted), records[:, counted], now)
        assert np.abs(found - expected).max() <= EXPORTED
    if not spec.finds_first:
        padded = left_padded(whole[first:], padding)
        zeros = np.zeros((1, padding, *records.shape[2:]), np.float32)
        joined = np.concatenate([zeros, records[:, first:]], axis=1)
        found = served(spec, padded, joined, CANDIDATES, now)
        assert np.abs(found - expected).max() <= EXPORTED
        return
    categories = model_of(spec).categories.numpy()
    if len(counted) <= spec.attends:  # everybody finds everything
        found = served(spec, at(whole, counted), records[:, counted], CANDIDATES, now)
        assert np.abs(found - expected).max() <= EXPORTED
        return
    shelves = Shelves(categories[whole.items[0, counted]], spec.search)
    slots = Slots.of(categories[CANDIDATES])
    places = counted[np.array([shelves.find(int(kind)) for kind in slots.categories])]
    events = {name: part[0, places] for name, part in whole.feed().items()}
    names = spec.row.names or ()
    events |= dict(zip(names, [records[0, places]], strict=bool(names)))
    project = sessions(spec)["project"]
    ready = dict(
        zip((port.name for port in project.get_outputs()), run(project, events), strict=True)
    )
    feed = {
        "candidates": CANDIDATES, "timestamp": np.array(now), "timestamps": events["timestamps"],
        "places": slots.places, "seats": slots.seats, **ready,
    }  # fmt: skip
    scores = run(sessions(spec)["found"], {name: part[None] for name, part in feed.items()})[0][0]
    assert np.abs(np.log(scores / (1 - scores)) - expected).max() <= EXPORTED
