"""Sends each request's span to an OpenTelemetry collector, from a thread of its own. Needs the extra `otel`.

Imported where `--otlp-endpoint` is given, and nowhere else. The SDK's own environment variables hold for what is no
option: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_HEADERS, OTEL_BSP_*.
https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-server
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.util.types import AttributeValue

from router.exposition import version
from router.trace import Span

log = logging.getLogger("router")

FLUSH = 3.0  # seconds that the end may wait for a collector
SAY_AGAIN = 60.0  # seconds between two lines in the log about a collector that takes nothing
NANO = 1_000_000_000
LONGEST = 200  # characters of a name that a client made up


class Exporter:
    """Takes spans without waiting. They are sent in batches; what a collector does not take in time is dropped."""

    def __init__(self, endpoint: str, clock: Callable[[], int] = time.time_ns):
        self._clock = clock  # nanoseconds since 1970
        self._ids = _Ids()
        names = {"service.name": "llm-router", "service.version": version()}
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # what is not sampled never comes here
            resource=Resource.create(names).merge(OTELResourceDetector().detect()),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        _quieten(logging.getLogger("opentelemetry"))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(traces_url(endpoint))))
        self._tracer = self._provider.get_tracer("llm-launch", version())

    def __call__(self, span: Span) -> None:
        """The request is over, now."""
        if not span.sampled:
            return
        end = self._clock()
        self._ids.span = span
        exported = self._tracer.start_span(
            f"POST {span.path}",
            _context(span),
            api.SpanKind.SERVER,
            attributes(span),
            start_time=end - int(span.seconds * NANO),
        )
        if span.code >= 500:
            exported.set_status(api.StatusCode.ERROR)
        exported.end(end)

    async def close(self) -> None:
        """Send what is left, for FLUSH seconds at most. The thread ends with the process if it takes longer."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def end() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop did not wait for it
                loop.call_soon_threadsafe(ended.set)

        threading.Thread(target=end, daemon=True).start()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ended.wait(), FLUSH)


def attributes(span: Span) -> dict[str, AttributeValue]:
    """What a span tells, by OpenTelemetry's names where it has one. What is not known is left out."""
    known: dict[str, AttributeValue | None] = {
        "http.request.method": "POST",
        "http.route": span.path,
        "url.path": span.path,
        "http.response.status_code": span.code,
        "error.type": str(span.code) if span.code >= 500 else None,
        "gen_ai.request.model": span.model[:LONGEST] if span.model else None,
        "llm_router.worker.id": span.worker,
        "llm_router.attempts": span.attempts,
        "llm_router.cached_tokens.predicted": span.predicted,
        "llm_router.cached_tokens.reported": span.cached,
        "llm_router.time_to_first_byte": span.first_byte,
    }
    return {name: value for name, value in known.items() if value is not None}


def traces_url(endpoint: str) -> str:
    """Where the spans go: an endpoint without a path is a collector, which takes traces at /v1/traces."""
    return endpoint.rstrip("/") + "/v1/traces" if urlsplit(endpoint).path in ("", "/") else endpoint


def _context(span: Span) -> Context:
    """What the SDK reads the trace and the parent from; for a root there is none, and it asks for a trace id."""
    if span.parent_id is None:
        return Context()
    parent = api.SpanContext(span.trace_id, span.parent_id, is_remote=True, trace_flags=api.TraceFlags(span.flags))
    return api.set_span_in_context(api.NonRecordingSpan(parent), Context())


class _Ids(IdGenerator):
    """The ids are made when a request comes: its worker has been told them."""

    span: Span

    def generate_span_id(self) -> int:
        return self.span.span_id

    def generate_trace_id(self) -> int:
        return self.span.trace_id


def _quieten(theirs: logging.Logger) -> None:
    """What the SDK has to say goes into the log as one line a minute, without tracebacks."""
    theirs.propagate = False
    theirs.handlers[:] = [_OnceAMinute()]


class _OnceAMinute(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said = -SAY_AGAIN

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now - self._said >= SAY_AGAIN:
            self._said = now
            log.warning("traces: %s", " ".join(record.getMessage().split()))
