"""Whether traces and metrics are exported, and the one place that loads what that takes.

OpenTelemetry's SDK takes time and memory to import, so nothing of it is loaded unless an endpoint
is configured: by `[telemetry] endpoint`, or by the standard OTEL_* variables.
https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from events import installation as inst

if TYPE_CHECKING:
    from admin.telemetry.tracing import Tracer

_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where each signal goes; "" for nowhere."""

    traces: str = ""
    metrics: str = ""


def endpoints(telemetry: inst.Telemetry, environ: Mapping[str, str] | None = None) -> Endpoints:
    """What is configured; a signal's own variable counts before that of both, as the standard says,
    and the installation before either."""
    environ = os.environ if environ is None else environ
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Endpoints()
    base = telemetry.endpoint or environ.get(_ENDPOINT, "").strip()
    found = []
    for signal in ("traces", "metrics"):
        own = environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "").strip()
        chosen = environ.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp").strip()
        whole = own if not telemetry.endpoint else ""
        if chosen not in ("", "otlp"):
            found.append("")
        else:
            found.append(whole or (base.rstrip("/") + f"/v1/{signal}" if base else ""))
    return Endpoints(*found)


def open_tracer(
    telemetry: inst.Telemetry, process: str, place: Callable[[str], tuple[str, str, int]]
) -> Tracer | None:
    """Makes and exports the spans of this process; None when nobody wants them.

    `place` tells where a tenant's data is: database, host, port.
    """
    where = endpoints(telemetry)
    if not where.traces:
        return None
    from admin.telemetry.tracing import Tracer

    return Tracer(where.traces, process, telemetry.sample_ratio, place)
