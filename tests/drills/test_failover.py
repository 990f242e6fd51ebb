"""Servers that take over from each other while events are written, and slots that move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cache.keys import RedisKeys, owner_of
from tests.clusters import RedisCluster, RedisSentinel, ask, running_cluster, running_sentinel
from tests.drills.load import USERS, Load
from tests.servers import RedisServer, free_port, wait_until

DOWN_AFTER_MS = 500
"""How long a server is silent before the others take over from it, where one is to fail."""

TILT_S = 90.0
"""Sentinels who find that time has jumped, because the machine stood still, do nothing for 30 s."""


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    with running_cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
def own_sentinel(tmp_path: Path) -> Iterator[RedisSentinel]:
    with running_sentinel(tmp_path, 2) as sentinel:
        yield sentinel


def slot_of(cluster: RedisCluster, user: str) -> int:
    place = RedisKeys(owner_of(user))
    slot: int = ask(cluster.servers[0], "CLUSTER", "KEYSLOT", place.timeline)
    return slot


def is_followed(heir: RedisServer, *, instead_of: RedisServer) -> bool:
    """Whether another server has taken over, and a replica follows it: asked anew each time,
    because it too may be silent for too long.
    """
    if heir is instead_of:
        return False
    role = ask(heir, "ROLE")
    return role[0] == b"master" and len(role[2]) == 1


FAULTS = pytest.mark.parametrize("fault", ["kill", pytest.param("pause", marks=pytest.mark.drill)])


@FAULTS
def test_sentinel(
    serve_as_deployed: Callable[..., Any],
    own_sentinel: RedisSentinel,
    fault: str,
    passed: Callable[..., Any],
) -> None:
    """A master is lost during writes: its replica takes over with all that was acknowledged."""
    with Load(serve_as_deployed(cache=own_sentinel.url, store_acks=1)) as load:
        own_sentinel.take_over_after(DOWN_AFTER_MS)
        lost = own_sentinel.master
        getattr(lost, fault)()
        wait_until(lambda: is_followed(own_sentinel.master, instead_of=lost), within_s=60 + TILT_S)
        load.until_back()
        if fault == "pause":
            lost.resume()
            load.hold(1.0)
    outcome = passed(f"Sentinel: master lost ({fault}), 1 ack", load)
    assert outcome.refused


@FAULTS
def test_cluster(
    serve_as_deployed: Callable[..., Any],
    own_cluster: RedisCluster,
    fault: str,
    passed: Callable[..., Any],
) -> None:
    """A primary is lost during writes: its replica takes over with all that was acknowledged."""
    with Load(serve_as_deployed(cache=own_cluster.url, store_acks=1)) as load:
        slot = slot_of(own_cluster, USERS[0])
        own_cluster.take_over_after(DOWN_AFTER_MS)
        lost = own_cluster.owner(slot)
        getattr(lost, fault)()
        wait_until(lambda: own_cluster.owner(slot) is not lost)
        if fault == "pause":
            lost.resume()
        else:
            lost.start()
        wait_until(lambda: is_followed(own_cluster.owner(slot), instead_of=lost))
        load.until_back()
        load.hold(0.5)
    outcome = passed(f"Cluster: primary lost ({fault}), 1 ack", load)
    assert outcome.refused or fault == "pause"


def test_resharding(
    serve_as_deployed: Callable[..., Any], own_cluster: RedisCluster, passed: Callable[..., Any]
) -> None:
    """Slots move key by key while they are read and written: nobody notices."""
    with Load(serve_as_deployed(cache=own_cluster.url, store_acks=1)) as load:
        names = own_cluster.names()
        for user in USERS:
            slot = slot_of(own_cluster, user)
            source = own_cluster.owner(slot)
            target = next(s for s in own_cluster.servers[:3] if s is not source)
            ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", names[source.port])
            ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", names[target.port])
            while keys := ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 1):
                ask(source, "MIGRATE", "127.0.0.1", target.port, keys[0], 0, 5000)
            for server in (target, source, own_cluster.servers[2]):
                ask(server, "CLUSTER", "SETSLOT", slot, "NODE", names[target.port])
        load.until_back()
    outcome = passed("Cluster: 20 slots moved", load)
    assert outcome.refused == outcome.excused


@pytest.mark.parametrize("form", ["redis+cluster://{}", "redis+sentinel://{}/marmot"])
def test_a_service_starts_without_them(serve_as_deployed: Callable[..., Any], form: str) -> None:
    """Ready is not a matter of the store, whichever it is."""
    running = serve_as_deployed(cache=form.format(f"127.0.0.1:{free_port()}"))
    assert running.client.get("/health/ready").status_code == 200
    assert running.rank("u", [1])["cache"]["state"] == "away"
