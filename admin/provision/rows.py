"""Provisioning for row tenants: roles that share tables, and what they may do in their database.

Nobody here owns anything. Table privileges belong to four group roles, which `tenantry protect`
gives them table by table once a table is safe; a table that nobody has protected yields nothing.
Where only the proxy enforces (rewrite), there is no protecting, so the groups get the tables that
have the tenant column here. What row tenants have of schemas is added, never taken: other row
tenants of the database may need it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from admin.provision import queries as ask
from admin.provision import sql as build
from admin.provision.functions import settle_functions
from admin.provision.grants import settle_defaults, settle_owner, settle_relations
from admin.provision.names import (
    GROUP_OPERATIONS,
    OWNER_PREFIX,
    ROLE_PREFIX,
    SEAL_SCHEMA,
    group_role,
)
from admin.provision.plan import Plan, ProvisioningFailed, Rows
from admin.provision.seal import ensure_seal_role, install_seal
from admin.provision.sql import Statement
from admin.provision.steps import Connection, ensure_login, role_oid, rows, run
from wire.postgres.scram import make_verifier, verify_password

# The pool decides how many connections it opens; PostgreSQL adds no limit to that.
NO_LIMIT: Final = -1


@dataclass(frozen=True, slots=True)
class RowSecrets:
    """Both derived from the installation's key, so that every worker knows them."""

    password: str
    key: bytes


async def ensure_row_roles(conn: Connection, plan: Plan, row: Rows, secrets: RowSecrets) -> None:
    """The groups, the login role that row tenants of the database share, the seal's owner."""
    groups = [group_role(operation, plan.database) for operation in GROUP_OPERATIONS]
    for group in groups:
        if not await role_oid(conn, group):
            text: LiteralString = "CREATE ROLE {group} NOLOGIN NOINHERIT"
            await run(conn, [build.statement(text, group=group)])
    keep = await _has_password(conn, row.role, secrets.password)
    verifier = None if keep else make_verifier(secrets.password)
    await ensure_login(conn, row.role, NO_LIMIT, verifier, groups)
    if row.sealed:
        await ensure_seal_role(conn)


async def _has_password(conn: Connection, role: str, password: str) -> bool:
    """Only superusers may look; others set it each time."""
    try:
        async with conn.transaction():
            query = "SELECT rolpassword FROM pg_authid WHERE rolname = %(role)s"
            found = await rows(conn, query, role=role)
    except psycopg.errors.InsufficientPrivilege:
        return False
    return bool(found and found[0][0]) and verify_password(password, found[0][0])


async def settle_rows(
    conn: Connection, plan: Plan, row: Rows, secrets: RowSecrets, notes: list[str]
) -> None:
    """Make the database as planned. Revocations and grants become visible together."""
    async with conn.transaction():
        if row.sealed:
            await install_seal(conn, plan, secrets.key)
        shared = replace(plan, role=row.role)
        for each in (plan, shared):
            oid = await role_oid(conn, each.role)
            await _settle_schemas(conn, each, row, oid, notes)
            await settle_relations(conn, each, oid, row.schemas, notes)
            await settle_defaults(conn, each, oid)
        await settle_owner(conn, plan, await role_oid(conn, plan.role), [], notes)
        await _settle_tables(conn, plan, row, notes)
        own = await role_oid(conn, plan.role)
        await settle_functions(conn, plan, own, notes)
        if row.sealed:
            await _settle_seal(conn, plan, row)


async def _settle_schemas(
    conn: Connection, plan: Plan, row: Rows, oid: int, notes: list[str]
) -> None:
    """The role may use the schemas of the shared tables, and create in none."""
    found = await rows(conn, ask.SCHEMAS, oid=oid)
    changes: list[Statement] = []
    for missing in sorted(set(row.schemas) - {each[0] for each in found}):
        changes.append(build.statement("CREATE SCHEMA {name}", name=missing))
        changes.append(_usage(missing, plan.role))
    for name, owner, manageable, have, public in found:
        if name in row.schemas and owner.startswith((ROLE_PREFIX, OWNER_PREFIX)):
            raise ProvisioningFailed(
                f'schema "{name}" in database "{plan.database}" belongs to a tenant',
                hint="Set schema_name to the schema of the shared tables.",
            )
        on = build.statement("SCHEMA {name}", name=name)
        if not manageable:
            if name in row.schemas and "USAGE" not in have:
                notes.append(f'schema "{name}" is another\'s: no privileges granted on it')
            continue
        if "CREATE" in public and name in ("public", *row.schemas):
            changes.append(build.revoke(["CREATE"], on, None))
        if "CREATE" in have:
            changes.append(build.revoke(["CREATE"], on, plan.role))
        if name in row.schemas and "USAGE" not in have:
            changes.append(_usage(name, plan.role))
    await run(conn, changes)


def _usage(schema: str, role: str) -> Statement:
    return build.grant(["USAGE"], build.statement("SCHEMA {name}", name=schema), role)


async def _settle_seal(conn: Connection, plan: Plan, row: Rows) -> None:
    """Everybody here may call by name what the policies call anyway; only the role that passes from
    tenant to tenant may enter. What is granted is left alone: each GRANT would make every session
    of the database plan its statements again."""
    query = """SELECT has_schema_privilege(%(own)s, 'tenantry', 'USAGE'),
      has_schema_privilege(%(shared)s, 'tenantry', 'USAGE'),
      has_function_privilege(%(shared)s, 'tenantry.enter(text)', 'EXECUTE'),
      has_function_privilege(%(shared)s, 'tenantry.backend()', 'EXECUTE')"""
    have = (await rows(conn, query, own=plan.role, shared=row.role))[0]
    schema = build.statement("SCHEMA {name}", name=SEAL_SCHEMA)
    enter, backend = (
        sql.SQL("FUNCTION tenantry.enter(text)"),
        sql.SQL("FUNCTION tenantry.backend()"),
    )
    wanted = [
        build.grant(["USAGE"], schema, plan.role),
        build.grant(["USAGE"], schema, row.role),
        build.grant(["EXECUTE"], enter, row.role),
        build.grant(["EXECUTE"], backend, row.role),
    ]
    await run(conn, [each for each, there in zip(wanted, have, strict=True) if not there])


async def _settle_tables(conn: Connection, plan: Plan, row: Rows, notes: list[str]) -> None:
    """Shared tables are readable; without the seal, the others become usable too."""
    select, *writing = [group_role(operation, plan.database) for operation in GROUP_OPERATIONS]
    shared = {name if len(name) > 1 else (row.schema, *name) for name in row.shared}
    query = ask.ROW_TABLES
    changes: list[Statement] = []
    for schema, name, kind, guarded, have, sequences in await rows(
        conn, query, schemas=row.schemas, column=row.column
    ):
        table = sql.SQL("TABLE ") + sql.Identifier(schema, name)
        if (schema, name) in shared:
            if guarded:
                raise ProvisioningFailed(
                    f'shared table "{schema}"."{name}" has the tenant column "{row.column}"',
                    hint="Take it out of shared_tables: its rows belong to tenants.",
                )
            wanted = {"SELECT": select}
        elif guarded and schema == row.schema and not row.sealed:
            wanted = {"SELECT": select}
            if kind in ("r", "p", "f"):
                wanted |= dict(zip(("INSERT", "UPDATE", "DELETE"), writing, strict=True))
                for each in sequences:
                    changes.append(build.grant(["USAGE"], sql.SQL("SEQUENCE " + each), writing[0]))
        else:
            continue
        for privilege, group in wanted.items():
            if f"{privilege} {group}" not in have:
                changes.append(build.grant([privilege], table, group))
    try:
        async with conn.transaction():
            await run(conn, changes)
    except psycopg.errors.InsufficientPrivilege as error:
        notes.append(f"tables of others cannot be opened to row tenants: {str(error).strip()}")
