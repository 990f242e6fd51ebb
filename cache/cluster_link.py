"""The way to a Redis Cluster: commands about one user go together to whoever owns the user's slot.

redis-py 8.1 sends ASKING and the command it is for over whichever connections are free, one after
the other; here all that belongs together travels on one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from redis.asyncio.cluster import ClusterNode, PipelineCommand, RedisCluster
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisAway

from cache.closed_line import as_away
from cache.raw import Seal
from cache.redis_glance import Glances
from cache.redis_link import Command, checked

SETTLING_S = 0.02
"""Between two tries while keys of a slot are moving, or a failover is being agreed on."""


class ClusterLink:
    """All servers of a cluster; follows slots that move, for as long as the caller has patience."""

    def __init__(
        self, client: RedisCluster, timeout_s: float, *, replicas: RedisCluster | None = None
    ) -> None:
        self._client: Any = client
        self._replicas = ClusterLink(replicas, timeout_s) if replicas else None
        self._timeout_s = timeout_s
        self._glances: dict[str, Glances] = {}
        self._suspect: str | None = None  # a node that was silent until its caller gave up

    def __repr__(self) -> str:
        return f"<ClusterLink {len(self._client.get_nodes())} nodes>"

    async def send(self, key: bytes, *commands: Command, may_be_old: bool = False) -> list[Any]:
        if may_be_old and self._replicas:
            with suppress(RedisAway, OSError):  # the primary knows too
                return await self._replicas.send(key, *commands)
        asked: ClusterNode | None = None
        lost: ClusterNode | None = None
        while True:
            await self._begin()
            node = asked or self._owner(key)
            try:
                return checked(await self._talk(node, commands, is_asking=asked is not None))
            except MovedError as moved:  # an AskError too
                asked = None
                await self._client.nodes_manager.move_slot(moved)
            except AskError as ask:
                asked = self._client.get_node(ask.host, ask.port)
            except TryAgainError:
                asked = None
                await asyncio.sleep(SETTLING_S)
            except (ClusterDownError, ReadOnlyError):
                asked = None
                await asyncio.sleep(SETTLING_S)
                await self._learn(node)
            except (RedisAway, OSError):
                asked = None
                if node is lost:
                    raise
                lost = node  # once more: its connections may date from before a restart
                await self._learn(node)

    async def is_unchanged(self, seal: Seal) -> bool:
        await self._begin()
        node = self._owner(seal[2])
        glances = self._glances.get(node.name)
        if glances is None:
            made = dict(node.connection_kwargs)
            glances = Glances(lambda: node.connection_class(**made), self._timeout_s)
            self._glances[node.name] = glances
        try:
            return await glances.is_unchanged(seal)
        except ResponseError:  # the slot has moved, or is moving: a fetch will find out
            return False

    async def scan(self, pattern: bytes) -> AsyncIterator[bytes]:
        await self._begin()
        for node in self._client.get_primaries():
            cursor = -1
            while cursor:
                cursor, found = await node.execute_command(
                    "SCAN", max(cursor, 0), "MATCH", pattern, "COUNT", 1000
                )
                for key in found:
                    yield key

    async def doubt(self, *, only_glances: bool = False) -> None:
        for glances in self._glances.values():
            await glances.drop()

    async def close(self) -> None:
        if self._replicas:
            await self._replicas.close()
        for glances in self._glances.values():
            await glances.close()
        await self._client.aclose()

    async def _begin(self) -> None:
        """Learns the cluster at the first contact, and again after somebody's silence."""
        await self._client.initialize()
        if self._suspect is not None:
            suspect, self._suspect = self._client.get_node(node_name=self._suspect), None
            if suspect is not None:
                await self._learn(suspect)

    def _owner(self, key: bytes) -> ClusterNode:
        """The primary; a replica in turn, if the client was told to read from replicas."""
        node: ClusterNode = self._client.nodes_manager.get_node_from_slot(
            self._client.keyslot(key),
            load_balancing_strategy=self._client.load_balancing_strategy,
        )
        return node

    async def _learn(self, failed: ClusterNode) -> None:
        """Asks the others who owns what now."""
        failed.update_active_connections_for_reconnect()
        await failed.disconnect_free_connections()
        await self._client.nodes_manager.initialize(last_failed_node_name=failed.name)

    async def _talk(
        self, node: ClusterNode, commands: tuple[Command, ...], *, is_asking: bool
    ) -> list[Any]:
        """Raises nothing that a server answered; it is among the answers."""
        sent = [PipelineCommand(at, *command) for at, command in enumerate(commands)]
        asking = (
            [PipelineCommand(at, "ASKING") for at, _ in enumerate(commands)] if is_asking else []
        )
        both = (
            [part for pair in zip(asking, sent, strict=True) for part in pair] if asking else sent
        )
        try:
            await node.execute_pipeline(both)
        except asyncio.CancelledError:
            self._suspect = node.name
            raise
        except RuntimeError as error:
            raise as_away(error) from error
        return [command.result for command in sent]
