"""/analytics: reports over all tenants, and on one."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Query, Response

from actors.analytics_fold import MEASURES
from admin.analytics import reports, views
from admin.api import described, examples
from admin.api.access import Anybody, Behind, Overseer, forbidden
from admin.api.backend import Backend
from admin.api.commands import caught_up, json
from admin.api.described import answers, listed, table
from admin.api.problems import Problem, missing, mistake

router = APIRouter(prefix="/analytics", tags=["analytics"], dependencies=[Depends(caught_up)])

TOP_MAX: Final = 1000
KNOWN: Final = tuple(sorted({"qps", "connections", *views.SPELLINGS, *MEASURES}))
By = Annotated[
    str, Query(max_length=40, description=f"A measure: {', '.join(KNOWN)}.", examples=["qps"])
]
Top = Annotated[int, Query(ge=1, le=TOP_MAX, description="As many at most.")]
TenantId = Annotated[
    str, Query(alias="tenant", max_length=63, description="Of one tenant; else of all.")
]


def _checked(by: str) -> str:
    if by not in KNOWN:
        raise mistake("by", "is no measure", f"Use any of {', '.join(KNOWN)}.")
    return by


async def across(backend: Behind, who: Overseer) -> Backend:
    """Statistics over all tenants, where they are wanted. Raises Problem."""
    _check_wanted(backend)
    return await counted(backend)


def _check_wanted(backend: Backend) -> None:
    if not backend.installation.cross_tenant_analytics:
        raise Problem(
            "forbidden",
            "statistics over all tenants are off: set cross_tenant_analytics = true in "
            "[multi_tenancy]",
        )


async def counted(backend: Behind) -> Backend:
    if not backend.counts:
        raise Problem("unavailable", "there are no statistics here: see [analytics] enabled")
    return backend


Across = Annotated[Backend, Depends(across)]
Counted = Annotated[Backend, Depends(counted)]


def _one(backend: Backend, who: Anybody, tenant: str) -> str:
    """The tenant that is asked for; "" for all, where the caller may see that. Raises Problem."""
    tenant = tenant or who.principal.tenant
    if not tenant:
        _check_wanted(backend)
    elif not who.principal.may_read(tenant):
        raise forbidden(backend, who, "another tenant")
    elif backend.state.record(tenant) is None:
        raise missing(f"tenant {tenant}")
    return tenant


@router.get(
    "/cross-tenant",
    summary="All tenants at a glance",
    responses=answers(
        table(
            summary=table(
                total_tenants=described.COUNT,
                active_tenants=described.COUNT,
                total_qps=described.NUMBER,
            ),
            top_tenants_by_usage=listed(
                table(tenant=described.NAME, qps=described.NUMBER, connections=described.COUNT)
            ),
            resource_distribution=table(
                connections_used_pct=described.NUMBER, qps_used_pct=described.NUMBER
            ),
        ),
        examples.CROSS_TENANT,
    ),
)
async def cross_tenant(backend: Across, by: By = "qps", top: Top = 10) -> Response:
    measure = _checked(by)
    everybody, now = await backend.everybody(), backend.now()
    return json(
        await backend.ask(
            lambda view: views.cross_tenant(view, everybody, now, by=measure, top=top)
        )
    )


@router.get(
    "/top",
    summary="The tenants that use most of something",
    responses=answers(table(by=described.NAME, tenants=listed(described.OBJECT)), examples.TOP),
)
async def top_tenants(
    backend: Across,
    by: By = "qps",
    top: Top = 10,
    seconds: Annotated[
        int | None, Query(ge=1, le=3600, description="Over the last while; else over all time.")
    ] = None,
) -> Response:
    measure, now = _checked(by), backend.now()
    rows = await backend.ask(
        lambda view: views.top_tenants(view, now, by=measure, top=top, seconds=seconds)
    )
    return json({"by": measure, "seconds": seconds, "tenants": rows})


@router.get(
    "/history",
    summary="Usage by minute, hour or day",
    responses=answers(
        table(step=described.NAME, history=listed(table(time=described.NAME))), examples.HISTORY
    ),
)
async def history(
    backend: Counted,
    who: Anybody,
    step: Annotated[
        Literal["minute", "hour", "day"], Query(description="What one row is about.")
    ] = "hour",
    tenant: TenantId = "",
) -> Response:
    id = _one(backend, who, tenant)
    rows = await backend.ask(
        lambda view: reports.history(view.account(id) if id else view.all, step, view.newest)
    )
    return json({"tenant": id or None, "step": step, "history": rows})


@router.get(
    "/costs",
    summary="What tenants cost",
    description="By the prices in `[analytics.prices]`; the dearest first.",
    responses=answers(
        table(currency=described.NAME, tenants=listed(described.OBJECT), total=described.OBJECT),
        examples.COSTS,
    ),
)
async def costs(backend: Counted, who: Anybody, top: Top = 100, tenant: TenantId = "") -> Response:
    id, prices = _one(backend, who, tenant), backend.installation.analytics.prices
    if not id:
        return json(await backend.ask(lambda view: reports.costs(view, prices, top=top)))
    found = await backend.ask(lambda view: reports.cost(view.account(id).totals, prices))
    return json(
        {
            "currency": prices.currency,
            "tenants": [{"tenant": id, **found}],
            "total": found,
        }
    )


@router.get(
    "/noisy-neighbours",
    summary="Who takes more than a fair share",
    responses=answers(
        table(noisy=listed(described.OBJECT), fair_share=described.NUMBER), examples.NOISY
    ),
)
async def noisy_neighbours(backend: Across) -> Response:
    now = backend.now()
    return json(await backend.ask(lambda view: reports.noisy_neighbours(view, now)))


@router.get(
    "/limits",
    summary="Which limits were hit, and by whom",
    responses=answers(
        table(by_limit=described.OBJECT, tenants=listed(described.OBJECT)), examples.LIMIT_HITS
    ),
)
async def limits(backend: Counted, who: Anybody, tenant: TenantId = "") -> Response:
    id, now = _one(backend, who, tenant), backend.now()
    found: dict[str, Any] = await backend.ask(lambda view: reports.limit_hits(view, now))
    if id:
        own = [row for row in found["tenants"] if row["tenant"] == id]
        found = {"by_limit": own[0]["by_limit"] if own else {}, "tenants": own}
    return json(found)


@router.get(
    "/metering",
    summary="The usage events of one hour",
    description="As billing gets them. Only the last hours are known of every tenant.",
    responses=answers(
        table(events=listed(table(tenant_id=described.NAME, metrics=described.OBJECT))),
        examples.METERING,
    ),
)
async def metering(
    backend: Across,
    hours_ago: Annotated[int, Query(ge=0, le=168, description="0 is this hour.")] = 1,
) -> Response:
    hour = backend.now() - hours_ago * 3600
    return json({"events": await backend.ask(lambda view: reports.metering(view, hour))})
