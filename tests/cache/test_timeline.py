"""A timeline is a set with one order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.timeline import Event, Mark, Timeline, merge_feedback, order_key

marks = st.builds(Mark, st.integers(0, 1), st.integers(0, 3))
feedbacks = st.dictionaries(st.sampled_from(["like", "share", "später"]), marks, max_size=3)
item_ids = st.one_of(st.sampled_from("abc"), st.text("aé𝄞~", min_size=1, max_size=3))
events = st.lists(st.builds(Event, item_ids, st.integers(0, 6), feedbacks), max_size=40)


@given(feedbacks, feedbacks, feedbacks)
def test_feedback_merges_in_any_order(a: dict, b: dict, c: dict) -> None:
    """Merging feedback is commutative, associative and idempotent."""
    assert merge_feedback(a, b) == merge_feedback(b, a)
    left, right = merge_feedback(merge_feedback(a, b), c), merge_feedback(a, merge_feedback(b, c))
    assert left == right
    assert merge_feedback(a, a) is a


@given(events)
def test_columns_say_what_the_events_said(given_events: list[Event]) -> None:
    """A timeline is sorted by (time, UTF-8 bytes), holds each event once, and loses nothing."""
    expected: dict[tuple[int, bytes], dict] = {}
    for event in given_events:
        key = (event.timestamp, event.item_id.encode())
        expected[key] = dict(merge_feedback(expected.get(key, {}), event.feedback))
    timeline = Timeline.of(given_events)
    found = [((e.timestamp, e.item_id.encode()), dict(e.feedback)) for e in timeline.events()]
    assert found == sorted(expected.items(), key=lambda item: item[0])


@given(events, st.integers(0, 6), st.integers(0, 40), item_ids)
def test_parts_of_a_timeline(given_events: list[Event], time: int, size: int, item: str) -> None:
    """`upto`, `last` and `before` agree with plain lists; joined parts are the whole."""
    timeline = Timeline.of(given_events)
    everything = list(timeline.events())
    assert list(timeline.upto(time).events()) == [e for e in everything if e.timestamp <= time]
    assert list(timeline.last(size).events()) == everything[max(len(everything) - size, 0) :]
    key = order_key(time, item)
    assert timeline.before(key) == sum(event.key < key for event in everything)
    cut = min(size, len(timeline))
    joined = Timeline.concat([timeline[0:cut], timeline[cut : len(timeline)]])
    assert list(joined.events()) == everything
    assert joined.hashes.tolist() == timeline.hashes.tolist()


def test_labels_have_a_third_state() -> None:
    """Unknown is -1: for tasks nobody named, and for events without that task."""
    timeline = Timeline.of([Event("a", 1, {"like": Mark(0, 1)}), Event("b", 2)])
    assert timeline.labels(["like", "share"]).tolist() == [[0, -1], [-1, -1]]
    assert timeline.labels([]).shape == (2, 0)
    assert Timeline.empty().labels(["like"]).shape == (0, 1)


def test_arrays_are_read_only() -> None:
    """What the cache hands out cannot be changed under it."""
    timeline = Timeline.of([Event("a", 1, {"like": Mark(0, 1)}), Event("b", 2)])
    column = timeline.feedback["like"]
    arrays = [timeline.timestamps, timeline.hashes, *column, timeline.labels(["like"])]
    for array in [*arrays, timeline.last(1).timestamps]:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = np.ones(1, array.dtype)[0]
