"""Reads from a shared database all that decides about protecting it. Changes nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql
from psycopg.rows import class_row

from admin.protect import queries as ask
from admin.protect.names import SCHEMA, TYPES, groups
from admin.provision.steps import Connection, Row, rows


@dataclass(frozen=True)
class Policy:
    name: str
    permissive: bool
    everywhere: bool
    """For all commands and all roles."""
    qual: str | None
    check: str | None


@dataclass
class Table:
    """One table with the tenant column. Fields up to `estimate` are columns of ask.TABLES.

    own_index  whether the index that protecting made is valid; None when there is none
    parents    what it is a partition or child of; `attached`: indexes that its own one belongs to
    """

    oid: int
    schema: str
    name: str
    partitioned: bool
    is_partition: bool
    owner: str
    tenant_owned: bool
    rls: bool
    forced: bool
    attnum: int
    not_null: bool
    type: str
    deterministic: bool
    generated: bool
    default_value: str | None
    indexed: bool
    own_index: bool | None
    parents: list[int]
    attached: list[int]
    estimate: int
    policies: list[Policy] = field(default_factory=list)
    grants: dict[str, tuple[frozenset[str], bool]] = field(default_factory=dict)
    columns: list[Row] = field(default_factory=list)
    nulls: bool = False

    @property
    def label(self) -> str:
        return label(self.schema, self.name)

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)

    @property
    def usable(self) -> str:
        """Why its tenant column cannot be used; "" when it can."""
        if self.type not in TYPES:
            return f"the tenant column has type {self.type}: use one of {', '.join(TYPES)}"
        if not self.deterministic:
            return "the tenant column's collation takes different texts for equal"
        if self.generated:
            return "the tenant column is generated"
        return ""


@dataclass
class Sequence_:
    oid: int
    schema: str
    name: str
    tables: list[int]
    grants: dict[str, tuple[frozenset[str], bool]] = field(default_factory=dict)


@dataclass
class Facts:
    """A database as it is. Rows are as the queries of protect_queries document them."""

    database: str
    column: str
    schemas: tuple[str, ...]
    groups: dict[str, str]
    version: int
    superuser: bool
    sealed: bool
    tables: list[Table] = field(default_factory=list)
    sequences: list[Sequence_] = field(default_factory=list)
    keys: list[Row] = field(default_factory=list)
    foreign_keys: list[Row] = field(default_factory=list)
    attached: list[Row] = field(default_factory=list)
    views: list[Row] = field(default_factory=list)
    others: list[Row] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    grants: dict[int, dict[str, tuple[frozenset[str], bool]]] = field(default_factory=dict)
    staging: dict[str, tuple[str, bool]] = field(default_factory=dict)
    default_grants: list[Row] = field(default_factory=list)
    roles: frozenset[str] = frozenset()
    event_triggers: frozenset[str] = frozenset()
    accepted: dict[str, str] = field(default_factory=dict)
    expected: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By type: the predicate and the default as the server writes them."""
    reach: frozenset[str] = frozenset()
    """Group roles that may use schema tenantry and ask for the current tenant."""
    closed: list[Row] = field(default_factory=list)
    """(schema, group role) where the group may not even look into the schema."""

    def table(self, oid: int) -> Table | None:
        return next((each for each in self.tables if each.oid == oid), None)


def label(schema: str, *names: str) -> str:
    """As people write it: without the schema `public`."""
    return ".".join(names if schema == "public" else (schema, *names))


async def read(conn: Connection, database: str, column: str, schemas: Sequence[str]) -> Facts:
    """All of it. `conn` has search_path pg_catalog. Raises psycopg.Error."""
    found = Facts(
        database,
        column,
        tuple(schemas),
        groups(database),
        conn.info.server_version,
        superuser=conn.info.parameter_status("is_superuser") == "on",
        sealed=(await rows(conn, _SEALED))[0][0],
    )
    scope: dict[str, Any] = {
        "column": column,
        "schemas": list(schemas),
        "groups": list(found.groups.values()),
    }
    async with conn.cursor(row_factory=class_row(Table)) as cursor:
        found.tables = await (await cursor.execute(ask.TABLES, scope)).fetchall()
    oids = [each.oid for each in found.tables]
    scope["oids"] = oids
    await _read_tables(conn, found, scope)
    found.keys = await rows(conn, ask.KEYS, **scope)
    found.foreign_keys = await rows(conn, ask.FOREIGN_KEYS, **scope)
    found.attached = await rows(conn, ask.ATTACHED, **scope)
    found.views = await rows(conn, ask.VIEWS, **scope)
    found.others = await rows(conn, ask.OTHERS, **scope)
    found.elsewhere = [name for (name,) in await rows(conn, ask.ELSEWHERE, **scope)]
    found.default_grants = await rows(conn, ask.DEFAULT_GRANTS, **scope)
    await _read_rest(conn, found, scope)
    return found


_SEALED = "SELECT to_regprocedure('tenantry.current_tenant()') IS NOT NULL"
_ROLES = "SELECT rolname::text FROM pg_roles WHERE rolname = ANY(%(groups)s)"
_EVENT_TRIGGERS = "SELECT evtname::text FROM pg_event_trigger WHERE evtenabled <> 'D'"
_REACH = """SELECT r.rolname::text FROM pg_roles r WHERE r.rolname = ANY(%(groups)s)
AND has_schema_privilege(r.oid, 'tenantry', 'USAGE')
AND has_function_privilege(r.oid, 'tenantry.current_tenant()', 'EXECUTE')"""

_CLOSED = """SELECT n.nspname::text, r.rolname::text FROM pg_namespace n, pg_roles r
WHERE n.nspname = ANY(%(schemas)s) AND r.rolname = ANY(%(groups)s)
AND NOT has_schema_privilege(r.oid, n.oid, 'USAGE') ORDER BY 1, 2"""


async def _read_tables(conn: Connection, found: Facts, scope: dict[str, Any]) -> None:
    by_oid = {each.oid: each for each in found.tables}
    for oid, *policy in await rows(conn, ask.POLICIES, **scope):
        by_oid[oid].policies.append(Policy(*policy))
    for oid, *column in await rows(conn, ask.COLUMNS, **scope):
        by_oid[oid].columns.append(column)
    for oid, schema, name, tables in await rows(conn, ask.SEQUENCES, **scope):
        known = next((each for each in found.sequences if each.oid == oid), None)
        if known is None:
            found.sequences.append(Sequence_(oid, schema, name, list(tables)))
        else:
            known.tables += tables
    others = [row[0] for row in await rows(conn, ask.OTHERS, **scope)]
    wanted = [*by_oid, *(each.oid for each in found.sequences), *others]
    grants: dict[int, dict[str, tuple[frozenset[str], bool]]] = defaultdict(dict)
    for oid, grantee, privileges, whole in await rows(conn, ask.GRANTS, **scope | {"oids": wanted}):
        grants[oid][grantee] = (frozenset(privileges), whole)
    found.grants = dict(grants)
    for table in found.tables:
        table.grants = grants.get(table.oid, {})
    for sequence in found.sequences:
        sequence.grants = grants.get(sequence.oid, {})
    for table in found.tables:
        # A column that is NOT NULL need not be asked, and a partition is asked with its parent.
        if not table.not_null and not table.parents:
            query = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {} IS NULL)").format(
                table.identifier, sql.Identifier(found.column)
            )
            # Without values: names may have a percent sign, which would ask for one.
            table.nulls = (await (await conn.execute(query)).fetchall())[0][0]


async def _read_rest(conn: Connection, found: Facts, scope: dict[str, Any]) -> None:
    insert = found.groups["INSERT"]
    found.staging = {
        name: (text, granted)
        for name, text, granted in await rows(conn, ask.STAGING, insert=insert)
    }
    found.roles = frozenset(name for (name,) in await rows(conn, _ROLES, **scope))
    found.closed = await rows(conn, _CLOSED, **scope)
    found.event_triggers = frozenset(name for (name,) in await rows(conn, _EVENT_TRIGGERS))
    if (await rows(conn, f"SELECT to_regclass('{SCHEMA}.accepted') IS NOT NULL"))[0][0]:
        query = "SELECT key, definition FROM tenantry.accepted"
        found.accepted = {row[0]: row[1] for row in await rows(conn, query)}
    if found.sealed:
        found.reach = frozenset(name for (name,) in await rows(conn, _REACH, **scope))
        for type in sorted({each.type for each in found.tables if not each.usable}):
            found.expected[type] = await expected(conn, found.column, type)


async def expected(conn: Connection, column: str, type: str) -> tuple[str, str]:
    """The predicate and the default for a column of `type`, in the words of this server: asked of
    it with a table that nobody ever sees, because each version writes expressions its own way."""
    async with conn.transaction(force_rollback=True):
        name = sql.Identifier(column)
        await conn.execute(
            sql.SQL("CREATE TEMPORARY TABLE tenantry_model ({} {} DEFAULT {})").format(
                name, sql.SQL(type), current(type)
            )
        )
        await conn.execute(
            sql.SQL("CREATE POLICY model ON pg_temp.tenantry_model USING ({})").format(
                predicate(column, type)
            )
        )
        query = """SELECT pg_get_expr(p.polqual, p.polrelid), pg_get_expr(d.adbin, d.adrelid)
        FROM pg_policy p JOIN pg_attrdef d ON d.adrelid = p.polrelid
        WHERE p.polrelid = 'pg_temp.tenantry_model'::regclass"""
        found = (await rows(conn, query))[0]
    return found[0], found[1]


def current(type: str) -> sql.Composed:
    """The tenant of the session, as a value of `type`."""
    return sql.SQL("tenantry.current_tenant()::pg_catalog.{}").format(sql.SQL(type))


def predicate(column: str, type: str) -> sql.Composed:
    """Asked once per statement, not per row, thanks to the sub-select."""
    return sql.SQL("{} OPERATOR(pg_catalog.=) (SELECT {})").format(
        sql.Identifier(column), current(type)
    )
