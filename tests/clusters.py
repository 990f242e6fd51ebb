"""Several servers that belong together: a cluster, and a master with replicas under Sentinel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from redis import Redis

from tests.ports import free_port
from tests.servers import RedisServer

SLOTS = 16384
BRISK_MS = 5_000
"""How long a server is silent before the others call it dead, while they find each other: the
longer, the slower they are at it."""
STEADY_MS = 60_000
"""From then on: nobody is to fail, and a crowded machine keeps all of them waiting now and then."""


def _until(condition: Callable[[], Any], within_s: float = 90.0) -> Any:
    stop = time.monotonic() + within_s
    while not (found := condition()):
        if time.monotonic() > stop:
            raise RuntimeError("The servers did not come together.")
        time.sleep(0.02)
    return found


def ask(server: RedisServer, *words: Any) -> Any:
    with Redis(port=server.port, protocol=2, socket_timeout=60) as client:
        return client.execute_command(*words)


class Servers:
    """Servers by place; each dies with us."""

    def __init__(self, servers: list[RedisServer]) -> None:
        self.servers = servers

    def __repr__(self) -> str:
        return f"<Servers {[server.port for server in self.servers]}>"

    def at(self, port: int) -> RedisServer:
        return next(server for server in self.servers if server.port == port)


class RedisCluster(Servers):
    """Three primaries, then a replica of each."""

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{s.port}" for s in self.servers[:2])

    def owner(self, slot: int) -> RedisServer:
        """The primary that the others believe to own a slot."""
        for first, last, (_, port, *_), *_ in ask(self.servers[-1], "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return self.at(port)
        raise LookupError(slot)

    def flush(self) -> None:
        for server in self.servers:
            if ask(server, "ROLE")[0] == b"master":
                ask(server, "FLUSHALL")

    def take_over_after(self, silence_ms: int) -> None:
        """How long a server is silent from now on before another takes over from it."""
        for server in self.servers:
            ask(server, "CONFIG", "SET", "cluster-node-timeout", silence_ms)

    def names(self) -> dict[int, bytes]:
        """The cluster's name of each server, by its port."""
        return {server.port: ask(server, "CLUSTER", "MYID") for server in self.servers}


@contextmanager
def running_cluster(folder: Path, replicas: int = 1) -> Iterator[RedisCluster]:
    """Three primaries and as many replicas of each as wanted."""
    with ExitStack() as stack:
        servers, buses = [], []
        for place in range(3 * (1 + replicas)):
            home = folder / f"node-{place}"
            home.mkdir(parents=True)
            buses.append(free_port())
            server = RedisServer(
                home, "--cluster-enabled", "yes", "--cluster-port", str(buses[-1]),
                "--cluster-node-timeout", str(BRISK_MS), "--repl-diskless-sync-delay", "0",
                "--cluster-replica-validity-factor", "0", "--repl-ping-replica-period", "1",
            )  # fmt: skip
            server.start()
            stack.callback(server.kill)
            servers.append(server)
        cluster = RedisCluster(servers)
        share = SLOTS // 3 + 1
        for place, server in enumerate(servers):
            if place < 3:
                last = min((place + 1) * share, SLOTS) - 1
                ask(server, "CLUSTER", "ADDSLOTSRANGE", place * share, last)
            ask(server, "CLUSTER", "SET-CONFIG-EPOCH", place + 1)
            if place:
                ask(server, "CLUSTER", "MEET", "127.0.0.1", servers[0].port, buses[0])
        names = cluster.names()
        for place, server in enumerate(servers):
            _until(partial(_knows, server, len(servers)))
            if place >= 3:
                primary = names[servers[place % 3].port]
                ask(server, "CLUSTER", "REPLICATE", primary)
        _until(lambda: all(_is_settled(server, replicas) for server in servers))
        cluster.take_over_after(STEADY_MS)
        yield cluster


def _knows(server: RedisServer, others: int) -> bool:
    """Whether it has met as many as there are, itself included."""
    nodes = ask(server, "CLUSTER", "NODES").splitlines()
    return len(nodes) == others and not any(b"handshake" in node for node in nodes)


def _is_settled(server: RedisServer, replicas: int) -> bool:
    if b"cluster_state:ok" not in ask(server, "CLUSTER", "INFO"):
        return False
    if any(len(slots) != 3 + replicas for slots in ask(server, "CLUSTER", "SLOTS")):
        return False
    role = ask(server, "ROLE")
    return len(role[2]) == replicas if role[0] == b"master" else role[3] == b"connected"


class RedisSentinel(Servers):
    """A master, its replicas, and the three that watch them."""

    def __init__(self, servers: list[RedisServer], watchers: list[RedisServer]) -> None:
        super().__init__(servers)
        self.watchers = watchers

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{watcher.port}" for watcher in self.watchers)
        return f"redis+sentinel://{hosts}/marmot"

    @property
    def master(self) -> RedisServer:
        _, port = ask(self.watchers[0], "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "marmot")
        return self.at(int(port))

    def take_over_after(self, silence_ms: int) -> None:
        """How long the master is silent from now on before a replica takes over from it."""
        for watcher in self.watchers:
            ask(watcher, "SENTINEL", "SET", "marmot", "down-after-milliseconds", silence_ms)


@contextmanager
def running_sentinel(folder: Path, replicas: int = 1) -> Iterator[RedisSentinel]:
    """A master with replicas, and three sentinels that agree by two."""
    with ExitStack() as stack:

        def started(name: str, *options: str, config: Path | None = None) -> RedisServer:
            home = folder / name
            home.mkdir(parents=True)
            server = RedisServer(home, *options, config=config)
            server.start()
            stack.callback(server.kill)
            return server

        quick = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        master = started("master", *quick)
        follow = ("--replicaof", f"127.0.0.1 {master.port}")
        others = [started(f"replica-{at}", *quick, *follow) for at in range(replicas)]
        _until(lambda: len(ask(master, "ROLE")[2]) == replicas)
        watchers = []
        for at in range(3):
            config = folder / f"sentinel-{at}.conf"
            config.write_text(
                f"sentinel monitor marmot 127.0.0.1 {master.port} 2\n"
                f"sentinel down-after-milliseconds marmot {STEADY_MS}\n"
                "sentinel failover-timeout marmot 3000\n"
            )
            watchers.append(started(f"sentinel-{at}", "--sentinel", config=config))
        sentinel = RedisSentinel([master, *others], watchers)
        _until(lambda: all(_sees_all(watcher, replicas) for watcher in watchers))
        yield sentinel


def _sees_all(watcher: RedisServer, replicas: int) -> bool:
    with Redis(port=watcher.port, protocol=2, decode_responses=True, socket_timeout=60) as client:
        state = client.sentinel_master("marmot")
        return state["num-slaves"] == replicas and state["num-other-sentinels"] == 2
