"""Where the commands of a page are typed, and how they are shortened to what a test can wait for.

- `localhost:8000` is the service of the test, `redis://localhost` its Redis.
- `marmot serve` is a process that gets a free port and one worker, is stopped as soon as it is
  ready, and must then end well.
- `marmot train` makes a small model in one epoch, and the same words get the same bundle on every
  page; `marmot load` asks for a moment, `marmot consume` for a free port.
- Every other plain `marmot` command runs in this process as it is; a line with pipes goes to bash.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from service.marmot import run
from tests import plain
from tests.servers import ROOT, Command, free_port, wait_until

_PLAIN = re.compile(r"marmot [^|<>;&$`*]*")
#: What a page says that it waits is less than a busy machine may take.
_DEADLINE = re.compile(r'(\bdeadline_m?s"?[=:] ?)[\d.]+')
#: The last of an option counts, so these do.
_SHORT = {
    "train": "--epochs 1 --depth 2 --window 8 --width 16 --heads 2",
    "load": "--duration-s 0.5 --rate 20",
    "consume": "--metrics-port 0",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """A folder to type commands in, and a service that answers."""

    folder: Path
    port: int
    redis_url: str
    kept: Path
    screen: pytest.CaptureFixture[str]

    def put(self, text: str) -> str:
        """What a page types, at this service and this store."""
        for host in ("localhost", "127.0.0.1"):
            text = text.replace(f"{host}:8000", f"127.0.0.1:{self.port}")
        text = _DEADLINE.sub(r"\g<1>60000", text)
        return text.replace("redis://localhost", self.redis_url)

    def type(self, text: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of one command."""
        text = self.put(text)
        line = shlex.split(text, comments=True)
        if line[:2] == ["marmot", "serve"]:
            return _serve(line[1:], self.folder)
        if line and _PLAIN.fullmatch(text.partition(" #")[0]):
            self.screen.readouterr()
            code = self._run([*line[1:], *_SHORT.get(line[1], "").split()])
            return code, *self.screen.readouterr()
        done = subprocess.run(  # noqa: S603
            ["/bin/bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder,
            env={**os.environ, "PATH": f"{_shims(self.folder)}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def _run(self, arguments: list[str]) -> int:
        if arguments[0] != "train":
            return run(arguments)
        out = arguments[arguments.index("--out") + 1]
        kept = self.kept / re.sub(r"\W+", "-", " ".join(arguments))
        if not kept.exists():
            if code := run(arguments):
                return code
            shutil.copytree(self.folder / out, kept)
        shutil.copytree(kept, self.folder / out, dirs_exist_ok=True)
        print(out)  # noqa: T201
        return 0


def _serve(arguments: list[str], folder: Path) -> tuple[int, str, str]:
    port = free_port()
    short = ["--workers", "1", "--drain-s", "0"]
    command = Command(*arguments, *short, "--port", str(port), cwd=folder)
    try:
        wait_until(lambda: command.process.poll() is not None or _is_there(port), within_s=120)
        command.send(signal.SIGTERM)
        return command.ends()
    finally:
        command.stop()


def _is_there(port: int) -> bool:
    """Ready, or asking for a key."""
    try:
        return plain.get(f"http://127.0.0.1:{port}/health/ready").status_code != 503
    except httpx.TransportError:
        return False


def _shims(folder: Path) -> Path:
    """A folder with a `marmot` that is this tree's."""
    marmot = folder.parent / "bin" / "marmot"
    marmot.parent.mkdir(exist_ok=True)
    marmot.write_text(
        f"""#!/bin/sh
PYTHONPATH='{ROOT}' exec '{sys.executable}' -c 'from service.marmot import main; main()' "$@"
"""
    )
    marmot.chmod(0o755)
    return marmot.parent
