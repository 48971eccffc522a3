"""Installs the seal (seal.sql) in a database of row tenants: its owner, its functions, its key.

The key reaches the server as a bound parameter in a transaction that logs no statement of ours, so
that it stands in no log; a backup of the database holds it. Two installations cannot share one
database: each would put its own key there.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Final

from psycopg import sql

from admin.provision import sql as build
from admin.provision.names import SEAL_ROLE, SEAL_SCHEMA
from admin.provision.plan import Plan, ProvisioningFailed
from admin.provision.settings import SEAL_SETTING
from admin.provision.steps import Connection, role_oid, rows, run

# A setting that only superusers may set can be granted to a role from this version on.
SEAL_VERSION: Final = 150_000

# Bytes of a block of SHA-256, to which RFC 2104 pads its keys.
_BLOCK: Final = 64
_INNER: Final = 0x36
_OUTER: Final = 0x5C

_INSTALLED: Final = """
SELECT pg_get_userbyid(n.nspowner), coalesce(obj_description(n.oid, 'pg_namespace'), ''),
  to_regclass('tenantry.key') IS NOT NULL AND to_regprocedure('tenantry.enter(text)') IS NOT NULL
  AND to_regprocedure('tenantry.current_tenant()') IS NOT NULL
  AND to_regprocedure('tenantry.backend()') IS NOT NULL
FROM pg_namespace n WHERE n.nspname = %(schema)s"""

_QUIET: Final = (
    "SELECT set_config('log_statement', 'none', true), set_config('log_duration', 'off', true), "
    "set_config('log_min_duration_statement', '-1', true), "
    "set_config('log_min_error_statement', 'panic', true)"
)


def pads(key: bytes) -> tuple[bytes, bytes]:
    """The key's inner and outer pad (RFC 2104), for a key of at most 64 bytes."""
    whole = key.ljust(_BLOCK, b"\0")
    return bytes(byte ^ _INNER for byte in whole), bytes(byte ^ _OUTER for byte in whole)


async def ensure_seal_role(conn: Connection) -> None:
    """The role that owns the seal and may write it. Raises ProvisioningFailed: the server is too
    old, or its admin is no superuser, who alone can grant that and close PostgreSQL's functions."""
    if conn.info.server_version < SEAL_VERSION:
        raise ProvisioningFailed(
            "PostgreSQL before version 15 cannot seal row tenants",
            hint='Set enforcement = "rewrite" for them, or upgrade the server.',
        )
    query = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
    if not (await rows(conn, query))[0][0]:
        raise ProvisioningFailed(
            "the node's user is no superuser, and only one can install the seal of row tenants",
            hint='Give the node a superuser, or set enforcement = "rewrite".',
        )
    if not await role_oid(conn, SEAL_ROLE):
        await run(conn, [build.statement("CREATE ROLE {role} NOLOGIN NOINHERIT", role=SEAL_ROLE)])
    query = "SELECT has_parameter_privilege(%(role)s, %(name)s, 'SET')"
    if not (await rows(conn, query, role=SEAL_ROLE, name=SEAL_SETTING))[0][0]:
        text = sql.SQL("GRANT SET ON PARAMETER {} TO {}")
        await run(conn, [text.format(sql.Identifier(SEAL_SETTING), sql.Identifier(SEAL_ROLE))])


async def install_seal(conn: Connection, plan: Plan, key: bytes) -> None:
    """Schema, functions and key as this version has them. Raises ProvisioningFailed."""
    text = (resources.files("admin.provision") / "seal.sql").read_text("utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    about = f"Tenantry's seal of row tenants, {digest}"
    found = await rows(conn, _INSTALLED, schema=SEAL_SCHEMA)
    if found and found[0][0] not in (SEAL_ROLE, conn.info.user):
        raise ProvisioningFailed(
            f'schema "{SEAL_SCHEMA}" in database "{plan.database}" is not Tenantry\'s',
            hint="Rename it; row tenants need that name.",
        )
    if not found or not found[0][2] or tuple(found[0][:2]) != (SEAL_ROLE, about):
        await conn.execute(text.encode())
        note = sql.SQL("COMMENT ON SCHEMA {} IS {}")
        await conn.execute(note.format(sql.Identifier(SEAL_SCHEMA), sql.Literal(about)))
    await conn.execute(_QUIET)
    inner, outer = pads(key)
    query = "SELECT inner_pad = %(inner)s AND outer_pad = %(outer)s FROM tenantry.key"
    if [tuple(row) for row in await rows(conn, query, inner=inner, outer=outer)] != [(True,)]:
        await conn.execute("DELETE FROM tenantry.key")
        await conn.execute("INSERT INTO tenantry.key VALUES (%s, %s)", [inner, outer])
