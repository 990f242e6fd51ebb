"""Ports that nobody has: below those that the system gives to whoever asks for any."""

from __future__ import annotations

import random
import socket

FIRST, LAST = 15_000, 32_000

_random = random.SystemRandom()


def free_port() -> int:
    """A port nobody listens on, and that no connection of another test is given meanwhile."""
    while True:
        port = _random.randrange(FIRST, LAST)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
