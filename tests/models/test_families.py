"""The families beside Marm: the same promises, with nothing in the cache."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.bundle import EXPLAIN, load_bundle
from models.families import MODELS, WRITERS, build_graphs
from models.family import FAMILIES
from models.reference import load_model
from models.spec import Spec, SpecError
from tests.bundles import make_bundle
from tests.models.graphs import (
    ITEMS,
    WIDTH,
    Timelines,
    full,
    left_padded,
    model_of,
    requested,
    run,
    session,
    sessions_of,
    timelines,
)

laws = settings(max_examples=25)
EXPORTED = 1e-4
COMPANY = 1e-5
Array = np.ndarray[Any, Any]
CANDIDATES = np.array([0, 3, ITEMS - 1, ITEMS, ITEMS + 1, 3])
FORGETFUL = [
    name for name, family in FAMILIES.items() if not family.is_cached and not family.summary
]
sessions = cache(sessions_of)
seeds = st.integers(0, 10**6)


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def spec_of(
    family: str, depth: int, window: int, heads: int, tasks: int, *, time_gap: bool
) -> Spec:
    return Spec(
        family=family,
        depth=min(depth, FAMILIES[family].most_depth),
        window=window,
        width=WIDTH,
        heads=heads,
        tasks=("like", "share")[:tasks],
        time_gap=time_gap,
        fallback_rows=2,
    )


specs = st.builds(
    spec_of,
    family=st.sampled_from(FORGETFUL),
    depth=st.integers(1, 3),
    window=st.sampled_from([1, 3, 5]),
    heads=st.sampled_from([1, 2]),
    tasks=st.integers(1, 2),
    time_gap=st.booleans(),
)


def served(spec: Spec, seen: Timelines, timestamp: int) -> Array:
    """The rank graph's probabilities of the candidates: (candidates, tasks)."""
    asked = {"candidates": CANDIDATES[None], "timestamp": np.array([timestamp])}
    scores: Array = run(sessions(spec)["rank"], {**asked, **seen.feed()})[0][0]
    return scores


def expected(spec: Spec, whole: Timelines, timestamp: int) -> Array:
    """What the trusted path gives for the whole timeline."""
    return sigmoid(full(model_of(spec), whole, CANDIDATES, timestamp))


def test_every_family_is_one_thing() -> None:
    """What `Spec` knows, what training makes and what serving is given have the same names.

    A bundle may explain itself besides.
    """
    assert set(FAMILIES) == set(MODELS) == set(WRITERS)
    for name, family in FAMILIES.items():
        assert tuple(graph for graph in WRITERS[name] if graph != EXPLAIN) == family.graphs


@laws
@given(spec=specs, count=st.integers(0, 25), seed=seeds, later=st.integers(0, 10**8))
def test_served_equals_full(spec: Spec, count: int, seed: int, later: int) -> None:
    """The graph on what a request reads is the model on the whole timeline."""
    whole = timelines(spec, count, seed=seed)
    now = int(whole.timestamps.max(initial=0)) + later
    seen = whole[max(0, count - spec.reads) :]
    found = served(spec, seen, now)
    assert np.abs(found - expected(spec, whole, now)).max() <= EXPORTED
    nothing = np.zeros((1, len(seen), 0, spec.width), np.float32)
    again = requested(model_of(spec), seen, nothing, CANDIDATES, now)
    assert np.abs(found - sigmoid(again)).max() <= EXPORTED


@laws
@given(spec=specs, count=st.integers(1, 20), seed=seeds)
def test_what_is_predicted_is_no_input(spec: Spec, count: int, seed: int) -> None:
    """In training, no event's logits move with its own label."""
    model, whole = model_of(spec), timelines(spec, count, seed=seed)
    feedback = whole.feedback.copy()
    feedback[:, -1] = (feedback[:, -1] + 2) % 3 - 1
    other = Timelines(whole.items, whole.timestamps, feedback)
    visible = torch.arange(count)[None]
    with torch.no_grad():
        one, two = (
            model.forward_full(*each.tensors, visible, each.tensors[1]) for each in (whole, other)
        )
    assert torch.equal(one, two)


@laws
@given(spec=specs, seed=seeds, count=st.integers(0, 5), padding=st.integers(1, 9))
def test_padding_and_neighbours_vanish(spec: Spec, seed: int, count: int, padding: int) -> None:
    """A request's scores are the same alone, and padded in a batch beside a longer one."""
    mine, other = timelines(spec, count, seed=seed), timelines(spec, count + padding, seed=seed + 1)
    alone = [served(spec, whole, 10**9) for whole in (mine, other)]
    parts = [left_padded(mine, padding).feed(), other.feed()]
    feed = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    asked = {"candidates": np.stack([CANDIDATES] * 2), "timestamp": np.array([10**9] * 2)}
    (together,) = run(sessions(spec)["rank"], {**asked, **feed})
    assert np.abs(together - np.stack(alone)).max() <= COMPANY


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("cache_dtype", ["float32", "int8"])
def test_full_is_what_marm_caches(depth: int, cache_dtype: str) -> None:
    """One graph without a cache gives Marm's scores from records, for the same weights."""
    marm = Spec(depth=depth, window=5, width=WIDTH, heads=2, fallback_rows=2)
    marm = dataclasses.replace(marm, cache_dtype=cache_dtype)
    again = dataclasses.replace(marm, family="full")
    same = MODELS["full"](again, ITEMS).eval()
    same.load_state_dict(model_of(marm).state_dict())
    rank = session(build_graphs(same)["rank"][0])
    for count in (0, 3, 5, 5 * depth + 7):
        whole = timelines(marm, count, seed=depth)
        seen = whole[max(0, count - marm.window) :]
        rows = run(sessions(marm)["encode"], whole.feed()) if depth > 1 and count else empty(marm)
        row = zip(marm.row.names or (), (row[:, -marm.window :] for row in rows), strict=True)
        asked = {"candidates": CANDIDATES[None], "timestamp": np.array([10**9])}
        (cached,) = run(sessions(marm)["rank"], {**asked, **seen.feed(), **dict(row)})
        (found,) = run(rank, {**asked, **whole[max(0, count - again.reads) :].feed()})
        assert np.abs(found - cached).max() <= (EXPORTED if cache_dtype == "float32" else 2e-2)


def empty(spec: Spec) -> list[Array]:
    return [
        np.zeros((1, 0, *kind[0].shape), kind[0].base) for kind in (spec.row.fields or {}).values()
    ]


@pytest.mark.parametrize("family", FORGETFUL)
def test_a_bundle_holds_what_its_family_needs(family: str, tmp_path: Path) -> None:
    """`rank.onnx` with the agreed axes, an example that may be tiled, and no other graph."""
    depth = min(2, FAMILIES[family].most_depth)
    bundle = load_bundle(make_bundle(tmp_path / "bundle", family=family, depth=depth))
    assert {path.name for path in bundle.path.glob("*.onnx")} == {"rank.onnx"}
    (graph,) = bundle.graphs.values()
    axes = {axis for port in graph.inputs for axis in port.axes if isinstance(axis, str)}
    assert axes == {"batch", "candidates", "records"}
    example = bundle.example()
    assert example["items"].shape == (1, bundle.spec.reads)
    rank = session(onnx.load(bundle.file("rank.onnx")))
    for axis in axes:
        tiled = {
            port.name: np.concatenate([example[port.name]] * 3, axis=port.axes.index(axis))
            if axis in port.axes
            else example[port.name]
            for port in graph.inputs
        }
        assert np.isfinite(run(rank, tiled)[0]).all()
    assert load_model(bundle).spec.family == family


@pytest.mark.parametrize("family", ["stca", "full"])
def test_order_reaches_the_score(family: str) -> None:
    """Law 3 through two layers, also where time gaps carry nothing."""
    spec = spec_of(family, 2, 5, 2, 1, time_gap=False)
    whole = timelines(spec, 4)
    turned = Timelines(whole.items[:, ::-1], whole.timestamps, whole.feedback[:, ::-1])
    assert np.abs(served(spec, whole, 10**9) - served(spec, turned, 10**9)).max() > 1e-3


def test_din_has_one_layer() -> None:
    """Another depth is refused in one sentence."""
    with pytest.raises(SpecError, match=r"^depth must be at most 1 in the family din$"):
        Spec(family="din", depth=2)


@pytest.mark.parametrize("family", FORGETFUL)
def test_what_is_kept(family: str) -> None:
    """Nothing per event but the timeline, of which the store keeps what moves a score."""
    spec = spec_of(family, 3, 5, 2, 1, time_gap=True)
    assert not spec.row.itemsize
    assert spec.reads == spec.receptive_field == spec.least_keep
    assert spec.receptive_field == (15 if family == "full" else 5)
    assert spec.encodes == (family == "full")
