"""Real servers on real ports, in a thread of the tests or in processes of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from redis import Redis

from service.app import create_app
from service.house import House
from service.settings import read_settings

ROOT = Path(__file__).parents[2]


def wait_until(condition: Callable[[], Any], *, within_s: float = 20.0) -> Any:
    """Polls until the condition holds, and returns what it returned."""
    stop = time.monotonic() + within_s
    while not (found := condition()):
        if time.monotonic() > stop:
            raise AssertionError("what was waited for did not happen")
        time.sleep(0.01)
    return found


class Running:
    """A service in a thread of its own, with its inside in reach."""

    def __init__(self, **options: Any) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        # A busy machine is no slow store.
        options = {"drain_s": 0.0, "store_fetch_ms": 1_000.0, **options}
        self._app = create_app(read_settings(**options))
        config = uvicorn.Config(
            self._app, loop="uvloop", http="httptools", ws="none", lifespan="on", log_config=None
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started or not self._thread.is_alive())
        assert self._server.started, self.house.start_error
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=30)

    def _run(self) -> None:
        self._server.run(sockets=[self._listener])

    @property
    def house(self) -> House:
        return self._app.house

    @property
    def runs(self) -> dict[str, int]:
        """How often each graph has run."""
        return dict(self.house.registry.active.engine.runs)

    def rank(self, user_id: Any, candidates: list[Any], **fields: Any) -> dict[str, Any]:
        body = {"user_id": user_id, "candidates": candidates, **fields}
        answer = self.client.post("/v1/rank", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def post(self, *events: dict[str, Any]) -> list[dict[str, Any]]:
        answer = self.client.post("/v1/events", json={"events": events})
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["results"]
        return found

    def timeline(self, user_id: str) -> dict[str, Any]:
        answer = self.client.get(f"/v1/users/{user_id}/timeline", params={"limit": 10_000})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def stop(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(30)
        self._listener.close()


@pytest.fixture
def serve(tiny_bundle: Path, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts services on the small bundle; a store of the test's own unless told otherwise."""
    started: list[Running] = []

    def start(**options: Any) -> Running:
        options = {"bundle": tiny_bundle, "cache": f"lmdb:{tmp_path}/cache", **options}
        started.append(Running(**options))
        return started[-1]

    yield start
    for running in started:
        running.stop()


@pytest.fixture(params=["lmdb", "redis"])
def running(request: pytest.FixtureRequest, serve: Callable[..., Running]) -> Running:
    """A service on each store, empty."""
    if request.param == "lmdb":
        return serve()
    server = request.getfixturevalue("redis_server")
    flush(server.url)
    return serve(cache=server.url)


def flush(url: str) -> None:
    with Redis.from_url(url) as client:
        client.flushdb()


class Command:
    """`marmot …` as a process of its own."""

    def __init__(self, *arguments: str | Path, **env: str) -> None:
        self.process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", "from service.marmot import main; main()", *map(str, arguments)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**_environment(), **env},
        )

    def ends(self, within_s: float = 60) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        out, err = self.process.communicate(timeout=within_s)
        return self.process.returncode, out, err

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("MARMOT_")}


@pytest.fixture
def marmot() -> Iterator[Callable[..., Command]]:
    """Starts `marmot` commands, and leaves none behind."""
    started: list[Command] = []

    def start(*arguments: str | Path, **env: str) -> Command:
        started.append(Command(*arguments, **env))
        return started[-1]

    yield start
    for command in started:
        command.stop()


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def until() -> Callable[..., Any]:
    return wait_until
