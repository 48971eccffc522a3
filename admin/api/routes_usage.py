"""What tenants use: stats and metrics, of one and of all."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from admin.analytics import views
from admin.api import described, examples
from admin.api.access import Behind, Overseer, TenantOf
from admin.api.commands import caught_up, json
from admin.api.described import answers, table
from admin.api.limits import PAGE
from admin.api.pages import Cursor, Limit, paged
from admin.telemetry.metrics import CONTENT_TYPE

router = APIRouter(tags=["usage"], dependencies=[Depends(caught_up)])

_METRICS: Final = table(
    qps_current=described.NUMBER,
    connections=table(clients=described.COUNT, servers=described.COUNT),
    totals=described.OBJECT,
    rates=described.OBJECT,
    latency=described.OBJECT,
    limit_hits=described.OBJECT,
)


@router.get(
    "/tenants/stats",
    summary="What each tenant uses, and all together",
    description="A tenant whose id is `stats` is `/tenants/~stats`.",
    responses=answers(
        table(tenants=described.listed(described.STATS), total=described.OBJECT),
        examples.ALL_STATS,
    ),
)
async def all_stats(
    request: Request,
    backend: Behind,
    who: Overseer,
    limit: Limit = PAGE,
    cursor: Cursor = "",
) -> Response:
    ids, after = backend.page(cursor, limit)
    tenants = [found for id in ids if (found := backend.state.tenant(id)) is not None]
    everybody = backend.ids()
    now = backend.now()
    body = await backend.ask(lambda view: views.overview(view, tenants, now))
    active = await backend.ask(lambda view: sum(views.active(view, id, now) for id in everybody))
    body["total"]["tenants"], body["total"]["active_tenants"] = len(everybody), active
    return paged(request, body, after, limit)


@router.get(
    "/tenants/{id}/stats",
    summary="What a tenant uses",
    description="The shapes of both source documents in one object. Bytes read went to the "
    "clients. Unlimited is null.",
    responses=answers(described.STATS, examples.STATS),
)
async def tenant_stats(backend: Behind, id: TenantOf) -> Response:
    tenant, now = backend.tenant(id), backend.now()
    return json(await backend.ask(lambda view: views.tenant_stats(view, tenant, now)))


@router.get(
    "/tenants/{id}/metrics",
    summary="All that is measured of a tenant",
    responses=answers(_METRICS, examples.TENANT_METRICS),
)
async def tenant_metrics(backend: Behind, id: TenantOf) -> Response:
    tenant, now = backend.tenant(id), backend.now()
    return json(await backend.ask(lambda view: views.tenant_metrics(view, tenant, now)))


@router.get(
    "/metrics",
    summary="All that is measured, all tenants together",
    description="JSON; or, for whoever accepts `text/plain` rather than JSON or asks for "
    "`format=prometheus`, Prometheus's text format.",
    responses={
        **answers(_METRICS),
        200: {
            "description": "The measures.",
            "content": {
                "application/json": {"schema": _METRICS, "example": examples.METRICS},
                "text/plain": {"schema": {"type": "string"}, "example": examples.PROMETHEUS},
            },
        },
    },
)
async def metrics(
    request: Request,
    backend: Behind,
    who: Overseer,
    format: Annotated[
        Literal["json", "prometheus"] | None, Query(description="Whatever is accepted.")
    ] = None,
) -> Response:
    if format == "prometheus" or (format is None and _wants_text(request)):
        return Response(await backend.control.metrics_page(), media_type=CONTENT_TYPE)
    number = [_Counted(id) for id in backend.ids()]
    now = backend.now()
    return json(
        await backend.ask(
            lambda view: views.global_metrics(view, number, now)  # type: ignore[arg-type]
        )
    )


class _Counted:
    """A tenant of which only the id is asked for."""

    __slots__ = ("id",)

    def __init__(self, id: str) -> None:
        self.id = id


def _wants_text(request: Request) -> bool:
    """Whether text is named before JSON (RFC 9110, section 12.5.1, without weights: scrapers name
    what they like best first)."""
    for part in request.headers.get("accept", "").lower().split(","):
        kind = part.partition(";")[0].strip()
        if kind in ("application/json", "*/*", "application/*"):
            return False
        if kind in ("text/plain", "application/openmetrics-text"):
            return True
    return False
