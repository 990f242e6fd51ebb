"""Work behind the scenes: done once for all replicas, and taken up again after a stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import plain
from tests.servers import RedisServer, Running, flush, wait_until

USERS = 30


@pytest.fixture
def start(shelf: Path, serve: Callable[..., Running]) -> Callable[..., Running]:
    def started(**options: Any) -> Running:
        options = {"models_users_per_s": 10_000, "models_share": 1.0, **options}
        return serve(bundle=shelf / "one", models_dir=shelf, models_poll_s=0.02, **options)

    return started


def fill(running: Running) -> None:
    """Users of every kind: a few with much history, many with little."""
    for user in range(USERS):
        count = 140 if user < 3 else 40 if user < 10 else 2 + user % 9
        running.post(
            *({"user_id": f"u{user}", "item_id": at % 60, "timestamp": at} for at in range(count))
        )


def load(running: Running) -> None:
    running.client.post("/v1/models", json={"bundle": "two"}).raise_for_status()
    wait_until(lambda: two(running)["state"] == "ready")


def two(running: Running) -> dict[str, Any]:
    models = running.client.get("/v1/models").json()["models"]
    return next((each for each in models if each["version"] == "v2"), {"state": None})


def built(running: Running) -> int:
    """Users that this process has seen to."""
    name = 'marmot_rebuilt_users_total{version="v2"}'
    lines = running.client.get("/metrics").text.splitlines()
    return sum(int(float(line.split()[1])) for line in lines if line.startswith(name))


def is_hit(running: Running, user: int) -> bool:
    answer = running.rank(f"u{user}", [1, 2], model={"version": "v2"}, timestamp=10_000)
    return bool(answer["cache"]["state"] == "hit")


def test_the_most_active_come_first_and_a_stop_loses_little(start: Callable[..., Running]) -> None:
    """Whoever comes after a stop goes on in the band of activity where it ended."""
    running = start(models_users_per_s=20)
    fill(running)
    load(running)
    wait_until(lambda: built(running) >= 12)
    running.stop()
    later = start()
    wait_until(lambda: two(later)["rebuilt_users"] == USERS)
    assert built(later) <= USERS - 10  # the bands of the ten most active were done
    assert all(is_hit(later, user) for user in range(USERS))


def test_one_replica_does_it_for_all(
    start: Callable[..., Running], redis_server: RedisServer
) -> None:
    """Two replicas build each user's records once, and both tell how many there are."""
    flush(redis_server.url)
    replicas = [start(cache=redis_server.url, models_users_per_s=200) for _ in range(2)]
    fill(replicas[0])
    load(replicas[0])
    for replica in replicas:
        wait_until(lambda replica=replica: two(replica).get("rebuilt_users") == USERS)  # type: ignore[misc]
        assert is_hit(replica, 5)
    assert sum(map(built, replicas)) == USERS


def test_a_store_that_is_away_is_followed_when_it_is_back(
    start: Callable[..., Running], own_redis: RedisServer
) -> None:
    """A start without the store serves the bundle of the settings, and changes nothing anywhere."""
    first = start(cache=own_redis.url)
    load(first)
    first.client.post("/v1/models/v2/activate").raise_for_status()
    first.stop()
    own_redis.pause()
    later = start(cache=own_redis.url, store_fetch_ms=50, store_timeout_ms=100)
    try:
        assert later.rank("u", [1])["model"]["version"] == "v1"
        answer = later.client.post("/v1/models/v1/activate")
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/store-away")
    finally:
        own_redis.resume()
    wait_until(lambda: later.rank("u", [1])["model"]["version"] == "v2")


def test_a_replica_without_the_folder_keeps_what_it_has(
    shelf: Path, tmp_path: Path, start: Callable[..., Running], serve: Callable[..., Running],
    redis_server: RedisServer,
) -> None:  # fmt: skip
    """It says `failed` and why; its answers stay those of the old version, and true."""
    flush(redis_server.url)
    (tmp_path / "empty").mkdir()
    other = serve(
        bundle=shelf / "one", models_dir=tmp_path / "empty", models_poll_s=0.02,
        cache=redis_server.url,
    )  # fmt: skip
    running = start(cache=redis_server.url)
    load(running)
    running.client.post("/v1/models/v2/activate").raise_for_status()
    wait_until(lambda: two(other)["state"] == "failed")
    assert two(other)["problem"] == "there is no bundle two in the models directory"
    wait_until(lambda: other.client.get("/v1/models").json()["wanted"] == "v2")
    assert other.rank("u", [1])["model"]["version"] == "v1"
    assert plain.get(f"{other.url}/health/ready").status_code == 200


def test_a_store_that_was_emptied_changes_nothing(
    start: Callable[..., Running], redis_server: RedisServer
) -> None:
    """What is served stays, and the next change is written as ever."""
    flush(redis_server.url)
    running = start(cache=redis_server.url)
    load(running)
    running.client.post("/v1/models/v2/activate").raise_for_status()
    flush(redis_server.url)
    assert running.rank("u", [1])["model"]["version"] == "v2"
    running.client.post("/v1/models/v1/activate").raise_for_status()
    assert running.rank("u", [1])["model"]["version"] == "v1"
    assert two(running)["state"] == "ready"


def test_who_comes_later_follows(start: Callable[..., Running], redis_server: RedisServer) -> None:
    """A replica that starts after the switch answers with the new version from the first."""
    flush(redis_server.url)
    first = start(cache=redis_server.url)
    load(first)
    first.client.post("/v1/models/v2/activate").raise_for_status()
    later = start(cache=redis_server.url)
    assert later.rank("u", [1])["model"]["version"] == "v2"
    later.client.post("/v1/models/v1/activate").raise_for_status()
    wait_until(lambda: first.rank("u", [1])["model"]["version"] == "v1")
