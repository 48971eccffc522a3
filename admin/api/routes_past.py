"""One tenant, now or as it was; what changed between two times; taking a change back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from admin.api import described, examples, shown
from admin.api.access import Behind, TenantOf
from admin.api.backend import Backend
from admin.api.bodies import only, read_object
from admin.api.commands import Ordered, caught_up, etag, json, told_only
from admin.api.described import answers, listed, table
from admin.api.problems import Problem, missing
from admin.api.routes_log import log_problems, when
from admin.cli.events import change_as_dict
from events.commands_model import Mistake, Undo
from events.history import compare, sequence_at, standing, tenant_at
from events.projection import Projection

router = APIRouter(prefix="/tenants/{id}", tags=["tenants"])
_WHEN = "RFC 3339, a date, or how long ago (`10 minutes ago`)."
At = Annotated[str, Query(max_length=40, description=_WHEN)]


@router.get(
    "",
    summary="One tenant, now or as it was",
    responses=answers(described.TENANT, examples.TENANT),
    dependencies=[Depends(caught_up)],
)
async def get_tenant(backend: Behind, id: TenantOf, at: At = "") -> Response:
    if not at:
        record = backend.record(id)
        body = shown.tenant(backend.tenant(id), record, backend.control)
        return json(body, headers=etag(record.version))
    state, sequence = await _as_of(backend, id, "at", at)
    record_then, tenant = state.record(id), state.tenant(id)
    if record_then is None or tenant is None:
        raise missing(f"tenant {id} at {at}")
    body = shown.tenant(tenant, record_then, backend.control)
    return json({**body, "as_of_sequence": sequence}, headers=etag(record_then.version))


async def _as_of(backend: Backend, id: str, name: str, text: str) -> tuple[Projection, int]:
    moment = when(name, text)
    if moment > datetime.now(UTC):
        raise Problem("refused", "", mistakes=[Mistake(name, "is in the future")])
    async with backend.reading():
        with log_problems():
            control = backend.control
            sequence = await sequence_at(control.log, moment)
            # What was erased since cannot be opened any more.
            return await tenant_at(control.log, id, sequence, opener=control.keys.open), sequence


@router.get(
    "/diff",
    summary="What changed between two times",
    responses=answers(
        table(
            tenant=described.NAME,
            changes=listed(table(path=described.NAME, before={}, after={})),
        ),
        examples.DIFF,
    ),
    dependencies=[Depends(caught_up)],
)
async def diff_tenant(
    backend: Behind,
    id: TenantOf,
    since: Annotated[str, Query(alias="from", max_length=40, description=_WHEN)],
    until: Annotated[str, Query(alias="to", max_length=40, description=_WHEN)] = "now",
) -> Response:
    if backend.state.record(id) is None:
        raise missing(f"tenant {id}")
    before, first = await _as_of(backend, id, "from", since)
    after, last = await _as_of(backend, id, "to", until)
    was, old = standing(before, "tenant", id)
    is_now, new = standing(after, "tenant", id)
    changes = [change_as_dict(each) for each in compare(old, new)]
    body: dict[str, Any] = {
        "tenant": id,
        "from": {"sequence": first, "standing": was},
        "to": {"sequence": last, "standing": is_now},
        "changes": changes,
    }
    return json(body)


@router.post(
    "/undo",
    summary="Take back what an event changed",
    description="As a new command. What was changed again since is left alone, and told (412), "
    "unless `force` is true.",
    openapi_extra=described.body(
        {
            **table(sequence={"type": "integer", "minimum": 1}),
            "properties": {
                "sequence": {"type": "integer", "minimum": 1},
                "force": {"type": "boolean"},
            },
        },
        examples=examples.UNDO,
    ),
    responses=answers(described.ANSWER, examples.DONE),
)
async def undo_tenant(request: Request, order: Ordered, id: TenantOf) -> Response:
    body = only(await read_object(request), "sequence", "force")
    return told_only(await order.give(Undo, id=id, **body))
