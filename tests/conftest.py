"""Servers and bundles that every room of the tests asks for."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
import torch
from hypothesis import HealthCheck, settings

from service.marmot import run
from tests.bundles import make_bundle, make_stage
from tests.clusters import RedisCluster, running_cluster
from tests.ports import free_port
from tests.servers import Command, RedisServer, running_redis

Cli = Callable[..., tuple[int, str, str]]

# How long an example takes says something about the machine, and what fails must fail again:
# `--hypothesis-profile=wild` looks at other examples each time.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("wild", PATIENT)
settings.register_profile("steady", PATIENT, derandomize=True)
settings.load_profile("steady")


#: Files that take longest, longest first: begun last, one of them would run on one core alone.
LONGEST = (
    "laws/test_movielens.py",
    "laws/test_small_models.py",
    "docs/test_pages.py",
    "loadtest/test_bench.py",
    "service/test_cli.py",
    "test_order.py",
    "pages/test_playground.py",
    "laws/test_forgotten.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts by file only: the tests of a file stay together, and in their order."""
    here = Path(__file__).parent
    rank = {here / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


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
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three primaries with a replica each, shared by all tests."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of depth 3, window 8 and two tasks over sixty items, with random weights."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def tiny_stages(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The stages before ranking, with random weights, that read the tiny bundle's records."""
    folder = tmp_path_factory.mktemp("stages")
    stages = ("retrieval", "prerank")
    return {stage: make_stage(folder / stage, tiny_bundle, stage) for stage in stages}


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
def own_logs() -> Iterator[None]:
    """A service that starts takes the process for its own: gives it back."""
    log, heard = logging.getLogger(), signal.getsignal(signal.SIGTERM)
    handlers, level = log.handlers, log.level
    yield
    log.handlers, log.level = handlers, level
    structlog.reset_defaults()
    signal.signal(signal.SIGTERM, heard)


@pytest.fixture
def cli(own_logs: None, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs `marmot …` in this process, which a start costs nothing: exit code, stdout, stderr."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture(name="free_port")
def _free_port() -> int:
    return free_port()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small models run faster on one thread, and leave the others to other tests."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def subnormal_numbers() -> Iterator[None]:
    """Training and engines round them to zero, for this thread and all tests after theirs."""
    yield
    torch.set_flush_denormal(False)
