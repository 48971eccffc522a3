"""Branches: databases cloned from a base with CREATE DATABASE … TEMPLATE.

The clone is a copy of the base's files. From PostgreSQL 18 on the server is asked to clone them
instead (file_copy_method), which takes moments and no space where the file system shares blocks
(XFS with reflink, btrfs, ZFS, APFS); elsewhere, and before 18, every byte is copied. Nobody may be
connected to the base meanwhile. Roles are the cluster's and are not copied; privileges on the
database and its settings are re-applied here, except those of tenants.
"""

from __future__ import annotations

import asyncio
import datetime
import re
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from admin.provision import sql as build
from admin.provision.names import fresh_name
from admin.provision.plan import ProvisioningFailed
from admin.provision.sql import Statement
from admin.provision.steps import Connection, rows, run

CLONE_VERSION: Final = 180_000
# A base of some hundred GB on a slow disk; then somebody should look.
CLONE_TIMEOUT_SECS: Final = 3600
# A connection that is just closing is gone in moments; CREATE DATABASE itself waits 5 s more.
TRIES_MAX: Final = 5
PAUSE_SECS: Final = 0.5
# People named in the error; more would not help to read it.
NAMED_MAX: Final = 5

_NOTE: Final = re.compile(r"Tenantry branch of (.*) at (\S+)")

_STATE: Final = """
SELECT datconnlimit = 0 AND datacl IS NULL FROM pg_database WHERE datname = %(name)s"""
_CONNECTED: Final = """
SELECT coalesce(usename, backend_type) || CASE WHEN application_name <> ''
  THEN ' (' || application_name || ')' ELSE '' END, count(*)
FROM pg_stat_activity WHERE datname = %(base)s AND pid <> pg_backend_pid()
GROUP BY 1 ORDER BY 2 DESC, 1"""
_GRANTS: Final = """
SELECT r.rolname, array_agg(a.privilege_type ORDER BY 1)
FROM pg_database d, aclexplode(d.datacl) a, pg_roles r
WHERE d.datname = %(base)s AND r.oid = a.grantee AND r.oid <> d.datdba
  AND NOT starts_with(r.rolname, 'tenantry_') AND NOT starts_with(r.rolname, 'tenantry-')
GROUP BY 1 ORDER BY 1"""
_SETTINGS: Final = """
SELECT unnest(s.setconfig) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
WHERE d.datname = %(base)s AND s.setrole = 0"""


def read_note(comment: str | None) -> tuple[str, str]:
    """Base and time (ISO 8601, UTC) of a branch, from its database's comment; "" if not ours."""
    found = _NOTE.fullmatch(comment or "")
    return (found[1], found[2]) if found else ("", "")


async def ensure_clone(conn: Connection, base: str, name: str, notes: list[str]) -> None:
    """The database `name`, cloned from `base` when it is missing.

    Raises ProvisioningFailed: there is no base, or somebody stays connected to it.
    """
    found = await rows(conn, _STATE, name=name)
    if not found:
        await _clone(conn, base, name)
    if not found or found[0][0]:
        # The limit of 0 connections ends with what the clone lacked, or a next run does it all.
        settings = await rows(conn, _SETTINGS, base=base)
        await _apply_settings(conn, name, [str(line) for (line,) in settings], notes)
        on = sql.SQL("DATABASE {}").format(sql.Identifier(name))
        changes: list[Statement] = [build.revoke(["ALL"], on, None)]
        for role, privileges in await rows(conn, _GRANTS, base=base):
            changes.append(build.grant(privileges, on, role))
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        note = sql.Literal(f"Tenantry branch of {base} at {now}")
        changes.append(
            build.statement("COMMENT ON DATABASE {name} IS {note}", name=name, note=note)
        )
        changes.append(build.statement("ALTER DATABASE {name} CONNECTION LIMIT -1", name=name))
        async with conn.transaction():
            await run(conn, changes)


async def replace_clone(conn: Connection, base: str, name: str, notes: list[str]) -> None:
    """A fresh clone in the place of the branch `name`, which stays as it is if cloning fails.
    Sessions in the old one are ended. Raises as ensure_clone."""
    fresh = fresh_name(name)
    await drop_clone(conn, fresh)
    await ensure_clone(conn, base, fresh, notes)
    await drop_clone(conn, name)
    text: LiteralString = "ALTER DATABASE {fresh} RENAME TO {name}"
    await run(conn, [build.statement(text, fresh=fresh, name=name)])


async def drop_clone(conn: Connection, name: str) -> None:
    text: LiteralString = "DROP DATABASE IF EXISTS {name} WITH (FORCE)"
    await run(conn, [build.statement(text, name=name)])


async def _clone(conn: Connection, base: str, name: str) -> None:
    if not await rows(conn, "SELECT 1 FROM pg_database WHERE datname = %(base)s", base=base):
        raise ProvisioningFailed(
            f'there is no database "{base}" to clone', hint="Create it, or correct branch_base."
        )
    for left in reversed(range(TRIES_MAX)):
        connected = await rows(conn, _CONNECTED, base=base)
        if not connected:
            try:
                await _copy(conn, base, name)
                break
            except psycopg.errors.ObjectInUse:
                connected = await rows(conn, _CONNECTED, base=base)
        if not left:
            raise _in_use(base, [(str(who), int(count)) for who, count in connected])
        await asyncio.sleep(PAUSE_SECS)


def _in_use(base: str, connected: list[tuple[str, int]]) -> ProvisioningFailed:
    who = ", ".join(
        name if count == 1 else f"{name} × {count}" for name, count in connected[:NAMED_MAX]
    )
    if len(connected) > NAMED_MAX:
        who += f" and {len(connected) - NAMED_MAX} more"
    return ProvisioningFailed(
        f'database "{base}" cannot be cloned while somebody is connected to it: '
        f"{who or 'a session that has just ended'}",
        hint="Disconnect them, or clone from a database that nobody works in "
        "(ALTER DATABASE … ALLOW_CONNECTIONS false keeps it so).",
    )


async def _copy(conn: Connection, base: str, name: str) -> None:
    """CREATE DATABASE, by cloning files where that works. A limit of 0 connections keeps everybody
    but superusers out until its privileges are right."""
    text: LiteralString = (
        "CREATE DATABASE {name} TEMPLATE {base} STRATEGY FILE_COPY CONNECTION LIMIT 0"
    )
    create = build.statement(text, name=name, base=base)
    timeout = (await rows(conn, "SELECT current_setting('statement_timeout')"))[0][0]
    set_timeout = "SELECT set_config('statement_timeout', %(text)s, false)"
    await rows(conn, set_timeout, text=f"{CLONE_TIMEOUT_SECS}s")
    try:
        if conn.info.server_version >= CLONE_VERSION and await _cloned(conn, create):
            return
        await conn.execute(create)
    finally:
        if not conn.closed:
            await rows(conn, set_timeout, text=timeout)


async def _cloned(conn: Connection, create: Statement) -> bool:
    """False when this server or its file system cannot clone files; PostgreSQL then has removed
    what it began."""
    try:
        await conn.execute("SET file_copy_method = clone")
        await conn.execute(create)
    except (
        psycopg.errors.InvalidParameterValue,
        psycopg.errors.FeatureNotSupported,
        psycopg.errors.SystemError,
        psycopg.errors.InternalError,
    ):
        return False
    finally:
        if not conn.closed:
            await conn.execute("RESET file_copy_method")
    return True


async def _apply_settings(
    conn: Connection, name: str, settings: list[str], notes: list[str]
) -> None:
    """ALTER DATABASE … SET as the base has it. By way of the session, because only PostgreSQL knows
    which settings are lists and how their parts are quoted."""
    for line in settings:
        setting, value = line.split("=", 1)
        where = sql.Identifier(*setting.split("."))
        text = sql.SQL("ALTER DATABASE {} SET {} FROM CURRENT")
        query = "SELECT set_config(%(setting)s, %(value)s, true)"
        try:
            async with conn.transaction():
                await rows(conn, query, setting=setting, value=value)
                await conn.execute(text.format(sql.Identifier(name), where))
        except psycopg.Error as error:
            notes.append(f'setting "{setting}" of the base was not taken over: {error}')
