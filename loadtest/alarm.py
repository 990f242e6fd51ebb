"""Wakes at a moment. Event loops count whole milliseconds, and here one is longer than an answer.

On Linux a timerfd wakes the loop instead, within a tenth of one; elsewhere the loop's own timer.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import sys
import time
from typing import Self

_ABSOLUTE = 1
_MONOTONIC = 1
_NONBLOCK = os.O_NONBLOCK


class Alarm:
    """One sleeper's clock; `time.monotonic` is what its moments are counted in."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self._ring: asyncio.Event = asyncio.Event()

    def __enter__(self) -> Self:
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            fd = self._libc.timerfd_create(_MONOTONIC, _NONBLOCK)
            if fd >= 0:
                self._fd = fd
                asyncio.get_running_loop().add_reader(fd, self._rung)
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)

    async def until(self, moment: float) -> None:
        """Returns at `moment`; when it has passed, after one turn of the loop."""
        left = moment - time.monotonic()
        if left <= 0:
            await asyncio.sleep(0)
        elif self._fd is None:
            await asyncio.sleep(left)
        else:
            await self._wait(self._fd, moment)

    async def _wait(self, fd: int, moment: float) -> None:
        self._ring.clear()
        seconds, nanoseconds = divmod(int(moment * 1e9), 1_000_000_000)
        every = (0, 0)
        setting = struct.pack("qqqq", *every, seconds, nanoseconds)
        if self._libc.timerfd_settime(fd, _ABSOLUTE, setting, None):
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")
        await self._ring.wait()

    def _rung(self) -> None:
        if self._fd is not None:
            os.read(self._fd, 8)
        self._ring.set()
