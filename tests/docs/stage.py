"""Where the commands of a page are typed.

- `localhost:8000` is the service of the test, and after a `marmot serve` that one, until its block
  ends; then it is asked once, stopped, and must end well.
- `redis://localhost` is the Redis of the test, and so is `redis://old`; `redis://new` is another
  database of it.
- What would go on is stopped as soon as it has begun: `marmot consume`, `curl -N`.
- `make` says what it would do: `.ci/run` does it.
- `marmot train` of the same files and options makes one bundle for all pages.
- Every other plain `marmot` command runs in this process, made short (`tests/docs/short.py`); all
  else goes to bash, where `curl` fails on every answer that is an error.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from service.marmot import run
from tests import plain
from tests.docs.short import shortened
from tests.servers import ROOT, Command, Running, free_port, wait_until

#: One `marmot` command, and the file that takes what it prints.
_PLAIN = re.compile(r"(marmot [^|<>;&$`*]*?)(?: > (\S+))?")
_REDIS = re.compile(r"redis://(localhost|old|new)\b(?:/(\d+))?")
#: What a page says that it waits is less than a busy machine may take.
_DEADLINE = re.compile(r'(\bdeadline_m?s"?[=:] ?)[\d.]+')
_MILLION = re.compile(r"(?<=models.retrieval_bench --items )\d+")
#: What a service is asked that a page starts: before the first event that there is.
_QUESTION = {"user_id": 42, "candidates": [*range(1, 400)], "timestamp": 893_276_638}


class Stage:
    """A folder to type commands in, and a service that answers."""

    def __init__(
        self,
        folder: Path,
        start: Callable[[], Running],
        redis_url: str,
        kept: Path,
        screen: pytest.CaptureFixture[str],
    ) -> None:
        self.folder, self.screen = folder, screen
        self._start, self._redis_url, self._kept = start, redis_url.removesuffix("/0"), kept
        self._running: Running | None = None
        self._typed: tuple[Command, int] | None = None

    @property
    def port(self) -> int:
        """Of the service that is asked now."""
        if self._typed:
            return self._typed[1]
        if self._running is None:
            self._running = self._start()
        return self._running.port

    def put(self, text: str) -> str:
        """What a page types, at this service and these stores."""
        for host in ("localhost:8000", "127.0.0.1:8000"):
            if host in text:
                text = text.replace(host, f"127.0.0.1:{self.port}")
        text = _MILLION.sub("2000", _DEADLINE.sub(r"\g<1>60000", text))
        text = re.sub("^make ", f"make -n -C {shlex.quote(str(ROOT))} ", text)
        return _REDIS.sub(lambda at: f"{self._redis_url}/{at[2] or int(at[1] == 'new')}", text)

    def type(self, text: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of one command."""
        text = self.put(text)
        alone = _PLAIN.fullmatch(text.partition(" #")[0].rstrip())
        words = shlex.split(alone[1]) if alone else []
        if words[:2] == ["marmot", "serve"] and "nowhere" not in words:
            return self._serve(shortened(words[1:]))
        if words[:2] == ["marmot", "consume"] and "--until-empty" not in words:
            return self._until(words[1:], "--metrics-port", "/metrics")
        if "ray" in words:  # its warnings are not ours
            return self._bash(shlex.join(["marmot", *shortened(words[1:])]))
        if alone and words[1] != "--install-completion":
            self.screen.readouterr()
            code = self._run(shortened(words[1:]))
            out, err = self.screen.readouterr()
            if alone[2]:
                (self.folder / alone[2]).write_text(out)
            return code, out, err
        return self._bash(text)

    def end_block(self) -> None:
        """Asks the service that the block has started, and stops it."""
        if self._typed is None:
            return
        (command, port), self._typed = self._typed, None
        try:
            answer = plain.post(f"http://127.0.0.1:{port}/v1/rank", json=_QUESTION)
            assert answer.status_code in {200, 401}, answer.text
            command.send(signal.SIGTERM)
            code, out, err = command.ends()
            assert code == 0, f"marmot serve: exit code {code}\n{out}{err}"
        finally:
            command.stop()

    def close(self) -> None:
        """Stops what still runs."""
        if self._typed:
            self._typed[0].stop()
        if self._running:
            self._running.stop()

    def _serve(self, arguments: list[str]) -> tuple[int, str, str]:
        self.end_block()
        port = free_port()
        command = Command(*arguments, "--port", str(port), cwd=self.folder)
        wait_until(lambda: command.process.poll() is not None or _answers(port, "/health/ready"))
        if command.process.poll() is not None:
            return command.ends()
        self._typed = command, port
        return 0, "", ""

    def _until(self, arguments: list[str], option: str, path: str) -> tuple[int, str, str]:
        """A command that goes on, until it answers on a port of its own."""
        port = free_port()
        command = Command(*arguments, option, str(port), cwd=self.folder)
        try:
            wait_until(lambda: command.process.poll() is not None or _answers(port, path))
            command.send(signal.SIGTERM)
            return command.ends()
        finally:
            command.stop()

    def _run(self, arguments: list[str]) -> int:
        if arguments[0] != "train" or {"--stage", "--stream"} & set(arguments):
            return run(arguments)
        out = arguments[arguments.index("--out") + 1]
        kept = self._kept / _digest(arguments)
        if not kept.exists():
            if code := run(arguments):
                return code
            shutil.copytree(self.folder / out, kept)
        shutil.copytree(kept, self.folder / out, dirs_exist_ok=True)
        print(out)  # noqa: T201
        return 0

    def _bash(self, text: str) -> tuple[int, str, str]:
        # `:` at the end: a bash with one command becomes that, and `marmot` asks whose child it is.
        with subprocess.Popen(  # noqa: S603
            ["/bin/bash", "-euo", "pipefail", "-c", f"{text}\n:"],
            cwd=self.folder,
            env={**os.environ, **_home(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as bash:
            try:
                if text.startswith("curl -sN"):
                    return 0, _until_data(bash), ""
                out, err = bash.communicate(timeout=300)
                return bash.returncode, out, err
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(bash.pid, signal.SIGKILL)


def _until_data(bash: subprocess.Popen[str]) -> str:
    """What a stream of events says up to its first one."""
    assert bash.stdout is not None
    said = ""
    for line in bash.stdout:
        said += line
        if line.startswith("data:"):
            return said
    raise AssertionError(f"no event: {said}")


def _digest(arguments: list[str]) -> str:
    """One for the same options and files, whatever these are called and wherever it goes to."""
    told = dict(pairwise(arguments))
    given = [told.get(option) for option in ("--events", "--items")]
    words = [word for word in arguments if word not in {*given, told["--out"]}]
    files = b"".join(Path(name).read_bytes() if name else b"-" for name in given)
    return hashlib.sha256(" ".join(words).encode() + files).hexdigest()


def _answers(port: int, path: str) -> bool:
    """Ready, or asking for a key."""
    try:
        return plain.get(f"http://127.0.0.1:{port}{path}").status_code != 503
    except httpx.TransportError:
        return False


def _home(folder: Path) -> dict[str, str]:
    """The environment of somebody whose `marmot` and `python` are this tree's."""
    home = folder.parent / "home"
    (home / "bin").mkdir(parents=True, exist_ok=True)
    for name, more in (("marmot", "-c 'from service.marmot import main; main()' "), ("python", "")):
        script = home / "bin" / name
        path = f"PYTHONPATH='{ROOT}'${{PYTHONPATH:+:$PYTHONPATH}}"
        script.write_text(f"#!/bin/sh\n{path} exec '{sys.executable}' {more}\"$@\"\n")
        script.chmod(0o755)
    (home / ".curlrc").write_text("fail-with-body\n")
    return {"HOME": str(home), "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"}
