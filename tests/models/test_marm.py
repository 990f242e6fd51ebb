"""The model's own laws, in PyTorch: cached is full, and nothing reaches further than it should."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ranking_model import History
from models.spec import Spec
from tests.models.graphs import (
    ITEMS,
    Timelines,
    encoded,
    full,
    model_of,
    requested,
    specs,
    timelines,
)

laws = settings(max_examples=60)
CLOSE = 2e-4  # of logits
CANDIDATES = np.array([0, 3, ITEMS - 1, ITEMS, ITEMS + 1, 3])
seeds = st.integers(0, 10**6)
counts = st.integers(0, 30)


@laws
@given(spec=specs, count=counts, seed=seeds, later=st.integers(0, 10**8))
def test_cached_equals_full(spec: Spec, count: int, seed: int, later: int) -> None:
    """Candidates against a window of records score as after the whole timeline, uncropped."""
    model, whole = model_of(spec), timelines(spec, count, seed=seed)
    now = int(whole.timestamps.max(initial=0)) + later
    newest = slice(max(0, count - spec.window), count)
    records = encoded(model, whole)[:, newest]
    found = requested(model, whole[newest], records, CANDIDATES, now)
    assert np.abs(found - full(model, whole, CANDIDATES, now)).max() <= CLOSE


@laws
@given(spec=specs, count=st.integers(1, 30), seed=seeds)
def test_the_receptive_field(spec: Spec, count: int, seed: int) -> None:
    """Events beyond depth times window move no score; the one at its edge may."""
    model, whole = model_of(spec), timelines(spec, count, seed=seed)
    now = int(whole.timestamps[0, -1]) + 60
    near = whole[max(0, count - spec.receptive_field) : count]
    found = full(model, near, CANDIDATES, now)
    assert np.abs(found - full(model, whole, CANDIDATES, now)).max() <= CLOSE


def test_the_receptive_field_is_no_smaller() -> None:
    """The oldest event of the receptive field is heard, faintly, through every layer."""
    spec = Spec(depth=3, window=2, width=8, heads=2, fallback_rows=2)
    model, whole = model_of(spec), timelines(spec, spec.receptive_field)
    now = int(whole.timestamps[0, -1]) + 60
    without = full(model, whole[1 : len(whole)], CANDIDATES, now)
    assert np.abs(full(model, whole, CANDIDATES, now) - without).max() > CLOSE


@laws
@given(spec=specs, count=st.integers(1, 25), cut=st.integers(0, 25), seed=seeds)
def test_appended_equals_encoded(spec: Spec, count: int, cut: int, seed: int) -> None:
    """Records appended to a window of cached ones are those of the whole timeline."""
    model, whole, cut = model_of(spec), timelines(spec, count, seed=seed), min(cut, count)
    records = encoded(model, whole)
    seen = slice(max(0, cut - spec.window), cut)
    past = History(*whole[seen].tensors, torch.from_numpy(records[:, seen]))
    with torch.no_grad():
        found = model.append(past, *whole[cut:count].tensors).numpy()
    assert np.abs(found - records[:, cut:]).max(initial=0) <= CLOSE


@laws
@given(spec=specs, count=st.integers(1, 20), place=st.integers(0, 19), seed=seeds)
def test_a_record_knows_only_what_came_before(
    spec: Spec, count: int, place: int, seed: int
) -> None:
    """A record does not move with its own feedback, nor with anything later."""
    model, whole, place = model_of(spec), timelines(spec, count, seed=seed), min(place, count - 1)
    items, feedback = whole.items.copy(), whole.feedback.copy()
    feedback[:, place:] = (feedback[:, place:] + 2) % 3 - 1
    items[:, place + 1 :] = (items[:, place + 1 :] + 1) % ITEMS
    other = Timelines(items, whole.timestamps, feedback)
    before, after = encoded(model, whole), encoded(model, other)
    assert np.abs(before - after)[:, : place + 1].max(initial=0) <= CLOSE


@laws
@given(spec=specs, count=st.integers(1, 20), seed=seeds)
def test_what_is_predicted_is_no_input(spec: Spec, count: int, seed: int) -> None:
    """In training, no event's logits move with its own label or with anything later."""
    model, whole = model_of(spec), timelines(spec, count, seed=seed)
    visible = torch.arange(count)[None]
    feedback = whole.feedback.copy()
    feedback[:, -1] = (feedback[:, -1] + 2) % 3 - 1
    other = Timelines(whole.items, whole.timestamps, feedback)
    with torch.no_grad():
        one, two = (
            model.forward_full(*each.tensors, visible, each.tensors[1]) for each in (whole, other)
        )
    assert torch.equal(one, two)


@laws
@given(spec=specs, count=counts, seed=seeds)
def test_without_time_gaps_only_order_counts(spec: Spec, count: int, seed: int) -> None:
    """With the time gap off, other timestamps in the same order change no score."""
    spec = dataclasses.replace(spec, time_gap=False)
    model, whole = model_of(spec), timelines(spec, count, seed=seed)
    slow = Timelines(whole.items, np.arange(count)[None] * 10**6, whole.feedback)
    scores = [
        full(model, each, CANDIDATES, int(each.timestamps.max(initial=0)) + later)
        for each, later in ((whole, 0), (slow, 10**7))
    ]
    assert np.abs(scores[0] - scores[1]).max() <= CLOSE


@laws
@given(spec=specs, now=st.integers(0, 10**9))
def test_an_empty_history_is_defined(spec: Spec, now: int) -> None:
    """Without events scores are finite, and the time does not matter."""
    model, nothing = model_of(spec), timelines(spec, 0)
    records = np.zeros((1, 0, spec.cached_depths, spec.width), np.float32)
    found = requested(model, nothing, records, CANDIDATES, now)
    assert np.isfinite(found).all()
    assert np.array_equal(found, requested(model, nothing, records, CANDIDATES, 0))
    assert np.abs(found - full(model, nothing, CANDIDATES, now)).max() <= CLOSE
