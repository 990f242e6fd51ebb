"""A Lua script of ours: sent once, then called by its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError


class Script:
    """Calls are one round trip, but for the first after a server's start."""

    def __init__(self, name: str) -> None:
        self._text = files("cache").joinpath(name).read_text("utf-8")
        self._sha = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(
        self, client: Any, keys: Sequence[bytes], arguments: Sequence[bytes | int]
    ) -> Any:
        try:
            return await client.execute_command("EVALSHA", self._sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return await client.execute_command("EVAL", self._text, len(keys), *keys, *arguments)
