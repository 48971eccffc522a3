"""Sends the numbers of Prometheus's page to a collector as well, by OTLP."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from admin.telemetry.metrics import Family

SEND_SECONDS = 2.0


class MetricsExport:
    """`tell` the families now and then; they are sent every `seconds` by a thread of the SDK."""

    def __init__(self, endpoint: str, process: str, seconds: float) -> None:
        self._families: dict[str, Family] = {}
        self._provider = MeterProvider(
            [
                PeriodicExportingMetricReader(
                    OTLPMetricExporter(endpoint=endpoint, timeout=SEND_SECONDS), seconds * 1000
                )
            ],
            Resource.create({"service.name": "tenantry", "service.instance.id": process}),
        )
        self._meter = self._provider.get_meter("tenantry")

    def tell(self, families: Iterable[Family]) -> None:
        """What is sent from now on."""
        for family in families:
            new = family.name not in self._families
            # Replaced as a whole: the thread that sends reads it at any time.
            self._families[family.name] = family
            if new:
                make = (
                    self._meter.create_observable_counter
                    if family.kind == "counter"
                    else self._meter.create_observable_gauge
                )
                make(family.name, [partial(self._observe, family.name)], description=family.help)

    def _observe(self, name: str, _options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, labels) for labels, value in self._families[name].samples]

    def stop(self) -> None:
        """Send once more and end. Blocks for SEND_SECONDS at most, so call it in a thread."""
        self._provider.shutdown(SEND_SECONDS * 1000)
