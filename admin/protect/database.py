"""Steps that concern a database as a whole: groups, grants of new tables, what tells the proxy of
changes, shared tables, views for COPY whose table is gone. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, LiteralString

from psycopg import sql

from admin.protect import staging
from admin.protect.concerns import is_reachable
from admin.protect.facts import Facts, label
from admin.protect.names import CHANNEL, DDL_TRIGGER, DROP_TRIGGER, staging_name
from admin.protect.step import OPEN, PREPARE, SECURE, Step
from admin.provision import sql as build
from admin.provision.sql import Statement

# Definer: tenants with DDL fire it, and need no right to notify for that. Temporary tables are
# nobody's business, and a notification would make their transactions queue up at commit.
_TELL: Final = f"""CREATE OR REPLACE FUNCTION tenantry.tell() RETURNS pg_catalog.event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $tell$
BEGIN
  IF tg_event = 'sql_drop' THEN
    IF EXISTS (SELECT FROM pg_event_trigger_dropped_objects() WHERE NOT is_temporary) THEN
      PERFORM pg_notify('{CHANNEL}', '');
    END IF;
  ELSIF EXISTS (SELECT FROM pg_event_trigger_ddl_commands()
      WHERE schema_name IS DISTINCT FROM 'pg_temp') THEN
    PERFORM pg_notify('{CHANNEL}', '');
  END IF;
END
$tell$"""  # noqa: S608 - a constant only
_ACCEPTED: Final = """CREATE TABLE IF NOT EXISTS tenantry.accepted (key text PRIMARY KEY,
  definition text NOT NULL, at timestamptz NOT NULL DEFAULT now(),
  by text NOT NULL DEFAULT session_user)"""


def around(facts: Facts) -> Iterator[Step]:
    """What tables need before they can be opened."""
    if absent := [role for role in facts.groups.values() if role not in facts.roles]:
        text: LiteralString = "CREATE ROLE {role} NOLOGIN NOINHERIT"
        made: list[Statement] = [build.statement(text, role=role) for role in absent]
        yield Step(PREPARE, "", ["group roles"], made)
    if missing := [role for role in facts.groups.values() if role not in facts.reach]:
        where, ask = sql.SQL("SCHEMA tenantry"), sql.SQL("FUNCTION tenantry.current_tenant()")
        changes = [build.grant(["USAGE"], where, *missing), build.grant(["EXECUTE"], ask, *missing)]
        yield Step(PREPARE, "", ["groups may ask for the current tenant"], changes)
    for schema in facts.schemas:
        roles = [role for name, role in facts.closed if name == schema]
        roles += [role for role in facts.groups.values() if role not in facts.roles]
        if roles and schema != "public":
            on = sql.SQL("SCHEMA {}").format(sql.Identifier(schema))
            what = [f"groups may use schema {schema}"]
            yield Step(PREPARE, "", what, [build.grant(["USAGE"], on, *roles)])


def database_steps(facts: Facts) -> Iterator[Step]:
    """New tables get no grants; the proxy hears of changes; nothing is left of dropped tables."""
    changes: list[Statement] = []
    told: list[str] = []
    for role, schema, kind, grantee, privileges in facts.default_grants:
        told.append(f"new {kind.lower()} of {role} would be open to {grantee or 'PUBLIC'}")
        text = sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} {} REVOKE {} ON {} FROM {}")
        where = sql.SQL("IN SCHEMA {}").format(sql.Identifier(schema)) if schema else sql.SQL("")
        whom = sql.Identifier(grantee) if grantee else sql.SQL("PUBLIC")
        changes.append(
            text.format(
                sql.Identifier(role), where, build.words(privileges), build.words([kind]), whom
            )
        )
    if changes:
        yield Step(SECURE, "", told, changes)
    known = {staging_name(table.oid) for table in facts.tables if not table.is_partition}
    for name in sorted(facts.staging.keys() - known):
        yield Step(SECURE, "", [f"view {name} belongs to no table any more"], staging.drop(name))
    missing = {DDL_TRIGGER, DROP_TRIGGER} - facts.event_triggers
    if missing and facts.superuser:
        yield Step(OPEN, "", ["event triggers that tell the proxy of changes"], _tellers())


def _tellers() -> list[Statement]:
    changes: list[Statement] = [
        sql.SQL(_TELL),
        sql.SQL("REVOKE ALL ON FUNCTION tenantry.tell() FROM PUBLIC"),
    ]
    for name, event in ((DDL_TRIGGER, "ddl_command_end"), (DROP_TRIGGER, "sql_drop")):
        trigger = sql.Identifier(name)
        changes.append(sql.SQL("DROP EVENT TRIGGER IF EXISTS {}").format(trigger))
        made = sql.SQL("CREATE EVENT TRIGGER {} ON {} EXECUTE FUNCTION tenantry.tell()")
        changes.append(made.format(trigger, sql.SQL(event)))
    return changes


def remember(keys: dict[str, str]) -> list[Statement]:
    """Keep what was accepted, each key with the definition it was accepted for."""
    changes: list[Statement] = [
        sql.SQL(_ACCEPTED),
        sql.SQL("REVOKE ALL ON tenantry.accepted FROM PUBLIC"),
    ]
    text = sql.SQL(
        "INSERT INTO tenantry.accepted (key, definition) VALUES ({}, {}) "
        "ON CONFLICT (key) DO UPDATE SET definition = EXCLUDED.definition, at = now(), "
        "by = session_user"
    )
    changes += [
        text.format(sql.Literal(key), sql.Literal(definition)) for key, definition in keys.items()
    ]
    return changes


def shared_steps(facts: Facts, shared: Sequence[str], blocked: set[str]) -> Iterator[Step]:
    """Tables every tenant may read, and views over protected tables that read with its rights."""
    select = facts.groups["SELECT"]
    views = {
        row[0]: row[4] and row[5] and not row[3] for row in facts.views
    }  # invoker, with the tenant column
    for oid, schema, name, _ in facts.others:
        title = label(schema, name)
        is_shared = title in shared and title not in blocked
        if not is_shared and not views.get(oid):
            continue
        on = sql.SQL("TABLE ") + sql.Identifier(schema, name)
        grants = facts.grants.get(oid, {})
        for grantee, (privileges, _whole) in grants.items():
            excess = sorted(privileges - ({"SELECT"} if grantee == select else set()))
            if excess:
                what = f"revoke {', '.join(excess)} from {grantee or 'PUBLIC'}"
                yield Step(SECURE, title, [what], [build.revoke(excess, on, grantee or None)])
        if "SELECT" not in grants.get(select, (frozenset(), False))[0]:
            yield Step(
                OPEN, title, ["grant SELECT to tenants"], [build.grant(["SELECT"], on, select)]
            )


def without_grants(facts: Facts, shared: Sequence[str]) -> list[str]:
    """Tables and views in the schemas that no tenant can reach, because nobody protected or shared
    them."""
    return [
        label(schema, name)
        for oid, schema, name, _ in facts.others
        if not is_reachable(facts, oid) and label(schema, name) not in shared
    ]
