"""The stage on a port of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn

from tests.loadtest.stage import Stage


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    started = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started.set()

    listener = socket.create_server(("127.0.0.1", 0))
    stage.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = Server(uvicorn.Config(stage, lifespan="off", log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    assert started.wait(60)
    yield stage
    server.should_exit = True
    thread.join()
