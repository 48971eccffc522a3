"""What provisioning wants for a tenant, and the SQL that says so. Pure: nothing here connects.

`plan` turns a tenant into names and privileges; the functions below turn those into statements.
Every name goes through psycopg's Identifier, every value through Literal.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final, LiteralString

from psycopg import sql

from events.model import DDL_OPERATIONS, Tenant
from wire.errors import NotSupported, TenantryError

Statement = sql.SQL | sql.Composed

# PostgreSQL cuts longer names silently (NAMEDATALEN - 1), so two long ones could become one.
MAX_NAME_BYTES: Final = 63
ROLE_PREFIX: Final = "tenantry_"
# No tenant id makes this prefix of the other one, so the two kinds of role never collide.
OWNER_PREFIX: Final = "tenantry-owner_"

# Raise it when provisioning itself changes, so that every tenant is provisioned again.
PLAN_VERSION: Final = 1

# A killed worker leaves its servers behind until PostgreSQL notices, while its successor opens as
# many anew; the constant leaves room for "at least one each" with more workers than connections.
CONNECTION_FACTOR: Final = 2
CONNECTION_HEADROOM: Final = 8

# One GRANT may name many tables; more per statement would only make errors hard to read.
NAMES_PER_STATEMENT: Final = 200

DATABASES_OF_THE_SERVER: Final = frozenset({"postgres", "template0", "template1"})
SCHEMAS_OF_THE_SERVER: Final = frozenset({"public", "information_schema", "tenantry"})

# Statement kinds that are table privileges too; other kinds (CALL, COPY…) are the guard's alone.
TABLE_OPERATIONS: Final = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"})
# From PostgreSQL 17 these need no ownership but this privilege.
MAINTENANCE_OPERATIONS: Final = frozenset({"ANALYZE", "VACUUM"})
MAINTENANCE_PRIVILEGE: Final = "MAINTAIN"
MAINTENANCE_VERSION: Final = 170_000

_NAME_PART: Final = re.compile(r'"((?:[^"]|"")+)"|([^".]+)')

# PUBLIC may run these by default (catalogs of PostgreSQL 15 and 18 compared; what reads files,
# lists directories or imports large objects from them is for superusers already).
SIGNAL_FUNCTIONS: Final = ("pg_cancel_backend", "pg_terminate_backend")
SYSTEM_FUNCTIONS: Final = (*SIGNAL_FUNCTIONS, "pg_logical_emit_message")
BLOB_FUNCTIONS: Final = (
    *("lo_creat", "lo_create", "lo_from_bytea", "lo_put", "lo_truncate", "lo_truncate64"),
    *("lo_unlink", "lowrite"),
)
# Extensions whose functions open connections or files on the server and are open to PUBLIC.
SERVER_EXTENSIONS: Final = ("dblink", "adminpack", "file_fdw", "postgres_fdw")


class ProvisioningFailed(TenantryError):
    """A tenant cannot be provisioned as configured, or not with this node's credentials."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about a tenant that provisioning depends on; equal plans need no new run."""

    tenant: str
    role: str
    owner: str
    database: str
    schema: str | None
    connection_limit: int
    ddl: bool
    read_only: bool
    system_access: bool
    tables: tuple[str, ...]
    sequences: tuple[str, ...]
    blocked: tuple[tuple[str, ...], ...]

    @property
    def blobs(self) -> bool:
        """Whether the tenant may write large objects, which are rows that no table grant covers."""
        return "INSERT" in self.tables and "UPDATE" in self.tables

    @property
    def database_privileges(self) -> frozenset[str]:
        wanted = {"CONNECT"}
        if self.ddl:
            wanted.add("TEMPORARY")
            if self.schema is None:
                wanted.add("CREATE")
        return frozenset(wanted)


def role_name(tenant_id: str) -> str:
    """The tenant's login role: `tenantry_<id>`, at most 63 bytes, never two tenants' the same."""
    return _fit(ROLE_PREFIX, tenant_id)


def owner_name(tenant_id: str) -> str:
    """The role without login that keeps what the tenant made once it may make nothing more."""
    return _fit(OWNER_PREFIX, tenant_id)


def _fit(prefix: str, tenant_id: str) -> str:
    whole = prefix + tenant_id
    if len(whole) <= MAX_NAME_BYTES:
        return whole
    # No tenant id contains "~": a shortened name is never another tenant's whole one.
    digest = hashlib.sha256(tenant_id.encode()).hexdigest()[:16]
    return f"{whole[: MAX_NAME_BYTES - 17]}~{digest}"


def plan(tenant: Tenant) -> Plan:
    """What the tenant should have. Raises NotSupported (strategy), ProvisioningFailed (names)."""
    strategy = tenant.isolation.strategy
    if strategy not in ("database", "schema"):
        raise NotSupported(f'isolation strategy "{strategy}" cannot be provisioned yet')
    schema = tenant.schema_name if strategy == "schema" else None
    _check_name("database", tenant.database, DATABASES_OF_THE_SERVER)
    if schema is not None:
        _check_name("schema", schema, SCHEMAS_OF_THE_SERVER)
    may = tenant.permissions
    return Plan(
        tenant=tenant.id,
        role=role_name(tenant.id),
        owner=owner_name(tenant.id),
        database=tenant.database,
        schema=schema,
        connection_limit=tenant.pool.max_connections * CONNECTION_FACTOR + CONNECTION_HEADROOM,
        # One kind of DDL needs ownership as all of them do; which kinds, the guard decides.
        ddl=(may.allow_ddl or bool(DDL_OPERATIONS & set(may.allowed_operations)))
        and not may.read_only,
        read_only=may.read_only,
        system_access=may.allow_system_access,
        tables=(tables := _table_privileges(may.allowed_operations, may.read_only)),
        sequences=_sequence_privileges(tables),
        blocked=tuple(sorted({_name_parts(name) for name in may.blocked_tables})),
    )


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


def _name_parts(name: str) -> tuple[str, ...]:
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


def words(keywords: Iterable[str], separator: str = ", ") -> sql.Composed:
    """Keywords of ours or of the server's catalog (privileges, signatures it quoted itself)."""
    parts: list[sql.Composable] = [sql.SQL(word) for word in keywords]
    return sql.SQL(separator).join(parts)


def names(parts: Iterable[Sequence[str]]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(*part) for part in parts)


def batches(items: Sequence[tuple[str, ...]]) -> Iterator[Sequence[tuple[str, ...]]]:
    for start in range(0, len(items), NAMES_PER_STATEMENT):
        yield items[start : start + NAMES_PER_STATEMENT]


def statement(text: LiteralString, **parts: str | int | sql.Composable) -> sql.Composed:
    """`text` with {names}: strings become identifiers, everything else is put in as it is."""
    ready = {
        key: sql.Identifier(part)
        if isinstance(part, str)
        else sql.Literal(part)
        if isinstance(part, int)
        else part
        for key, part in parts.items()
    }
    return sql.SQL(text).format(**ready)


def create_role(role: str, limit: int, verifier: str) -> Statement:
    return statement(
        "CREATE ROLE {role} LOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION "
        "NOBYPASSRLS CONNECTION LIMIT {limit} PASSWORD {verifier}",
        role=role,
        limit=limit,
        verifier=sql.Literal(verifier),
    )


def alter_role(role: str, attributes: Sequence[str], limit: int, verifier: str) -> Statement:
    """`attributes` only names what differs: saying NOSUPERUSER at all is for superusers."""
    return statement(
        "ALTER ROLE {role} WITH {attributes} CONNECTION LIMIT {limit} PASSWORD {verifier}",
        role=role,
        attributes=words(attributes, " "),
        limit=limit,
        verifier=sql.Literal(verifier),
    )


def grant(privileges: Iterable[str], on: sql.Composable, *to: str) -> Statement:
    return statement(
        "GRANT {privileges} ON {on} TO {to}",
        privileges=words(privileges),
        on=on,
        to=names((role,) for role in to),
    )


def revoke(privileges: Iterable[str], on: sql.Composable, grantee: str | None) -> Statement:
    """`grantee` None is PUBLIC. CASCADE: what was passed on with grant option goes too."""
    return statement(
        "REVOKE {privileges} ON {on} FROM {grantee} CASCADE",
        privileges=words(privileges),
        on=on,
        grantee=sql.SQL("PUBLIC") if grantee is None else sql.Identifier(grantee),
    )


def reassign(role: str, heir: str) -> Statement:
    """Hand all that `role` owns in this database to `heir`, except large objects: these are the
    tenant's data, not its definitions, and nobody but their owner can be given all of them."""
    body = statement(
        "DECLARE blobs oid[]; blob oid; BEGIN "
        "SELECT array_agg(lo.oid) INTO blobs FROM pg_largeobject_metadata lo "
        "WHERE lo.lomowner = (SELECT oid FROM pg_roles WHERE rolname = {name}); "
        "REASSIGN OWNED BY {role} TO {heir}; "
        "FOREACH blob IN ARRAY coalesce(blobs, '{{}}') LOOP "
        "EXECUTE format('ALTER LARGE OBJECT %s OWNER TO %I', blob, {name}); END LOOP; END",
        name=sql.Literal(role),
        role=role,
        heir=heir,
    )
    return sql.SQL("DO {}").format(sql.Literal(body.as_string(None)))


def default_privileges(
    change: LiteralString, privileges: Iterable[str], kind: str, role: str, schema: str | None
) -> Statement:
    """`change` is "GRANT" or "REVOKE"; `kind` TABLES, SEQUENCES or SCHEMAS; of the admin's."""
    return statement(
        "ALTER DEFAULT PRIVILEGES {where} {change} {privileges} ON {kind} {to} {role}",
        where=sql.SQL("")
        if schema is None
        else sql.SQL("IN SCHEMA {}").format(sql.Identifier(schema)),
        change=sql.SQL(change),
        privileges=words(privileges),
        kind=words([kind]),
        to=sql.SQL("TO" if change == "GRANT" else "FROM"),
        role=role,
    )
