"""The way to a Redis: which server a key lives on, over which connection, and what to try again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from cache.closed_line import as_away
from cache.raw import Seal
from cache.redis_glance import Glances

Command = tuple[bytes | int | str, ...]


class Closable(Protocol):
    """Something of the client's that has connections of its own."""

    async def aclose(self) -> None: ...


class Link(Protocol):
    """One server, or the many of a cluster; raises what the client raises."""

    async def send(self, key: bytes, *commands: Command, may_be_old: bool = False) -> list[Any]:
        """Sends commands about one key, in order and on one connection; answers each.

        The first error among the answers is raised. With `may_be_old` a replica may answer.
        """
        ...

    async def is_unchanged(self, seal: Seal) -> bool:
        """Whether what a fetch saw is still there."""
        ...

    def scan(self, pattern: bytes) -> AsyncIterator[bytes]:
        """Every key that fits, wherever it lives; some may come twice."""
        ...

    async def doubt(self, *, only_glances: bool = False) -> None:
        """A server has been silent: closes idle connections, which may lead nowhere."""
        ...

    async def close(self) -> None: ...


class RedisLink:
    """One server, or whichever of several Sentinel calls the master."""

    def __init__(
        self,
        client: Redis,
        timeout_s: float,
        *,
        replicas: Redis | None = None,
        also_close: Sequence[Closable] = (),
    ) -> None:
        self._client: Any = client  # its types say bytes or str; ours are bytes
        self._replicas: Any = replicas
        self._also_close = also_close
        self._glances = Glances(client.connection_pool.make_connection, timeout_s)

    def __repr__(self) -> str:
        return f"<RedisLink {self._client.connection_pool!r}>"

    async def send(self, key: bytes, *commands: Command, may_be_old: bool = False) -> list[Any]:
        client = self._replicas if may_be_old and self._replicas else self._client
        try:
            if len(commands) == 1:
                return [await client.execute_command(*commands[0])]
            async with client.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                return checked(await pipe.execute(raise_on_error=False))
        except RuntimeError as error:
            raise as_away(error) from error

    async def is_unchanged(self, seal: Seal) -> bool:
        return await self._glances.is_unchanged(seal)

    def scan(self, pattern: bytes) -> AsyncIterator[bytes]:
        found: AsyncIterator[bytes] = self._client.scan_iter(match=pattern, count=1000)
        return found

    async def doubt(self, *, only_glances: bool = False) -> None:
        await self._glances.drop()
        if only_glances:
            return
        for client in filter(None, (self._client, self._replicas)):
            await client.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        await self._glances.close()
        for client in filter(None, (self._client, self._replicas)):
            await client.aclose()
            await client.connection_pool.disconnect()
        for other in self._also_close:
            await other.aclose()


def checked(answers: list[Any]) -> list[Any]:
    """The answers, if none of them is an error; the first error is raised."""
    for answer in answers:
        if isinstance(answer, RedisError):
            raise answer
    return answers
