"""`tenantry tenants list|show|diff`: what the log says of them, or said. Never a secret."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from admin.cli.events import change_as_dict, print_changes
from admin.cli.failure import MISSING, MISTAKE, Failure
from admin.cli.parser import near
from admin.cli.when import parse_when, show_when
from admin.config.render import tenant_table
from admin.control import Control
from admin.find_log import open_log
from admin.printed import printable
from events.history import compare, sequence_at, state_at, tenant_at
from events.installation import Installation
from events.model import TENANT_ID, Tenant
from events.projection import Projection

COLUMNS = ("id", "name", "tier", "state", "strategy", "database", "users")


def list_tenants(data_dir: Path, config: Path | None, at: str | None, *, as_json: bool) -> int:
    """One line a tenant; `at` is a time, for the list as it was then."""

    async def read() -> Projection:
        moment = None if at is None else parse_when(at)
        async with open_log(data_dir, config) as control:
            if moment is None:
                return control.projection
            sequence = await sequence_at(control.log, moment)
            return await state_at(control.log, sequence, opener=control.projection.opener)

    projection = asyncio.run(read())
    rows = [_row(projection, id) for id in projection.ids()]
    if as_json:
        print(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
        return 0
    columns = [name for name in COLUMNS if name != "tier" or any(row["tier"] for row in rows)]
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name.upper(), overflow="fold")
    for row in rows:
        table.add_row(*(escape(printable(str(row[name]))) for name in columns))
    were = "are" if at is None else "were"
    Console(highlight=False).print(table if rows else f"There {were} no tenants.")
    return 0


def show_tenant(
    id: str, data_dir: Path, config: Path | None, at: str | None, *, as_json: bool
) -> int:
    """All settings of one tenant, resolved; `at` is a time, for the settings as they were then."""

    async def read() -> Projection:
        moment = None if at is None else parse_when(at)
        async with open_log(data_dir, config) as control:
            if moment is None:
                return control.projection
            return await _tenant_at(control, id, moment)

    projection = asyncio.run(read())
    tenant = projection.tenant(id)
    if tenant is None:
        if at is not None:
            raise Failure(f'There was no tenant "{id}" at {show_when(parse_when(at))}.', MISSING)
        raise _no_tenant(projection, id)
    if as_json:
        shown = as_dict(tenant)
        print(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode())
        return 0
    installation = projection.installation() or Installation()
    Console(highlight=False).print(
        tenant_table([tenant], {id: [user.name for user in tenant.users]}, installation)
    )
    return 0


def _no_tenant(projection: Projection, id: str) -> Failure:
    record = projection.record(id)
    if record is not None:
        if record.purged:
            return Failure(f'The tenant "{id}" was deleted, and is erased for ever.', MISSING)
        return Failure(
            f'The tenant "{id}" is deleted: `tenantry tenants undo {id} {record.version}` brings '
            f"it back, `tenantry events list --tenant {id}` tells what happened.",
            MISSING,
        )
    probably = near(id, projection.ids())
    hint = f'did you mean "{probably}"?' if probably else ""
    return Failure(
        f'There is no tenant "{id}": {hint or "`tenantry tenants list` names them all."}', MISSING
    )


def diff_tenant(given: argparse.Namespace) -> int:
    """Which settings of a tenant, resolved, differ between two times."""
    id = given.id
    since, until = parse_when(given.since), parse_when(given.until)

    async def read() -> tuple[Projection, Projection]:
        async with open_log(given.data_dir, given.config) as control:
            return await _tenant_at(control, id, since), await _tenant_at(control, id, until)

    before, after = (state.tenant(id) for state in asyncio.run(read()))
    if before is None and after is None:
        raise Failure(f'There was no tenant "{id}" at either time.', MISSING)
    changes = compare(_comparable(before), _comparable(after))
    if given.json:
        rows = [change_as_dict(change) for change in changes]
        print(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
        return 0
    print(f"{id} from {show_when(since)} to {show_when(until)}:")
    if before is None:
        print("It was created meanwhile.")
    elif after is None:
        print("It was deleted meanwhile.")
    elif changes:
        print_changes(changes)
    else:
        print("Nothing differs.")
    return 0


async def _tenant_at(control: Control, id: str, moment: datetime) -> Projection:
    if TENANT_ID.fullmatch(id) is None:
        raise Failure(f'"{id}" is not a tenant id.', MISTAKE)
    sequence = await sequence_at(control.log, moment)
    return await tenant_at(control.log, id, sequence, opener=control.projection.opener)


def _comparable(tenant: Tenant | None) -> dict[str, Any]:
    """What people set of it: not the version, which differs always."""
    if tenant is None:
        return {}
    shown = as_dict(tenant)
    del shown["version"]
    # A changed password shows as such, not as what the verifier is.
    shown["users"] = {
        user.name: {"password": hashlib.sha256(user.scram.encode()).hexdigest()}
        for user in tenant.users
    }
    return shown


def as_dict(tenant: Tenant) -> dict[str, Any]:
    """The tenant for programs: durations in seconds, sizes in bytes, null is unlimited."""
    shown = tenant.model_dump(mode="json", exclude={"users", "provisioned"})
    shown["users"] = [{"name": user.name} for user in tenant.users]
    shown["isolation"]["database_name"] = tenant.database
    if tenant.isolation.strategy == "schema":
        shown["isolation"]["schema_name"] = tenant.schema_name
    shown["role"] = tenant.provisioned.role if tenant.provisioned else None
    return shown


def _row(projection: Projection, id: str) -> dict[str, Any]:
    tenant = projection.tenant(id)
    record = projection.record(id)
    assert tenant is not None
    assert record is not None
    state = "active" if tenant.provisioned else "being set up"
    if not tenant.enabled:
        state = "disabled"
    if record.parked:
        state = "parked"
    return {
        "id": id,
        "name": tenant.name,
        "tier": tenant.tier or "",
        "state": state,
        "strategy": tenant.isolation.strategy,
        "database": tenant.database,
        "users": len(tenant.users),
    }
