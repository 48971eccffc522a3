"""Prometheus's page: that of the telemetry."""

from __future__ import annotations

from starlette.responses import Response

from admin.api.backend import Backend
from admin.api.problems import Problem


async def exposition(backend: Backend, accept: str) -> Response:
    """What a scraper reads. Raises Problem where there is no telemetry."""
    raise Problem("unavailable", "there is no telemetry here")
