"""Traces, as a collector sees them, and what the logs and the client say of them."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider

from service.client import Client
from service.errors import EngineFailed, UsageError
from service.logging import configure_logging
from service.tracing import Tracer

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


class Collector(HTTPServer):
    """A real OTLP/HTTP receiver that keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.paths: list[str] = []
        self.received: list[Any] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for request in self.received
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def stop(self) -> None:
        self.shutdown()
        self._thread.join(10)
        self.server_close()


class _Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert isinstance(self.server, Collector)
        self.server.paths.append(self.path)
        self.server.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.stop()


def attributes(span: Any) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes
    }


def test_a_request_is_a_span(serve: Callable[..., Any], collector: Collector) -> None:
    """A child of the caller's span, named by its route, with status, stages and its own length."""
    running = serve(otlp=collector.url)
    headers = {"traceparent": PARENT, "tracestate": "shop=1"}
    body = {"user_id": "u", "candidates": [1, 2]}
    assert running.client.post("/v1/rank", json=body, headers=headers).status_code == 200
    running.stop()
    (span,) = collector.spans
    assert collector.paths == ["/v1/traces"]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
    assert (span.name, span.kind, span.trace_state) == ("POST /v1/rank", 2, "shop=1")
    said = attributes(span)
    stages = {name: said.pop(name) for name in [*said] if name.startswith("marmot.stage.")}
    assert said == {
        "http.request.method": "POST",
        "http.route": "/v1/rank",
        "http.response.status_code": 200,
        "url.path": "/v1/rank",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "server.port": running.port,
    }
    took_ms = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
    assert set(stages) == {f"marmot.stage.{stage}_ms" for stage in ("cache", "queue", "run")}
    assert 0 < sum(stages.values()) <= took_ms
    (resource,) = collector.received[0].resource_spans
    assert ("service.name", "marmot") in attributes(resource.resource).items()


def test_failures_are_spans_too(serve: Callable[..., Any], collector: Collector) -> None:
    """Refusals have their status, 5xx are errors, and no user's id is in a path."""
    running = serve(otlp=collector.url)
    running.client.post("/v1/rank", content=b"{")
    running.client.get("/v1/users/hidden/timeline")
    running.client.get("/nowhere")
    running.client.get("/health/live", headers={"traceparent": f"00-{TRACE}-{SPAN}-00"})
    running.house.registry.active.engine.run = _broken
    running.client.post("/v1/rank", json={"user_id": "u", "candidates": [1]})
    running.stop()
    found = {span.name: (attributes(span), span.status.code) for span in collector.spans}
    # What the caller does not sample is not sampled.
    assert set(found) == {"POST /v1/rank", "GET /v1/users/{user_id}/timeline", "GET"}
    statuses = sorted(attributes(s)["http.response.status_code"] for s in collector.spans)
    assert statuses == [200, 404, 422, 500]
    assert "hidden" not in str(collector.spans)
    said, code = found["POST /v1/rank"]
    assert (said["error.type"], code) == ("500", 2)


def _broken(*_: Any) -> None:
    raise EngineFailed


def test_a_collector_that_is_away_is_nobodys_problem(serve: Callable[..., Any]) -> None:
    """Requests are answered, and the service ends in its time."""
    running = serve(otlp="http://127.0.0.1:1")
    assert running.rank("u", [1, 2])["cache"]["state"] == "cold"
    running.stop()


def test_without_the_extra_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence with the extra's name; the same for an address that is none."""
    with pytest.raises(UsageError, match="http://HOST:4318"):
        Tracer("collector:4318", "0")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(UsageError, match=r"marmot\[otel\]"):
        Tracer("http://collector:4318", "0")


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """What the service's own configuration makes of its log, by what is said."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    configure_logging(form="json", level="info")
    root.handlers, root.level = handlers, level
    yield lambda event: [
        record.msg
        for record in caplog.records
        if isinstance(record.msg, dict) and record.msg["event"] == event
    ]
    structlog.reset_defaults()


@pytest.mark.parametrize("is_traced", [False, True])
def test_the_log_names_request_and_trace(
    serve: Callable[..., Any],
    collector: Collector,
    logged: Callable[[str], list[dict[str, Any]]],
    is_traced: bool,
) -> None:
    """A failure is logged with the request's id and the caller's trace, traced or not."""
    running = serve(otlp=collector.url if is_traced else None)
    running.house.registry.active.engine.run = _broken
    headers = [{"x-request-id": "r-1", "traceparent": PARENT}, {"x-request-id": "r-2"}]
    for head in headers:
        body = {"user_id": "u", "candidates": [1]}
        assert running.client.post("/v1/rank", json=body, headers=head).status_code == 500
    first, second = logged("a request failed")
    assert (first["request_id"], first["trace_id"]) == ("r-1", TRACE)
    assert second["request_id"] == "r-2"
    assert ("trace_id" in second) == is_traced


def test_the_client_passes_a_trace_on(serve: Callable[..., Any], collector: Collector) -> None:
    """What it is given; else the span that the caller is in; else one nobody samples."""
    running = serve(otlp=collector.url)
    with Client(running.url) as client:
        client.rank("u", [1], traceparent=PARENT, tracestate="a=b")
        tracer = TracerProvider().get_tracer("shop")
        with tracer.start_as_current_span("checkout") as span:
            client.rank("u", [1])
        client.rank("u", [1])
    running.stop()
    context = span.get_span_context()
    given, current = collector.spans
    assert (given.trace_id.hex(), given.trace_state) == (TRACE, "a=b")
    assert int(current.trace_id.hex(), 16) == context.trace_id
    assert int(current.parent_span_id.hex(), 16) == context.span_id
