"""HTTP to servers of our own, which speak it plainly: no certificates, no proxies, no hurry.

`httpx` loads every certificate authority for each client and each `httpx.get`, 50 ms of the
processor: whoever polls so is busier than the server it waits for.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

TRUSTS_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
#: What a crowded machine may need for an answer.
PATIENCE_S = 60.0


class Client(httpx.Client):
    def __init__(self, base_url: str = "", **options: Any) -> None:
        usual: dict[str, Any] = {"verify": TRUSTS_NOBODY, "trust_env": False, "timeout": PATIENCE_S}
        super().__init__(base_url=base_url, **{**usual, **options})


def line(port: int) -> socket.socket:
    """A bare connection to a server on this machine."""
    return socket.create_connection(("127.0.0.1", port), PATIENCE_S)


def get(url: str, **options: Any) -> httpx.Response:
    """Over a connection of its own."""
    with Client() as client:
        return client.get(url, **options)


def post(url: str, **options: Any) -> httpx.Response:
    """Over a connection of its own."""
    with Client() as client:
        return client.post(url, **options)


@contextmanager
def stream(url: str) -> Iterator[httpx.Response]:
    """An answer that keeps coming."""
    with Client() as client, client.stream("GET", url) as answer:
        yield answer
