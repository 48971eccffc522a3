"""What `tenantry protect` does where the proxy alone enforces (enforcement = "rewrite"). Pure, but
for one question.

Such a server may not be altered, or not by us: no policies, no defaults, no triggers, no schema of
ours. What is left is what makes the tables usable: privileges of the group roles, so that tables of
a later migration need no new provisioning, and an index that begins with the tenant column. What
the node's user may not do is told with the SQL for the owner.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from psycopg import sql

from admin.protect.concerns import Concern, concerns
from admin.protect.database import without_grants
from admin.protect.facts import Facts, Table, label
from admin.protect.plan import Plan, excess_grants, indexes
from admin.protect.step import OPEN, PREPARE, Step
from admin.provision import sql as build
from admin.provision.sql import Statement
from admin.provision.steps import Connection, rows
from events.model import Tenant

SEAL_ADDS: Final = (
    "row-level security that is forced, with policies that show a tenant its rows only: then rows "
    "are safe when the proxy is wrong about a statement, too",
    "a default of the tenant column: here the proxy writes it, and what writes past it must",
    "COPY FROM, through views of its own: here tenants have INSERT only",
    "keys without the tenant column close a table until they are accepted: here they are notes",
    "nothing is open to others: what PUBLIC may do with the tables is taken from it",
    "event triggers: definitions changed by others are known at once, not within a second",
)
# Whether the node's user may act as the owner; privileges it may pass on; the tenant column.
_MANAGEABLE: Final = """
SELECT c.oid::int8, pg_has_role(c.relowner, 'USAGE'), pg_get_userbyid(c.relowner)::text,
  CASE WHEN c.relkind = 'S' THEN ARRAY(SELECT p FROM unnest(ARRAY['USAGE']) p
    WHERE has_sequence_privilege(c.oid, p || ' WITH GRANT OPTION'))
  ELSE ARRAY(SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p
    WHERE has_table_privilege(c.oid, p || ' WITH GRANT OPTION')) END,
  EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = %(column)s
    AND a.attnum > 0 AND NOT a.attisdropped)
FROM pg_class c WHERE c.oid = ANY(%(oids)s)"""


@dataclass(frozen=True)
class Power:
    """What the node's user may do with one relation."""

    owns: bool
    owner: str
    grantable: frozenset[str]
    has_column: bool


def is_unsealed(tenants: Sequence[Tenant]) -> bool:
    """Whether the row tenants have no seal: all of a database have one, or none."""
    row = [each for each in tenants if each.isolation.strategy == "row"]
    return bool(row) and all(each.isolation.enforcement == "rewrite" for each in row)


async def manageable(conn: Connection, facts: Facts) -> dict[int, Power]:
    """By OID. Raises psycopg.Error."""
    oids = [each.oid for each in facts.tables] + [each.oid for each in facts.sequences]
    oids += [row[0] for row in facts.others]
    found = await rows(conn, _MANAGEABLE, oids=oids, column=facts.column)
    return {
        oid: Power(owns, owner, frozenset(grantable), has)
        for oid, owns, owner, grantable, has in found
    }


def plan_unsealed(facts: Facts, shared: Sequence[str], power: dict[int, Power]) -> Plan:
    """What is missing, of what can be done."""
    made = Plan(seal_adds=list(SEAL_ADDS))
    made.steps += _groups(facts)
    for table in facts.tables:
        if table.usable:
            continue
        made.concerns += _sealed_before(table)
        steps = [*_grants(table, facts, power, made), *_index(table, facts, power, made)]
        if not steps and not any(each.table == table.label for each in made.concerns):
            made.protected.append(table.label)
        made.steps += steps
    made.steps += _sequences(facts, power, made)
    made.steps += _others(facts, shared, power, made)
    made.steps.sort(key=lambda step: step.stage)
    made.concerns += [_told(each) for each in concerns(facts, shared)]
    made.unreachable = without_grants(facts, shared)
    return made


def _groups(facts: Facts) -> Iterator[Step]:
    absent = [role for role in facts.groups.values() if role not in facts.roles]
    if absent:
        made: list[Statement] = [
            build.statement("CREATE ROLE {role} NOLOGIN NOINHERIT", role=role) for role in absent
        ]
        yield Step(PREPARE, "", ["group roles"], made)


def _grants(table: Table, facts: Facts, power: dict[int, Power], made: Plan) -> Iterator[Step]:
    on = sql.SQL("TABLE ") + table.identifier
    lacking = [
        (privilege, group)
        for privilege, group in facts.groups.items()
        if privilege not in table.grants.get(group, (frozenset(), False))[0]
    ]
    yield from _granted(table.oid, table.label, on, lacking, power, made)
    for grantee, privileges in excess_grants(table.grants, facts.groups):
        what = f"{grantee or 'PUBLIC'} has {', '.join(privileges)} on it, past the groups"
        fix = build.revoke(privileges, on, grantee or None).as_string(None) + ";"
        key = f"{table.label}.{grantee or 'PUBLIC'}"
        made.concerns.append(Concern(table.label, key, "open", what, fix, serious=False))


def _granted(
    oid: int,
    name: str,
    on: sql.Composable,
    lacking: Sequence[tuple[str, str]],
    power: dict[int, Power],
    made: Plan,
) -> Iterator[Step]:
    """The grants that may be done, as a step; the others as a concern for the owner."""
    may = power[oid]
    done = [each for each in lacking if may.owns or each[0] in may.grantable]
    left = [each for each in lacking if each not in done]
    if done:
        names = ", ".join(privilege for privilege, _ in done)
        changes = [build.grant([privilege], on, group) for privilege, group in done]
        yield Step(OPEN, name, [f"grant {names} to tenants"], changes)
    if left:
        names = ", ".join(privilege for privilege, _ in left)
        what = f'belongs to "{may.owner}", who has to grant {names} to the group roles'
        fix = " ".join(
            build.grant([privilege], on, group).as_string(None) + ";" for privilege, group in left
        )
        made.concerns.append(Concern(name, name, "owner", what, fix))


def _index(table: Table, facts: Facts, power: dict[int, Power], made: Plan) -> Iterator[Step]:
    for step in indexes(table, facts):
        if power[table.oid].owns:
            yield step
            continue
        what = f'has no index on the tenant column; "{power[table.oid].owner}" has to make it'
        fix = " ".join(step.sql())
        made.concerns.append(Concern(table.label, table.label, "index", what, fix, serious=False))


def _sequences(facts: Facts, power: dict[int, Power], made: Plan) -> Iterator[Step]:
    insert = facts.groups["INSERT"]
    for sequence in facts.sequences:
        have = sequence.grants.get(insert, (frozenset(), False))[0]
        if "USAGE" not in have:
            on = sql.SQL("SEQUENCE {}").format(sql.Identifier(sequence.schema, sequence.name))
            name = label(sequence.schema, sequence.name)
            yield from _granted(sequence.oid, name, on, [("USAGE", insert)], power, made)


def _others(
    facts: Facts, shared: Sequence[str], power: dict[int, Power], made: Plan
) -> Iterator[Step]:
    """Shared tables, and views that have the tenant column: the proxy guards those as tables."""
    select = facts.groups["SELECT"]
    for oid, schema, name, kind in facts.others:
        title = label(schema, name)
        guarded = kind == "v" and power[oid].has_column
        have = facts.grants.get(oid, {}).get(select, (frozenset(), False))[0]
        if (title in shared or guarded) and "SELECT" not in have:
            on = sql.SQL("TABLE ") + sql.Identifier(schema, name)
            yield from _granted(oid, title, on, [("SELECT", select)], power, made)


def _sealed_before(table: Table) -> Iterator[Concern]:
    """Forced row-level security lets nothing through where nobody enters the seal."""
    if table.rls and any("current_tenant" in (each.qual or "") for each in table.policies):
        what = "still has the seal's policies, which show no row to tenants without the seal"
        fix = sql.SQL("ALTER TABLE {} DISABLE ROW LEVEL SECURITY;").format(table.identifier)
        yield Concern(table.label, table.label, "policy", what, fix.as_string(None))


def _told(concern: Concern) -> Concern:
    """What keeps a sealed table closed is worth knowing here, and closes nothing; except what the
    proxy cannot guard, or a table that is not there."""
    serious = concern.serious and concern.kind in ("type", "shared")
    fields = {**asdict(concern), "serious": serious, "definition": "", "generated": False}
    return Concern(**fields)
