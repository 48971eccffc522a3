"""Provisioning inside the tenant's database: schemas, owners, grants. One transaction, all or none.

A tenant with DDL owns its schemas and what is in them, so that ALTER and DROP work; an owner can
grant itself anything, so for such a tenant only the guard tells SELECT from DELETE. A tenant
without DDL owns nothing: privileges on each table and sequence mirror its permissions, and what it
made in earlier times belongs to a role that cannot log in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, LiteralString

from psycopg import sql

from admin.provision import queries as ask
from admin.provision import sql as build
from admin.provision.functions import settle_functions
from admin.provision.names import OWNER_PREFIX, ROLE_PREFIX
from admin.provision.plan import (
    MAINTENANCE_PRIVILEGE,
    MAINTENANCE_VERSION,
    Plan,
    ProvisioningFailed,
)
from admin.provision.sql import Statement
from admin.provision.steps import Connection, Row, be_able_to_act_as, role_oid, rows, run

SECURITY_INVOKER_VERSION: Final = 150_000


async def settle(conn: Connection, plan: Plan, notes: list[str]) -> None:
    """Make the database as planned. Revocations and grants become visible together."""
    async with conn.transaction():
        oid = await role_oid(conn, plan.role)
        if plan.base is not None:
            await _disarm_others(conn, plan)
        schemas = await _settle_schemas(conn, plan, oid, notes)
        await settle_owner(conn, plan, oid, schemas, notes)
        await settle_relations(conn, plan, oid, schemas, notes)
        await settle_defaults(conn, plan, oid)
        await settle_functions(conn, plan, oid, notes)


async def _settle_schemas(conn: Connection, plan: Plan, oid: int, notes: list[str]) -> list[str]:
    """The tenant's schemas with their owner and privileges; answers their names."""
    await run(conn, _schema_owners(conn.info.user, plan, await rows(conn, ask.SCHEMAS, oid=oid)))
    # Read again: a new owner takes the old one's entry in the privileges with it.
    mine: list[str] = []
    changes: list[Statement] = []
    for name, owner, manageable, have, public in await rows(conn, ask.SCHEMAS, oid=oid):
        schema = build.statement("SCHEMA {name}", name=name)
        if plan.schema in (None, name):
            mine.append(name)
            if manageable:
                changes += _schema_grants(schema, plan, owner, have, public)
            elif owner != plan.role and "USAGE" not in have:
                notes.append(f'schema "{name}" is another\'s: no privileges granted on it')
        elif name == "public":
            # Of other schemas only this one: what is shared on purpose is for people to decide.
            changes += _shared_schema(schema, plan, manageable, have, public, notes)
    await run(conn, changes)
    return mine


def _schema_owners(admin: str, plan: Plan, found: list[Row]) -> list[Statement]:
    """Create the tenant's schema; give those that were the admin's or the tenant's their owner."""
    wanted = plan.role if plan.ddl else plan.owner
    changes: list[Statement] = []
    if plan.schema is not None and not any(row[0] == plan.schema for row in found):
        text: LiteralString = "CREATE SCHEMA {name} AUTHORIZATION {wanted}"
        changes.append(build.statement(text, name=plan.schema, wanted=wanted))
    if plan.schema is not None:
        movable = {admin, plan.role, plan.owner}
    elif plan.ddl:
        movable = {admin, plan.role, plan.owner, "pg_database_owner"}
    else:
        movable = {plan.role}
    for name, owner, *_ in found:
        if plan.schema in (None, name):
            theirs = owner.startswith((ROLE_PREFIX, OWNER_PREFIX))
            theirs = theirs and owner not in (plan.role, plan.owner)
            if theirs and plan.base is None:
                _refuse_taken(plan, name)
            if (theirs or owner in movable) and owner != wanted:
                text = "ALTER SCHEMA {name} OWNER TO {wanted}"
                changes.append(build.statement(text, name=name, wanted=wanted))
    return changes


def _refuse_taken(plan: Plan, name: str) -> None:
    raise ProvisioningFailed(
        f'schema "{name}" in database "{plan.database}" belongs to another tenant',
        hint="Give each tenant its own schema_name, or its own database_name.",
    )


def _shared_schema(
    schema: sql.Composable,
    plan: Plan,
    manageable: bool,
    have: Sequence[str],
    public: Sequence[str],
    notes: list[str],
) -> list[Statement]:
    """`public` of a shared database: tenants may look at what is granted there, not create."""
    if not manageable:
        if "CREATE" in public:
            notes.append("every tenant can create objects in schema public: REVOKE it from PUBLIC")
        return []
    changes: list[Statement] = []
    if "CREATE" in public:
        changes.append(build.revoke(["CREATE"], schema, None))
    if "CREATE" in have:
        changes.append(build.revoke(["CREATE"], schema, plan.role))
    return changes


def _schema_grants(
    schema: sql.Composable, plan: Plan, owner: str, have: Sequence[str], public: Sequence[str]
) -> list[Statement]:
    changes: list[Statement] = []
    if "CREATE" in public:
        changes.append(build.revoke(["CREATE"], schema, None))
    if owner == plan.role:
        return changes
    wanted = {"USAGE", "CREATE"} if plan.ddl else {"USAGE"}
    if set(have) - wanted:
        changes.append(build.revoke(sorted(set(have) - wanted), schema, plan.role))
    if wanted - set(have):
        changes.append(build.grant(sorted(wanted - set(have)), schema, plan.role))
    return changes


async def settle_owner(
    conn: Connection, plan: Plan, oid: int, schemas: list[str], notes: list[str]
) -> None:
    """With DDL, hand over what the admin and the owner role hold; without, take all away."""
    owner = await role_oid(conn, plan.owner)
    if plan.ddl:
        if owner and (await rows(conn, ask.OWNS, oid=owner))[0][0]:
            await be_able_to_act_as(conn, plan.owner)
            await run(conn, [build.reassign(plan.owner, plan.role)])
        owners = [await role_oid(conn, conn.info.user)]
        if plan.base is not None:
            owners += [oid for _, oid in await _other_owners(conn, plan)]
            owners += [oid for (oid,) in await rows(conn, ask.BASE_OWNER, base=plan.base)]
        await _run_told(conn, ask.ADOPT, role=plan.role, owners=owners, schemas=schemas)
        return
    if plan.base is not None:
        owners = [oid for _, oid in await _other_owners(conn, plan)]
        await _run_told(conn, ask.ADOPT, role=plan.owner, owners=owners, schemas=schemas)
    if (await rows(conn, ask.OWNS, oid=oid))[0][0]:
        for name in schemas:
            # For an admin that is no superuser, the new owner needs the right to create there.
            on = build.statement("SCHEMA {name}", name=name)
            await run(conn, [build.grant(["CREATE", "USAGE"], on, plan.owner)])
        await run(conn, [build.reassign(plan.role, plan.owner)])
    await _run_told(conn, ask.DISARM_ROUTINES, owner=owner)
    if conn.info.server_version >= SECURITY_INVOKER_VERSION:
        await _run_told(conn, ask.DISARM_VIEWS, owner=owner)
    else:
        notes.append("views that the tenant made keep their owner's rights before PostgreSQL 15")


async def _other_owners(conn: Connection, plan: Plan) -> list[Row]:
    return await rows(conn, ask.OTHER_OWNERS, mine=[plan.role, plan.owner])


async def _disarm_others(conn: Connection, plan: Plan) -> None:
    """In a clone of another tenant's database nothing may run with that tenant's rights."""
    for name, oid in await _other_owners(conn, plan):
        await be_able_to_act_as(conn, name)
        await _run_told(conn, ask.DISARM_ROUTINES, owner=oid)


async def _run_told(conn: Connection, query: str, **values: Any) -> None:
    """Run the statements that `query` answers; the server has quoted the names in them."""
    for (text,) in await rows(conn, query, **values):
        await conn.execute(sql.SQL(text))


async def settle_relations(
    conn: Connection, plan: Plan, oid: int, schemas: list[str], notes: list[str]
) -> None:
    await run(conn, _relation_changes(conn, plan, await _relations(conn, oid, schemas), notes))
    # What somebody else granted with a grant option survives a REVOKE of ours: look again.
    kept = [
        f"{row[0]}.{row[1]}"
        for row in await _relations(conn, oid, schemas)
        if (set(row[4]) | set(row[5]) | set(row[6]) | set(row[7])) - _wanted(conn, plan, row)
    ]
    if kept:
        raise ProvisioningFailed(
            f"privileges that the permissions forbid cannot be revoked on {', '.join(kept[:5])}"
            + (f" and {len(kept) - 5} more" if len(kept) > 5 else ""),
            hint="Their owner, or whoever granted them, has to revoke them.",
        )


async def _relations(conn: Connection, oid: int, schemas: list[str]) -> list[Row]:
    return await rows(conn, ask.RELATIONS, oid=oid, schemas=schemas)


def _wanted(conn: Connection, plan: Plan, row: Row) -> set[str]:
    if (row[1],) in plan.blocked or (row[0], row[1]) in plan.blocked:
        return set()
    wanted = set(plan.sequences if row[2] else plan.tables)
    if conn.info.server_version < MAINTENANCE_VERSION:
        wanted.discard(MAINTENANCE_PRIVILEGE)
    return wanted


def _relation_changes(
    conn: Connection, plan: Plan, relations: list[Row], notes: list[str]
) -> list[Statement]:
    """First every REVOKE, then every GRANT; tables with the same difference share a statement."""
    revokes: dict[tuple[bool, bool, tuple[str, ...]], list[tuple[str, ...]]] = defaultdict(list)
    grants: dict[tuple[bool, tuple[str, ...]], list[tuple[str, ...]]] = defaultdict(list)
    for row in relations:
        schema, name, sequence, manageable, have, public, columns, public_columns = row
        wanted = _wanted(conn, plan, row)
        if not manageable:
            if wanted - set(have):
                notes.append(
                    f'table "{schema}"."{name}" is another\'s: no privileges granted on it'
                )
            continue
        excess = (set(have) | set(columns)) - wanted
        if excess:
            revokes[sequence, False, tuple(sorted(excess))].append((schema, name))
        excess = (set(public) | set(public_columns)) - wanted
        if excess:
            revokes[sequence, True, tuple(sorted(excess))].append((schema, name))
        if wanted - set(have):
            grants[sequence, tuple(sorted(wanted - set(have)))].append((schema, name))
    changes: list[Statement] = []
    for (sequence, from_public, privileges), found in revokes.items():
        grantee = None if from_public else plan.role
        for some in build.batches(found):
            changes.append(build.revoke(privileges, _objects(sequence, some), grantee))
    for (sequence, privileges), found in grants.items():
        for some in build.batches(found):
            changes.append(build.grant(privileges, _objects(sequence, some), plan.role))
    return changes


def _objects(sequence: bool, found: Sequence[tuple[str, ...]]) -> sql.Composable:
    kind: LiteralString = "SEQUENCE " if sequence else "TABLE "
    return sql.SQL(kind) + build.names(found)


async def settle_defaults(conn: Connection, plan: Plan, oid: int) -> None:
    """The same privileges on what the admin creates there later."""
    tables = set(plan.tables)
    if conn.info.server_version < MAINTENANCE_VERSION:
        tables.discard(MAINTENANCE_PRIVILEGE)
    wanted = {"TABLES": ("r", tables), "SEQUENCES": ("S", set(plan.sequences))}
    if plan.alone:
        wanted["SCHEMAS"] = ("n", {"USAGE", "CREATE"} if plan.ddl else {"USAGE"})
    found = await rows(conn, ask.DEFAULTS, oid=oid, schema=plan.schema)
    have = {kind: set(privileges) for kind, privileges in found}
    changes: list[Statement] = []
    for kind, (letter, privileges) in wanted.items():
        now = have.get(letter, set())
        change = (kind, plan.role, plan.schema)
        if now - privileges:
            changes.append(build.default_privileges("REVOKE", sorted(now - privileges), *change))
        if privileges - now:
            changes.append(build.default_privileges("GRANT", sorted(privileges - now), *change))
    await run(conn, changes)
