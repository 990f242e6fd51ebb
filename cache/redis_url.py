"""Redis URLs: one server, a cluster, or the servers that Sentinel watches."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import ConnectionPool, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.cluster import LoadBalancingStrategy
from redis.exceptions import ConnectionError as RedisAway

from cache.cluster_link import ClusterLink
from cache.errors import BadCacheUrl
from cache.redis_link import Link, RedisLink
from cache.watchers import Watchers

PORTS = {"cluster": 6379, "sentinel": 26379}
ASKING_SENTINELS = 3
"""How many silent sentinels may be asked in vain before our patience ends."""

AUTHORITY = re.compile(r"([^/?#]*://)([^/?#]*)(.*)", re.DOTALL)
"""What stands before a URL's hosts, these, and what stands behind them."""

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A URL taken apart. Its options are those of the client's own URLs."""

    url: str
    kind: str = ""  # "" is one server
    addresses: tuple[Address, ...] = ()
    service: str = ""
    options: dict[str, Any] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return f"<RedisUrl {self.kind or 'single'} {self.addresses}>"

    @classmethod
    def parse(cls, url: str) -> RedisUrl:
        """Raises `BadCacheUrl`."""
        try:
            found = _taken_apart(url)
        except ValueError as error:
            raise BadCacheUrl(f"The cache URL does not parse: {error}.") from error
        if found is None:
            raise BadCacheUrl("The cache URL names no Redis.")
        return found

    def link(self, *, timeout_s: float, connections: int, replica_reads: bool = False) -> Link:
        """Connects to nothing yet.

        The caller's timeout spans a whole call, and cancelling closes the connection in redis-py
        8 (read_response, send_packed_command), so that no reply is left for the next caller.
        One retry, on a lost connection only: the pool's are all dead after a server's restart.
        """
        made: dict[str, Any] = {
            "protocol": 2,
            "decode_responses": False,
            "socket_timeout": None,
            "socket_connect_timeout": timeout_s,
            "max_connections": connections,
            "driver_info": None,
            "retry": Retry(NoBackoff(), 1, supported_errors=(RedisAway,)),
        }
        if self.kind == "cluster":
            return self._cluster(made, timeout_s, replica_reads=replica_reads)
        if self.kind == "sentinel":
            return self._sentinel(made, timeout_s, replica_reads=replica_reads)
        return RedisLink(Redis.from_pool(ConnectionPool.from_url(self.url, **made)), timeout_s)

    def _cluster(self, made: dict[str, Any], timeout_s: float, *, replica_reads: bool) -> Link:
        nodes = [ClusterNode(host, port) for host, port in self.addresses]

        def client(balance: LoadBalancingStrategy | None = None) -> RedisCluster:
            options = {**self.options, **made, "load_balancing_strategy": balance}
            return RedisCluster(startup_nodes=nodes, **options)

        replicas = client(LoadBalancingStrategy.ROUND_ROBIN_REPLICAS) if replica_reads else None
        return ClusterLink(client(), timeout_s, replicas=replicas)

    def _sentinel(self, made: dict[str, Any], timeout_s: float, *, replica_reads: bool) -> Link:
        patience_s = timeout_s / (ASKING_SENTINELS + 1)
        sentinel = Watchers(  # type: ignore[no-untyped-call]
            self.addresses,
            sentinel_kwargs={
                "protocol": 2,
                "socket_timeout": patience_s,
                "socket_connect_timeout": patience_s,
                "driver_info": None,
                "retry": Retry(NoBackoff(), 0),
            },
        )

        def client(*, is_master: bool) -> Redis:
            options = {**self.options, **made, "is_master": is_master}
            pool = SentinelConnectionPool(self.service, sentinel, **options)  # type: ignore[no-untyped-call]
            return Redis.from_pool(pool)

        replicas = client(is_master=False) if replica_reads else None
        return RedisLink(
            client(is_master=True), timeout_s, replicas=replicas, also_close=[sentinel]
        )


def _taken_apart(url: str) -> RedisUrl | None:
    """None if it names no Redis; raises ValueError if it does not parse."""
    # Newer Pythons refuse brackets behind a comma, so the hosts are taken out before.
    authority = AUTHORITY.match(url)
    netloc = authority[2] if authority else ""
    parts = urlsplit(f"{authority[1]}hosts{authority[3]}" if authority else url)
    base, _, kind = parts.scheme.partition("+")
    if parts.scheme == "unix":
        return RedisUrl(url) if parts.path else None
    if base not in ("redis", "rediss") or kind not in ("", *PORTS):
        return None
    path = parts.path.strip("/")
    service, database = "", path
    if kind == "sentinel":
        service, _, database = path.partition("/")
    user, _, hosts = netloc.rpartition("@")
    addresses = tuple(_address(host, PORTS.get(kind, 6379)) for host in hosts.split(","))
    if (database and not database.isdigit()) or (kind == "sentinel" and not service):
        return None
    if not kind:
        return RedisUrl(url) if len(addresses) == 1 else None
    one = SplitResult(base, f"{user}@{hosts.split(',')[0]}", database, parts.query, "")
    options: dict[str, Any] = {**parse_url(one.geturl()), "ssl": base == "rediss"}
    for name in ("host", "port", "connection_class"):
        options.pop(name, None)
    return RedisUrl(url, kind, addresses, service, options)


def _address(host: str, port: int) -> Address:
    parts = urlsplit(f"//{host}")
    if not parts.hostname or parts.port == 0:
        raise ValueError("a server is HOST:PORT")
    return parts.hostname, parts.port or port
