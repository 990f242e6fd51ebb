"""Law 7: forgotten is forgotten."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.laws.world import CANDIDATES, Posted, World, scores_of
from tests.stored import cells

NOW = 1_000_000


def shown(user_id: str, count: int, item: str) -> list[Posted]:
    return [
        {
            "user_id": user_id, "item_id": f"{item} {place}", "timestamp": place * 60,
            "feedback": {"like": place % 2, "later task": 1},
        }
        for place in range(count)
    ]  # fmt: skip


@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(count=st.integers(1, 120), is_evicted=st.booleans(), is_asked=st.booleans())
def test_nothing_is_left(world: World, count: int, is_evicted: bool, is_asked: bool) -> None:
    """After DELETE no key or value holds the user or their events; scores are a stranger's."""
    running, user, item = world.running, f"{world.new_user()} é", f"only {world.new_user()}'s"
    before = cells(running).keys()
    events = shown(user, count, item)
    running.post(*events[::2])
    running.post(*events[1::2] or events)
    if is_evicted:
        world.evict(user)
    if is_asked:  # rebuilt records are written back after the answer: DELETE may come between
        running.rank(user, CANDIDATES, timestamp=NOW)
    assert running.client.delete(f"/v1/users/{user}").status_code == 204
    stranger = running.rank(world.new_user(), CANDIDATES, timestamp=NOW)
    forgotten = running.rank(user, CANDIDATES, timestamp=NOW)
    assert forgotten["cache"] == stranger["cache"]
    assert forgotten["cache"]["state"] == "cold"
    assert np.array_equal(scores_of(forgotten), scores_of(stranger))
    assert running.timeline(user) == {"user_id": user, "version": 0, "events": []}
    left = cells(running)
    for trace in (user.encode(), item.encode()):
        assert not any(trace in b" ".join(cell) or trace in left[cell] for cell in left)
    # What stays knows no user: how much the store keeps, and the floor of versions to come.
    assert all(key.endswith((b"keep", b"floor")) for key, _ in left.keys() - before)


def test_a_new_life_knows_nothing_of_the_old(world: World) -> None:
    """Events after DELETE are scored as if there had been none before."""
    user = world.new_user()
    world.running.post(*shown(user, 40, "old"))
    world.running.client.delete(f"/v1/users/{user}")
    world.running.post(*(anew := shown(user, 9, "new")))
    world.check(user, anew, NOW)
    assert len(world.running.timeline(user)["events"]) == 9
