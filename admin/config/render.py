"""Shows a loaded configuration file: to people as tables, to programs as a dict. Never a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from admin.config.load import Loaded
from admin.config.mistakes import SECRET_KEYS, Mistake
from admin.config.models import FileDefaults
from admin.config.rules import resolve
from admin.config.support import UNUSED
from admin.printed import printable
from events.installation import Installation
from events.model import Tenant
from events.settings import merge
from events.units import show

MASK: Final = "********"
# As many tenants as fit beside each other in a terminal of 100 columns.
TENANTS_ABREAST: Final = 3

# The password in an address like nats://user:password@host:4222.
_URL_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/@]*@")
_PARTS = ("isolation", "pool", "rate_limits", "permissions")


def render_check(loaded: Loaded, console: Console) -> None:
    """The answer of `tenantry config check`: every mistake at once, or the resolved model."""
    file = str(loaded.path)
    for mistake in loaded.mistakes:
        console.print(mistake.text(file), style="red", markup=False, soft_wrap=True)
    for warning in loaded.warnings:
        console.print(
            f"warning: {warning.text(file)}", style="yellow", markup=False, soft_wrap=True
        )
    installation = loaded.installation
    if installation is None:
        count = len(loaded.mistakes)
        console.print(f"{count} {'mistake' if count == 1 else 'mistakes'} in {escape(file)}.")
        return
    console.print(_installation_table(installation))
    tenants = _tenants(loaded, installation)
    for at in range(0, len(tenants), TENANTS_ABREAST):
        abreast = tenants[at : at + TENANTS_ABREAST]
        console.print(tenant_table(abreast, _users(loaded), installation))
    count = len(tenants)
    console.print(f"{escape(file)} is correct: {count} {'tenant' if count == 1 else 'tenants'}.")


def check_as_dict(loaded: Loaded) -> dict[str, Any]:
    """The same for programs. `installation` and `tenants` are resolved: durations in seconds,
    sizes in bytes, null is unlimited or unset; they are null and [] when there are mistakes."""
    installation = loaded.installation
    tenants: list[dict[str, Any]] = []
    if installation is not None:
        for tenant in _tenants(loaded, installation):
            shown = tenant.model_dump(mode="json", exclude={"version", "provisioned"})
            shown["isolation"]["database_name"] = tenant.database
            if tenant.isolation.strategy == "schema":
                shown["isolation"]["schema_name"] = tenant.schema_name
            shown["pool"]["mode"] = tenant.pool.mode or installation.pool_mode.mode
            shown["users"] = [{"name": name} for name in _users(loaded)[tenant.id]]
            tenants.append(shown)
    return {
        "file": str(loaded.path),
        "correct": not loaded.mistakes,
        "mistakes": [_as_dict(mistake) for mistake in loaded.mistakes],
        "warnings": [_as_dict(warning) for warning in loaded.warnings],
        "installation": _masked(installation.model_dump(mode="json")) if installation else None,
        "tenants": tenants,
    }


def _as_dict(mistake: Mistake) -> dict[str, Any]:
    return {
        "path": mistake.path,
        "line": mistake.line,
        "message": mistake.message,
        "remedy": mistake.remedy,
    }


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: MASK if key in SECRET_KEYS and item else _masked(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_masked(item) for item in value]
    return _URL_PASSWORD.sub(rf"\1:{MASK}@", value) if isinstance(value, str) else value


def _tenants(loaded: Loaded, installation: Installation) -> list[Tenant]:
    tiers = dict(loaded.tiers)
    return [
        resolve(id, settings, merge(installation.defaults, tiers.get(settings.get("tier", ""), {})))
        for id, settings in loaded.tenants
    ]


def _users(loaded: Loaded) -> dict[str, list[str]]:
    return {id: [user["name"] for user in given.get("users", ())] for id, given in loaded.tenants}


def _installation_table(installation: Installation) -> Table:
    table = Table(title="Installation", title_justify="left")
    table.add_column("key", no_wrap=True)
    table.add_column("value", overflow="fold")
    for path, text, is_set in _rows(installation, ""):
        if re.sub(r"\[\d+\]", "", path) in UNUSED and not is_set:
            continue  # what nobody asked for and nothing uses would only be noise
        table.add_row(path, escape(text), style="" if is_set else "dim")
    table.caption = "dim: built-in value"
    return table


def _rows(model: BaseModel, prefix: str) -> Iterator[tuple[str, str, bool]]:
    """Path, value for people, and whether somebody set it, of each field at any depth."""
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        path = f"{prefix}{name}"
        is_set = name in model.model_fields_set
        if isinstance(value, BaseModel):
            yield from _rows(value, f"{path}.")
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            for at, item in enumerate(value):
                yield from _rows(item, f"{path}[{at}].")
        elif name == "defaults":
            defaults = _rows(FileDefaults.model_validate(value), "defaults.")
            yield from (row for row in defaults if row[2])
        else:
            text = MASK if name in SECRET_KEYS and value else show(_masked(value), info)
            yield path, text, is_set


def tenant_table(
    tenants: list[Tenant], users: dict[str, list[str]], installation: Installation
) -> Table:
    """One column a tenant, one row a limit; `users` has their names by tenant."""
    table = Table(title="Tenants", title_justify="left")
    table.add_column("", no_wrap=True)
    for tenant in tenants:
        table.add_column(escape(tenant.id), overflow="fold")
    table.add_row("name", *[escape(printable(tenant.name)) for tenant in tenants])
    if any(tenant.tier for tenant in tenants):
        table.add_row("tier", *[tenant.tier or "" for tenant in tenants])
    table.add_row("enabled", *["yes" if tenant.enabled else "no" for tenant in tenants])
    table.add_row("users", *[escape(printable(", ".join(users[tenant.id]))) for tenant in tenants])
    table.add_row("data", *[escape(printable(_place(tenant))) for tenant in tenants])
    for part in _PARTS[1:]:
        model: type[BaseModel] = type(getattr(tenants[0], part))
        for name, info in model.model_fields.items():
            values = [getattr(getattr(tenant, part), name) for tenant in tenants]
            if name == "mode":
                values = [value or installation.pool_mode.mode for value in values]
            table.add_row(f"{part}.{name}", *[escape(show(value, info)) for value in values])
    return table


def _place(tenant: Tenant) -> str:
    if tenant.isolation.strategy == "schema":
        return f"schema {tenant.schema_name} in database {tenant.database}"
    if tenant.isolation.strategy == "row":
        return f"rows by {tenant.isolation.tenant_column} in database {tenant.database}"
    return f"database {tenant.database}"
