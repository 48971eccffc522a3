"""Takes the traces of the demo's processes, as an OpenTelemetry collector would, and draws one.

It speaks OTLP over HTTP (https://opentelemetry.io/docs/specs/otlp/#otlphttp), on loopback, in a
thread of its own; the demo's processes are told of it by the standard variables.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PATH: Final = "/v1/traces"
# The demo goes on serving; of what its clients cause, the latest spans are enough.
SPANS_MAX: Final = 5000
# An exporter sends 512 spans at a time, of less than a kB each.
BODY_BYTES_MAX: Final = 4 * 1024 * 1024
# How often the thread looks whether it should end. Seconds.
POLL_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Span:
    """One span; ids are in hexadecimal, times in nanoseconds, `process` is the one that made it."""

    name: str
    process: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int


class Traces:
    """What has come in so far."""

    def __init__(self) -> None:
        self._spans: deque[Span] = deque(maxlen=SPANS_MAX)
        self.url = ""

    def take(self, body: bytes) -> None:
        """Raises google.protobuf's DecodeError."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            process = named.get("service.instance.id", "")
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self._spans.append(
                        Span(
                            span.name,
                            process,
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            span.start_time_unix_nano,
                            span.end_time_unix_nano,
                        )
                    )

    def of(self, trace_id: str) -> list[Span]:
        """The spans of one trace, in the order in which they began."""
        found = [span for span in tuple(self._spans) if span.trace_id == trace_id]
        return sorted(found, key=lambda span: span.start)


def tree(spans: list[Span], root: str) -> list[tuple[str, Span]]:
    """The spans below the span id `root`, each with the lines to draw before its name."""
    below: dict[str, list[Span]] = {}
    for span in spans:
        below.setdefault(span.parent_id, []).append(span)
    drawn: list[tuple[str, Span]] = []

    def draw(parent: str, before: str) -> None:
        children = below.get(parent, [])
        for span in children:
            last = span is children[-1]
            drawn.append((before + ("└─ " if last else "├─ "), span))
            draw(span.span_id, before + ("   " if last else "│  "))

    draw(root, "")
    return drawn


@contextlib.contextmanager
def collecting() -> Iterator[Traces]:
    """Listen on a free port until the end; processes started meanwhile send their traces here,
    wherever they would have sent them otherwise."""
    traces = Traces()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if self.path != PATH or length > BODY_BYTES_MAX:
                self.send_error(404 if self.path != PATH else 413)
                return
            body = self.rfile.read(length)
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            traces.take(body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """What it takes is shown by the steps."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    traces.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(
        target=server.serve_forever, args=(POLL_SECONDS,), name="demo traces", daemon=True
    )
    thread.start()
    before = dict(os.environ)
    os.environ.update(_variables(traces.url))
    os.environ.pop("OTEL_SDK_DISABLED", None)
    try:
        yield traces
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.shutdown()
        thread.join()
        server.server_close()


def _variables(url: str) -> dict[str, str]:
    """As the specification's general SDK configuration has them. An HTTP proxy is none of our
    business: the address is our own."""
    direct = ",".join(filter(None, (os.environ.get("no_proxy", ""), "127.0.0.1")))
    return {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": url + PATH,
        "OTEL_METRICS_EXPORTER": "none",
        "no_proxy": direct,
        "NO_PROXY": direct,
    }
