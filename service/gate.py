"""What is refused before there is a request: a head that is too large, and what is no HTTP."""

from __future__ import annotations

import asyncio
import secrets

import orjson
from httptools import HttpParserError
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import HeadTooLarge, NotHttp, Problem
from service.house import House
from service.problems import MEDIA_TYPE
from service.timings import Timings

HOUSE = "marmot.house"  # where the app's state holds it
LINGER_S = 2.0
FIELD_BYTES = 4  # colon, blank and the line's end


class Gate(HttpToolsProtocol):
    """Uvicorn's protocol with a limit on heads, and problems where it has plain text."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._house: House = self.app_state[HOUSE]
        self._limit = self._house.settings.head_limit_bytes
        self._received = self._begun_at = 0
        self._is_in_head = self._is_refused = False

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._received += len(data)
        super().data_received(data)
        # The parser tells of a field when it has the whole of it, which may be never. Counted from
        # the read after the one it began in: that may hold a body too.
        if self._is_in_head and self._received - self._begun_at > self._limit:
            self._refuse(self._too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun_at, self._is_in_head = self._received, True

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        fields = sum(len(name) + len(value) + FIELD_BYTES for name, value in self.headers)
        if len(self.url) + fields > self._limit:
            self._refuse(self._too_large())
            raise HttpParserError  # which ends the parser's work
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Where the parser gave up."""
        self._refuse(NotHttp())

    def _too_large(self) -> HeadTooLarge:
        return HeadTooLarge(f"Request line and headers may have {self._limit:,} bytes together")

    def _refuse(self, problem: Problem) -> None:
        """Answers, then reads on for a while: whoever still sends would lose the answer."""
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        if self.cycle:
            self.cycle.disconnected = True  # what it may still have to say, nobody can read
        self.transport.write(self._answer(problem))
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    def _answer(self, problem: Problem) -> bytes:
        timings, metrics = Timings(), self._house.metrics
        body = orjson.dumps(problem.to_dict())
        headers = {
            "content-type": MEDIA_TYPE,
            "content-length": str(len(body)),
            "x-request-id": secrets.token_hex(8),
            "x-model-fingerprint": self._house.fingerprint.decode(),
            "server-timing": timings.header(),
            **problem.headers(),
        }
        metrics.begun()
        metrics.told(problem.slug)
        metrics.answered("none", "other", problem.status, timings, timings.total)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return STATUS_LINE[problem.status] + lines.encode() + b"\r\n" + body
