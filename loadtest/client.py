"""A lean HTTP/1.1 client. The generator shares its machine with what it measures.

ClientError
├── Unreachable     no connection could be made
├── Dropped         the server closed the connection before its answer was complete
├── Garbled         what came back is not HTTP
└── TimedOut        no complete answer in time
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, cast
from urllib.parse import urlsplit

import httptools


class ClientError(Exception):
    """A request that got no answer."""

    word = "failed"


class Unreachable(ClientError):
    """No connection could be made."""

    word = "unreachable"


class Dropped(ClientError):
    """The connection closed before the answer was complete."""

    word = "dropped"


class Garbled(ClientError):
    """The peer does not speak HTTP."""

    word = "garbled"


class TimedOut(ClientError):
    """No complete answer in time."""

    word = "timeout"


@dataclass(frozen=True, slots=True)
class Answer:
    """One complete answer; `sent` and `done` are `time.monotonic`."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    sent: float
    done: float


class Client:
    """Keep-alive connections to one server, opened as they are needed, newest used first."""

    def __init__(self, url: str, *, connections: int = 1_000, timeout_s: float = 10.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no http:// or https:// address")
        self.url = url
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._base = parts.path.rstrip("/")
        self._head = (
            f" HTTP/1.1\r\nhost: {parts.netloc}\r\n"
            "content-type: application/json\r\ncontent-length: "
        ).encode()
        self._timeout_s = timeout_s
        self._seats = asyncio.Semaphore(connections)
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    def __repr__(self) -> str:
        return f"<Client {self.url}, {len(self._open)} open, {len(self._idle)} idle>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._open.copy():
            connection.abort()
            await connection.gone

    async def get(self, path: str) -> Answer:
        return await self._ask(b"GET", path, b"")

    async def post(self, path: str, body: bytes) -> Answer:
        return await self._ask(b"POST", path, body)

    async def _ask(self, method: bytes, path: str, body: bytes) -> Answer:
        target = f"{self._base}{path}".encode()
        message = b"%b %b%b%d\r\n\r\n%b" % (method, target, self._head, len(body), body)
        try:
            async with asyncio.timeout(self._timeout_s), self._seats:
                return await self._exchange(message)
        except TimeoutError as error:
            raise TimedOut(f"no answer within {self._timeout_s:g} s") from error

    async def _exchange(self, message: bytes) -> Answer:
        while True:
            reused = bool(self._idle)
            connection = self._idle.pop() if reused else await self._connect()
            try:
                answer = await connection.exchange(message)
            except Dropped:
                # A server may close an idle connection just as it is used again.
                if reused and not connection.heard:
                    continue
                raise
            except BaseException:
                # Whoever comes next must not read the answer to this request.
                connection.close()
                raise
            if connection.reusable:
                self._idle.append(connection)
            return answer

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(self._lost), self._host, self._port, ssl=self._ssl
            )
        except OSError as error:
            raise Unreachable(error.strerror or str(error)) from error
        self._open.add(connection)
        return connection

    def _lost(self, connection: _Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)


class _Connection(asyncio.Protocol):
    """One exchange at a time."""

    def __init__(self, lost: Callable[[_Connection], None]) -> None:
        self._lost = lost
        self._answer: asyncio.Future[Answer] | None = None
        self.gone = asyncio.get_running_loop().create_future()
        self.heard = False
        self.reusable = True

    async def exchange(self, message: bytes) -> Answer:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self.heard = False
        if self._transport.is_closing():
            raise Dropped("the server closed the connection")
        self._answer = asyncio.get_running_loop().create_future()
        self._sent = time.monotonic()
        self._transport.write(message)
        return await self._answer

    def close(self) -> None:
        self.reusable = False
        self._transport.close()

    def abort(self) -> None:
        self.reusable = False
        self._transport.abort()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are ones in all but name.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.heard = True
        if self._answer is None or self._answer.done():
            self.close()  # an answer nobody asked for
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(Garbled(f"not an HTTP answer: {error}"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        self._lost(self)
        self.gone.set_result(None)
        self._fail(Dropped("the server closed the connection before its answer was complete"))

    def _fail(self, error: ClientError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    # What the parser calls

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        done = time.monotonic()
        if not self._parser.should_keep_alive():
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(
                Answer(
                    self._parser.get_status_code(),
                    self._headers,
                    b"".join(self._body),
                    self._sent,
                    done,
                )
            )
