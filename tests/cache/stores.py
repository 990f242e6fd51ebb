"""Both stores behind one face, so that one suite of promises runs over each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import redis

from cache.layout import Layout
from cache.lmdb_cache import LmdbCache
from cache.redis_cache import RedisCache
from cache.timeline import Event

Cell = tuple[bytes, bytes]  # key, field

ROW = np.dtype([("sum", np.uint64), ("vector", np.float32, (4,))])
LAYOUT = Layout("0123456789abcdef", ROW, 100)
OTHER = Layout("fedcba9876543210", ROW, 100)


class Store(Protocol):
    """A real store, and a view of its bytes."""

    def open(self, **options: Any) -> Any: ...
    def cells(self) -> dict[Cell, bytes]: ...
    def put(self, cell: Cell, value: bytes | None) -> None: ...
    def kind(self, cell: Cell) -> str: ...


@dataclass
class LmdbStore:
    path: Path
    opened: list[LmdbCache] = field(default_factory=list)

    def open(self, **options: Any) -> LmdbCache:
        """LMDB may be open once in a process: opening again closes the last."""
        self.close()
        options = {"is_durable": False, "map_size_gib": 1.0} | options
        self.opened.append(LmdbCache(self.path, **options))
        return self.opened[-1]

    def close(self) -> None:
        for cache in self.opened:
            if cache._is_open:
                cache._writer.close()
                cache._env.close()
                cache._is_open = False

    def cells(self) -> dict[Cell, bytes]:
        with self.opened[-1]._env.begin() as txn:
            return {(key, b""): value for key, value in txn.cursor()}

    def put(self, cell: Cell, value: bytes | None) -> None:
        with self.opened[-1]._env.begin(write=True) as txn:
            if value is None:
                txn.delete(cell[0])
            else:
                txn.put(cell[0], value)

    def kind(self, cell: Cell) -> str:
        names = {b"v": "version", b"h": "head", b"t": "chunk", b"r": "rows", b"q": "aside"}
        return names.get(cell[0][:1], "store")


@dataclass
class RedisStore:
    url: str
    opened: list[RedisCache] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client: Any = self._connected()
        self.client.flushdb()

    def _connected(self) -> Any:
        return redis.Redis.from_url(self.url, protocol=2, socket_timeout=60)

    def open(self, **options: Any) -> RedisCache:
        self.opened.append(RedisCache(self.url, **{"timeout_s": 20.0} | options))
        return self.opened[-1]

    def cells(self) -> dict[Cell, bytes]:
        found: dict[Cell, bytes] = {}
        for key in self.client.scan_iter(count=1000):
            kind = self.client.type(key)
            if kind == b"hash":
                found |= {(key, name): value for name, value in self.client.hgetall(key).items()}
            elif kind == b"zset":
                found |= {(key, name): b"" for name in self.client.zrange(key, 0, -1)}
            elif kind == b"set":
                found |= {(key, name): b"" for name in self.client.smembers(key)}
            else:
                found[key, b""] = self.client.get(key)
        return found

    def put(self, cell: Cell, value: bytes | None) -> None:
        if value is None:
            self.client.hdel(*cell)
        else:
            self.client.hset(*cell, value)

    def kind(self, cell: Cell) -> str:
        if cell[0].count(b":") < 3:
            return "store"
        room = cell[0].split(b":")[2]
        if room == b"t":
            return {b"v": "version", b"h": "head"}.get(cell[1], "chunk")
        names = {b"r": "rows", b"q": "aside", b"qt": "aside", b"qi": "aside", b"i": "index"}
        return names.get(room, "store")


class ClusterStore(RedisStore):
    """The same over a cluster: the tests' client finds each key's server."""

    def _connected(self) -> Any:
        first = self.url.removeprefix("redis+cluster").split(",")[0]
        return redis.RedisCluster.from_url(f"redis{first}", protocol=2, socket_timeout=60)


def rows_of(size: int, value: int = 1) -> tuple[Any, Any]:
    """Rows all of one value, all valid."""
    rows = np.zeros(size, ROW)
    rows["sum"] = value
    return rows, np.ones(size, np.bool_)


def some_events(size: int, start: int = 0) -> list[Event]:
    return [Event(f"item-{at}", 1000 + at) for at in range(start, start + size)]
