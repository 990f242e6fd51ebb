"""The near tier: what this process remembers of the users it was asked about last.

It answers nothing by itself. Every use is checked against the store in the one round trip that
a fetch costs anyway, so a write through another worker is seen at once.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

IDLE_S = 300.0
"""What nobody asked for in this time goes, so that a forgotten user does not linger."""


class Sized(Protocol):
    """Something that knows about how many bytes it holds."""

    @property
    def size_bytes(self) -> int: ...


T = TypeVar("T", bound=Sized)


class Near(Generic[T]):
    """The most recently used values within a budget of bytes."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._bytes = 0
        #: With when each was used last, and its size when it was put here: it may have grown since.
        self._kept: OrderedDict[tuple[str, str], tuple[T, float, int]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Near {len(self._kept)} kept, {self._bytes} of {self._budget_bytes} bytes>"

    def get(self, key: tuple[str, str], now_s: float) -> T | None:
        """The value, which counts as used now."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept[key] = (found[0], now_s, found[2])
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: tuple[str, str], value: T, now_s: float) -> None:
        """Keeps the value; the least recently used ones make room."""
        self.drop(key)
        size_bytes = value.size_bytes
        if size_bytes > self._budget_bytes:
            return
        self._kept[key] = (value, now_s, size_bytes)
        self._bytes += size_bytes
        while self._kept and (
            self._bytes > self._budget_bytes or self._oldest_s() < now_s - IDLE_S
        ):
            self.drop(next(iter(self._kept)))

    def drop(self, key: tuple[str, str]) -> None:
        """Forgets the value, if there is one."""
        found = self._kept.pop(key, None)
        if found is not None:
            self._bytes -= found[2]

    def _oldest_s(self) -> float:
        return next(iter(self._kept.values()))[1]
