"""The views that COPY FROM goes through: PostgreSQL refuses COPY FROM under row-level security.

A view with an INSTEAD OF INSERT trigger that inserts row by row into the table, with the rights of
whoever copies, so that the table's policies judge every row. The view reads nothing: it has the
columns only, as NULLs of built-in types, so that it is in no migration's way (a view over the table
would forbid ALTER COLUMN TYPE, one with an enum column DROP TYPE). Defaults that depend on
something droppable, such as a sequence, sit in functions whose text is looked up when they run.

The trigger function has no search_path of its own, because triggers of the table would inherit it;
every name in it is qualified instead.
"""

from __future__ import annotations

import hashlib

from psycopg import sql

from admin.protect.facts import Facts, Table, current
from admin.protect.names import SCHEMA, staging_name
from admin.provision.sql import Statement, grant
from admin.provision.steps import Row

_VIEW = "CREATE VIEW {view} AS SELECT {columns} WHERE false"
_FUNCTION = "CREATE FUNCTION {view}() RETURNS pg_catalog.trigger LANGUAGE plpgsql AS {body}"
_BODY = (
    "BEGIN INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({values}); "
    "IF FOUND THEN RETURN NEW; END IF; RETURN NULL; END"
)
_TRIGGER = "CREATE TRIGGER copy INSTEAD OF INSERT ON {view} FOR EACH ROW EXECUTE FUNCTION {view}()"
_DEFAULT = "ALTER VIEW {view} ALTER COLUMN {column} SET DEFAULT {value}"
_HELPER = (
    "CREATE FUNCTION {helper}() RETURNS {type} LANGUAGE sql VOLATILE "
    "SET search_path = pg_catalog, pg_temp AS {body}"
)
# All functions that belong to a view, whatever columns it was made for.
_CLEAR = """DECLARE f pg_catalog.text; BEGIN
FOR f IN SELECT p.oid::pg_catalog.regprocedure::pg_catalog.text FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'tenantry'
  AND (p.proname = {name} OR pg_catalog.starts_with(p.proname::pg_catalog.text, {prefix}))
LOOP EXECUTE 'DROP FUNCTION ' || f; END LOOP; END"""


def drop(name: str) -> list[Statement]:
    """Remove the view `name` of schema tenantry and what belongs to it."""
    view = sql.Identifier(SCHEMA, name)
    body = sql.SQL(_CLEAR).format(name=sql.Literal(name), prefix=sql.Literal(f"{name}_"))
    return [
        sql.SQL("DROP VIEW IF EXISTS {}").format(view),
        sql.SQL("DO {}").format(sql.Literal(body.as_string(None))),
    ]


def create(table: Table, facts: Facts) -> list[Statement]:
    """Make the view anew, with a comment that tells what it was made of."""
    name = staging_name(table.oid)
    made = _definition(table, facts.column, sql.Identifier(SCHEMA, name))
    return [
        *drop(name),
        *made,
        sql.SQL("COMMENT ON VIEW {} IS {}").format(
            sql.Identifier(SCHEMA, name), sql.Literal(signature(table, facts))
        ),
    ]


def open_to(table: Table, facts: Facts) -> list[Statement]:
    """Let tenants that may insert copy; nobody may read the view."""
    name = staging_name(table.oid)
    insert = facts.groups["INSERT"]
    given: list[Statement] = [
        grant(["INSERT"], sql.SQL("TABLE ") + sql.Identifier(SCHEMA, name), insert)
    ]
    for column in table.columns:
        if _has_helper(column, facts.column):
            on = sql.SQL("FUNCTION {}()").format(sql.Identifier(SCHEMA, f"{name}_{column[0]}"))
            given.append(grant(["EXECUTE"], on, insert))
    return given


def signature(table: Table, facts: Facts) -> str:
    """Changes whenever the view must be made anew."""
    view = sql.Identifier(SCHEMA, staging_name(table.oid))
    text = "\n".join(each.as_string(None) for each in _definition(table, facts.column, view))
    return f"COPY FROM {table.label}: {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _has_helper(column: Row, tenant_column: str) -> bool:
    return bool(column[5]) and column[4] is not None and column[1] != tenant_column


def _definition(table: Table, tenant_column: str, view: sql.Identifier) -> list[Statement]:
    shown = [
        sql.SQL("NULL::{} AS {}").format(sql.SQL(staged), sql.Identifier(name))
        for _, name, _, staged, _, _ in table.columns
    ]
    values = [_value(column, tenant_column, table.type) for column in table.columns]
    body = sql.SQL(_BODY).format(
        table=table.identifier,
        columns=sql.SQL(", ").join(sql.Identifier(column[1]) for column in table.columns),
        values=sql.SQL(", ").join(values),
    )
    public = sql.SQL("REVOKE ALL ON FUNCTION {}() FROM PUBLIC")
    made: list[Statement] = [
        sql.SQL(_VIEW).format(view=view, columns=sql.SQL(", ").join(shown)),
        sql.SQL(_FUNCTION).format(view=view, body=sql.Literal(body.as_string(None))),
        public.format(view),
        sql.SQL(_TRIGGER).format(view=view),
    ]
    name = staging_name(table.oid)
    for column in table.columns:
        number, title, _, staged, default, _ = column
        if default is None or title == tenant_column:
            continue
        value: sql.Composable = sql.SQL("({})::{}").format(sql.SQL(default), sql.SQL(staged))
        if _has_helper(column, tenant_column):
            helper = sql.Identifier(SCHEMA, f"{name}_{number}")
            text = sql.SQL("SELECT {}").format(value).as_string(None)
            made.append(
                sql.SQL(_HELPER).format(helper=helper, type=sql.SQL(staged), body=sql.Literal(text))
            )
            made.append(public.format(helper))
            value = sql.SQL("{}()").format(helper)
        made.append(sql.SQL(_DEFAULT).format(view=view, column=sql.Identifier(title), value=value))
    return made


def _value(column: Row, tenant_column: str, type: str) -> sql.Composed:
    _, name, own, staged, _, _ = column
    new = sql.SQL("NEW.{}").format(sql.Identifier(name))
    if name == tenant_column:
        return sql.SQL("coalesce({}, {})").format(new, current(type))
    return new if own == staged else sql.SQL("{}::{}").format(new, sql.SQL(own))
