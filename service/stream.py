"""A Redis stream of events and a group that reads it: what was delivered is pending until settled.

Delivery is at least once: what a dead consumer had is claimed by another, and what was delivered
twice is stored once, because events merge.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

from redis.exceptions import RedisClusterException, RedisError, ResponseError

from cache.errors import BadCacheUrl
from cache.redis_link import Command
from cache.redis_url import RedisUrl
from service.errors import StreamAway, UsageError

FIELD = b"event"
CONNECTIONS = 4
TIMEOUT_S = 5.0
MOST_DEAD = 100_000
"""Entries that the dead-letter stream keeps, about."""
MOST_COUNTED = 1_000
"""Entries that are counted one by one where the server does not know how many wait."""

FAILURES = (RedisError, RedisClusterException, OSError)  # a TimeoutError is an OSError

#: In one step, because what is pending with a consumer that is deleted is pending no more.
LEAVE = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
return 1
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the stream delivers; without fields if it was deleted while it was pending."""

    id: bytes
    fields: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Lag:
    """How far the group is behind the stream's end.

    `waiting` entries were delivered to nobody yet, `pending` ones are not acknowledged, and the
    oldest of both was added `seconds` ago, by the clock in its id.
    """

    waiting: int
    pending: int
    seconds: float


class EventStream:
    """One consumer's view of one stream. Everything raises `StreamAway`."""

    def __init__(self, url: str, *, group: str, consumer: str) -> None:
        """`url` is a Redis URL with the stream's name, `…?stream=NAME`; raises `UsageError`."""
        server, name = _split(url)
        try:
            parsed = RedisUrl.parse(server)
        except BadCacheUrl as error:
            raise UsageError(f"--stream {str(error).replace('cache URL', 'URL')}") from error
        self.name, self.server = name, server
        self.key, self.dead = name.encode(), f"{name}:dead".encode()
        self._group, self._consumer = group.encode(), consumer.encode()
        self._link = parsed.link(timeout_s=TIMEOUT_S, connections=CONNECTIONS)

    def __repr__(self) -> str:
        return f"<EventStream {self.name} for {self._consumer.decode()}>"

    async def open(self) -> None:
        """Joins the group, which begins with the oldest entry there is."""
        try:
            await self._ask("XGROUP CREATE", self.key, self._group, "0", "MKSTREAM")
        except StreamAway as error:
            if "BUSYGROUP" not in str(error):  # another was first
                raise

    async def read(self, count: int, wait_s: float) -> list[Entry]:
        """What nobody was given yet; waits for it, and may come back with nothing."""
        return await self._read(b">", count, wait_s)

    async def reread(self, after: bytes, count: int) -> list[Entry]:
        """What this consumer was given behind the id `after`, and has not acknowledged."""
        return await self._read(after, count, None)

    async def _read(self, after: bytes, count: int, wait_s: float | None) -> list[Entry]:
        block = () if wait_s is None else ("BLOCK", max(1, int(wait_s * 1e3)))
        found = await self._ask(
            "XREADGROUP", "GROUP", self._group, self._consumer,
            "COUNT", count, *block, "STREAMS", self.key, after,
            within_s=TIMEOUT_S + (wait_s or 0.0),
        )  # fmt: skip
        return [entry for _, entries in found or () for entry in _entries(entries)]

    async def claim(self, cursor: bytes, count: int, idle_s: float) -> tuple[bytes, list[Entry]]:
        """What others were given `idle_s` ago and never acknowledged; and where to look next.

        The cursor begins and ends as `0-0`.
        """
        found = await self._ask(
            "XAUTOCLAIM", self.key, self._group, self._consumer,
            int(idle_s * 1e3), cursor, "COUNT", count,
        )  # fmt: skip
        gone = [Entry(id_, {}) for id_ in (found[2] if len(found) > 2 else ())]  # Redis 7
        return found[0], [*_entries(found[1]), *gone]

    async def acknowledge(self, entries: Sequence[Entry]) -> None:
        """Settles entries: nobody is given them again."""
        if entries:
            await self._ask("XACK", self.key, self._group, *(entry.id for entry in entries))

    async def bury(self, entry: Entry, reason: str) -> None:
        """Puts a copy beside the stream, with why; the entry itself is yet to be acknowledged."""
        fields = [part for pair in entry.fields.items() for part in pair]
        await self._ask(
            "XADD", self.dead, "MAXLEN", "~", MOST_DEAD, "*",
            *fields, b"id", entry.id, b"reason", reason.encode(),
        )  # fmt: skip

    async def lag(self) -> Lag:
        """How far behind the group is now."""
        groups = await self._ask("XINFO GROUPS", self.key)
        group = next((each for each in groups if each["name"] == self._group), None)
        if group is None:
            raise StreamAway(f"The stream {self.name} lost its group.")
        behind = b"(" + group["last-delivered-id"]
        waiting = group.get("lag")
        count = MOST_COUNTED if waiting is None else 1
        first = [entry.id for entry in _entries(await self._range(behind, count))]
        oldest = first[:1]
        if group["pending"]:
            summary = await self._ask("XPENDING", self.key, self._group)
            oldest = [id_ for id_ in (summary["min"],) if id_ is not None] or oldest
        seconds = max(0.0, time.time() - int(oldest[0].partition(b"-")[0]) / 1e3) if oldest else 0.0
        return Lag(len(first) if waiting is None else int(waiting), group["pending"], seconds)

    async def _range(self, start: bytes, count: int) -> Any:
        return await self._ask("XRANGE", self.key, start, "+", "COUNT", count)

    async def leave(self) -> None:
        """Takes this consumer's name off the group, unless something is pending under it."""
        await self._ask("EVAL", LEAVE, 1, self.key, self._group, self._consumer)

    async def close(self) -> None:
        await self._link.close()

    async def _ask(self, *command: bytes | int | str, within_s: float = TIMEOUT_S) -> Any:
        key = self.dead if self.dead in command[:2] else self.key
        sent: Command = command
        async with self._translated(within_s):
            (answer,) = await self._link.send(key, sent)
        return answer

    @asynccontextmanager
    async def _translated(self, within_s: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(within_s):
                yield
        except TimeoutError as failed:
            await self._link.doubt()
            raise StreamAway(f"The stream did not answer in {within_s:g} s.") from failed
        except ResponseError as failed:
            if str(failed).startswith("NOGROUP"):
                await self.open()  # the server was emptied: whatever comes is read from the start
            raise StreamAway(f"The stream answered: {failed}") from failed
        except FAILURES as failed:
            raise StreamAway(f"The stream is not reachable: {failed}") from failed


def _split(url: str) -> tuple[str, str]:
    """The server's URL and the name of the stream."""
    server, _, query = url.partition("?")
    options = parse_qsl(query, keep_blank_values=True)
    names = [value for name, value in options if name == "stream"]
    if len(names) != 1 or not names[0]:
        raise UsageError("--stream names a server and one stream: redis://HOST:PORT/DB?stream=NAME")
    rest = urlencode([pair for pair in options if pair[0] != "stream"])
    return (f"{server}?{rest}" if rest else server), names[0]


def _entries(found: Sequence[tuple[bytes | None, Mapping[bytes, bytes] | None]]) -> list[Entry]:
    """Redis 6.2 claims what was deleted as nothing at all."""
    return [Entry(id_, fields or {}) for id_, fields in found if id_ is not None]
