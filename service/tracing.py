"""OpenTelemetry: a span for each request, sent to an OTLP collector, if `--otlp` names one.

The SDK comes with the extra `otel` and is imported only here, when a tracer is opened. What it
reads of the environment by itself counts: OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES,
OTEL_BSP_…, OTEL_EXPORTER_OTLP_HEADERS.
"""

from __future__ import annotations

import asyncio
from time import perf_counter, time
from typing import Any
from urllib.parse import urlsplit

from starlette.types import Scope

from service.errors import UsageError
from service.timings import Timings

TRACES_PATH = "/v1/traces"
EXPORT_TIMEOUT_S = 5
CARRIED = (b"traceparent", b"tracestate")
METHODS = frozenset({"GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"})
NS = 1_000_000_000


class Tracer:
    """Starts and ends the spans of requests; sends them from a thread of its own."""

    def __init__(self, url: str, version: str) -> None:
        """`url` is the collector's OTLP/HTTP address; without a path, `/v1/traces` is added."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
                OTLPSpanExporter,
            )
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
            from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415
            from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
                TraceContextTextMapPropagator,
            )
        except ImportError as error:
            raise UsageError("--otlp takes the extra otel: pip install 'marmot[otel]'") from error
        self._url = _endpoint(url)
        resource = Resource.create({"service.name": "marmot", "service.version": version})
        self._provider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(self._url, timeout=EXPORT_TIMEOUT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("marmot", version)
        self._server = SpanKind.SERVER
        self._failed = Status(StatusCode.ERROR)
        self._extract = TraceContextTextMapPropagator().extract

    def __repr__(self) -> str:
        return f"<Tracer to {self._url}>"

    def begin(self, scope: Scope, timings: Timings) -> Any:
        """The request's span, a child of the caller's where a traceparent came with it."""
        carrier = {
            name.decode(): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in CARRIED
        }
        began_s = time() - (perf_counter() - timings.began)
        return self._tracer.start_span(
            "HTTP",
            context=self._extract(carrier),
            kind=self._server,
            start_time=int(began_s * NS),
        )

    def end(self, span: Any, scope: Scope, route: str, status: int, timings: Timings) -> None:
        """Names the span as HTTP's semantic conventions do, and says where its time went."""
        span_s = timings.total
        if not span.is_recording():
            return
        method, failed = scope["method"], status >= 500
        method = method if method in METHODS else "_OTHER"
        span.update_name(f"{method} {route}" if route != "none" else method)
        span.set_attributes(
            {
                "http.request.method": method,
                # A path may hold a user's id.
                "url.path": route if "{" in route else scope["path"],
                "url.scheme": scope["scheme"],
                "network.protocol.version": scope["http_version"],
                **_of_server(scope),
                **({"http.route": route} if route != "none" else {}),
                **({"http.response.status_code": status} if status else {}),
                **({"error.type": str(status)} if failed or not status else {}),
                "marmot.stage.cache_ms": timings.cache * 1e3,
                "marmot.stage.queue_ms": timings.queue * 1e3,
                "marmot.stage.run_ms": timings.run * 1e3,
            }
        )
        if failed:
            span.set_status(self._failed)
        span.end(span.start_time + int(span_s * NS))

    async def close(self) -> None:
        """Sends what waits."""
        await asyncio.to_thread(self._provider.shutdown)


def trace_id(span: Any, scope: Scope) -> str:
    """The trace that a request belongs to: its span's, or else the caller's; "" for none."""
    if span is not None:
        return format(span.get_span_context().trace_id, "032x")
    for name, value in scope["headers"]:
        if name == CARRIED[0]:
            parts: list[str] = value.decode("latin-1").split("-")
            found = parts[1] if len(parts) >= 4 else ""
            return found if len(found) == 32 and found.isalnum() and found.isascii() else ""
    return ""


def _endpoint(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise UsageError("--otlp is not an address of the form http://HOST:4318")
    return url if parts.path.strip("/") else f"{url.rstrip('/')}{TRACES_PATH}"


def _of_server(scope: Scope) -> dict[str, Any]:
    address, port = scope.get("server") or (None, None)
    return {} if address is None else {"server.address": address, "server.port": port or 0}
