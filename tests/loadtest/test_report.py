from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from rich.console import Console
from typer.testing import CliRunner

from loadtest.cli import app
from loadtest.report import render
from loadtest.results import Result, quantiles_ms, stages_ms, summary
from tests.loadtest.stage import Stage
from tests.ports import free_port
from tests.servers import wait_until

ROOT = Path(__file__).parents[2]


def test_json_line(stage: Stage) -> None:
    """`--json` ends stdout with one line that says what was asked and what came of it."""
    done = CliRunner().invoke(
        app,
        [
            "load",
            "--url",
            stage.url,
            "--rate",
            "100",
            "--duration-s",
            "0.5",
            "--json",
            "--seed",
            "7",
        ],
    )
    assert done.exit_code == 0, done.output
    report = orjson.loads(done.stdout.splitlines()[-1])
    assert report["mode"] == "open"
    assert report["seed"] == 7
    assert report["fingerprint"] == "0123456789abcdef"
    assert report["requests"] == report["ok"] == len(stage.asked)
    assert report["errors"] == {}
    assert set(report["latency_ms"]["rank"]) == {"p50", "p90", "p99", "p99.9", "max"}
    assert report["server_ms"]["run"]["p50"] == 1.5
    assert report["late_ms"]["p50"] >= 0
    assert report["cache"] == {"hit": sum(path == "/v1/rank" for path, _ in stage.asked)}
    assert report["throughput_rps"] > 0
    assert report["generator_cpu_s"] > 0


def test_table(stage: Stage) -> None:
    """Without `--json` a person reads quantiles from due, server stages and own lateness."""
    done = CliRunner().invoke(
        app, ["load", "--url", stage.url, "--rate", "100", "--duration-s", "0.3"]
    )
    assert done.exit_code == 0, done.output
    for words in ("p99.9", "rank, from due", "server: run", "this generator, late", "cache: hit"):
        assert words in done.stdout


def test_closed(stage: Stage) -> None:
    """A closed loop is reported as one, from the moment of sending."""
    done = CliRunner().invoke(
        app, ["load", "--url", stage.url, "--closed", "2", "--duration-s", "0.2", "--json"]
    )
    assert done.exit_code == 0, done.output
    assert "2 connections, closed loop" in done.stdout
    assert orjson.loads(done.stdout.splitlines()[-1])["mode"] == "closed"


def test_not_ready(stage: Stage) -> None:
    """A service that is not ready is not put under load: one sentence, exit code 1."""
    stage.ready = 503
    done = CliRunner().invoke(app, ["load", "--url", stage.url])
    assert done.exit_code == 1
    assert done.stdout == ""
    assert str(done.exception) == (
        f"{stage.url}: the service is not ready (status 503); `make serve` starts one"
    )
    assert stage.asked == []


def test_no_service() -> None:
    """Where no service listens, the sentence names the address."""
    url = f"http://127.0.0.1:{free_port()}"
    done = CliRunner().invoke(app, ["load", "--url", url])
    assert done.exit_code == 1
    assert str(done.exception).startswith(f"{url}: the service is not ready (Connect")


@pytest.mark.parametrize(
    "arguments",
    [["--rate", "0"], ["--candidates", "0"], ["--url", "ftp://x"], ["--events-share", "2"]],
)
def test_bad_usage(arguments: list[str]) -> None:
    """A value that makes no sense is bad usage: exit code 2, and the option is named."""
    done = CliRunner().invoke(app, ["load", *arguments])
    assert done.exit_code == 2
    assert arguments[0] in done.stderr


def test_all_refused(stage: Stage) -> None:
    """A run in which nothing was answered with 200 has failed."""
    stage.statuses = iter([503] * 1_000)
    done = CliRunner().invoke(
        app, ["load", "--url", stage.url, "--rate", "50", "--duration-s", "0.2"]
    )
    assert done.exit_code == 1
    assert "errors: 503" in done.stdout
    assert "no request was answered with 200" in str(done.exception)


def test_server_timing() -> None:
    """Stage times are read from Server-Timing, whatever spaces and descriptions stand in it."""
    header = 'cache;dur=0.5, queue ; dur=1,run;desc="the graph";dur=2.25, total;dur=4'
    assert stages_ms(header) == {"cache": 0.5, "queue": 1.0, "run": 2.25, "total": 4.0}
    assert stages_ms("") == {}


def test_summary() -> None:
    """Throughput counts answers only, and quantiles are of latency from due, in milliseconds."""
    results = [
        Result("rank", i * 0.01, i * 0.01 + 0.001, i * 0.01 + 0.005, "200") for i in range(99)
    ]
    report = summary([*results, Result("rank", 0.99, 0.99, 1.0, "timeout")])
    assert report["elapsed_s"] == 1.0
    assert report["throughput_rps"] == 99.0
    assert report["errors"] == {"timeout": 1}
    assert report["latency_ms"]["rank"]["p50"] == pytest.approx(5.0)
    assert report["late_ms"]["p99"] == pytest.approx(1.0)
    assert quantiles_ms([]) == {}


def test_late_generator_says_so() -> None:
    """When the generator itself was late, the table says that the figures include it."""
    results = [
        Result("rank", i * 0.01, i * 0.01 + 0.02, i * 0.01 + 0.03, "200") for i in range(100)
    ]
    report = {
        "mode": "open",
        "url": "http://somewhere",
        "rate": 100.0,
        "arrivals": "poisson",
        "candidates": 1,
        "generator_cpu_s": 0.1,
        **summary(results),
    }
    console = Console(file=io.StringIO(), width=120)
    console.print(render(report))
    assert "20.0 ms late or more" in console.file.getvalue()


def test_locust(stage: Stage, tmp_path: Path) -> None:
    """The locustfile's users ask a running service real questions, with a share of events."""
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest/locustfile.py")]
    options = ["--headless", "--users", "20", "--spawn-rate", "20"]
    ours = ["--candidates", "7", "--events-share", "0.5"]

    def has_asked() -> bool:
        asked = stage.asked.copy()
        return len(asked) > 10 and {path for path, _ in asked} == {"/v1/rank", "/v1/events"}

    with subprocess.Popen(  # noqa: S603 - our own interpreter and our own file
        [*command, *options, *ours, "-H", stage.url],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as locust:
        try:
            wait_until(lambda: has_asked() or locust.poll() is not None)
            locust.terminate()
            said, _ = locust.communicate()
        finally:
            locust.kill()
    assert locust.returncode == 0, said  # it is 1 when a request failed
    assert has_asked()
    assert all(len(body["candidates"]) == 7 for path, body in stage.asked if path == "/v1/rank")
