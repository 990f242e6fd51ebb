"""The end of a process: not ready first, then the door closes, then what is inside finishes."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class Drain:
    """Puts `drain_s` between SIGTERM and the server's own shutdown, with readiness withdrawn.

    Load balancers need that time to look elsewhere; requests are still answered during it. SIGINT
    is a person at a terminal and does not wait.
    """

    def __init__(self, drain_s: float) -> None:
        self._drain_s = drain_s
        self._previous: Any = None
        self._pause: asyncio.TimerHandle | None = None
        self.has_begun = False
        #: The door is closed: what still comes in on open connections is sent elsewhere.
        self.is_closing = False

    def __repr__(self) -> str:
        state = "closing" if self.is_closing else "begun" if self.has_begun else "not begun"
        return f"<Drain {state}>"

    def install(self) -> None:
        """Takes SIGTERM over from the server; only the main thread may."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._previous = signal.getsignal(signal.SIGTERM)
        if not callable(self._previous):
            return
        loop = asyncio.get_running_loop()
        pass_on: Callable[[int, FrameType | None], Any] = self._previous

        def close(signum: int) -> None:
            self.is_closing = True
            pass_on(signum, None)

        def begin(signum: int) -> None:
            if self.has_begun:
                return
            self.has_begun = True
            self._pause = loop.call_later(self._drain_s, close, signum)

        def on_signal(signum: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(begin, signum)

        signal.signal(signal.SIGTERM, on_signal)

    def finish(self) -> None:
        """Gives SIGTERM back."""
        self.has_begun = self.is_closing = True
        if self._pause is not None:
            self._pause.cancel()
        if callable(self._previous):
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None
