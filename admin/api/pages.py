"""Lists come in pages: what asks for one, and the way to the next."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request, Response

from admin.api.commands import json
from admin.api.limits import PAGE_MAX

Limit = Annotated[int, Query(ge=1, le=PAGE_MAX, description="As many at most.")]
_NEXT = "`next_cursor` of the last page."
Cursor = Annotated[str, Query(max_length=64, description=_NEXT)]
SequenceCursor = Annotated[int | None, Query(ge=1, le=2**53, description=_NEXT)]
Since = Annotated[
    str, Query(max_length=40, description="From then on: RFC 3339, a date, or how long ago (`2h`).")
]
Until = Annotated[str, Query(max_length=40, description="Before then, as `since`.")]


def paged(request: Request, body: dict[str, Any], after: str, limit: int) -> Response:
    """`body` with the way to the next page (RFC 8288)."""
    body["next_cursor"] = after or None
    headers = {}
    if after:
        url = request.url.include_query_params(cursor=after, limit=limit)
        headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
    return json(body, headers=headers)
