"""A Lua script of ours: sent once, then called by its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError

from cache.redis_link import Command, Link


class Script:
    """Calls are one round trip, but for the first after a server's start."""

    def __init__(self, name: str) -> None:
        self._text = files("cache").joinpath(name).read_text("utf-8")
        self._sha = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(
        self,
        link: Link,
        keys: Sequence[bytes],
        arguments: Sequence[bytes | int],
        *after: Command,
        may_be_old: bool = False,
    ) -> list[Any]:
        """Its answer, then those of commands sent `after` it on the same connection."""
        called = (len(keys), *keys, *arguments)
        by_hash, by_text = ("EVALSHA", self._sha, *called), ("EVAL", self._text, *called)
        try:
            return await link.send(keys[0], by_hash, *after, may_be_old=may_be_old)
        except NoScriptError:
            return await link.send(keys[0], by_text, *after, may_be_old=may_be_old)
