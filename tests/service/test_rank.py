"""`/v1/rank` over HTTP on both stores: what is remembered, computed and said."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from redis import Redis

ITEMS = list(range(1, 31))
START = 900_000_000
LAW = 1e-4  # law 1 for float32
COMPANY = 1e-5  # law 2


def events_of(user_id: Any, count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    return [
        {
            "user_id": user_id,
            "item_id": int(random.choice(ITEMS)),
            "timestamp": START + 3_600 * place + int(random.integers(0, 3_000)),
            "feedback": {"like": int(random.integers(0, 2))},
        }
        for place in range(count)
    ]


def inline(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: event[name] for name in event if name != "user_id"} for event in events]


def likes(answer: dict[str, Any]) -> np.ndarray:
    return np.array(answer["scores"]["like"])


NOW = START + 10_000_000


@pytest.fixture
def span(running: Any) -> int:
    """Events that are several windows long."""
    spec = running.house.registry.active.spec
    return int(spec.receptive_field + spec.window + 3)


def test_a_hit_runs_the_rank_graph_alone(running: Any) -> None:
    """No graph run on a cache hit touches history-to-history attention."""
    for event in events_of("u", 12):
        running.post(event)
    before = running.runs
    answer = running.rank("u", ITEMS, timestamp=NOW)
    after = running.runs
    assert answer["cache"]["state"] == "hit"
    assert after.pop("rank") == before.pop("rank") + 1
    assert after == before


def test_who_comes_again_meets_projections(running: Any) -> None:
    """Keys and values are made once, until the next event; the scores stay the same."""
    for event in events_of("u", 12):
        running.post(event)

    def asked() -> tuple[np.ndarray, dict[str, int]]:
        before = Counter(running.runs)
        answer = running.rank("u", ITEMS, timestamp=NOW)
        assert answer["cache"]["state"] == "hit"
        return likes(answer), dict(Counter(running.runs) - before)

    first, again, later = asked(), asked(), asked()
    assert [runs for _, runs in (first, again, later)] == [
        {"rank": 1}, {"project": 1, "projected": 1}, {"projected": 1},
    ]  # fmt: skip
    for scores, _ in (again, later):
        assert np.abs(scores - first[0]).max() <= COMPANY
    running.post(events_of("u", 13)[-1])
    after = asked()[1]
    after.pop("projected", None)  # where a store elsewhere was asked, it was tried meanwhile
    assert after == {"rank": 1}


def test_without_a_near_tier_nothing_is_projected(serve: Any) -> None:
    """Nor are the graphs for it held in memory."""
    running = serve(near_mib=0)
    running.post(*events_of("u", 3))
    for _ in range(3):
        running.rank("u", ITEMS, timestamp=NOW)
    assert running.runs["rank"] >= 3
    assert "projected" not in running.runs
    assert not running.house.registry.active.engine.has("projected")


def test_cached_equals_full(running: Any, span: int) -> None:
    """Scores after events were posted one by one equal scores of the whole history at once."""
    events = events_of("u", span)
    for event in events:
        running.post(event)
    cached = running.rank("u", ITEMS, timestamp=NOW)
    full = running.rank("u", ITEMS, timestamp=NOW, history=inline(events))
    assert cached["cache"]["state"] == "hit"
    assert cached["cache"]["records"] == running.house.registry.active.spec.window
    assert cached["degraded"] == []
    assert full["cache"] == {
        "state": "inline", "records": cached["cache"]["records"],
        "recomputed": cached["cache"]["records"], "version": 0, "age_s": None,
    }  # fmt: skip
    assert np.abs(likes(cached) - likes(full)).max() <= LAW


def test_any_order_gives_the_same_scores(running: Any, span: int) -> None:
    """Events posted twice, shuffled, in odd batches, from four clients equal the orderly ones."""
    events = events_of("orderly", span)
    for event in events:
        running.post(event)
    sent = [{**event, "user_id": "wild"} for event in events] * 2
    np.random.default_rng(1).shuffle(sent)
    batches = [sent[place : place + 7] for place in range(0, len(sent), 7)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda batch: running.post(*batch), batches))
    assert running.timeline("wild")["events"] == running.timeline("orderly")["events"]
    orderly = running.rank("orderly", ITEMS, timestamp=NOW)
    wild = running.rank("wild", ITEMS, timestamp=NOW)
    assert np.abs(likes(orderly) - likes(wild)).max() <= LAW


def test_feedback_may_come_late(running: Any, span: int) -> None:
    """A changed label in the middle recomputes what depends on it."""
    events = events_of("u", span)
    running.post(*[{**event, "feedback": {}} for event in events])
    before = running.rank("u", ITEMS, timestamp=NOW)
    place = span - 5
    changed = {**events[place], "feedback": {"like": 1}, "feedback_timestamp": NOW - 1}
    (result,) = running.post(changed)
    assert result["status"] == "updated"
    after = running.rank("u", ITEMS, timestamp=NOW)
    expected = [{**event, "feedback": {}} for event in events]
    expected[place] = changed
    full = running.rank("u", ITEMS, timestamp=NOW, history=inline(expected))
    assert after["cache"]["state"] == "hit"
    assert np.abs(likes(after) - likes(full)).max() <= LAW
    assert np.abs(likes(after) - likes(before)).max() > 0


def test_the_future_is_not_seen(running: Any, span: int) -> None:
    """An event after the request's timestamp does not move the score."""
    events = events_of("u", span)
    for cut in (5, span - 2):
        running.client.delete("/v1/users/u")
        running.post(*events[:cut])
        moment = events[cut - 1]["timestamp"]
        before = running.rank("u", ITEMS, timestamp=moment)
        running.post(*events[cut:])
        after = running.rank("u", ITEMS, timestamp=moment)
        assert after["degraded"] == []
        assert after["cache"]["records"] == before["cache"]["records"]
        assert np.abs(likes(before) - likes(after)).max() <= LAW


def test_no_event_before_the_timestamp_is_a_hit_of_none(running: Any) -> None:
    """A timeline that begins later is known, and empty at that time."""
    running.post(*events_of("u", 3))
    answer = running.rank("u", ITEMS, timestamp=START - 1)
    assert answer["cache"]["state"] == "hit"
    assert answer["cache"]["records"] == 0
    assert likes(answer).tolist() == likes(running.rank("nobody", ITEMS, timestamp=NOW)).tolist()


def test_an_unknown_user_is_cold(running: Any) -> None:
    """Without a timeline the candidates are scored alone."""
    answer = running.rank("nobody", ITEMS)
    assert answer["cache"] == {
        "state": "cold", "records": 0, "recomputed": 0, "version": 0, "age_s": None,
    }  # fmt: skip
    assert answer["degraded"] == []
    assert len(answer["ranking"]) == len(ITEMS)


def test_candidates_are_independent(running: Any) -> None:
    """Order, company and batch neighbours change no score."""
    running.post(*events_of("u", 15))
    running.post(*events_of("v", 4, seed=1))
    alone = {
        item: likes(running.rank("u", [item], timestamp=NOW))[0] for item in ITEMS
    }  # one by one
    random = np.random.default_rng(2)

    def ask(size: int) -> float:
        chosen = random.choice(ITEMS, size).tolist()
        user = "u" if size % 3 else "v"
        found = likes(running.rank(user, chosen, timestamp=NOW))
        if user == "v":
            return 0.0
        return float(np.abs(found - [alone[item] for item in chosen]).max())

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(ask, [1, 2, 3, 20, 100, 500, 30, 9] * 8)) <= COMPANY


def test_the_ranking_is_best_first_and_stable(running: Any) -> None:
    """Best first by the primary task, at most top_k; duplicates stay, and equal scores in order."""
    running.post(*events_of("u", 5))
    candidates = [7, "3", 5, 7, 3, "no such item", 5]
    answer = running.rank("u", candidates, timestamp=NOW)
    scores = likes(answer)
    order = sorted(range(len(candidates)), key=lambda place: -scores[place])
    assert answer["ranking"] == [candidates[place] for place in order]
    assert answer["unknown_items"] == ["no such item"]
    assert scores[0] == scores[3]
    assert scores[1] == scores[4]
    top = running.rank("u", candidates, timestamp=NOW, top_k=2)
    assert top["ranking"] == answer["ranking"][:2]
    assert running.rank(42, [1])["user_id"] == 42
    assert running.rank("42", [1])["user_id"] == "42"


def test_a_read_sees_the_write_before_it(running: Any) -> None:
    """A rank sent after the acknowledgement sees the event, at the version it was given."""
    for place, event in enumerate(events_of("u", 5)):
        (result,) = running.post(event)
        cache = running.rank("u", [1], timestamp=NOW)["cache"]
        assert cache["version"] == result["version"]
        assert cache["records"] == place + 1
        assert 0 <= cache["age_s"] < 60


def test_lost_records_are_rebuilt_and_kept(
    serve: Callable[..., Any], redis_server: Any, until: Callable[..., Any]
) -> None:
    """After an eviction the answer is partial and as exact, and soon there is a hit again."""
    with Redis.from_url(redis_server.url) as store:
        store.flushdb()
        running = serve(cache=redis_server.url)
        events = events_of("u", 25)
        running.post(*events)
        before = running.rank("u", ITEMS, timestamp=NOW)
        short = running.house.fingerprint[:8]
        evicted = [key for key in store.scan_iter() if short in key]
        assert evicted
        store.delete(*evicted)
        partial = running.rank("u", ITEMS, timestamp=NOW)
        assert partial["cache"]["state"] == "partial"
        assert partial["cache"]["recomputed"] == partial["cache"]["records"]
        assert np.abs(likes(before) - likes(partial)).max() <= LAW

        def is_hit() -> bool:
            return bool(running.rank("u", [1], timestamp=NOW)["cache"]["state"] == "hit")

        until(is_hit)


def test_forgotten_is_forgotten(running: Any) -> None:
    """After DELETE the user is as one who never was, and later versions are larger."""
    (first,) = running.post(events_of("u", 1)[0])
    assert running.client.delete("/v1/users/u").status_code == 204
    assert running.timeline("u") == {"user_id": "u", "version": 0, "events": []}
    assert running.rank("u", ITEMS)["cache"]["state"] == "cold"
    (again,) = running.post(events_of("u", 1)[0])
    assert again["status"] == "appended"
    assert again["version"] > first["version"]


def test_the_store_may_be_away(serve: Callable[..., Any], own_redis: Any, until: Any) -> None:
    """Ranking goes on without the store and says so; events are refused; both come back."""
    running = serve(cache=own_redis.url)
    event = events_of("u", 1)[0]
    running.post(event)
    own_redis.kill()
    answer = running.rank("u", ITEMS, timestamp=NOW)
    assert answer["cache"]["state"] == "away"
    assert answer["degraded"] == ["cache-away"]
    assert likes(answer).tolist() == likes(running.rank("u", ITEMS, history=[])).tolist()
    assert running.client.get("/health/ready").status_code == 200
    refused = running.client.post("/v1/events", json={"events": [event]})
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    assert refused.json()["results"][0]["problem"]["type"] == "/problems/store-away"
    assert running.client.get("/v1/users/u/timeline").status_code == 503
    own_redis.start()
    until(lambda: running.rank("u", [1])["cache"]["state"] == "cold")
    assert running.post(event)[0]["status"] == "appended"


def test_a_service_starts_without_its_store(serve: Callable[..., Any], free_port: int) -> None:
    """Ready is not a matter of the store."""
    running = serve(cache=f"redis://127.0.0.1:{free_port}/0", store_fetch_ms=50)
    assert running.client.get("/health/ready").status_code == 200
    assert running.rank("u", [1])["cache"]["state"] == "away"


def test_a_passed_deadline_is_told_and_nothing_runs(running: Any) -> None:
    """504, and the engine was not bothered."""
    before = running.runs
    answer = running.client.post(
        "/v1/rank", json={"user_id": "u", "candidates": [1], "deadline_ms": 0}
    )
    assert answer.status_code == 504
    assert answer.json()["type"] == "/problems/deadline-exceeded"
    assert running.runs == before


def test_a_batch_answers_each_request(running: Any) -> None:
    """Answers and problems stand side by side, in the order of the requests."""
    running.post(*events_of("u", 5))
    good = {"user_id": "u", "candidates": ITEMS, "timestamp": NOW}
    requests = [good, {**good, "deadline_ms": 0}, {**good, "candidates": []}, good]
    answer = running.client.post("/v1/rank:batch", json={"requests": requests})
    assert answer.status_code == 200
    first, late, empty, last = answer.json()["results"]
    single = running.rank("u", ITEMS, timestamp=NOW)
    for found in (first, last):
        assert np.abs(likes(found) - likes(single)).max() <= COMPANY
    assert late["problem"]["status"] == 504
    assert empty["problem"]["detail"] == "candidates must not be empty"


def test_a_model_is_picked_by_version(running: Any) -> None:
    """The loaded version answers to its name, another one is refused."""
    name = running.rank("u", [1])["model"]
    assert running.rank("u", [1], model={"version": name["version"]})["model"] == name
    body = {"user_id": "u", "candidates": [1], "model": {"version": "no such"}}
    answer = running.client.post("/v1/rank", json=body)
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/unknown-model"


def test_time_is_now_unless_told(running: Any) -> None:
    """Without a timestamp everything up to now counts."""
    event = {**events_of("u", 1)[0], "timestamp": int(time.time()) - 1}
    running.post(event)
    assert running.rank("u", [1])["cache"]["records"] == 1
