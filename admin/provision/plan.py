"""What provisioning wants for a tenant: names and privileges. Pure.

The statements that say so are in admin/provision/sql.py.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from admin.provision.names import (
    GROUP_OPERATIONS,
    MAX_NAME_BYTES,
    SEAL_SCHEMA,
    group_role,
    owner_name,
    role_name,
    row_role,
)
from events.model import DDL_OPERATIONS, Tenant
from wire.errors import TenantryError

# Raise it when provisioning itself changes, so that every tenant is provisioned again.
PLAN_VERSION: Final = 2

# A killed worker leaves its servers behind until PostgreSQL notices, while its successor opens as
# many anew; the constant leaves room for "at least one each" with more workers than connections.
CONNECTION_FACTOR: Final = 2
CONNECTION_HEADROOM: Final = 8

DATABASES_OF_THE_SERVER: Final = frozenset({"postgres", "template0", "template1"})
SCHEMAS_OF_THE_SERVER: Final = frozenset({"public", "information_schema", SEAL_SCHEMA})

# Statement kinds that are table privileges too; other kinds (CALL, COPY…) are the guard's alone.
TABLE_OPERATIONS: Final = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"})
# From PostgreSQL 17 these need no ownership but this privilege.
MAINTENANCE_OPERATIONS: Final = frozenset({"ANALYZE", "VACUUM"})
MAINTENANCE_PRIVILEGE: Final = "MAINTAIN"
MAINTENANCE_VERSION: Final = 170_000

_NAME_PART: Final = re.compile(r'"((?:[^"]|"")+)"|([^".]+)')


class ProvisioningFailed(TenantryError):
    """A tenant cannot be provisioned as configured, or not with this node's credentials."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Of a row tenant: what it shares with the other row tenants of its database, and its own."""

    schema: str
    column: str
    value: str
    enforcement: str
    settings: tuple[str, ...]
    shared: tuple[tuple[str, ...], ...]
    role: str
    groups: tuple[str, ...]
    """The group roles that the tenant's own role is a member of."""

    @property
    def sealed(self) -> bool:
        """Whether the database enforces anything; else only the proxy does."""
        return self.enforcement != "rewrite"

    @property
    def schemas(self) -> list[str]:
        """Where its tables and the shared ones are."""
        return sorted({self.schema, *(name[0] for name in self.shared if len(name) > 1)})


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about a tenant that provisioning depends on; equal plans need no new run."""

    tenant: str
    role: str
    owner: str
    database: str
    schema: str | None
    base: str | None
    rows: Rows | None
    connection_limit: int
    ddl: bool
    read_only: bool
    system_access: bool
    tables: tuple[str, ...]
    sequences: tuple[str, ...]
    blocked: tuple[tuple[str, ...], ...]

    @property
    def alone(self) -> bool:
        """Whether the database is the tenant's, with all that is in it."""
        return self.schema is None and self.rows is None

    @property
    def blobs(self) -> bool:
        """Whether the tenant may write large objects, which are rows that no table grant covers."""
        return "INSERT" in self.tables and "UPDATE" in self.tables

    @property
    def database_privileges(self) -> frozenset[str]:
        wanted = {"CONNECT"}
        if self.ddl:
            wanted.add("TEMPORARY")
            if self.alone:
                wanted.add("CREATE")
        return frozenset(wanted)


def plan(tenant: Tenant) -> Plan:
    """What the tenant should have. Raises ProvisioningFailed (names, values)."""
    isolation = tenant.isolation
    strategy = isolation.strategy
    schema = tenant.schema_name if strategy == "schema" else None
    rows = _rows(tenant) if strategy == "row" else None
    base = _base(tenant) if strategy == "branch" else None
    kind = "branch" if base is not None else "database"
    _check_name(kind, tenant.database, DATABASES_OF_THE_SERVER)
    if schema is not None:
        _check_name("schema", schema, SCHEMAS_OF_THE_SERVER)
    may = tenant.permissions
    # A row tenant has no privilege of its own on any table: it gets them through group roles.
    tables = () if rows else _table_privileges(may.allowed_operations, may.read_only)
    return Plan(
        tenant=tenant.id,
        role=role_name(tenant.id),
        owner=owner_name(tenant.id),
        database=tenant.database,
        schema=schema,
        base=base,
        rows=rows,
        connection_limit=tenant.pool.max_connections * CONNECTION_FACTOR + CONNECTION_HEADROOM,
        # One kind of DDL needs ownership as all of them do; which kinds, the guard decides.
        ddl=(may.allow_ddl or bool(DDL_OPERATIONS & set(may.allowed_operations)))
        and not may.read_only
        and rows is None,
        read_only=may.read_only,
        system_access=may.allow_system_access,
        tables=tables,
        sequences=_sequence_privileges(tables),
        blocked=tuple(sorted({name_parts(name) for name in may.blocked_tables})),
    )


def _rows(tenant: Tenant) -> Rows:
    may = tenant.permissions
    _check_name("schema", tenant.row_schema, SCHEMAS_OF_THE_SERVER - {"public"})
    if "\0" in tenant.row_value:
        raise ProvisioningFailed("the tenant_value has a zero byte", hint="Set another one.")
    privileges = _table_privileges(may.allowed_operations, may.read_only)
    return Rows(
        schema=tenant.row_schema,
        column=tenant.isolation.tenant_column,
        value=tenant.row_value,
        enforcement=tenant.isolation.enforcement,
        settings=tuple(sorted(tenant.isolation.setting_names)),
        shared=tuple(sorted({name_parts(name) for name in tenant.isolation.shared_tables})),
        role=row_role(tenant.database),
        groups=tuple(
            group_role(operation, tenant.database)
            for operation in GROUP_OPERATIONS
            if operation.upper() in privileges
        ),
    )


def _base(tenant: Tenant) -> str:
    base = tenant.isolation.branch_base
    if not base or "\0" in base:
        raise ProvisioningFailed(
            "there is no database to clone the branch from",
            hint="Set branch_base to the name of one.",
        )
    if base == tenant.database:
        raise ProvisioningFailed(
            f'"{base}" cannot be its own branch', hint="Set another branch_name or branch_base."
        )
    return base


def fingerprint(tenant: Tenant) -> str:
    """A stable hash of all in the tenant that provisioning depends on. Raises as `plan` does."""
    facts = json.dumps([PLAN_VERSION, asdict(plan(tenant))], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:32]


def _check_name(kind: str, name: str, reserved: frozenset[str]) -> None:
    if not name or "\0" in name or len(name.encode()) > MAX_NAME_BYTES:
        raise ProvisioningFailed(
            f'"{name}" cannot be the name of a {kind}',
            hint=f"Set {kind}_name to 1 to {MAX_NAME_BYTES} bytes.",
        )
    if name in reserved or name.startswith("pg_"):
        raise ProvisioningFailed(
            f'{kind} "{name}" belongs to the server, not to a tenant',
            hint=f"Set {kind}_name to another name.",
        )


def _table_privileges(operations: Sequence[str], read_only: bool) -> tuple[str, ...]:
    named = set(operations)
    allowed = named & TABLE_OPERATIONS
    if read_only:
        return tuple(sorted(allowed & {"SELECT"}))
    if named & MAINTENANCE_OPERATIONS:
        allowed |= {MAINTENANCE_PRIVILEGE}
    return tuple(sorted(allowed))


def name_parts(name: str) -> tuple[str, ...]:
    """("orders",) of `Orders`, ("acme", "Big") of `acme."Big"`: as PostgreSQL reads names."""
    return tuple(
        quoted.replace('""', '"') if quoted else plain.lower()
        for quoted, plain in _NAME_PART.findall(name)
    )


def _sequence_privileges(tables: Sequence[str]) -> tuple[str, ...]:
    """nextval is a write; setval belongs to those who may change rows."""
    wanted = {"SELECT"} & set(tables)
    if "INSERT" in tables or "UPDATE" in tables:
        wanted |= {"USAGE", "SELECT"}
    if "UPDATE" in tables:
        wanted.add("UPDATE")
    return tuple(sorted(wanted))
