"""The steps of provisioning: each looks at the catalog and changes only what differs from the plan.

So every step may be repeated, and a run that was killed is finished by the next one. The connection
is the admin's, in autocommit, with search_path fixed to pg_catalog: a tenant that owns `public`
must not be able to put its own functions and operators under the admin's queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from admin.provision import sql as build
from admin.provision.plan import Plan, ProvisioningFailed
from admin.provision.sql import Statement

Connection = psycopg.AsyncConnection[Any]
Row = Sequence[Any]

# GRANT … WITH SET, and creators that do not inherit what they create, came with this version.
GRANT_OPTIONS_VERSION: Final = 160_000

_ROLE = """
SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolinherit, rolcanlogin,
  rolconnlimit
FROM pg_roles WHERE rolname = %(role)s"""

# Column of _ROLE, value wanted, and what to say when it is otherwise.
_ATTRIBUTES: Final = (
    (0, False, "NOSUPERUSER"),
    (1, False, "NOCREATEDB"),
    (2, False, "NOCREATEROLE"),
    (3, False, "NOREPLICATION"),
    (4, False, "NOBYPASSRLS"),
    (6, True, "LOGIN"),
)

# What the role is a member of though it should not, and other tenants' roles that are its members.
_MEMBERSHIPS = """
SELECT pg_get_userbyid(m.roleid), pg_get_userbyid(m.member), pg_get_userbyid(m.grantor)
FROM pg_auth_members m
WHERE m.member = %(oid)s AND (m.admin_option OR pg_get_userbyid(m.roleid) <> ALL(%(groups)s))
   OR m.roleid = %(oid)s AND EXISTS (SELECT FROM pg_roles r
      WHERE r.oid = m.member AND starts_with(r.rolname, 'tenantry'))"""

_DATABASES = """
SELECT d.datname, pg_has_role(d.datdba, 'USAGE'),
       coalesce(array_agg(DISTINCT a.privilege_type) FILTER (WHERE a.grantee = 0), '{}'),
       coalesce(array_agg(DISTINCT a.privilege_type) FILTER (WHERE a.grantee = %(oid)s), '{}')
FROM pg_database d
LEFT JOIN LATERAL aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a ON true
WHERE d.datallowconn GROUP BY 1, 2 ORDER BY 1"""

_OTHER_LOGINS = """
SELECT rolname FROM pg_roles WHERE rolcanlogin AND NOT rolsuper
AND NOT starts_with(rolname, 'tenantry_') AND NOT starts_with(rolname, 'tenantry-row_')
ORDER BY 1"""

_OTHER_TENANTS = """
SELECT r.rolname FROM pg_database d, aclexplode(d.datacl) a, pg_roles r
WHERE d.datname = %(name)s AND r.oid = a.grantee
AND starts_with(r.rolname, 'tenantry_') AND r.rolname <> %(role)s"""


async def role_oid(conn: Connection, role: str) -> int:
    """The role's OID, 0 when it is missing."""
    found = await rows(conn, "SELECT oid FROM pg_roles WHERE rolname = %(role)s", role=role)
    return int(found[0][0]) if found else 0


async def rows(conn: Connection, query: Any, **values: Any) -> list[Row]:
    return await (await conn.execute(query, values)).fetchall()


async def run(conn: Connection, statements: Sequence[Statement]) -> None:
    for each in statements:
        await conn.execute(each)


async def ensure_role(conn: Connection, plan: Plan, verifier: str) -> None:
    """The tenant's login role with its password and nothing else: no attribute, no membership
    but in the groups of a row tenant."""
    groups = () if plan.rows is None else plan.rows.groups
    await ensure_login(conn, plan.role, plan.connection_limit, verifier, groups)
    await be_able_to_act_as(conn, plan.role)


async def ensure_login(
    conn: Connection, role: str, limit: int, verifier: str | None, groups: Sequence[str] = ()
) -> None:
    """A login role, member of `groups` alone. `verifier` None keeps the password of one that is
    there."""
    # Before version 16 inheriting is a property of the member, not of each membership.
    inherits = bool(groups) and conn.info.server_version < GRANT_OPTIONS_VERSION
    found = await rows(conn, _ROLE, role=role)
    if not found:
        await run(conn, [build.create_role(role, limit, verifier or "", inherits)])
    else:
        differing = [text for at, wanted, text in _ATTRIBUTES if found[0][at] != wanted]
        if found[0][5] != inherits:
            differing.append("INHERIT" if inherits else "NOINHERIT")
        if differing or verifier is not None or found[0][7] != limit:
            await run(conn, [build.alter_role(role, differing, limit, verifier)])
    oid = await role_oid(conn, role)
    await _revoke_memberships(conn, oid, groups)
    await _grant_memberships(conn, role, oid, groups)


async def ensure_owner(conn: Connection, plan: Plan) -> None:
    """The role that keeps the tenant's former creations. Never the admin: a function with SECURITY
    DEFINER or an index expression that the tenant wrote would then run with the admin's rights."""
    if not await role_oid(conn, plan.owner):
        await run(
            conn, [build.statement("CREATE ROLE {owner} NOLOGIN NOINHERIT", owner=plan.owner)]
        )
    await be_able_to_act_as(conn, plan.owner)


async def _grant_memberships(conn: Connection, role: str, oid: int, groups: Sequence[str]) -> None:
    modern = conn.info.server_version >= GRANT_OPTIONS_VERSION
    query = "SELECT pg_get_userbyid(roleid) FROM pg_auth_members m WHERE member = %(oid)s"
    if modern:
        query += " AND inherit_option AND NOT set_option"
    have = {str(name) for (name,) in await rows(conn, query, oid=oid)}
    how = sql.SQL("WITH INHERIT TRUE, SET FALSE") if modern else sql.SQL("")
    for group in groups:
        if group not in have:
            text: LiteralString = "GRANT {group} TO {role} {how}"
            await run(conn, [build.statement(text, group=group, role=role, how=how)])


async def _revoke_memberships(conn: Connection, oid: int, groups: Sequence[str]) -> None:
    modern = conn.info.server_version >= GRANT_OPTIONS_VERSION
    for granted, member, grantor in await rows(conn, _MEMBERSHIPS, oid=oid, groups=list(groups)):
        by = sql.SQL("GRANTED BY {}").format(sql.Identifier(grantor)) if modern else sql.SQL("")
        await run(
            conn,
            [
                build.statement(
                    "REVOKE {granted} FROM {member} {by} CASCADE",
                    granted=granted,
                    member=member,
                    by=by,
                )
            ],
        )


async def be_able_to_act_as(conn: Connection, role: str) -> None:
    """An admin that is no superuser gives away and takes over only as a member of both roles."""
    modern = conn.info.server_version >= GRANT_OPTIONS_VERSION
    need = "USAGE, SET" if modern else "USAGE"
    may = await rows(conn, "SELECT pg_has_role(%(role)s, %(need)s)", role=role, need="USAGE")
    if modern and may[0][0]:
        may = await rows(conn, "SELECT pg_has_role(%(role)s, %(need)s)", role=role, need="SET")
    if may[0][0]:
        return
    options = sql.SQL("WITH SET TRUE, INHERIT TRUE") if modern else sql.SQL("")
    try:
        await run(
            conn,
            [build.statement("GRANT {role} TO CURRENT_USER {options}", role=role, options=options)],
        )
    except psycopg.errors.InsufficientPrivilege as error:
        raise ProvisioningFailed(
            f'the node\'s user may not manage the role "{role}" ({need})',
            hint="It was made by somebody else: GRANT it to the node's user WITH ADMIN OPTION.",
        ) from error


async def ensure_database(conn: Connection, plan: Plan) -> None:
    """The database, closed to PUBLIC before anybody but superusers could have entered it.

    CREATE DATABASE cannot be part of a transaction. A limit of 0 connections marks the database as
    unfinished until the privileges that PUBLIC has by default are gone.
    """
    query = """SELECT datconnlimit = 0 AND datacl IS NULL, datallowconn, datistemplate
    FROM pg_database WHERE datname = %(name)s"""
    found = await rows(conn, query, name=plan.database)
    name = sql.Identifier(plan.database)
    others = await rows(conn, _OTHER_TENANTS, name=plan.database, role=plan.role)
    if plan.alone and others:
        raise ProvisioningFailed(
            f'database "{plan.database}" is used by other tenants',
            hint="Give this tenant a database_name (or branch_name) of its own.",
        )
    if found and (not found[0][1] or found[0][2]):
        raise ProvisioningFailed(f'database "{plan.database}" is a template or accepts nobody')
    if not found:
        await run(conn, [sql.SQL("CREATE DATABASE {} CONNECTION LIMIT 0").format(name)])
    if not found or found[0][0]:
        async with conn.transaction():
            await run(
                conn,
                [
                    build.revoke(["ALL"], sql.SQL("DATABASE {}").format(name), None),
                    sql.SQL("ALTER DATABASE {} CONNECTION LIMIT -1").format(name),
                ],
            )


async def close_databases(conn: Connection, plan: Plan | None, notes: list[str]) -> None:
    """PUBLIC may enter no database (it may by default, `postgres` and `template1` too), and the
    tenant its own only. Login roles that are no tenants keep what they had through PUBLIC."""
    oid = 0 if plan is None else await role_oid(conn, plan.role)
    async with conn.transaction():
        for name, manageable, public, mine in await rows(conn, _DATABASES, oid=oid or -1):
            changes = await _close_to_public(conn, name, public) if manageable else []
            if public and not manageable:
                notes.append(
                    f'tenants can enter database "{name}", because PUBLIC can and its owner is '
                    f'another: run REVOKE ALL ON DATABASE "{name}" FROM PUBLIC'
                )
            if plan is not None:
                wanted = plan.database_privileges if name == plan.database else frozenset()
                changes += _database_changes(plan.role, name, set(mine), wanted)
            if changes and not manageable and plan is not None and name == plan.database:
                raise ProvisioningFailed(
                    f'the node\'s user does not own database "{name}", so it cannot open it',
                    hint=f'Run ALTER DATABASE "{name}" OWNER TO the node\'s user.',
                )
            await run(conn, changes)
        if plan is not None and plan.rows is not None:
            await _open_to_rows(conn, plan.rows.role, plan.database)


async def _open_to_rows(conn: Connection, role: str, database: str) -> None:
    """The login role that row tenants of `database` share enters that one only."""
    oid = await role_oid(conn, role)
    for name, _, _, have in await rows(conn, _DATABASES, oid=oid):
        wanted = frozenset({"CONNECT"}) if name == database else frozenset()
        await run(conn, _database_changes(role, name, set(have), wanted))


async def _close_to_public(conn: Connection, name: str, public: Sequence[str]) -> list[Statement]:
    if not public:
        return []
    on = sql.SQL("DATABASE {}").format(sql.Identifier(name))
    others = [name for (name,) in await rows(conn, _OTHER_LOGINS)]
    keep = [build.grant(public, on, *others)] if others else []
    return [*keep, build.revoke(["ALL"], on, None)]


def _database_changes(
    role: str, name: str, have: set[str], wanted: frozenset[str]
) -> list[Statement]:
    on = sql.SQL("DATABASE {}").format(sql.Identifier(name))
    changes: list[Statement] = []
    if have - wanted:
        changes.append(build.revoke(sorted(have - wanted), on, role))
    if wanted - have:
        changes.append(build.grant(sorted(wanted - have), on, role))
    return changes
