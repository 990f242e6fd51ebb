"""`marmot serve` and `marmot backfill` as processes of their own."""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import plain
from tests.servers import is_up, wait_until

Marmot = Callable[..., Any]
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def service(
    marmot: Marmot, tiny_bundle: Path, tmp_path: Path, free_port: int, until: Callable[..., Any]
) -> Callable[..., tuple[Any, str]]:
    """Starts `marmot serve` and waits until it is ready."""

    def start(*options: str, **env: str) -> tuple[Any, str]:
        url = f"http://127.0.0.1:{free_port}"
        command = marmot(
            "serve", "--bundle", tiny_bundle, "--cache", f"lmdb:{tmp_path}/cache",
            "--port", str(free_port), *options, **env,
        )  # fmt: skip
        until(lambda: is_up(url) or command.process.poll() is not None)
        assert command.process.poll() is None, command.ends()
        return command, url

    return start


def write_events(path: Path, *, users: int = 5, events: int = 40) -> Path:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user_id", "item_id", "timestamp", "like", "feedback_timestamp"])
        for user in range(users):
            for place in range(events):
                like = ("", 0, 1)[(user + place) % 3]
                rows.writerow([f"u{user}", place % 30 + 1, 10_000 * place + user, like, 10**6])
    return path


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_it_serves_and_ends_cleanly(service: Any) -> None:
    """Ready, answers, and after SIGTERM the exit code is 0 and stdout was never written to.

    Every line that it logs is an object where that is asked for.
    """
    command, url = service("--drain-s", "0", MARMOT_LOG_FORMAT="json")
    answer = plain.post(f"{url}/v1/rank", json={"user_id": "u", "candidates": [1, 2]})
    assert answer.status_code == 200
    command.send(signal.SIGTERM)
    code, out, err = command.ends()
    assert code == 0, err
    assert out == ""
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if not line.startswith("marmot:")]
    assert [json.loads(line)["event"] for line in lines].count("ready") == 1


def test_a_draining_service_is_not_ready_and_still_answers(service: Any, until: Any) -> None:
    """After SIGTERM readiness is withdrawn first; requests are answered until the door closes.

    A connection that was open gets its answer, hears that it is the last, and ends.
    """
    command, url = service("--drain-s", "60")
    asked = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
    line = plain.line(port_of(url))
    line.sendall(asked)
    assert b"connection: close" not in line.recv(65_536)
    command.send(signal.SIGTERM)

    def unready() -> Any:
        answer = plain.get(f"{url}/health/ready")
        return answer if answer.status_code == 503 else None

    answer = until(unready)
    assert answer.headers["retry-after"]
    assert answer.headers["connection"] == "close"
    ranked = plain.post(f"{url}/v1/rank", json={"user_id": "u", "candidates": [1]})
    assert ranked.status_code == 200
    assert plain.get(f"{url}/health/live").status_code == 200
    with line:
        line.sendall(asked)
        said = line.recv(65_536)
        assert said.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in said
        assert line.recv(65_536) == b""
    command.send(signal.SIGINT)  # which does not wait for the door to close
    _, _, err = command.ends()
    assert "Traceback" not in err


def test_nothing_in_flight_is_lost_at_the_end(service: Any, until: Any) -> None:
    """A request whose body is still coming when SIGTERM arrives is answered."""
    command, url = service("--drain-s", "0", MARMOT_BODY_TIMEOUT_S="60")
    body = b'{"user_id": "u", "candidates": [1]}'
    with plain.line(port_of(url)) as line:
        head = f"POST /v1/rank HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        line.sendall(head.encode() + body[:5])
        until(lambda: "in_flight 2.0" in plain.get(f"{url}/metrics").text)
        command.send(signal.SIGTERM)
        until(lambda: not is_up(url))
        line.sendall(body[5:])
        assert line.recv(65_536).startswith(b"HTTP/1.1 200")
    assert command.ends()[0] == 0


def test_a_killed_worker_is_replaced(service: Any, until: Any) -> None:
    """Of two workers one is killed: every request is answered, and soon there are two again."""
    command, url = service("--workers", "2", "--drain-s", "0")
    until(lambda: len(workers_of(command.process.pid)) == 2)
    before = workers_of(command.process.pid)
    os.kill(min(before), signal.SIGKILL)

    def is_replaced() -> bool:
        answer = plain.post(f"{url}/v1/rank", json={"user_id": "u", "candidates": [1]})
        assert answer.status_code == 200
        now = workers_of(command.process.pid)
        return len(now) == 2 and now != before

    until(is_replaced)
    command.send(signal.SIGTERM)
    assert command.ends()[0] == 0


def workers_of(pid: int) -> set[int]:
    """The processes that serve: children of the command, but not multiprocessing's own helper."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in children if b"spawn_main" in command_of(child)}


def command_of(pid: str) -> bytes:
    """Of a process; one that has just gone has none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_workers_share_store_and_metrics(service: Any) -> None:
    """Two workers answer on one port, read each other's writes, and one scrape shows both.

    When the first process is killed they do not go on alone.
    """
    command, url = service("--workers", "2", "--drain-s", "0")
    sent = 40
    for place in range(sent):  # a connection each, so that both workers get some
        event = {"user_id": "u", "item_id": 1, "timestamp": 1_000 + place}
        (result,) = plain.post(f"{url}/v1/events", json={"events": [event]}).json()["results"]
        found = plain.post(f"{url}/v1/rank", json={"user_id": "u", "candidates": [1]}).json()
        assert found["cache"]["version"] == result["version"]
    line = f'marmot_requests_total{{method="POST",route="/v1/rank",status="200"}} {sent}.0'
    # The worker that is not asked counts its last answers a moment later.
    wait_until(lambda: line in plain.get(f"{url}/metrics").text)
    command.send(signal.SIGKILL)
    command.ends()  # once nobody holds its pipes
    assert not is_up(url)


def damage(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)


def edit(bundle: Path, **fields: Any) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, **fields}))


@pytest.mark.parametrize(
    "spoilt",
    [
        (lambda bundle: damage(bundle, "rank.onnx"), "rank.onnx has sha256"),
        (lambda bundle: (bundle / "append.onnx").unlink(), "append.onnx is missing"),
        (lambda bundle: edit(bundle, opset=1), "opset 1"),
        (lambda bundle: edit(bundle, spec={"depth": 2}), "spec fields do not fit"),
        (shutil.rmtree, "no bundle at"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "backfill"])
def test_a_bundle_that_does_not_fit(
    cli: Cli, tiny_bundle: Path, tmp_path: Path, command: str, spoilt: tuple[Any, str]
) -> None:
    """A spoilt bundle is refused in one sentence that says what differs."""
    spoil, said = spoilt
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    spoil(bundle)
    options: list[Any] = ["--bundle", bundle, "--cache", f"lmdb:{tmp_path}/cache"]
    if command == "backfill":
        options += ["--events", write_events(tmp_path / "events.csv")]
    else:
        options += ["--port", "0"]
    code, out, err = cli(command, *options)
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith("marmot: ")
    assert said in last
    assert "Traceback" not in err


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_shell_hears_of_failures(
    marmot: Marmot, tiny_bundle: Path, tmp_path: Path, workers: str
) -> None:
    """The exit code and the one sentence come out of the process too."""
    options = ["--bundle", tiny_bundle, "--cache", f"lmdb:{tmp_path}/cache", "--provider", "cuda"]
    code, out, err = marmot("serve", *options, "--port", "0", "--workers", workers).ends()
    assert (code, out) == (1, "")
    assert "cuda" in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize("workers", ["1", "2"])
def test_options_that_make_no_sense(
    cli: Cli, tiny_bundle: Path, tmp_path: Path, workers: str
) -> None:
    """Bad usage is exit code 2, a failure is 1, and both are one sentence."""
    cache = f"lmdb:{tmp_path}/cache"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for options, code, said in [
            (["--cache", "mysql://x"], 2, "cache URL"),
            (["--cache", "redis://:bad:port"], 2, "cache URL"),
            (["--cache", cache, "--keep", "1"], 2, "keep"),
            (["--cache", cache, "--port", "70000"], 2, "port"),
            (["--cache", cache, "--provider", "cuda"], 1, "cuda"),
            (["--cache", cache, "--port", port], 1, port),
        ]:
            given = ["--port", "0", "--workers", workers, "--bundle", tiny_bundle, *options]
            found, out, err = cli("serve", *given)
            assert (found, out) == (code, ""), (options, err)
            assert said in err.splitlines()[-1]
            assert "Traceback" not in err


def test_a_backfill_equals_posting(
    service: Any, cli: Cli, tiny_bundle: Path, tmp_path: Path
) -> None:
    """A backfilled store scores as one that was posted to, and a second run changes nothing."""
    events = write_events(tmp_path / "events.csv")
    command, url = service("--drain-s", "0")
    with events.open() as file:
        rows = list(csv.DictReader(file))
    sent = [
        {
            "user_id": row["user_id"], "item_id": row["item_id"],
            "timestamp": int(row["timestamp"]), "feedback_timestamp": 10**6,
            "feedback": {"like": int(row["like"])} if row["like"] else {},
        }
        for row in rows
    ]  # fmt: skip
    for place in range(0, len(sent), 9):
        answer = plain.post(f"{url}/v1/events", json={"events": sent[place : place + 9]})
        assert answer.status_code == 200
    ask = {"user_id": "u1", "candidates": list(range(1, 31)), "timestamp": 10**7}
    posted = plain.post(f"{url}/v1/rank", json=ask).json()
    shown = plain.get(f"{url}/v1/users/u1/timeline").json()["events"]
    command.send(signal.SIGTERM)
    assert command.ends()[0] == 0
    shutil.rmtree(tmp_path / "cache")
    options = ["--bundle", tiny_bundle, "--cache", f"lmdb:{tmp_path}/cache"]
    options += ["--events", events, "--json"]
    for status in ("appended", "duplicate"):
        code, out, err = cli("backfill", *options)
        assert code == 0, err
        told = json.loads(out.splitlines()[-1])
        assert told == {"users": 5, "events": len(rows), "statuses": {status: len(rows)}}
    command, url = service("--drain-s", "0")
    filled = plain.post(f"{url}/v1/rank", json=ask).json()
    assert filled["cache"]["state"] == "hit"
    assert plain.get(f"{url}/v1/users/u1/timeline").json()["events"] == shown
    for one, other in zip(posted["scores"]["like"], filled["scores"]["like"], strict=True):
        assert abs(one - other) <= 1e-4


def test_a_store_remembers_what_it_keeps(cli: Cli, tiny_bundle: Path, tmp_path: Path) -> None:
    """`backfill` and `serve` that disagree on --keep are refused, exit code 2."""
    events = write_events(tmp_path / "events.csv", users=1)
    options = ["--bundle", tiny_bundle, "--cache", f"lmdb:{tmp_path}/cache"]
    assert cli("backfill", *options, "--events", events, "--keep", "5000")[0] == 0
    code, _, err = cli("serve", *options, "--keep", "6000", "--port", "0")
    assert code == 2
    assert "5000" in err
    assert "6000" in err


@pytest.mark.parametrize("text", ["", "user_id\n", "user_id,item_id,timestamp,like\nu,i,x,1\n"])
def test_an_events_file_that_cannot_be_read(
    cli: Cli, tiny_bundle: Path, tmp_path: Path, text: str
) -> None:
    """Exit code 1 and a sentence that names the file."""
    events = tmp_path / "events.csv"
    events.write_text(text)
    options = ["--bundle", tiny_bundle, "--cache", f"lmdb:{tmp_path}/cache"]
    code, out, err = cli("backfill", *options, "--events", events)
    assert (code, out) == (1, "")
    assert "events.csv" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_starting_is_quick(service: Any) -> None:
    """From the command to ready takes little more of the processor than importing what it uses."""
    command, _ = service()
    started_s = cpu_s(command.process.pid)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    libraries = "numpy, onnxruntime, fastapi, uvicorn, pydantic_settings, prometheus_client, redis"
    subprocess.run([sys.executable, "-c", f"import {libraries}"], check=True)  # noqa: S603
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    imports_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert started_s < 3 * imports_s


def cpu_s(pid: int) -> float:
    """What a process has used so far; what others use beside it does not count."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
