"""The laws as properties: any events, in any order, from anyone, on every kind of small model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.laws.world import CANDIDATES, COMPANY, Posted, World, reference, scores_of, trusted

laws = settings(max_examples=8, suppress_health_check=list(HealthCheck))

DAY = 86_400
items = st.one_of(st.integers(0, 5), st.sampled_from(["1", "59", "unknown", "é"]))
#: Ties within a second, and gaps from seconds to months.
times = st.one_of(st.integers(0, 12), st.integers(0, 12).map(lambda day: day * 10 * DAY))
labels = st.dictionaries(st.sampled_from(["like", "share", "of a later model"]), st.integers(0, 1))
events = st.fixed_dictionaries(
    {"item_id": items, "timestamp": times},
    optional={"feedback": labels | st.none(), "feedback_timestamp": times | st.none()},
)
histories = st.lists(events, max_size=50)
moments = st.one_of(times, st.just(1_000 * DAY))


def of(user_id: str, history: list[Posted]) -> list[Posted]:
    return [{**event, "user_id": user_id} for event in history]


def batches(data: st.DataObject, sent: list[Posted]) -> list[list[Posted]]:
    """The same events in batches of any sizes."""
    cut = []
    while sent:
        size = data.draw(st.integers(1, 20))
        cut.append(sent[:size])
        sent = sent[size:]
    return cut


@laws
@given(data=st.data())
def test_cached_equals_full(world: World, data: st.DataObject) -> None:
    """Law 1: whatever was posted and evicted when, scores as of any time are the trusted ones."""
    user, posted = world.new_user(), list[Posted]()
    for _ in range(data.draw(st.integers(1, 5))):
        step = data.draw(st.sampled_from(["post", "post", "one by one", "evict"]))
        if step == "evict":
            world.evict(user)
        else:
            sent = of(user, data.draw(histories))
            for batch in [[event] for event in sent] if step == "one by one" else [sent]:
                if batch:
                    world.running.post(*batch)
            posted += sent
        world.check(user, posted, data.draw(moments))
    world.check(user, posted, 1_000 * DAY)


@laws
@given(data=st.data(), history=histories)
def test_idempotent_and_commutative(
    world: World, data: st.DataObject, history: list[Posted]
) -> None:
    """Law 5: twice, in any order and batches, by four clients at once: one timeline, one score."""
    wild, orderly = world.new_user(), world.new_user()
    sent = data.draw(st.permutations([*history, *history]))
    with ThreadPoolExecutor(4) as clients:
        list(clients.map(lambda part: world.running.post(*part), batches(data, of(wild, sent))))
    for event in sorted(of(orderly, history), key=lambda event: int(event["timestamp"])):
        world.running.post(event)
    told, expected = world.running.timeline(wild), world.running.timeline(orderly)
    assert told["events"] == expected["events"]
    moment = data.draw(moments)
    found = world.check(wild, of(wild, history), moment)
    again = world.check(orderly, of(orderly, history), moment)
    assert np.abs(scores_of(found) - scores_of(again)).max() <= world.tolerance


@laws
@given(data=st.data(), history=histories)
def test_no_time_travel(world: World, data: st.DataObject, history: list[Posted]) -> None:
    """Law 4: what comes after the request's time moves no score, its labels included."""
    user, moment = world.new_user(), data.draw(times)
    now = [event for event in history if event["timestamp"] <= moment]
    later = [event for event in history if event["timestamp"] > moment]
    if now:
        world.running.post(*of(user, now))
    before = world.running.rank(user, CANDIDATES, timestamp=moment)
    for batch in batches(data, of(user, data.draw(st.permutations(later)))):
        world.running.post(*batch)
    after = world.running.rank(user, CANDIDATES, timestamp=moment)
    assert after["degraded"] == []
    assert np.abs(scores_of(before) - scores_of(after)).max() <= world.tolerance
    assert after["cache"]["records"] == before["cache"]["records"]


@laws
@given(data=st.data(), mine=histories, theirs=histories)
def test_candidates_are_independent(
    world: World, data: st.DataObject, mine: list[Posted], theirs: list[Posted]
) -> None:
    """Law 2: order, company, padding and who else is in the batch change no score."""
    user, other = world.new_user(), world.new_user()
    for name, history in ((user, mine), (other, theirs)):
        if history:
            world.running.post(*of(name, history))
    alone = {
        str(item): scores_of(world.running.rank(user, [item], timestamp=1_000 * DAY))[0]
        for item in CANDIDATES
    }
    requests = []
    for _ in range(12):
        asked = data.draw(st.sampled_from([user, user, other]))
        chosen = data.draw(st.lists(st.sampled_from(CANDIDATES), min_size=1, max_size=40))
        requests.append({"user_id": asked, "candidates": chosen, "timestamp": 1_000 * DAY})
    answer = world.running.client.post("/v1/rank:batch", json={"requests": requests}).json()
    for request, found in zip(requests, answer["results"], strict=True):
        if request["user_id"] == user:
            expected = np.array([alone[str(item)] for item in request["candidates"]])
            assert np.abs(scores_of(found) - expected).max() <= COMPANY


@laws
@given(history=histories, data=st.data())
def test_inline_equals_stored(world: World, data: st.DataObject, history: list[Posted]) -> None:
    """Law 1 for stateless requests: a history sent along gives the trusted scores."""
    moment = data.draw(moments)
    answer = world.running.rank("whoever", CANDIDATES, timestamp=moment, history=history)
    expected = reference(world.bundle, of("u", history), "u", CANDIDATES, moment)
    assert answer["cache"]["state"] == "inline"
    assert np.abs(scores_of(answer) - expected).max() <= world.tolerance


def test_order_matters(world: World) -> None:
    """Law 3: the same events in another order score differently, through depth 2 and more only."""
    spec = trusted(world.bundle)[0].spec
    one, other = world.new_user(), world.new_user()
    shown = [{"item_id": item, "timestamp": item, "feedback": {"like": 1}} for item in (1, 2, 3)]
    turned: list[dict[str, Any]] = [{**event, "timestamp": 4 - event["item_id"]} for event in shown]
    world.running.post(*of(one, shown))
    world.running.post(*of(other, turned))
    found, again = (
        scores_of(world.running.rank(user, CANDIDATES, timestamp=10 * DAY)) for user in (one, other)
    )
    moved = float(np.abs(found - again).max())
    assert moved > 1e-3 if spec.depth > 1 else moved <= COMPANY


def test_long_timelines(world: World) -> None:
    """Law 1 for timelines of many windows, posted one by one, as of every kind of moment."""
    spec, random = trusted(world.bundle)[0].spec, np.random.default_rng(spec_seed(world))
    user = world.new_user()
    posted = [
        {
            "user_id": user,
            "item_id": int(random.integers(0, 70)),
            "timestamp": int(place * random.integers(1, 90_000)),
            "feedback": {"like": int(random.integers(0, 2))},
        }
        for place in range(8 * spec.window + 3)
    ]
    for event in posted:
        world.running.post(event)
    span = max(event["timestamp"] for event in posted)
    for share in (1.0, 0.9, 0.5, 0.25, 0.0):
        world.check(user, posted, int(span * share))


def spec_seed(world: World) -> int:
    return trusted(world.bundle)[0].spec.window
