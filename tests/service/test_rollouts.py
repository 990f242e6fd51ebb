"""Rollouts over processes: what one of them is told, all of them follow."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import plain
from tests.servers import Command, flush, free_port, is_up, wait_until

START_S = 120.0
"""Two workers on a crowded machine take their time."""
CANDIDATES = [1, 2, 3]


class Service:
    """A command that serves, and questions to whichever of its workers answers."""

    def __init__(self, start: Callable[..., Command], shelf: Path, cache: str, workers: int):
        self._workers = workers
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self.command = start(
            "serve", "--bundle", shelf / "one", "--models-dir", shelf, "--cache", cache,
            "--port", str(port), "--workers", str(workers), "--drain-s", "0",
            MARMOT_MODELS_POLL_S="0.1", MARMOT_MODELS_SHARE="1", MARMOT_STORE_FETCH_MS="2000",
        )  # fmt: skip

        # A new connection for each request: any worker may take it.
        self.client = plain.Client(self.url, headers={"connection": "close"})

    def wait(self) -> None:
        def has_come() -> bool:
            return is_up(self.url) or self.command.process.poll() is not None

        wait_until(has_come, within_s=START_S)
        assert self.command.process.poll() is None

    def models(self) -> dict[int, dict[str, dict[str, Any]]]:
        """What each worker says of its versions; the system decides who is asked."""
        found: dict[int, dict[str, dict[str, Any]]] = {}
        for _ in range(500):
            answer = self.client.get("/v1/models").json()
            found[answer["process"]] = {each["version"]: each for each in answer["models"]}
            if len(found) == self._workers:
                return found
        raise AssertionError(f"{len(found)} workers of {self._workers} answered 500 requests")

    def stands(self, version: str, **wanted: Any) -> bool:
        """Whether all workers agree on a version."""
        return all(
            version in models and models[version].items() >= wanted.items()
            for models in self.models().values()
        )

    def answers(self) -> set[str]:
        """The versions that answer a handful of users."""
        asked = [{"user_id": f"u{at}", "candidates": CANDIDATES} for at in range(8)]
        answers = [self.client.post("/v1/rank", json=each) for each in asked]
        return {answer.json()["model"]["version"] for answer in answers}


@pytest.fixture(params=["lmdb", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "lmdb":
        return f"lmdb:{tmp_path}/cache"
    server = request.getfixturevalue("redis_server")
    flush(server.url)
    url: str = server.url
    return url


class Traffic:
    """Rank requests without a pause; every answer's status, and which version gave it."""

    def __init__(self, url: str) -> None:
        self.statuses: list[int] = []
        self.versions: list[str] = []
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with plain.Client(self._url) as client:
            while not self._stop.wait(0.03):
                asked = {"user_id": f"u{len(self.statuses) % 8}", "candidates": CANDIDATES}
                answer = client.post("/v1/rank", json=asked)
                self.statuses.append(answer.status_code)
                if answer.status_code == 200:
                    self.versions.append(answer.json()["model"]["version"])


def test_all_workers_follow(store: str, shelf: Path, marmot: Callable[..., Command]) -> None:
    """Loaded, shared out, switched, switched back, let go: two workers, no request fails."""
    service = Service(marmot, shelf, store, workers=2)
    service.wait()
    events = [
        {"user_id": f"u{user}", "item_id": at, "timestamp": at}
        for user in range(8)
        for at in range(9)
    ]
    client = service.client
    client.post("/v1/events", json={"events": events}).raise_for_status()
    with Traffic(service.url) as traffic:
        assert client.post("/v1/models", json={"bundle": "two"}).status_code == 202
        wait_until(lambda: service.stands("v2", state="ready", active=False), within_s=60)
        client.post("/v1/models/v2/activate", json={"canary_percent": 50}).raise_for_status()
        wait_until(lambda: service.stands("v2", canary_percent=50.0), within_s=60)
        assert service.answers() == {"v1", "v2"}
        client.post("/v1/models/v2/activate").raise_for_status()
        wait_until(lambda: service.stands("v2", active=True), within_s=60)
        assert service.answers() == {"v2"}
        wait_until(lambda: service.stands("v2", rebuilt_users=8), within_s=60)
        client.post("/v1/models/v1/activate").raise_for_status()
        wait_until(lambda: service.stands("v1", active=True), within_s=60)
        assert service.answers() == {"v1"}
        assert client.delete("/v1/models/v2").status_code == 204
        wait_until(lambda: not any("v2" in each for each in service.models().values()), within_s=60)
    assert set(traffic.statuses) == {200}
    assert set(traffic.versions) == {"v1", "v2"}
