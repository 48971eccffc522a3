"""What a shared database lacks, as steps in an order that is safe to die in. Pure.

First every table is secured (policies, FORCE, nothing granted to tenants), then come indexes and
NOT NULL, and last is what opens tables to tenants. A run that was killed leaves tables that tenants
reach less than they should, never more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from psycopg import sql

from admin.protect import staging
from admin.protect.concerns import Concern, concerns
from admin.protect.database import around, database_steps, shared_steps, without_grants
from admin.protect.facts import Facts, Table, current, predicate
from admin.protect.names import GUARD_POLICY, ROWS_POLICY, index_name, staging_name
from admin.protect.step import INDEX, NOT_NULL, OPEN, SECURE, Step
from admin.provision import sql as build
from admin.provision.sql import Statement

# The privileges by group, and for a sequence what inserting needs of it.
_SEQUENCE: Final = frozenset({"USAGE"})


@dataclass
class Plan:
    """Steps in order; concerns; tables that tenants cannot reach; those that are protected.

    Where only the proxy enforces, `protected` ones are open to tenants rather, and `seal_adds`
    tells what the seal would do for them.
    """

    steps: list[Step] = field(default_factory=list)
    concerns: list[Concern] = field(default_factory=list)
    unreachable: list[str] = field(default_factory=list)
    protected: list[str] = field(default_factory=list)
    seal_adds: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Nothing to do, and nothing that waits to be accepted or corrected."""
        return not self.steps and not any(each.blocks for each in self.concerns)


def plan(facts: Facts, shared: Sequence[str], accepting: frozenset[str] = frozenset()) -> Plan:
    """What is missing. `shared` names tables every tenant may read; `accepting` keys of concerns
    that are to be accepted now."""
    made = Plan(concerns=concerns(facts, shared, accepting))
    blocked = {each.table for each in made.concerns if each.blocks}
    made.steps += around(facts)
    for table in facts.tables:
        if table.usable:
            continue
        steps = [*_secure(table, facts), *indexes(table, facts), *_not_null(table, facts)]
        opening = list(_open(table, facts))
        if table.label not in blocked:
            steps += opening
        if not steps and table.label not in blocked:
            made.protected.append(table.label)
        made.steps += steps
    made.steps += _sequences(facts, blocked)
    made.steps += shared_steps(facts, shared, blocked)
    made.steps += database_steps(facts)
    made.steps.sort(key=lambda step: step.stage)
    made.unreachable = without_grants(facts, shared)
    return made


# --- closed first --------------------------------------------------------------------------------


def _secure(table: Table, facts: Facts) -> Iterator[Step]:
    """Nobody's row but the tenant's; one transaction."""
    missing: list[str] = []
    changes: list[Statement] = []
    expected = facts.expected.get(table.type, ("", ""))
    for name, permissive in ((ROWS_POLICY, True), (GUARD_POLICY, False)):
        found = next((each for each in table.policies if each.name == name), None)
        as_wanted = (
            found is not None
            and (found.permissive, found.everywhere) == (permissive, True)
            and (found.qual, found.check) == (expected[0], expected[0])
        )
        if not as_wanted:
            missing.append(f'policy "{name}"' if found is None else f'policy "{name}" was changed')
            changes += _policy(table, facts.column, name, permissive, replace=found is not None)
    for have, word in ((table.rls, "ENABLE"), (table.forced, "FORCE")):
        if not have:
            missing.append("row-level security" if word == "ENABLE" else "FORCE (for its owner)")
            changes.append(
                _alter(table, sql.SQL("{} ROW LEVEL SECURITY").format(build.words([word])))
            )
    if table.default_value is None:
        missing.append("default of the tenant column")
        text = sql.SQL("ALTER COLUMN {} SET DEFAULT {}")
        column = sql.Identifier(facts.column)
        changes.append(_alter(table, text.format(column, current(table.type))))
    excess = list(excess_grants(table.grants, facts.groups))
    for grantee, privileges in excess:
        missing.append(f"revoke {', '.join(privileges)} from {grantee or 'PUBLIC'}")
        changes.append(
            build.revoke(privileges, sql.SQL("TABLE ") + table.identifier, grantee or None)
        )
    if changes:
        yield Step(SECURE, table.label, missing, changes)


def _policy(
    table: Table, column: str, name: str, permissive: bool, *, replace: bool
) -> list[Statement]:
    changes: list[Statement] = []
    if replace:
        dropped = sql.SQL("DROP POLICY {} ON {}")
        changes.append(dropped.format(sql.Identifier(name), table.identifier))
    made = sql.SQL("CREATE POLICY {} ON {} AS {} USING ({}) WITH CHECK ({})")
    kind = sql.SQL("PERMISSIVE" if permissive else "RESTRICTIVE")
    asked = predicate(column, table.type)
    changes.append(made.format(sql.Identifier(name), table.identifier, kind, asked, asked))
    return changes


def _alter(table: Table, what: sql.Composable) -> Statement:
    # ONLY: each partition is a table of this plan by itself.
    return sql.SQL("ALTER TABLE ONLY {} {}").format(table.identifier, what)


def excess_grants(
    grants: dict[str, tuple[frozenset[str], bool]], groups: dict[str, str], sequence: bool = False
) -> Iterator[tuple[str, list[str]]]:
    """Grantee ("" is PUBLIC) and privileges that tenants have beyond their groups' own."""
    by_group = {role: privilege for privilege, role in groups.items()}
    for grantee, (privileges, _) in grants.items():
        wanted = {by_group[grantee]} if grantee in by_group else set()
        if sequence:
            wanted = set(_SEQUENCE) if wanted == {"INSERT"} else set()
        if privileges - wanted:
            yield grantee, sorted(privileges - wanted)


# --- then what makes it fast and whole -----------------------------------------------------------


def indexes(table: Table, facts: Facts) -> Iterator[Step]:
    """An index that begins with the tenant column; on partitioned tables made of their partitions'
    ones, because CONCURRENTLY does not work there."""
    name = index_name(table.oid)
    lacking = [
        parent
        for parent in map(facts.table, table.parents)
        if parent is not None and parent.partitioned and _needs_index(parent, facts)
    ]
    if not _needs_index(table, facts):
        return
    made = sql.SQL("CREATE INDEX {how}{name} ON {only}{table} ({column})")
    how = sql.SQL("" if table.partitioned else "CONCURRENTLY ")
    only = sql.SQL("ONLY " if table.partitioned else "")
    create = made.format(
        how=how,
        name=sql.Identifier(name),
        only=only,
        table=table.identifier,
        column=sql.Identifier(facts.column),
    )
    changes: list[Statement] = []
    if table.own_index is False and not table.partitioned:
        # What a CREATE INDEX CONCURRENTLY leaves behind when it is cut short.
        changes.append(
            sql.SQL("DROP INDEX CONCURRENTLY {}").format(sql.Identifier(table.schema, name))
        )
    if table.own_index is None or changes:
        changes.append(create)
    attach = sql.SQL("ALTER INDEX {} ATTACH PARTITION {}")
    changes += [
        attach.format(
            sql.Identifier(parent.schema, index_name(parent.oid)),
            sql.Identifier(table.schema, name),
        )
        for parent in lacking
        if not table.attached
    ]
    if changes:
        # Parents first: there is nothing to attach to before.
        depth = _depth(table, facts)
        yield Step(INDEX + depth / 100, table.label, ["index on the tenant column"], changes, False)


def _needs_index(table: Table, facts: Facts) -> bool:
    """Whether it takes part in what is to be made: it has none, or its partitioned parent lacks the
    one that is made of its partitions' own."""
    if not table.indexed and not table.own_index:
        return True
    above = (facts.table(parent) for parent in table.parents)
    return any(
        parent is not None and parent.partitioned and _needs_index(parent, facts)
        for parent in above
    )


def _depth(table: Table, facts: Facts) -> int:
    depth, above = 0, table
    while above.parents and (next_above := facts.table(above.parents[0])) is not None:
        depth, above = depth + 1, next_above
    return depth


def _not_null(table: Table, facts: Facts) -> Iterator[Step]:
    """Where it holds already. A CHECK that is validated first spares the scan under a lock that
    keeps everybody out."""
    if table.not_null or table.parents or table.nulls:
        return
    column = sql.Identifier(facts.column)
    check = sql.Identifier(f"tenantry_{table.oid}_not_null")
    add = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} CHECK ({} IS NOT NULL) NOT VALID")
    changes: list[Statement] = [
        sql.SQL("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}").format(table.identifier, check),
        add.format(table.identifier, check, column),
        sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(table.identifier, check),
        sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET NOT NULL, DROP CONSTRAINT {}").format(
            table.identifier, column, check
        ),
    ]
    yield Step(NOT_NULL, table.label, ["NOT NULL on the tenant column"], changes, False)


# --- opened last ---------------------------------------------------------------------------------


def _open(table: Table, facts: Facts) -> Iterator[Step]:
    missing: list[str] = []
    changes: list[Statement] = []
    if not table.is_partition:
        name = staging_name(table.oid)
        found = facts.staging.get(name)
        fresh = found is not None and found[0] == staging.signature(table, facts)
        if not fresh:
            missing.append("view for COPY FROM")
            changes += staging.create(table, facts)
        if not fresh or (found is not None and not found[1]):
            changes += staging.open_to(table, facts)
            missing += [] if not fresh else ["grant on the view for COPY FROM"]
    lacking = [
        privilege
        for privilege, role in facts.groups.items()
        if privilege not in table.grants.get(role, (frozenset(), False))[0]
        or not table.grants[role][1]
    ]
    for privilege in lacking:
        on = sql.SQL("TABLE ") + table.identifier
        changes.append(build.grant([privilege], on, facts.groups[privilege]))
    if lacking:
        missing.append(f"grant {', '.join(lacking)} to tenants")
    if changes:
        yield Step(OPEN, table.label, missing, changes)


def _sequences(facts: Facts, blocked: set[str]) -> Iterator[Step]:
    insert = facts.groups["INSERT"]
    for sequence in facts.sequences:
        on = sql.SQL("SEQUENCE {}").format(sql.Identifier(sequence.schema, sequence.name))
        owner = facts.table(sequence.tables[0])
        assert owner is not None, "sequences are found by their tables"
        for grantee, privileges in excess_grants(sequence.grants, facts.groups, sequence=True):
            what = f"revoke {', '.join(privileges)} on sequence {sequence.name} from "
            changes = [build.revoke(privileges, on, grantee or None)]
            yield Step(SECURE, owner.label, [what + (grantee or "PUBLIC")], changes)
        opened = any(
            table is not None and not table.usable and table.label not in blocked
            for table in map(facts.table, sequence.tables)
        )
        if opened and "USAGE" not in sequence.grants.get(insert, (frozenset(), False))[0]:
            what = f"grant USAGE on sequence {sequence.name}"
            yield Step(OPEN, owner.label, [what], [build.grant(["USAGE"], on, insert)])
