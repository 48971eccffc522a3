"""Checks of shared tables: what `tenantry protect` would have to do, seen as ways out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from admin.cli.failure import Failure
from admin.isolation.finding import Finding, Place, Severity
from admin.isolation.seal import check_seal
from admin.protect.concerns import Concern, is_reachable
from admin.protect.plan import excess_grants
from admin.protect.protect import Looked, Wishes, look
from admin.protect.step import SECURE
from admin.provision.steps import Connection

# Of a concern, by its kind: what it lets happen is in its text; this is how bad it is.
_CONCERNS: Final[dict[str, Severity]] = {
    "owner": "hole",
    "view": "hole",
    "open": "hole",
    "rule": "risk",
    "trigger": "risk",
    "unique": "risk",
    "primary": "risk",
    "exclusion": "risk",
    "foreign": "risk",
    "type": "hole",
    "publication": "note",
    "policy": "note",
    "default": "note",
}
# No policy looks at these.
_BEYOND_POLICIES: Final = {"TRUNCATE", "REFERENCES", "TRIGGER"}


async def check_rows(conn: Connection, place: Place) -> list[Finding]:
    """Raises psycopg.Error."""
    if not place.row_tenants:
        return []
    row = tuple(sorted(each.id for each in place.row_tenants))
    if not place.sealed:
        what = 'enforcement = "rewrite": the database enforces nothing here, only the proxy does'
        return [Finding("note", "rewrite-only", place.database, "database", what, "", row)]
    found = await check_seal(conn, place)
    for column in sorted({each.isolation.tenant_column for each in place.row_tenants}):
        tenants = [
            each
            for each in place.tenants
            if each.isolation.strategy == "row" and each.isolation.tenant_column == column
        ]
        try:
            looked = await look(conn, Wishes(place.database, column), tenants)
        except Failure:
            break  # without a seal, which check_seal has told of
        whom = tuple(sorted(each.id for each in tenants))
        found += _tables(looked, whom)
        found += _concerns(looked, whom)
        found += _around(looked, whom)
    return found


def _tables(looked: Looked, whom: tuple[str, ...]) -> Iterator[Finding]:
    database = looked.facts.database
    by_table: dict[str, list[str]] = {}
    fixes: dict[str, list[str]] = {}
    for step in looked.plan.steps:
        if step.stage == SECURE and step.table:
            by_table.setdefault(step.table, []).extend(step.missing)
            fixes.setdefault(step.table, []).extend(step.sql())
    for table in looked.facts.tables:
        excess = dict(excess_grants(table.grants, looked.facts.groups))
        missing = [
            each
            for each in by_table.get(table.label, ())
            if not each.startswith(("revoke ", "default "))
        ]
        reached = bool(table.grants)
        fix = " ".join(fixes.get(table.label, ()))
        if missing:
            # FORCE only holds back the owner, which no tenant is.
            only_force = missing == ["FORCE (for its owner)"]
            severity: Severity = "risk" if only_force else "hole"
            what = f"lacks {', '.join(missing)}: tenants see the rows of others"
            if not reached:
                severity, what = "note", f"lacks {', '.join(missing)}, and is closed to tenants"
            elif only_force:
                what = "lacks FORCE: functions and views of its owner see the rows of all tenants"
            yield Finding(severity, "row-security", database, table.label, what, fix, whom)
        for grantee, privileges in excess.items():
            beyond = sorted(_BEYOND_POLICIES & set(privileges))
            what = f"{grantee or 'PUBLIC'} has {', '.join(privileges)} beside the groups"
            if beyond:
                what += f", and no policy looks at {', '.join(beyond)}"
            yield Finding(
                "hole" if beyond else "risk", "grants", database, table.label, what, fix, whom
            )
    for name in sorted(by_table.keys() - {table.label for table in looked.facts.tables}):
        fix, told = " ".join(fixes[name]), ", ".join(by_table[name])
        if name in looked.shared:
            what = f"shared, but tenants have more than SELECT: {told}"
            yield Finding("hole", "shared-table", database, name, what, fix, whom)
        else:
            what = f"view of protected tables with more grants than to read: {told}"
            yield Finding("risk", "grants", database, name, what, fix, whom)
    for sequence in looked.facts.sequences:
        excess = dict(excess_grants(sequence.grants, looked.facts.groups, sequence=True))
        for grantee, privileges in excess.items():
            changes = "UPDATE" in privileges
            what = "can be set back by" if changes else "tells how many rows others made to"
            yield Finding(
                "hole" if changes else "risk",
                "sequence",
                database,
                sequence.name,
                f"{what} {grantee or 'PUBLIC'}",
                f'REVOKE ALL ON SEQUENCE "{sequence.schema}"."{sequence.name}" FROM '
                + (f'"{grantee}";' if grantee else "PUBLIC;"),
                whom,
            )


def _concerns(looked: Looked, whom: tuple[str, ...]) -> Iterator[Finding]:
    for concern in looked.plan.concerns:
        severity = _CONCERNS.get(concern.kind)
        if severity is None or concern.accepted or (severity != "note" and not concern.blocks):
            continue
        if not _reached(looked, concern) and severity != "note":
            severity = "note"
        accept = ""
        if concern.definition and severity != "note":
            accept = (
                f" -- or accept it: tenantry protect --database {looked.facts.database} "
                f"--accept {concern.key} --apply"
            )
        yield Finding(
            severity,
            _check_name(concern),
            looked.facts.database,
            concern.key,
            concern.what,
            concern.fix + accept,
            whom,
        )


def _check_name(concern: Concern) -> str:
    keys = ("unique", "primary", "exclusion", "foreign")
    return f"{concern.kind}-key" if concern.kind in keys else concern.kind


def _reached(looked: Looked, concern: Concern) -> bool:
    """Whether tenants have any privilege on the table or view that the concern is about."""
    for table in looked.facts.tables:
        if table.label == concern.table:
            return bool(table.grants)
    return any(
        is_reachable(looked.facts, row[0])
        for row in looked.facts.others
        if concern.table.split(".")[-1] == row[2]
    )


def _around(looked: Looked, whom: tuple[str, ...]) -> Iterator[Finding]:
    facts = looked.facts
    missing = {"tenantry_ddl", "tenantry_drop"} - facts.event_triggers
    if missing:
        what = "the proxy hears of definitions changed by others only when it looks"
        fix = f"tenantry protect --database {facts.database} --apply"
        name = ", ".join(sorted(missing))
        yield Finding("note", "event-trigger", facts.database, name, what, fix, whom)
