"""The demo's collector of traces: what it takes, how it is found, and how a trace is drawn."""

from __future__ import annotations

import os
import urllib.error
import urllib.request

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from admin.demo.traces import Span, collecting, tree
from admin.telemetry.setup import endpoints
from events.installation import Telemetry


def span(name: str, id: str, parent: str, start: int = 0) -> Span:
    return Span(name, "control", "t", id, parent, start, start + 1)


def test_a_trace_is_drawn_as_a_tree() -> None:
    spans = [
        span("command", "1", "0"),
        span("send", "2", "1"),
        span("apply here", "3", "2"),
        span("apply there", "4", "2"),
        span("SELECT", "5", "0"),
        span("of another", "6", "9"),
    ]
    assert [lines + each.name for lines, each in tree(spans, "0")] == [
        "├─ command",
        "│  └─ send",
        "│     ├─ apply here",
        "│     └─ apply there",
        "└─ SELECT",
    ]


def test_spans_of_any_process_come_in_while_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("no_proxy", "example.org")
    with collecting() as traces:
        where = endpoints(Telemetry())
        assert (where.traces, where.metrics) == (f"{traces.url}/v1/traces", "")
        assert os.environ["no_proxy"] == "example.org,127.0.0.1"
        resource = Resource.create({"service.instance.id": "worker-7"})
        provider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(endpoint=where.traces, timeout=20)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        tracer = provider.get_tracer("test")
        with tracer.start_as_current_span("outer") as outer, tracer.start_as_current_span("inner"):
            pass
        provider.shutdown()
        found = outer.get_span_context()
        spans = traces.of(f"{found.trace_id:032x}")
        assert [(each.name, each.process) for each in spans] == [
            ("outer", "worker-7"),
            ("inner", "worker-7"),
        ]
        assert spans[1].parent_id == spans[0].span_id == f"{found.span_id:016x}"
        request = urllib.request.Request(f"{traces.url}/v1/logs", b"x", method="POST")
        with pytest.raises(urllib.error.HTTPError) as refused, urllib.request.urlopen(request):
            pass
        refused.value.close()
    assert os.environ["OTEL_SDK_DISABLED"] == "true"
    assert os.environ["no_proxy"] == "example.org"
    assert "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" not in os.environ
