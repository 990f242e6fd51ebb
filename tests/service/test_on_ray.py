"""`--on ray`: what a cluster does is what one process does, also when a worker dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import pytest
from redis import Redis

from cache.timeline import Event
from service.house import open_model, open_store
from service.settings import read_settings
from tests.servers import ROOT, Command, RedisServer, flush

SPEC = find_spec("ray")
pytestmark = pytest.mark.skipif(SPEC is None, reason="the extra ray is not installed: 240 MB")

USERS = [f"u{number}" for number in range(40)]
CLOSE = 1e-4
WITHIN_S = 300

Cli = Callable[..., dict[str, Any]]

#: A cluster of two workers that ends with whoever holds its stdin.
CLUSTER = """
import sys, ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error",
         object_store_memory=80_000_000)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
ray.shutdown()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """The environment of those who use it; it is no part of this process, whose warnings count."""
    assert SPEC is not None
    assert SPEC.origin is not None
    path = os.pathsep.join([str(ROOT), str(Path(SPEC.origin).parents[1])])
    env = {**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"}
    # A busy machine is no broken one; Ray waits for half a minute unless told otherwise.
    env["RAY_raylet_start_wait_time_s"] = env["RAY_worker_register_timeout_seconds"] = str(WITHIN_S)
    env["RAY_agent_register_timeout_ms"] = f"{WITHIN_S}000"
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token_hex(32)}
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", CLUSTER],
        env=env | secret, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address
        yield {"PYTHONPATH": path, "RAY_ADDRESS": address, **secret}
        process.stdin.close()


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """Timelines of several windows."""
    random, path = np.random.default_rng(0), tmp_path / "events.csv"
    rows = [
        f"{user},{random.integers(60)},{1_000 + place},{random.integers(2)},{random.integers(2)}\n"
        for place in range(30)
        for user in USERS
    ]
    path.write_text("user_id,item_id,timestamp,like,share\n" + "".join(rows))
    return path


@pytest.fixture
def cli(marmot: Callable[..., Command], cluster: dict[str, str]) -> Cli:
    """Runs a command beside the cluster; its last line is JSON."""

    def call(*arguments: str | Path) -> dict[str, Any]:
        code, out, err = marmot(*arguments, "--json", **cluster).ends(WITHIN_S)
        assert code == 0, err
        assert len(out.splitlines()) == 1  # Ray says nothing where answers go
        found: dict[str, Any] = json.loads(out)
        return found

    return call


async def stored(bundle: Path, url: str) -> tuple[set[bytes], dict[str, list[Event]], Any]:
    """Every key of a store, every timeline, and every record as numbers."""
    async with AsyncExitStack() as stack:
        options = read_settings(bundle=bundle, cache=url, store_timeout_ms=20_000.0)
        model = open_model(options, stack)
        cache = await open_store(options, model)
        stack.push_async_callback(cache.close)
        found = {
            user: await cache.fetch(user, limit=1_000, layout=model.layout)
            for user in sorted([user async for user in cache.users()])
        }
    with Redis.from_url(url) as redis:
        keys = set(redis.scan_iter(count=1_000))
    for snapshot in found.values():
        assert snapshot.valid[-model.spec.reach :].all()
    rows = np.concatenate([snapshot.rows[snapshot.valid] for snapshot in found.values()])
    return keys, {u: list(s.timeline.events()) for u, s in found.items()}, rows["records"]


class Reaper(threading.Thread):
    """Kills the first worker it finds at work."""

    def __init__(self, work: str) -> None:
        super().__init__(daemon=True)
        self.work, self.killed = f"ray::{work}", 0
        self.is_over = threading.Event()

    def run(self) -> None:
        while not self.killed and not self.is_over.wait(0.005):
            for folder in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    if (folder / "cmdline").read_text().startswith(self.work):
                        os.kill(int(folder.name), signal.SIGKILL)
                        self.killed += 1
                        return


async def test_a_killed_worker_changes_nothing(
    cli: Cli, redis_server: RedisServer, tiny_bundle: Path, events: Path
) -> None:
    """The store has the same keys, ids and times, and the same records within law 1."""
    one, other = f"{redis_server.url[:-1]}1", f"{redis_server.url[:-1]}2"
    flush(one)
    flush(other)
    backfill = ["backfill", "--bundle", tiny_bundle, "--events", events, "--cache"]
    alone = cli(*backfill, one)
    reaper = Reaper("record_part")
    reaper.start()
    spread = cli(*backfill, other, "--on", "ray")
    reaper.is_over.set()
    assert reaper.killed == 1
    assert (spread["users"], spread["events"]) == (alone["users"], alone["events"]) == (40, 1_200)
    keys, timelines, records = await stored(tiny_bundle, one)
    found, same, close = await stored(tiny_bundle, other)
    assert found == keys
    assert same == timelines
    assert np.abs(close - records).max() <= CLOSE


def test_evaluation(cli: Cli, tiny_bundle: Path, events: Path) -> None:
    """The figures are those of one process."""
    evaluate = ["evaluate", "--bundle", tiny_bundle, "--events", events]
    alone = cli(*evaluate, "--via", "full")
    assert cli(*evaluate, "--via", "full", "--on", "ray") == alone
    found = cli(*evaluate, "--via", "cache", "--on", "ray")["metrics"]
    for task, figures in alone["metrics"].items():
        assert found[task] == pytest.approx(figures, abs=1e-3)
