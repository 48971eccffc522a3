"""What a login role's new sessions in its database start with: search_path, read-only, the seal.

Only the seal protects anything: the others a session may set otherwise, and it is the privileges
that hold. A row tenant's own role is sealed here for ever: neither SET nor RESET, nor ALTER ROLE of
itself, changes a setting that only superusers may set.
"""

from __future__ import annotations

from typing import Final

from psycopg import sql

from admin.provision import sql as build
from admin.provision.plan import Plan, ProvisioningFailed, Rows
from admin.provision.sql import Statement
from admin.provision.steps import Connection, role_oid, rows, run
from wire.sql.seal import SETTING_PREFIX, setting

SEAL_SETTING: Final = "backtrace_functions"

_SETTINGS: Final = """
SELECT coalesce((SELECT s.setconfig FROM pg_db_role_setting s JOIN pg_database d
  ON d.oid = s.setdatabase WHERE s.setrole = %(oid)s AND d.datname = %(database)s), '{}'),
  quote_ident(%(schema)s)"""

_SAME_SEAL: Final = """
SELECT r.rolname FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
JOIN pg_roles r ON r.oid = s.setrole
WHERE d.datname = %(database)s AND %(line)s = ANY(s.setconfig) AND r.rolname <> %(role)s"""


async def refuse_same_value(conn: Connection, plan: Plan) -> None:
    """Raises ProvisioningFailed when another tenant of the database has the same value: the two
    would be one. A deleted tenant keeps its value until somebody drops its role."""
    if plan.rows is None or not plan.rows.sealed:
        return
    line = f"{SEAL_SETTING}={setting(plan.rows.value)}"
    found = await rows(conn, _SAME_SEAL, database=plan.database, line=line, role=plan.role)
    if found:
        raise ProvisioningFailed(
            f'the value "{plan.rows.value}" in database "{plan.database}" is the tenant\'s whose '
            f'role is "{found[0][0]}"',
            hint="Set another tenant_value; or, if those rows are this tenant's now, run "
            f'ALTER ROLE "{found[0][0]}" IN DATABASE "{plan.database}" RESET {SEAL_SETTING}.',
        )


async def ensure_settings(conn: Connection, plan: Plan) -> None:
    """The settings of the tenant's own role, and of the role that row tenants share."""
    schema = plan.schema if plan.rows is None else plan.rows.schema
    have, quoted = await _settings(conn, plan.role, plan.database, schema)
    wanted: dict[str, tuple[str, sql.Composable]] = {}
    if plan.read_only:
        wanted["default_transaction_read_only"] = ("on", sql.SQL("on"))
    if plan.schema is not None:
        path = sql.SQL("{}, public").format(sql.Identifier(plan.schema))
        wanted["search_path"] = (f"{quoted}, public", path)
    if plan.rows is not None:
        wanted["search_path"] = (quoted, sql.Identifier(plan.rows.schema))
        wanted |= _row_settings(plan.rows)
    await run(conn, _changes(plan.role, plan.database, have, wanted))
    if plan.rows is not None:
        have, quoted = await _settings(conn, plan.rows.role, plan.database, plan.rows.schema)
        shared: dict[str, tuple[str, sql.Composable]] = {
            "search_path": (quoted, sql.Identifier(plan.rows.schema))
        }
        await run(conn, _changes(plan.rows.role, plan.database, have, shared))


def _row_settings(row: Rows) -> dict[str, tuple[str, sql.Composable]]:
    texts = dict.fromkeys(row.settings, row.value)
    if row.sealed:
        texts[SEAL_SETTING] = setting(row.value)
    return {name: (text, sql.Literal(text)) for name, text in texts.items()}


async def _settings(
    conn: Connection, role: str, database: str, schema: str | None
) -> tuple[dict[str, str], str]:
    oid = await role_oid(conn, role)
    found = await rows(conn, _SETTINGS, oid=oid, database=database, schema=schema)
    return dict(item.split("=", 1) for item in found[0][0]), str(found[0][1])


def _changes(
    role: str,
    database: str,
    have: dict[str, str],
    wanted: dict[str, tuple[str, sql.Composable]],
) -> list[Statement]:
    """What people set on the role stays, except what is ours to decide."""
    where = build.statement(
        "ALTER ROLE {role} IN DATABASE {database} ", role=role, database=database
    )
    changes: list[Statement] = []
    for name, (stored, value) in wanted.items():
        if have.get(name) != stored:
            change = sql.SQL("SET {} = ").format(sql.Identifier(*name.split("."))) + value
            changes.append(where + change)
    for name, stored in have.items():
        # Ours once: read-only of a tenant that was, the seal and its copies of a former value.
        former = have.get(SEAL_SETTING, "").startswith(SETTING_PREFIX) and (
            name == SEAL_SETTING or ("." in name and setting(stored) == have[SEAL_SETTING])
        )
        if name not in wanted and (former or name == "default_transaction_read_only"):
            changes.append(where + sql.SQL("RESET {}").format(sql.Identifier(*name.split("."))))
    return changes
