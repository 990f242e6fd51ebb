"""What is near is run on while Redis is asked if it still holds, and is told only if it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.servers import Running, flush
from tests.service.test_rank import ITEMS, NOW, events_of, inline, likes

LAW = 1e-4  # law 1 for float32


@pytest.fixture
def two(serve: Callable[..., Running], redis_server: Any) -> tuple[Running, Running]:
    """Two services on one empty Redis."""
    flush(redis_server.url)
    return serve(cache=redis_server.url), serve(cache=redis_server.url)


def written_elsewhere(one: Running, other: Running) -> tuple[Running, int]:
    """`one` has met the user often enough to guess, and `other` wrote them since: their version."""
    first, second = events_of("u", 2)
    other.post(first)
    for _ in range(3):
        one.rank("u", ITEMS, timestamp=NOW)
    version: int = other.post(second)[0]["version"]
    return one, version


def test_what_another_process_wrote_is_seen(two: tuple[Running, Running]) -> None:
    """Events through one, ranking through the other: every answer is of all that was posted."""
    one, other = two
    events = events_of("u", 24)
    for count, event in enumerate(events, start=1):
        version = other.post(event)[0]["version"]
        for _ in range(count % 5):  # from the third time on it is guessed
            answer = one.rank("u", ITEMS, timestamp=NOW)
            assert answer["cache"]["version"] == version
            full = other.rank("u", ITEMS, timestamp=NOW, history=inline(events[:count]))
            assert np.abs(likes(answer) - likes(full)).max() <= LAW


def test_a_guess_that_does_not_hold_was_tried(two: tuple[Running, Running]) -> None:
    """Else the test above would show nothing."""
    one, _ = written_elsewhere(*two)
    before = one.runs
    one.rank("u", ITEMS, timestamp=NOW)
    assert one.runs["projected"] == before["projected"] + 1
    assert one.runs["rank"] == before["rank"] + 1


def test_what_nobody_can_confirm_is_not_told(serve: Callable[..., Any], own_redis: Any) -> None:
    """Where the store is away an answer says so, whatever is remembered."""
    running = serve(cache=own_redis.url)
    running.post(*events_of("u", 3))
    known = [running.rank("u", ITEMS, timestamp=NOW) for _ in range(3)][-1]
    own_redis.kill()
    answer = running.rank("u", ITEMS, timestamp=NOW)
    assert (answer["cache"]["state"], answer["degraded"]) == ("away", ["cache-away"])
    assert likes(answer).tolist() != likes(known).tolist()


def test_an_answer_of_a_least_version_is_not_guessed(two: tuple[Running, Running]) -> None:
    """What is near is older than the caller knows the user to be."""
    one, version = written_elsewhere(*two)
    before = one.runs
    answer = one.rank("u", ITEMS, timestamp=NOW, min_version=version)
    assert answer["cache"]["version"] == version
    assert one.runs["projected"] == before["projected"]
