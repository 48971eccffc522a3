"""Prometheus's page: that of the control."""

from __future__ import annotations

from starlette.responses import Response

from admin.api.backend import Backend
from admin.metrics import CONTENT_TYPE


async def exposition(backend: Backend, accept: str) -> Response:
    """What a scraper reads. Raises Problem while there is no control."""
    return Response(await backend.control.metrics_page(), media_type=CONTENT_TYPE)
