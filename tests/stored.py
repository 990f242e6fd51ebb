"""The bytes in the store of a running service, and ways to spoil them."""

from __future__ import annotations

from redis import Redis

from tests.servers import Running

Cell = tuple[bytes, bytes]  # key, field


def is_record(cell: Cell) -> bool:
    key = cell[0]
    return key.split(b":")[2:3] == [b"r"] if key.startswith(b"marmot:") else key[:1] == b"r"


def cells(running: Running) -> dict[Cell, bytes]:
    """Everything in the store: keys, fields and values."""
    url = running.house.settings.cache
    if url.startswith("lmdb:"):
        with running.house.cache._env.begin() as txn:  # type: ignore[attr-defined]
            return {(key, b""): value for key, value in txn.cursor()}
    found: dict[Cell, bytes] = {}
    with Redis.from_url(url) as store:
        for key in store.scan_iter(count=1_000):
            kind = store.type(key)
            if kind == b"hash":
                found |= {(key, name): value for name, value in store.hgetall(key).items()}
            elif kind == b"zset":
                found |= {(key, name): b"" for name in store.zrange(key, 0, -1)}
            elif kind == b"set":
                found |= {(key, name): b"" for name in store.smembers(key)}
            else:
                found[key, b""] = store.get(key) or b""
    return found


def put(running: Running, cell: Cell, value: bytes) -> None:
    url = running.house.settings.cache
    if url.startswith("lmdb:"):
        with running.house.cache._env.begin(write=True) as txn:  # type: ignore[attr-defined]
            txn.put(cell[0], value)
        return
    with Redis.from_url(url) as store:
        store.hset(*cell, value)


def drop(running: Running, cell: Cell) -> None:
    url = running.house.settings.cache
    if url.startswith("lmdb:"):
        with running.house.cache._env.begin(write=True) as txn:  # type: ignore[attr-defined]
            txn.delete(cell[0])
        return
    with Redis.from_url(url) as store:
        store.hdel(*cell)
