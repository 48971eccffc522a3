"""An OpenTelemetry collector's OTLP/HTTP endpoint: takes what is exported, and decodes it.

https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service


@dataclass(frozen=True)
class Seen:
    """One span. Ids are in hexadecimal; `process` is service.instance.id."""

    name: str
    process: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    attributes: dict[str, Any]


class Collector:
    """What came in so far."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self.spans: list[Seen] = []
        # Name to the last points: labels and value.
        self.metrics: dict[str, list[tuple[dict[str, Any], float]]] = {}
        self.headers: list[dict[str, str]] = []
        self.url = ""

    def take(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        self.raw.append(body)
        self.headers.append(headers)
        if path == "/v1/traces":
            self._traces(trace_service.ExportTraceServiceRequest.FromString(body))
        elif path == "/v1/metrics":
            self._metrics(metrics_service.ExportMetricsServiceRequest.FromString(body))

    def _traces(self, request: Any) -> None:
        for resource in request.resource_spans:
            process = _attributes(resource.resource.attributes)["service.instance.id"]
            for scope in resource.scope_spans:
                for span in scope.spans:
                    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                    times = (span.start_time_unix_nano, span.end_time_unix_nano)
                    told = _attributes(span.attributes)
                    self.spans.append(Seen(span.name, process, span.kind, *ids, *times, told))

    def _metrics(self, request: Any) -> None:
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    points = (metric.sum if metric.HasField("sum") else metric.gauge).data_points
                    self.metrics[metric.name] = [
                        (_attributes(point.attributes), point.as_double or float(point.as_int))
                        for point in points
                    ]

    def named(self, name: str, **attributes: object) -> list[Seen]:
        """Spans of this name (or whose name begins so, with a star) and these attributes, whose
        dots are written as two underscores."""
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        return [
            span
            for span in tuple(self.spans)
            if (span.name == name or (name.endswith("*") and span.name.startswith(name[:-1])))
            and wanted.items() <= span.attributes.items()
        ]


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port, until the end."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            collector.take(self.path, body, dict(self.headers))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
