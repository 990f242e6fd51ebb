"""Asks Redis whether a user is still at a version: two commands, packed beforehand, one write.

The client's own path costs some 150 microseconds of Python for it, behind a run of a graph twice
that; its connections, used directly, a quarter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from redis.exceptions import ConnectionError as RedisAway

from cache.closed_line import as_away
from cache.keys import RedisKeys
from cache.patience import Patience
from cache.raw import Seal


def sealed(place: RedisKeys, version: bytes, fingerprint: str | None) -> Seal:
    """What a later glance has to see again; `fingerprint`, if there are rows that must be there."""
    watched = place.rows(fingerprint) if fingerprint else place.timeline
    packed = _packed(b"HGET", place.timeline, b"v") + _packed(b"EXISTS", watched)
    return packed, version, place.timeline


class Glances:
    """Connections to one server, each used by one glance at a time."""

    def __init__(self, connect: Callable[[], Any], timeout_s: float) -> None:
        self._connect = connect
        self._timeout_s = timeout_s
        self._free: list[Any] = []
        self._making = Patience()

    def __repr__(self) -> str:
        return f"<Glances with {len(self._free)} free>"

    async def is_unchanged(self, seal: Seal) -> bool:
        """Raises the client's errors; a connection that sat idle for too long is replaced once."""
        while self._free:
            try:
                return await self._look(self._free.pop(), seal)
            except RedisAway:
                continue
        return await self._look(await self._made(), seal)

    async def drop(self) -> None:
        """Closes the free connections: what one of them met, the others will."""
        while self._free:
            await self._free.pop().disconnect(nowait=True)

    async def close(self) -> None:
        await self._making.close()
        await self.drop()

    async def _made(self) -> Any:
        """A new connection. If its caller gives up waiting it is finished for the next one."""
        connection = self._connect()
        making = self._making.start(self._connected(connection))
        try:
            await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(lambda done: self._keep(connection, done))
            raise
        return connection

    async def _connected(self, connection: Any) -> None:
        try:
            await asyncio.wait_for(connection.connect(), self._timeout_s)
        except BaseException:
            await connection.disconnect(nowait=True)  # half made, it would outlive the loop
            raise

    def _keep(self, connection: Any, making: asyncio.Task[None]) -> None:
        if not making.cancelled() and making.exception() is None:
            self._free.append(connection)

    async def _look(self, connection: Any, seal: Seal) -> bool:
        packed, version, _ = seal
        try:
            await connection.send_packed_command(packed, check_health=False)
            found = await connection.read_response()
            is_there = await connection.read_response()
        except BaseException as error:
            # Cancelled or broken in the middle: its reply must not reach the next caller.
            await connection.disconnect(nowait=True)
            if isinstance(error, RuntimeError):
                raise as_away(error) from error
            raise
        self._free.append(connection)
        return bool(found == version and is_there)


def _packed(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)
