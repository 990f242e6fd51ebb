"""`marmot doctor`: what is broken is found, said with what to do, and told by the exit code."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from cache.keys import KEEP
from models.bundle import load_bundle
from service import doctor as examination
from service.marmot import run
from service.plan import GIB, plan
from service.wanted import Wanted
from tests import plain
from tests.bundles import make_bundle
from tests.servers import RedisServer, flush

Doctor = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def doctor(
    capsys: pytest.CaptureFixture[str],
    tiny_bundle: Path,
    tmp_path: Path,
    free_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> Doctor:
    """Runs it on a good bundle, store and port, unless told otherwise: exit code, findings."""
    monkeypatch.setattr(examination, "STORE_TIMEOUT_S", plain.PATIENCE_S)

    def call(**options: Any) -> tuple[int, dict[str, Any]]:
        whole = {
            "bundle": tiny_bundle, "cache": f"lmdb:{tmp_path}/cache", "port": free_port, **options,
        }  # fmt: skip
        arguments = [str(part) for name, value in whole.items() for part in (f"--{name}", value)]
        code = run(["doctor", *arguments, "--json"])
        out, err = capsys.readouterr()
        assert err == ""
        found = json.loads(out.splitlines()[-1])
        assert found["ok"] == (code == 0)
        for finding in found["findings"]:
            assert finding["found"] in out
            assert finding["todo"] or finding["state"] == "ok"
        return code, {finding["part"]: finding for finding in found["findings"]}

    return call


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[Redis]:
    """A client of the real server, which has its own settings back afterwards."""
    flush(redis_server.url)
    with Redis.from_url(redis_server.url) as client:
        yield client
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")
        client.flushdb()


def test_a_healthy_house(doctor: Doctor, tmp_path: Path) -> None:
    """All parts are fine, the exit code is 0, and nothing was made."""
    code, found = doctor()
    assert code == 0
    assert list(found) == ["python", "packages", "provider", "bundle", "engine", "store", "port"]
    assert {finding["state"] for finding in found.values()} == {"ok"}
    assert not (tmp_path / "cache").exists()


def test_a_damaged_bundle_is_broken(doctor: Doctor, tiny_bundle: Path, tmp_path: Path) -> None:
    """A file that is not what the manifest says is named."""
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    with (tmp_path / "bundle/append.onnx").open("ab") as file:
        file.write(b"!")
    code, found = doctor(bundle=tmp_path / "bundle")
    assert code == 1
    assert found["bundle"]["state"] == "broken"
    assert "append.onnx has sha256" in found["bundle"]["found"]


def test_a_taken_port_is_broken(doctor: Doctor) -> None:
    """A port that somebody listens on is found taken."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        code, found = doctor(port=other.getsockname()[1])
    assert code == 1
    assert found["port"]["state"] == "broken"


@pytest.mark.parametrize("url", ["redis://:secret@127.0.0.1:{port}/0", "nonsense:x"])
def test_a_store_that_is_not_there_is_broken(doctor: Doctor, free_port: int, url: str) -> None:
    """A store that does not answer, or is none, is broken, and its password is not shown."""
    code, found = doctor(cache=url.format(port=free_port))
    assert code == 1
    assert found["store"]["state"] == "broken"
    assert "secret" not in json.dumps(found)


def test_a_provider_that_is_not_there_is_broken(doctor: Doctor) -> None:
    """What no installed runtime has is said."""
    code, found = doctor(provider="openvino")
    assert code == 1
    assert found["provider"]["state"] == "broken"
    assert doctor(provider="abacus")[1]["provider"]["state"] == "broken"


@pytest.mark.parametrize(
    ("policy", "most_bytes", "state"),
    [
        ("allkeys-lru", "100mb", "warn"),
        ("noeviction", "100mb", "warn"),
        ("volatile-lru", "0", "warn"),
        ("volatile-lru", "100mb", "ok"),
    ],
)
def test_what_the_store_would_evict(
    doctor: Doctor,
    redis_server: RedisServer,
    store: Redis,
    policy: str,
    most_bytes: str,
    state: str,
) -> None:
    """A policy that can drop timelines, or a store without a limit, is warned of, not broken."""
    store.config_set("maxmemory", most_bytes)
    store.config_set("maxmemory-policy", policy)
    code, found = doctor(cache=redis_server.url)
    assert code == 0
    assert found["store"]["state"] == "ok"
    assert found["eviction"]["state"] == state
    assert store.dbsize() == 0


def test_what_the_store_keeps(doctor: Doctor, redis_server: RedisServer, store: Redis) -> None:
    """A store that keeps fewer events than the bundle needs, or than asked for, is broken."""
    store.set(KEEP, 5)
    code, found = doctor(cache=redis_server.url)
    assert (code, found["keep"]["state"]) == (1, "broken")
    store.set(KEEP, 2_000)
    assert doctor(cache=redis_server.url)[1]["keep"]["state"] == "ok"
    assert doctor(cache=redis_server.url, keep=1_000)[1]["keep"]["state"] == "broken"


def test_memory_against_the_plan(doctor: Doctor, redis_server: RedisServer, store: Redis) -> None:
    """Users that do not fit into maxmemory are warned of."""
    store.config_set("maxmemory", "100mb")
    assert doctor(cache=redis_server.url, users=100)[1]["memory"]["state"] == "ok"
    assert doctor(cache=redis_server.url, users=1e6)[1]["memory"]["state"] == "warn"
    assert "disk" in doctor(users=1e12)[1]["memory"]["found"]


@pytest.mark.parametrize(
    "fields",
    [
        {"family": "vista", "summary": 4, "refresh_events": 4, "history": 500},
        {"history": 40, "search": 4},
        {"family": "stca"},
    ],
    ids=["summary", "search", "timelines"],
)
def test_what_families_keep(doctor: Doctor, tmp_path: Path, fields: dict[str, Any]) -> None:
    """A summary, records of every event, or timelines alone: what doctor and the plan count."""
    bundle = make_bundle(tmp_path / "family", **fields)
    spec = load_bundle(bundle).spec
    told = doctor(bundle=bundle, users=1e6)[1]["memory"]["found"]
    wanted = Wanted(10**6, spec)
    assert plan(wanted).user_bytes == pytest.approx(
        wanted.footprint.user_bytes(wanted.most_records, wanted.events), rel=0.03
    )
    need = 1e6 * wanted.footprint.user_bytes(wanted.most_records, wanted.events)
    assert told.startswith(f"1,000,000 full users take {need / GIB:.1f} GiB")
