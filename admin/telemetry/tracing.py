"""Spans by OpenTelemetry's SDK: commands, appends, their application; connections and statements.

    command ─▶ append ─NATS header─▶ apply, in each worker
    connection ─▶ statement (a share of them; or under the trace that its comment names)

A statement's span is made when it has been answered, from times that are kept anyway, so what is
not sampled costs one test. No text of a statement is ever told, only its fingerprint.

Names: https://opentelemetry.io/docs/specs/semconv/database/postgresql/ and …/messaging/
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from random import random
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from events.spans import TRACEPARENT, About, Spans, meanwhile, parse
from wire.ports import Tracing
from wire.postgres.borrower import Borrower
from wire.postgres.client import ClientConnection
from wire.postgres.ledger import SEVERAL
from wire.postgres.noting import told
from wire.postgres.server import ServerConnection

# Spans that wait for the exporter; further ones are dropped, and the SDK says so.
QUEUE_MAX: Final = 2048
EXPORT_MILLIS: Final = 1000
# What the end of the process waits for the collector.
STOP_MILLIS: Final = 2000
# Spans of connections and statements that one worker makes: a burst, and so many a second. A client
# can mark every statement of its as sampled, and must not make us work for it without bound.
BURST: Final = 500.0
PER_SECOND: Final = 100.0

# sqlcommenter: key='value', URL-encoded, in a comment at the end of a statement (or at its start).
# https://google.github.io/sqlcommenter/spec/
_PARENT: Final = re.compile(rb"\btraceparent='([0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})'")
# A comment that is longer is not looked into.
COMMENT_MAX: Final = 2048

Place = Callable[[str], tuple[str, str, int]]


class Tracer:
    """The spans of one process. `spans` is for the log and commands, `tracing` for the wire."""

    def __init__(self, endpoint: str, process: str, ratio: float, place: Place) -> None:
        resource = Resource.create(
            {"service.name": "tenantry", "service.instance.id": process, **_version()}
        )
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=resource)
        self._provider.add_span_processor(
            BatchSpanProcessor(
                OTLPSpanExporter(endpoint=endpoint, timeout=STOP_MILLIS / 1000),
                max_queue_size=QUEUE_MAX,
                schedule_delay_millis=EXPORT_MILLIS,
            )
        )
        tracer = self._provider.get_tracer("tenantry")
        self.spans = TracedSpans(tracer)
        self.tracing = WireTracing(tracer, ratio, place)

    def stop(self) -> None:
        """Send what waits, as far as the collector takes it. Blocks for STOP_MILLIS at most, so
        call it in a thread."""
        self._provider.force_flush(STOP_MILLIS)
        self._provider.shutdown()


class TracedSpans(Spans):
    """See Spans; makes the spans as well."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    @contextmanager
    def command(self, name: str, tenant: str, surface: str, traceparent: str) -> Iterator[str]:
        attributes = {"tenantry.command.type": name, "tenantry.surface": surface}
        if tenant:
            attributes["tenantry.tenant.id"] = tenant
        span = self._tracer.start_span(
            f"command {name}", _parent(traceparent), SpanKind.SERVER, attributes
        )
        with self._within(span, tenant):
            yield _traceparent(span)

    @contextmanager
    def append(self, subject: str, headers: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
        traceparent = headers.get(TRACEPARENT, "")
        if not parse(traceparent)[0]:
            # Nobody's trace: provisioning, say, whose commits come by the thousand.
            yield headers
            return
        attributes = {
            "messaging.system": "nats",
            "messaging.operation.type": "send",
            "messaging.destination.name": subject,
        }
        span = self._tracer.start_span(
            f"send {subject}", _parent(traceparent), SpanKind.PRODUCER, attributes
        )
        with self._within(span, ""):
            yield {**headers, TRACEPARENT: _traceparent(span)}

    @contextmanager
    def apply(self, kind: str, id: str, sequence: int, traceparent: str) -> Iterator[None]:
        tenant = id if kind == "tenant" else ""
        if not parse(traceparent)[0]:
            with meanwhile(About(tenant)):
                yield
            return
        attributes: dict[str, str | int] = {
            "messaging.system": "nats",
            "messaging.operation.type": "process",
            "tenantry.event.sequence": sequence,
            "tenantry.event.kind": kind,
        }
        if tenant:
            attributes["tenantry.tenant.id"] = tenant
        span = self._tracer.start_span(
            f"apply {kind}", _parent(traceparent), SpanKind.CONSUMER, attributes
        )
        with self._within(span, tenant):
            yield

    @contextmanager
    def _within(self, span: Span, tenant: str) -> Iterator[None]:
        found = span.get_span_context()
        ids = (trace.format_trace_id(found.trace_id), trace.format_span_id(found.span_id))
        try:
            with meanwhile(About(tenant, *ids)):
                yield
        except Exception as error:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
        finally:
            span.end()


class WireTracing(Tracing):
    """See Tracing. Connections are told apart by their object, statements by nothing."""

    def __init__(self, tracer: trace.Tracer, ratio: float, place: Place) -> None:
        self._tracer = tracer
        self._ratio = ratio
        self._place = place
        # One of each client that has logged in; it goes with the client.
        self._spans: dict[Borrower, Span] = {}
        self._left = BURST
        self._since = time.monotonic()

    def opened(self, client: ClientConnection) -> None:
        if not self._afford():
            return
        attributes = self._attributes(client)
        attributes["client.address"] = client.address
        self._spans[client] = self._tracer.start_span(
            f"connection {client.tenant}", Context(), SpanKind.SERVER, attributes
        )

    def closed(self, client: ClientConnection) -> None:
        span = self._spans.pop(client, None)
        if span is not None:
            span.end()

    def worked(self, server: ServerConnection, started: float, ended: float) -> None:
        sql = server.sql
        client = server.client
        if client is None:
            return
        found = comment_parent(sql) if b"traceparent" in sql else ""
        if found:
            if not parse(found)[2]:
                return
            parent = _parent(found)
        elif self._ratio and random() < self._ratio:  # noqa: S311 - a sample, no secret
            own = self._spans.get(client)
            parent = Context() if own is None else trace.set_span_in_context(own, Context())
        else:
            return
        if not self._afford():
            return
        attributes = self._attributes(client)
        kind = ""
        if sql is not SEVERAL:
            about = told(sql)
            kind = about.kind
            attributes["tenantry.statement.fingerprint"] = about.fingerprint
            if kind:
                attributes["db.operation.name"] = kind
        # The monotonic clock, told as the other one.
        now = time.time_ns() - int(time.monotonic() * 1e9)
        span = self._tracer.start_span(
            f"{kind or 'statements'} {attributes.get('db.namespace', '')}".strip(),
            parent,
            SpanKind.CLIENT,
            attributes,
            start_time=now + int(started * 1e9),
        )
        span.end(now + int(ended * 1e9))

    def ids(self, client: Borrower, sql: bytes) -> tuple[str, str]:
        if b"traceparent" in sql:
            trace_id, span_id, _ = parse(comment_parent(sql))
            if trace_id:
                return trace_id, span_id
        span = self._spans.get(client)
        if span is None:
            return "", ""
        found = span.get_span_context()
        return trace.format_trace_id(found.trace_id), trace.format_span_id(found.span_id)

    def _attributes(self, client: Borrower) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "db.system.name": "postgresql",
            "tenantry.tenant.id": client.tenant,
            "tenantry.user.name": client.user,
        }
        database, host, port = self._place(client.tenant)
        if database:
            attributes["db.namespace"] = database
        if host:
            attributes["server.address"] = host
            attributes["server.port"] = port
        return attributes

    def _afford(self) -> bool:
        now = time.monotonic()
        self._left = min(BURST, self._left + (now - self._since) * PER_SECOND)
        self._since = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def comment_parent(sql: bytes) -> str:
    """The traceparent in a statement's last or first comment; "" when there is none."""
    text = sql.strip(b" \t\r\n;")
    if text.endswith(b"*/"):
        start = text.rfind(b"/*", max(0, len(text) - COMMENT_MAX))
        found = _PARENT.search(text, start) if start >= 0 else None
        if found is not None:
            return found[1].decode()
    if text.startswith(b"/*"):
        end = text.find(b"*/", 0, COMMENT_MAX)
        found = _PARENT.search(text, 0, end) if end >= 0 else None
        if found is not None:
            return found[1].decode()
    return ""


def _parent(traceparent: str) -> Context:
    trace_id, span_id, sampled = parse(traceparent)
    if not trace_id:
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    context = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=flags)
    return trace.set_span_in_context(NonRecordingSpan(context), Context())


def _traceparent(span: Span) -> str:
    found = span.get_span_context()
    return (
        f"00-{trace.format_trace_id(found.trace_id)}-{trace.format_span_id(found.span_id)}"
        f"-{found.trace_flags:02x}"
    )


def _version() -> dict[str, str]:
    from importlib import metadata

    try:
        return {"service.version": metadata.version("tenantry")}
    except metadata.PackageNotFoundError:
        return {}
