"""`tenantry tenants list|show`: what the log says of them. Never a secret."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from admin.config_render import tenant_table
from admin.failure import Failure
from admin.find_log import open_log
from events.installation import Installation
from events.model import Tenant
from events.projection import Projection

COLUMNS = ("id", "name", "state", "strategy", "database", "users")


def list_tenants(data_dir: Path, config: Path | None, *, as_json: bool) -> int:
    """One line a tenant."""
    projection = asyncio.run(_read(data_dir, config))
    rows = [_row(projection, id) for id in projection.ids()]
    if as_json:
        print(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
        return 0
    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name.upper(), overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(row[name])) for name in COLUMNS))
    Console(highlight=False).print(table if rows else "There are no tenants.")
    return 0


def show_tenant(id: str, data_dir: Path, config: Path | None, *, as_json: bool) -> int:
    """All settings of one tenant, resolved."""
    projection = asyncio.run(_read(data_dir, config))
    tenant = projection.tenant(id)
    if tenant is None:
        raise Failure(f'There is no tenant "{id}": `tenantry tenants list` names them all.')
    if as_json:
        shown = as_dict(tenant)
        print(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode())
        return 0
    installation = projection.installation() or Installation()
    Console(highlight=False).print(
        tenant_table([tenant], {id: [user.name for user in tenant.users]}, installation)
    )
    return 0


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
        "state": state,
        "strategy": tenant.isolation.strategy,
        "database": tenant.database,
        "users": len(tenant.users),
    }


async def _read(data_dir: Path, config: Path | None) -> Projection:
    async with open_log(data_dir, config) as control:
        return control.projection
