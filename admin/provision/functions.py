"""Functions that reach beyond a tenant: taken from PUBLIC, given by name to who may use them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from psycopg import sql

from admin.provision import queries as ask
from admin.provision import sql as build
from admin.provision.names import GROUP_OPERATIONS, group_role
from admin.provision.plan import Plan, ProvisioningFailed
from admin.provision.sql import Statement
from admin.provision.steps import Connection, Row, rows, run

# PUBLIC may run these by default (catalogs of PostgreSQL 15 and 18 compared; what reads files,
# lists directories or imports large objects from them is for superusers already).
SIGNAL_FUNCTIONS: Final = ("pg_cancel_backend", "pg_terminate_backend")
SYSTEM_FUNCTIONS: Final = (*SIGNAL_FUNCTIONS, "pg_logical_emit_message")
BLOB_FUNCTIONS: Final = (
    *("lo_creat", "lo_create", "lo_from_bytea", "lo_put", "lo_truncate", "lo_truncate64"),
    *("lo_unlink", "lowrite"),
)
BLOB_READERS: Final = ("lo_get", "lo_open", "loread")
# What tells of other sessions, in full when they have the same login role. All views of
# pg_catalog that show sessions call one of these with the rights of who asks.
SESSION_FUNCTIONS: Final = (
    *("pg_stat_get_activity", "pg_stat_get_progress_info", "pg_lock_status", "pg_prepared_xact"),
    *("pg_blocking_pids", "pg_safe_snapshot_blocking_pids", "pg_isolation_test_session_is_blocked"),
    *("pg_stat_get_backend_activity", "pg_stat_get_backend_activity_start"),
    *("pg_stat_get_backend_client_addr", "pg_stat_get_backend_client_port"),
    *("pg_stat_get_backend_dbid", "pg_stat_get_backend_idset", "pg_stat_get_backend_io"),
    *("pg_stat_get_backend_pid", "pg_stat_get_backend_start", "pg_stat_get_backend_subxact"),
    *("pg_stat_get_backend_userid", "pg_stat_get_backend_wait_event"),
    *("pg_stat_get_backend_wait_event_type", "pg_stat_get_backend_wal"),
    "pg_stat_get_backend_xact_start",
)
# What tells the keys of others' advisory locks, in spite of wire/sql/namespaces.py: who knows one
# can take it, in a function that the guard does not see.
LOCK_FUNCTIONS: Final = ("pg_lock_status",)
# Extensions that show statements of other sessions with the same login role.
SESSION_EXTENSIONS: Final = (
    *("pg_stat_statements", "pg_stat_monitor", "pg_stat_kcache", "pg_qualstats"),
    *("pg_wait_sampling", "pg_store_plans", "pg_query_state"),
)
# Extensions whose functions open connections or files on the server and are open to PUBLIC.
SERVER_EXTENSIONS: Final = ("dblink", "adminpack", "file_fdw", "postgres_fdw")

# Through which of PostgreSQL's own roles operators keep what PUBLIC loses.
_KEEPERS: Final = {
    **dict.fromkeys((*SYSTEM_FUNCTIONS, *SESSION_FUNCTIONS, *SESSION_EXTENSIONS), "pg_monitor"),
    **dict.fromkeys(SIGNAL_FUNCTIONS, "pg_signal_backend"),
    **dict.fromkeys(BLOB_READERS, "pg_read_all_data"),
}


async def settle_functions(conn: Connection, plan: Plan, oid: int, notes: list[str]) -> None:
    """Functions that reach beyond the tenant are no longer PUBLIC's. Operators keep them through
    PostgreSQL's own roles; tenants that may use them get them by name.

    Where row tenants are, sessions of several tenants have one login role: there, what such
    sessions could see of each other is closed too, and tenants of other strategies keep reading
    large objects by name. Where tenants have schemas, so is what tells of their locks.
    Raises ProvisioningFailed: a row tenant that PostgreSQL should enforce, and an admin that
    cannot close these.
    """
    changes: list[Statement] = []
    closed: dict[str, list[str]] = defaultdict(list)
    given: list[str] = []
    taken: list[str] = []
    stuck: list[str] = []
    for signature, name, extension, manageable, public, mine in await _functions(conn, plan, oid):
        close = plan.rows is not None or name not in (*BLOB_READERS, *SESSION_FUNCTIONS)
        close = close or (plan.schema is not None and name in LOCK_FUNCTIONS)
        wanted = _wanted(plan, name) and (close or not public)
        if not manageable:
            stuck += [signature] if public and close and not wanted else []
            continue
        if public and close:
            closed[extension or name].append(signature)
        if wanted != mine:
            (given if wanted else taken).append(signature)
    for name, signatures in closed.items():
        on = _named(signatures)
        changes.append(build.revoke(["EXECUTE"], on, None))
        keepers = [_KEEPERS[name]] if name in _KEEPERS else []
        if name in BLOB_READERS:
            keepers += await _other_tenants(conn, plan)
        if keepers:
            changes.append(build.grant(["EXECUTE"], on, *keepers))
    if taken:
        changes.append(build.revoke(["EXECUTE"], _named(taken), plan.role))
    if given:
        changes.append(build.grant(["EXECUTE"], _named(given), plan.role))
    if stuck:
        _tell_stuck(plan, stuck, notes)
    await run(conn, changes)


async def _functions(conn: Connection, plan: Plan, oid: int) -> list[Row]:
    names = [*SYSTEM_FUNCTIONS, *BLOB_FUNCTIONS, *BLOB_READERS, *SESSION_FUNCTIONS]
    extensions = [*SERVER_EXTENSIONS, *(SESSION_EXTENSIONS if plan.rows else ())]
    return await rows(conn, ask.FUNCTIONS, oid=oid, names=names, extensions=extensions)


def _wanted(plan: Plan, name: str) -> bool:
    if name in BLOB_FUNCTIONS:
        return plan.blobs
    if name in BLOB_READERS:
        return plan.rows is None
    if name in SESSION_FUNCTIONS:
        return plan.rows is None and plan.system_access
    return plan.system_access and name in SYSTEM_FUNCTIONS


async def _other_tenants(conn: Connection, plan: Plan) -> list[str]:
    """Roles of tenants that enter this database and are no row tenants."""
    groups = [group_role(each, plan.database) for each in GROUP_OPERATIONS]
    found = await rows(conn, ask.OTHER_TENANTS, role=plan.role, groups=groups)
    return [str(name) for (name,) in found]


def _tell_stuck(plan: Plan, stuck: list[str], notes: list[str]) -> None:
    text = (
        f"only a superuser can keep tenants from running {', '.join(stuck)} "
        f'in database "{plan.database}"'
    )
    if plan.rows is not None and plan.rows.sealed:
        raise ProvisioningFailed(
            text, hint='Let the node\'s user be a superuser, or set enforcement = "rewrite".'
        )
    notes.append(text)


def _named(signatures: Sequence[str]) -> sql.Composable:
    # regprocedure's text: the server has quoted it.
    return sql.SQL("FUNCTION ") + build.words(signatures)
