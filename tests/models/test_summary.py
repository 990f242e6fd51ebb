"""Vista and Elastic: one summary, however it came about, and what must not reach it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.bundle import load_bundle
from models.spec import Spec, SpecError
from tests.bundles import make_bundle
from tests.models.graphs import (
    ITEMS,
    WIDTH,
    Timelines,
    full,
    model_of,
    run,
    session,
    sessions_of,
    timelines,
)

laws = settings(max_examples=25)
Array = np.ndarray[Any, Any]
CANDIDATES = np.array([0, 3, ITEMS - 1, ITEMS, ITEMS + 1, 3])
ALLOWED = {"float32": 1e-4, "float16": 5e-3, "int8": 2e-2}
STEP = 4
sessions = cache(sessions_of)
seeds = st.integers(0, 10**6)


def spec_of(family: str, cache_dtype: str, tasks: int, *, time_gap: bool) -> Spec:
    return Spec(
        family=family,
        depth=2,
        window=6,
        width=WIDTH,
        heads=2,
        tasks=("like", "share")[:tasks],
        time_gap=time_gap,
        cache_dtype=cache_dtype,
        fallback_rows=2,
        summary=3,
        refresh_events=STEP,
    )


specs = st.builds(
    spec_of,
    family=st.sampled_from(["vista", "elastic"]),
    cache_dtype=st.sampled_from([*ALLOWED]),
    tasks=st.integers(1, 2),
    time_gap=st.booleans(),
)


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def summed(spec: Spec, whole: Timelines, cuts: list[int]) -> list[Array]:
    """The fields of a summary of a whole timeline, made in parts that end at `cuts`."""
    count = len(whole)
    links = {
        "before": np.concatenate([np.full((1, 1), -1), whole.items[:, :-1]], axis=1)[:, :count],
        "gaps_s": np.diff(whole.timestamps, axis=1, prepend=whole.timestamps[:, :1]),
        "present": np.ones((1, count), np.int8),
        "items": whole.items,
        "feedback": whole.feedback,
    }
    fields = [np.zeros((1, *spec.summary_row["state"].shape), np.float32)]
    for start, stop in zip([0, *cuts], [*cuts, count], strict=True):
        part = {name: value[:, start:stop] for name, value in links.items()}
        fields = run(sessions(spec)["summarise"], {"state": fields[-1], **part})
    return fields


def served(spec: Spec, whole: Timelines, timestamp: int) -> Array:
    """The rank graph's probabilities of the candidates: (candidates, tasks)."""
    covered = len(whole) // STEP * STEP
    fields = summed(spec, whole[:covered], [])
    names = [name for name in spec.summary_row.names or () if name != "state"]
    asked = {"candidates": CANDIDATES[None], "timestamp": np.array([timestamp])}
    summary = {**dict(zip(names, fields, strict=False)), "covered": np.array([covered])}
    seen = whole[max(0, len(whole) - spec.reads) :]
    scores: Array = run(sessions(spec)["rank"], {**asked, **seen.feed(), **summary})[0][0]
    return scores


@laws
@given(spec=specs, count=st.integers(0, 25), seed=seeds, later=st.integers(0, 10**8))
def test_served_equals_full(spec: Spec, count: int, seed: int, later: int) -> None:
    """Graphs on a summary and a window, both ways through PyTorch: one function of the timeline."""
    model, whole = model_of(spec), timelines(spec, count, seed=seed)
    now = int(whole.timestamps.max(initial=0)) + later
    expected = sigmoid(full(model, whole, CANDIDATES, now))
    assert np.abs(served(spec, whole, now) - expected).max() <= ALLOWED[spec.cache_dtype]
    with torch.no_grad():
        columns = (column[0] for column in whole.tensors)
        after = model.forward_after(*columns, torch.from_numpy(CANDIDATES), now).numpy()  # type: ignore[misc]
    assert np.abs(sigmoid(after) - expected).max() <= ALLOWED["float32"]


@laws
@given(spec=specs, count=st.integers(1, 30), seed=seeds, data=st.data())
def test_continued_equals_made_at_once(
    spec: Spec, count: int, seed: int, data: st.DataObject
) -> None:
    """Sums do not depend on how many events were added at a time."""
    whole = timelines(spec, count, seed=seed)
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=4)))
    for one, two in zip(summed(spec, whole, []), summed(spec, whole, cuts), strict=True):
        step = 1 if one.dtype == np.int8 else 1e-3 * max(1.0, float(np.abs(one).max()))
        assert np.abs(one.astype(np.float64) - two).max() <= step


@laws
@given(spec=specs, count=st.integers(1, 20), seed=seeds)
def test_what_is_predicted_is_no_input(spec: Spec, count: int, seed: int) -> None:
    """In training, no event's logits move with its own label, or with any that comes later."""
    model, whole = model_of(spec), timelines(spec, count, seed=seed)
    feedback = whole.feedback.copy()
    feedback[:, count // 2 :] = (feedback[:, count // 2 :] + 2) % 3 - 1
    other = Timelines(whole.items, whole.timestamps, feedback)
    visible = torch.arange(count)[None]
    with torch.no_grad():
        one, two = (
            model.forward_full(*each.tensors, visible, each.tensors[1]) for each in (whole, other)
        )
    assert torch.equal(one[:, : count // 2 + 1], two[:, : count // 2 + 1])


@laws
@given(spec=specs, seed=seeds)
def test_padding_and_neighbours_vanish(spec: Spec, seed: int) -> None:
    """Summaries made in one batch, of unlike lengths, are those made alone."""
    short, long = timelines(spec, 3, seed=seed), timelines(spec, 9, seed=seed + 1)
    state = np.zeros((2, *spec.summary_row["state"].shape), np.float32)
    feed = {"state": state}
    for name, port in {"items": "items", "feedback": "feedback"}.items():
        mine, other = getattr(short, port), getattr(long, port)
        padding = np.zeros((1, 6, *mine.shape[2:]), mine.dtype)
        feed[name] = np.concatenate([np.concatenate([mine, padding], axis=1), other])
    feed["before"] = np.concatenate([np.full((2, 1), -1), feed["items"][:, :-1]], axis=1)
    feed["gaps_s"] = np.zeros((2, 9), np.int64)
    feed["present"] = np.array([[1] * 3 + [0] * 6, [1] * 9], np.int8)
    together = run(sessions(spec)["summarise"], feed)[-1]
    alone = {name: value[:1, :3] for name, value in feed.items() if name != "state"}
    again = run(sessions(spec)["summarise"], {"state": state[:1], **alone})[-1]
    assert np.abs(together[:1] - again).max() <= 1e-4 * max(1.0, float(np.abs(again).max()))


@pytest.mark.parametrize("family", ["vista", "elastic"])
@pytest.mark.parametrize("count", [4, 4 * STEP])
def test_order_reaches_the_score(family: str, count: int) -> None:
    """Law 3, in the window and in what only the summary has, where time gaps carry nothing."""
    spec = spec_of(family, "float32", 1, time_gap=False)
    whole = timelines(spec, count)
    place = np.arange(count)
    place[:4] = place[:4][::-1]
    turned = Timelines(whole.items[:, place], whole.timestamps, whole.feedback[:, place])
    assert np.abs(served(spec, whole, 10**9) - served(spec, turned, 10**9)).max() > 1e-3


@pytest.mark.parametrize("family", ["vista", "elastic"])
def test_its_bundle(family: str, tmp_path: Path) -> None:
    """Two graphs; the rank graph has the agreed axes and an example that may be tiled."""
    made = make_bundle(tmp_path / "bundle", family=family, depth=2, summary=4, refresh_events=5)
    bundle = load_bundle(made)
    assert {path.name for path in bundle.path.glob("*.onnx")} == {"rank.onnx", "summarise.onnx"}
    graph, example = bundle.graphs["rank"], bundle.example()
    axes = {axis for port in graph.inputs for axis in port.axes if isinstance(axis, str)}
    assert axes == {"batch", "candidates", "records"}
    rank = session(onnx.load(bundle.file("rank.onnx")))
    for axis in axes:
        tiled = {
            port.name: np.concatenate([example[port.name]] * 3, axis=port.axes.index(axis))
            if axis in port.axes
            else example[port.name]
            for port in graph.inputs
        }
        assert np.isfinite(run(rank, tiled)[0]).all()


def test_what_a_spec_says() -> None:
    """Usual values where nothing is said, none elsewhere, one sentence for what does not fit."""
    spec = Spec(family="vista")
    assert (spec.history, spec.summary, spec.refresh_events) == (1_000_000, 128, 50)
    assert (spec.receptive_field, spec.reads, spec.least_keep) == (1_000_000, 100, 1_000_000)
    assert Spec(family="elastic", window=20).refresh_events == 20
    assert Spec.from_dict(spec.to_dict()) == spec
    assert not {"history", "summary", "refresh_events"} & set(Spec().to_dict())
    with pytest.raises(SpecError, match=r"^refresh_events must be between 0 and 100, not 101$"):
        Spec(family="vista", refresh_events=101)
    with pytest.raises(SpecError, match=r"^the family marm has no summary: leave out its options$"):
        Spec(summary=3)
    with pytest.raises(SpecError, match=r"^history 50 is less than the window of 100$"):
        Spec(family="vista", history=50)
