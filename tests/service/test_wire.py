"""What reaches the socket, write by write."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.wire import HeadHolder

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Socket:
    def __init__(self) -> None:
        self.did: list[Any] = []

    def write(self, data: bytes) -> None:
        self.did.append(data)

    def close(self) -> None:
        self.did.append("closed")

    def is_closing(self) -> bool:
        return False


@pytest.fixture
def socket() -> Socket:
    return Socket()


def held(socket: Socket) -> HeadHolder:
    return HeadHolder(socket, asyncio.get_running_loop())  # type: ignore[arg-type]


async def test_head_and_body_leave_together(socket: Socket) -> None:
    """One answer is one write; parts that follow are written as they come."""
    wire = held(socket)
    assert not wire.is_closing()
    wire.write(HEAD)
    wire.write(b"ok")
    wire.write(b"more")
    await asyncio.sleep(0)
    assert socket.did == [HEAD + b"ok", b"more"]


async def test_a_head_without_a_body_does_not_wait(socket: Socket) -> None:
    """Nor does one whose body takes its time."""
    held(socket).write(HEAD)
    await asyncio.sleep(0)
    assert socket.did == [HEAD]


async def test_nothing_is_lost_at_the_end(socket: Socket) -> None:
    """What was held leaves before the connection is closed."""
    wire = held(socket)
    wire.write(HEAD)
    wire.close()
    assert socket.did == [HEAD, "closed"]
