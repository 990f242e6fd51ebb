"""Ports that nobody has: below those that the system gives to whoever asks for any."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator

FIRST, LAST = 15_000, 32_000


def _ours() -> Iterator[int]:
    """Those of this process of the tests, in any order and each once before any comes again.

    The others have their own: what is free when it is asked for is still free when it is taken.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ports = list(range(FIRST + worker, LAST, workers))
    random.SystemRandom().shuffle(ports)
    while True:
        yield from ports


_ports = _ours()


def free_port() -> int:
    """A port nobody listens on, and that no connection or other test is given meanwhile."""
    for port in _ports:
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise AssertionError("there is no end of ports")
