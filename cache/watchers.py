"""The servers that say which of several is the master, asked by many at once."""

from __future__ import annotations

from copy import copy

from redis.asyncio.sentinel import Sentinel


class Watchers(Sentinel):
    """The client's Sentinel, except that searches at the same time do not harm each other.

    Its own puts the one that knew to the front of the list, by places that another search may have
    changed since: then one server is there twice, and another is never asked again, nor closed.
    """

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """The master's address; raises the client's `MasterNotFoundError`."""
        search = copy(self)
        search.sentinels = list(self.sentinels)
        found: tuple[str, int] = await Sentinel.discover_master(search, service_name)
        self.sentinels = search.sentinels
        return found
