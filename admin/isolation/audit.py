"""`tenantry audit isolation`: every way out of isolation that is known, looked for on the server.

Nothing is changed: what has to be tried is tried in transactions that are rolled back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import psycopg

from admin.cli.failure import Failure
from admin.find_node import Found
from admin.isolation.checks import CHECKS as SHARED_CHECKS
from admin.isolation.finding import PUBLIC, SEVERITIES, Finding, Place, Severity, places
from admin.isolation.reach import CHECKS as REACH_CHECKS
from admin.isolation.rows import check_rows
from admin.isolation.server import ServerAudit
from admin.isolation.sql import ANYWHERE, ROW, TOGETHER, Check
from admin.protect.names import group_role, row_role
from admin.protect.protect import connected
from admin.provision.names import GROUP_OPERATIONS, role_name
from admin.provision.steps import Connection, rows
from admin.provision.tenant import MAINTENANCE_DATABASE

Say = Callable[[str], None]

CHECKS: Final[tuple[Check, ...]] = (*SHARED_CHECKS, *REACH_CHECKS)
# With fewer databases than this the answer comes before anybody wonders.
_TELL_FROM: Final = 5


@dataclass
class Report:
    """Findings, the worst first; databases that could be looked into, and why others could not."""

    findings: list[Finding] = field(default_factory=list)
    examined: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        return not any(each.severity != "note" for each in self.findings)


async def audit(found: Found, say: Say, tenant: str | None = None) -> Report:
    """Check the server and every database of the tenants; with `tenant`, what this one could use.

    Raises Failure: no such tenant, or the server cannot be entered.
    """
    known = {each.id for each in found.tenants}
    if tenant is not None and tenant not in known:
        raise Failure(f'There is no tenant "{tenant}": `tenantry tenants list` names them all.')
    report = Report()
    every = places(found.tenants)
    async with connected(found, MAINTENANCE_DATABASE) as conn:
        report.findings += await ServerAudit(conn, every).findings()
    wanted = [
        place
        for place in every
        if tenant is None or any(each.id == tenant for each in place.tenants)
    ]
    for number, place in enumerate(wanted, 1):
        if len(wanted) >= _TELL_FROM:
            say(f"[{number}/{len(wanted)}] {place.database}")
        try:
            async with connected(found, place.database) as conn:
                report.findings += await examine(conn, place)
            report.examined.append(place.database)
        except (Failure, psycopg.Error) as error:
            report.failed[place.database] = str(error).strip()
    report.findings = _sorted(report.findings, tenant)
    return report


async def examine(conn: Connection, place: Place) -> list[Finding]:
    """All checks of one database. Raises psycopg.Error."""
    values = await _values(conn, place)
    found = await check_rows(conn, place)
    for check in CHECKS:
        if _applies(check, place):
            for thing, who, fix, *severity in await rows(conn, check.query, **values):
                found.append(
                    Finding(
                        _severity(severity[0]) if severity else check.severity,
                        check.name,
                        place.database,
                        thing,
                        check.what,
                        fix or "",
                        place.who(who or [PUBLIC], row_only=check.where == ROW),
                    )
                )
    return found


def _applies(check: Check, place: Place) -> bool:
    return (
        check.where == ANYWHERE
        or (check.where == TOGETHER and not place.alone)
        or (check.where == ROW and bool(place.row_tenants))
    )


def _severity(text: str) -> Severity:
    return next(each for each in SEVERITIES if each == text)


async def _values(conn: Connection, place: Place) -> dict[str, list[int] | list[str]]:
    """What the queries are asked with."""
    query = "SELECT rolname::text, oid::int8 FROM pg_roles WHERE starts_with(rolname, 'tenantry')"
    oids = {name: oid for name, oid in await rows(conn, query)}  # noqa: C416 - rows are sequences
    row = [oids[role] for role in place.roles(row=True) if role in oids]
    common = [row_role(place.database)]
    common += [group_role(each, place.database) for each in GROUP_OPERATIONS]
    schemas = [
        (oids[role_name(each.id)], each.schema_name)
        for each in place.tenants
        if each.isolation.strategy == "schema" and role_name(each.id) in oids
    ]
    return {
        "all": [0, *(oids[role] for role in place.roles(row=False) if role in oids)],
        "rows": [0, *row] if place.row_tenants else [],
        "common": [0, *(oids[role] for role in common if role in oids)],
        "own": [oid for oid, _ in schemas],
        "schemas": [schema for _, schema in schemas],
    }


def _sorted(findings: list[Finding], tenant: str | None) -> list[Finding]:
    chosen = [
        each for each in findings if tenant is None or not each.tenants or tenant in each.tenants
    ]
    order = {severity: at for at, severity in enumerate(SEVERITIES)}
    return sorted(
        dict.fromkeys(chosen),
        key=lambda each: (order[each.severity], each.database, each.check, each.object),
    )
