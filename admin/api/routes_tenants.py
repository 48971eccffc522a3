"""/tenants: list, make, read, change, switch, delete."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from admin.analytics import views
from admin.api import described, examples, shown
from admin.api.access import Anybody, Behind, TenantOf
from admin.api.bodies import read_object
from admin.api.commands import (
    Order,
    Ordered,
    OrderedForAll,
    about,
    caught_up,
    done,
    etag,
    json,
    told_only,
)
from admin.api.described import answers, changed, table
from admin.api.limits import PAGE
from admin.api.pages import Cursor, Limit, paged
from admin.api.problems import Problem
from admin.api.shapes import Shaped, settings_of
from admin.api.users import with_verifiers
from events.answer import Answer
from events.commands_model import (
    ChangeTenant,
    Command,
    DeleteTenant,
    DisableTenant,
    EnableTenant,
    Mistake,
    PurgeTenant,
    PutTenant,
    RestoreTenant,
)
from events.model import Settings

router = APIRouter(tags=["tenants"])
Force = Annotated[
    bool, Query(description="Although the data stays where it is, or was deleted only now.")
]
# A change that rests on what was read is tried again when somebody else was faster.
TRIES_MAX = 3


# --- list and make -------------------------------------------------------------------------------


@router.get(
    "/tenants",
    summary="List tenants",
    responses=answers(
        described.table(tenants=described.listed(described.LIST_ENTRY), total=described.COUNT),
        examples.TENANTS,
    ),
    dependencies=[Depends(caught_up)],
)
async def list_tenants(
    request: Request,
    backend: Behind,
    who: Anybody,
    limit: Limit = PAGE,
    cursor: Cursor = "",
) -> Response:
    own = who.principal.tenant
    if own:
        ids, after = [own] if backend.state.tenant(own) else [], ""
    else:
        ids, after = backend.page(cursor, limit)
    tenants = [found for id in ids if (found := backend.state.tenant(id)) is not None]
    now = backend.now()
    rows = await backend.ask(lambda view: [views.list_entry(view, each, now) for each in tenants])
    control = backend.control
    for row, tenant in zip(rows, tenants, strict=True):
        record = control.projection.record(tenant.id)
        row["enabled"], row["tier"] = tenant.enabled, tenant.tier
        row["status"] = shown.status(tenant, record, control)[0] if record is not None else ""
    body: dict[str, Any] = {"tenants": rows, "total": 1 if own else len(backend.ids())}
    return paged(request, body, after, limit)


@router.post(
    "/tenants",
    status_code=201,
    summary="Make a tenant",
    description="Takes the settings of a configuration file's tenant, or the short forms of either "
    "source document. Provisioning follows: `status` goes from pending to active.",
    openapi_extra=described.body(
        described.table(id={"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,62}$"}),
        examples=examples.CREATE,
    ),
    responses=described.made(described.TENANT, examples.TENANT),
)
async def create_tenant(request: Request, order: OrderedForAll) -> Response:
    body = await read_object(request)
    id = body.pop("id", "")
    if not isinstance(id, str) or not id:
        order.refuse(PutTenant.TYPE)
        wrong = Mistake("id", "is required", 'Write e.g. "id": "acme".')
        raise Problem("refused", str(wrong), mistakes=[wrong])
    shaped = await _shaped(order, body, {})
    answer = await order.give(PutTenant, id=id, settings=shaped.settings, create_only=True)
    headers = {"Location": f"/tenants/{'~' if id == 'stats' else ''}{id}"}
    return _tenant_now(order, id, answer, shaped, 201, headers)


async def _shaped(order: Order, body: dict[str, Any], known: Settings) -> Shaped:
    """The body in our arrangement. Raises Problem with all mistakes of its shape."""
    rates = known.get("rate_limits", {})
    shaped = settings_of(body, qps=rates.get("qps_limit") if isinstance(rates, dict) else None)
    shaped.settings = await with_verifiers(shaped.settings, known, shaped.mistakes)
    if shaped.mistakes:
        order.refuse("settings")
        raise Problem("refused", "; ".join(map(str, shaped.mistakes)), mistakes=shaped.mistakes)
    return shaped


def _tenant_now(
    order: Order,
    id: str,
    answer: Answer,
    shaped: Shaped | None = None,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    """The tenant as the command left it; of a dry run, what would be stored."""
    ignored = shaped.told if shaped is not None else {}
    if answer.dry_run:
        return told_only(answer, **ignored)
    control = order.backend.control
    record = order.backend.record(id)
    tenant = order.backend.tenant(id)
    body = {**shown.tenant(tenant, record, control), **ignored}
    return json(body, status, {**about(answer), **etag(record.version), **(headers or {})})


# --- one tenant ----------------------------------------------------------------------------------


@router.put(
    "/tenants/{id}",
    summary="Replace a tenant's settings, or make it",
    description="What the body leaves out goes back to its default, except `enabled` and `users`, "
    "which stay.",
    openapi_extra=described.body(examples=examples.PUT),
    responses={
        **changed(described.TENANT, "It has these settings.", example=examples.TENANT),
        201: described.made(described.TENANT, examples.TENANT)[201],
    },
)
async def put_tenant(
    request: Request, order: Ordered, id: TenantOf, force: Force = False
) -> Response:
    body = await read_object(request)
    if body.pop("id", id) != id:
        order.refuse(PutTenant.TYPE, id)
        wrong = Mistake("id", f"is not {id}, which the address names")
        raise Problem("refused", str(wrong), mistakes=[wrong])
    asked = order.expected
    for _ in range(TRIES_MAX):
        record = order.backend.state.record(id)
        known = record.settings if record is not None else {}
        shaped = await _shaped(order, body, known)
        if "users" not in shaped.settings and known.get("users"):
            shaped.settings["users"] = known["users"]
            if asked is None and record is not None:
                order.expected = record.version
        answer = await order.try_to_give(PutTenant, id=id, settings=shaped.settings, force=force)
        if answer.code != "changed" or asked is not None:
            break
    if not answer.accepted:
        raise Problem.of(answer)
    made = any(fact.TYPE == "TenantCreated" for fact in answer.events)
    return _tenant_now(order, id, answer, shaped, 201 if made else 200)


@router.patch(
    "/tenants/{id}",
    summary="Change some settings",
    description="A merge patch (RFC 7396): null puts a setting back to its default.",
    openapi_extra=described.body(patch=True, examples=examples.PATCH),
    responses=changed(described.TENANT, "It is changed.", example=examples.TENANT),
)
async def patch_tenant(
    request: Request, order: Ordered, id: TenantOf, force: Force = False
) -> Response:
    body = await read_object(request)
    return await change(order, id, body, force)


async def change(order: Order, id: str, body: dict[str, Any], force: bool = False) -> Response:
    """Lay `body` over the tenant's settings."""
    if body.pop("id", id) != id:
        order.refuse(ChangeTenant.TYPE, id)
        wrong = Mistake("id", f"is not {id}: an id is for ever")
        raise Problem("refused", str(wrong), mistakes=[wrong])
    record = order.backend.state.record(id)
    tenant = order.backend.state.tenant(id)
    known = dict(record.settings) if record is not None else {}
    if tenant is not None:
        # A burst is a multiple of the rate that counts, wherever that was set.
        known["rate_limits"] = {"qps_limit": tenant.rate_limits.qps_limit}
    shaped = await _shaped(order, body, known)
    answer = await order.give(ChangeTenant, id=id, patch=shaped.settings, force=force)
    return _tenant_now(order, id, answer, shaped)


@router.put(
    "/tenants/{id}/limits",
    summary="Change a tenant's limits",
    description="Those that are named; the others stay. `max_connections` counts for clients and "
    "for the pool. Any key of `rate_limits` may be named.",
    openapi_extra=described.body(examples=examples.PUT_LIMITS),
    responses=changed(described.TENANT, "They are changed.", example=examples.TENANT),
)
async def put_limits(request: Request, order: Ordered, id: TenantOf) -> Response:
    body = await read_object(request)
    flat: dict[str, Any] = {
        key: body[key] for key in ("max_connections", "qps_limit") if key in body
    }
    rates = {key: value for key, value in body.items() if key not in flat}
    return await change(order, id, {**flat, **({"rate_limits": rates} if rates else {})})


@router.get(
    "/tenants/{id}/limits",
    summary="A tenant's limits, resolved",
    responses=answers(
        table(max_connections=described.MAYBE_COUNT, qps_limit=described.MAYBE_RATE),
        examples.LIMITS,
    ),
    dependencies=[Depends(caught_up)],
)
async def get_limits(backend: Behind, id: TenantOf) -> Response:
    record, tenant = backend.record(id), backend.tenant(id)
    body = shown.tenant(tenant, record, backend.control)["rate_limits"]
    return json(body, headers=etag(record.version))


@router.delete(
    "/tenants/{id}",
    status_code=204,
    summary="Delete a tenant",
    description="Its clients are refused at once. Its data stays, and it can be restored, until "
    "the installation's `deletion_retention` is over. Its id is never used again.",
    responses=described.COMMANDED,
)
async def delete_tenant(order: Ordered, id: TenantOf) -> Response:
    return done(await order.give(DeleteTenant, id=id))


def _switch(path: str, kind: type[Command], words: str) -> None:
    @router.post(
        f"/tenants/{{id}}/{path}",
        summary=words,
        name=f"{path}_tenant",
        operation_id=f"{path}_tenant",
        responses=changed(described.TENANT, example=examples.TENANT),
    )
    async def switch(order: Ordered, id: TenantOf) -> Response:
        return _tenant_now(order, id, await order.give(kind, id=id))


_switch("enable", EnableTenant, "Let its clients in again")
_switch("disable", DisableTenant, "Refuse its clients")
_switch("restore", RestoreTenant, "Bring a deleted tenant back")


@router.post(
    "/tenants/{id}/purge",
    status_code=204,
    summary="Erase a deleted tenant's personal data, for ever",
    responses=described.COMMANDED,
)
async def purge_tenant(order: Ordered, id: TenantOf, force: Force = False) -> Response:
    return done(await order.give(PurgeTenant, id=id, force=force))
