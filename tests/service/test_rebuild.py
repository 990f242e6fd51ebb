"""The plan that makes missing rows whole, against brute force."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.spec import Spec
from service.rebuild import Plan, plan_rebuild


def exact_by_encoding(given_from: int, events: int, begins: bool, spec: Spec) -> np.ndarray:
    """Which rows are exact if only the events from `given_from` on are known."""
    known = np.arange(events) >= given_from  # depth 0: the ids themselves
    row = known.copy()
    for _ in range(spec.cached_depths):
        known = np.array(
            [known[place] and sees_all(known, place, begins, spec) for place in range(events)], bool
        )
        row &= known
    return row


def exact_by_appending(plan: Plan, valid: np.ndarray, begins: bool, spec: Spec) -> np.ndarray:
    """Which rows are exact if each is computed from the rows before it."""
    known = valid & (np.arange(len(valid)) >= plan.start) & (np.arange(len(valid)) < plan.first)
    for place in range(plan.first, plan.end):
        known[place] = sees_all(known, place, begins, spec)
    return known


def sees_all(known: np.ndarray, place: int, begins: bool, spec: Spec) -> bool:
    before = place - spec.window
    return bool(known[max(before, 0) : place].all()) and (before >= 0 or begins)


@given(
    st.lists(st.booleans(), max_size=40),
    st.integers(1, 4),
    st.integers(2, 4),
    st.booleans(),
    st.integers(0, 40),
)
@settings(max_examples=500)
def test_a_plan_makes_every_row_valid(
    mask: list[bool], window: int, depth: int, begins: bool, want: int
) -> None:
    """An exact plan computes all that is missing from what determines it; others could not."""
    spec = Spec(depth=depth, window=window, width=4, heads=1)
    valid = np.array(mask, bool)
    need_from = max(0, len(valid) - want)
    plan = plan_rebuild(valid, need_from=need_from, begins=begins, spec=spec)
    rows = np.zeros(len(valid), spec.row)
    _, filled = plan.fill(rows, valid, np.zeros(plan.count, spec.row))
    assert filled[need_from:].all()
    assert plan.is_empty == bool(valid[need_from:].all())
    if plan.is_empty:
        return
    assert not valid[plan.first]
    assert not valid[plan.end - 1]
    assert plan.first >= need_from
    if plan.is_exact:
        exact = (
            exact_by_appending(plan, valid, begins, spec)
            if plan.on_rows
            else exact_by_encoding(plan.start, len(valid), begins, spec)
        )
        assert exact[plan.first : plan.end].all()
    else:
        assert not exact_by_encoding(0, len(valid), begins, spec)[plan.first]


def test_a_model_without_records_needs_no_rebuild() -> None:
    """At depth 1 nothing is cached, so nothing is missing."""
    plan = plan_rebuild(np.zeros(5, bool), need_from=0, begins=True, spec=Spec(depth=1))
    assert plan.is_empty
    assert plan.is_exact


def test_a_new_event_is_appended_to_the_window_before_it() -> None:
    """The usual write computes one row from the `window` rows before it."""
    valid = np.array([True] * 200 + [False])
    plan = plan_rebuild(valid, need_from=1, begins=False, spec=Spec())
    assert plan == Plan(100, 200, 201, on_rows=True)
