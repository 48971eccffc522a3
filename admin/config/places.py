"""Where the tenants of a configuration file live: no two in one place, none where PostgreSQL is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from admin.config.mistakes import Key
from admin.config.source import Source
from events.model import Tenant

# PostgreSQL cuts longer names (NAMEDATALEN - 1), and two tenants could meet in what is left.
MAX_NAME_BYTES: Final = 63

RESERVED_DATABASES: Final = frozenset({"postgres", "template0", "template1"})
# "public" is open to every role of its database; "tenantry" is where the proxy keeps its functions.
RESERVED_SCHEMAS: Final = frozenset({"information_schema", "public", "tenantry"})

# Strategies of tenants that may live in one database.
_SHARING: Final = frozenset({"schema", "row"})
_DATABASE_FIELDS: Final = {"branch": "branch_name"}


def check_places(tenants: list[tuple[Key, Tenant]], source: Source) -> None:
    """No two tenants may have their data in one place, and none where PostgreSQL keeps its own."""
    owners: dict[tuple[str, str], str] = {}
    shared = {full.database for _, full in tenants if full.isolation.strategy in _SHARING}
    for key, full in tenants:
        strategy = full.isolation.strategy
        for name, field, kind in _names(full):
            place = _place_key(key, field, source)
            if problem := _name_problem(name, kind, strategy):
                source.mistake(place, f'{kind} "{name}" {problem}', f"Choose another {field}.")
        if strategy == "branch":
            _check_base(full, key, source)
        if strategy == "row":
            continue
        schema = full.schema_name if strategy == "schema" else ""
        field = "schema_name" if schema else _DATABASE_FIELDS.get(strategy, "database_name")
        what = f'schema "{schema}" of database' if schema else "database"
        other = owners.setdefault((full.database, schema), full.id)
        if other != full.id:
            source.mistake(
                _place_key(key, field, source),
                f'{what} "{full.database}" already belongs to tenant "{other}"',
                f"Choose another {field}.",
            )
        elif strategy not in _SHARING and full.database in shared:
            source.mistake(
                _place_key(key, field, source),
                f'database "{full.database}" also holds tenants that share it',
                "Give this tenant a database of its own.",
            )
    _check_rows(tenants, owners, source)


def _check_base(full: Tenant, key: Key, source: Source) -> None:
    base = full.isolation.branch_base
    if not base:
        source.mistake(
            _place_key(key, "branch_base", source),
            "a branch needs a base",
            "Set isolation.branch_base to the database to clone.",
        )
    elif base == full.database:
        source.mistake(
            _place_key(key, "branch_base", source),
            "a branch cannot be its own base",
            "Choose another branch_name or branch_base.",
        )


def _check_rows(
    tenants: list[tuple[Key, Tenant]], owners: dict[tuple[str, str], str], source: Source
) -> None:
    """Row tenants share all but their value, and no schema that is one tenant's."""
    values: dict[tuple[str, str], str] = {}
    first: dict[str, Tenant] = {}
    for key, full in tenants:
        if full.isolation.strategy != "row":
            continue
        other = values.setdefault((full.database, full.row_value), full.id)
        if other != full.id:
            source.mistake(
                _place_key(key, "tenant_value", source),
                f'the value "{full.row_value}" in database "{full.database}" already belongs to '
                f'tenant "{other}"',
                "Choose another tenant_value.",
            )
        if schema_owner := owners.get((full.database, full.row_schema)):
            source.mistake(
                _place_key(key, "schema_name", source),
                f'schema "{full.row_schema}" belongs to tenant "{schema_owner}"',
                "Name the schema of the shared tables.",
            )
        one = first.setdefault(full.database, full)
        if (full.isolation.enforcement == "rewrite") != (one.isolation.enforcement == "rewrite"):
            source.mistake(
                _place_key(key, "enforcement", source),
                f'"{full.isolation.enforcement}" does not go with "{one.isolation.enforcement}" of '
                f'tenant "{one.id}" in the same database',
                'Use "rewrite" for all row tenants of a database, or for none.',
            )


def _names(full: Tenant) -> Iterator[tuple[str, str, str]]:
    strategy = full.isolation.strategy
    yield full.database, _DATABASE_FIELDS.get(strategy, "database_name"), "database"
    if strategy == "schema":
        yield full.schema_name, "schema_name", "schema"
    elif strategy == "row":
        yield full.row_schema, "schema_name", "schema"


def _name_problem(name: str, kind: str, strategy: str) -> str:
    if kind == "database" and name in RESERVED_DATABASES:
        return "is reserved"
    reserved = RESERVED_SCHEMAS - {"public"} if strategy == "row" else RESERVED_SCHEMAS
    if kind == "schema" and (name in reserved or name.startswith("pg_")):
        return "is reserved"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES} bytes"
    return "has a zero byte" if "\0" in name else "" if name else "is empty"


def _place_key(key: Key, field: str, source: Source) -> Key:
    """The field where the file has it, else the tenant: the name was derived from its id."""
    exact: Key = (*key, "isolation", field)
    return exact if exact in source.lines else (*key, "id")
