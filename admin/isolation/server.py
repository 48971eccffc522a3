"""Checks of the server as a whole: what tenants' roles are, belong to, may set, and may enter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final, LiteralString

from psycopg import sql

from admin.isolation.finding import PUBLIC, Finding, Place, Severity
from admin.protect.names import GROUPS, SEAL_ROLE, group_role, row_role
from admin.provision.names import GROUP_OPERATIONS, role_name
from admin.provision.plan import plan
from admin.provision.settings import SEAL_SETTING
from admin.provision.steps import Connection, Row, rows
from events.model import Tenant
from wire.errors import TenantryError
from wire.sql.seal import setting

# Settings of roles and databases that make sessions somebody else.
_IDENTITY: Final = ("role", "session_authorization")

_ROLES: Final = """
SELECT r.rolname::text, r.rolcanlogin, array_remove(ARRAY[
  CASE WHEN r.rolsuper THEN 'SUPERUSER' END, CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' END,
  CASE WHEN r.rolcreaterole THEN 'CREATEROLE' END, CASE WHEN r.rolcreatedb THEN 'CREATEDB' END,
  CASE WHEN r.rolreplication THEN 'REPLICATION' END], NULL)
FROM pg_roles r WHERE starts_with(r.rolname, 'tenantry_') OR starts_with(r.rolname, 'tenantry-')
ORDER BY 1"""
_MEMBERS: Final = """
SELECT m.rolname::text, g.rolname::text, m.rolsuper FROM pg_auth_members a
JOIN pg_roles m ON m.oid = a.member JOIN pg_roles g ON g.oid = a.roleid
WHERE starts_with(m.rolname, 'tenantry') OR g.rolname = %(seal)s ORDER BY 1, 2"""
_PARAMETERS: Final = """
SELECT p.parname, coalesce(r.rolname::text, 'PUBLIC'), x.privilege_type
FROM pg_parameter_acl p CROSS JOIN LATERAL aclexplode(p.paracl) x
LEFT JOIN pg_roles r ON r.oid = x.grantee
WHERE r.rolsuper IS NOT TRUE AND r.rolname IS DISTINCT FROM %(seal)s
  AND (p.parname = %(setting)s OR x.grantee = 0 OR starts_with(r.rolname, 'tenantry'))
ORDER BY 1, 2"""
_SETTINGS: Final = """
SELECT coalesce(r.rolname::text, ''), coalesce(d.datname::text, ''), c.setting
FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) c (setting)
LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
WHERE s.setrole = 0 OR starts_with(r.rolname, 'tenantry') ORDER BY 1, 2"""
_DATABASES: Final = """
SELECT d.datname::text, coalesce(r.rolname::text, 'PUBLIC'), pg_get_userbyid(d.datdba)::text
FROM pg_database d
CROSS JOIN LATERAL aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x
LEFT JOIN pg_roles r ON r.oid = x.grantee
WHERE d.datallowconn AND x.privilege_type = 'CONNECT'
  AND (x.grantee = 0 OR starts_with(r.rolname, 'tenantry_')
    OR starts_with(r.rolname, 'tenantry-row_')) ORDER BY 1, 2"""
_OWNERS: Final = """
SELECT d.datname::text, r.rolname::text FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba
WHERE starts_with(r.rolname, 'tenantry') ORDER BY 1"""
_SERVER_SETTINGS: Final = """
SELECT name, setting FROM pg_settings WHERE name = 'lo_compat_privileges' AND setting = 'on'
UNION ALL SELECT 'backtrace_functions', reset_val FROM pg_settings
  WHERE name = 'backtrace_functions' AND starts_with(reset_val, 'tenantry_')"""
_SESSIONS: Final = """
SELECT datname::text, count(*)::int FROM pg_stat_activity WHERE datname = ANY(%(bases)s)
GROUP BY 1 ORDER BY 1"""


class ServerAudit:
    """Looks at the server through any of its databases; `findings` answers all at once."""

    def __init__(self, conn: Connection, places: Sequence[Place]) -> None:
        self._conn = conn
        self._places = places
        self._tenants = [tenant for place in places for tenant in place.tenants]
        self._whom: dict[str, tuple[str, ...]] = defaultdict(tuple)
        for place in places:
            for role, tenants in place.whom.items():
                self._whom[role] += tenants
        self._databases = {place.database: place for place in places}

    async def findings(self) -> list[Finding]:
        found = [
            *await self._roles(),
            *await self._members(),
            *await self._parameters(),
            *await self._settings(),
            *await self._entries(),
            *await self._server_settings(),
            *await self._bases(),
        ]
        found += self._same_roles()
        return found

    def _finding(
        self,
        severity: Severity,
        check: str,
        thing: str,
        what: str,
        fix: sql.Composable | None,
        roles: Sequence[str],
    ) -> Finding:
        tenants = {each for role in roles for each in self._whom.get(role, (role,))}
        text = fix.as_string(None) + ";" if fix is not None else ""
        return Finding(severity, check, "", thing, what, text, tuple(sorted(tenants)))

    async def _rows(self, query: LiteralString, **values: Any) -> list[Row]:
        return await rows(self._conn, query, **values)

    async def _roles(self) -> list[Finding]:
        found: list[Finding] = []
        for role, login, attributes in await self._rows(_ROLES):
            name = sql.Identifier(role)
            if attributes:
                no = sql.SQL(" ").join(sql.SQL("NO" + each) for each in attributes)
                what = f"has {', '.join(attributes)}: no policy and no grant holds it back"
                fix = sql.SQL("ALTER ROLE {} {}").format(name, no)
                found.append(self._finding("hole", "attributes", f"role {role}", what, fix, [role]))
            logs_in = role.startswith(("tenantry_", "tenantry-row_"))
            if login and not logs_in:
                what = "may log in, though nobody should be this role alone"
                fix = sql.SQL("ALTER ROLE {} NOLOGIN").format(name)
                found.append(self._finding("risk", "attributes", f"role {role}", what, fix, [role]))
            if login and logs_in and role not in self._whom:
                what = "is the login role of no tenant of this installation"
                fix = sql.SQL("ALTER ROLE {} NOLOGIN").format(name)
                found.append(self._finding("note", "left-over", f"role {role}", what, fix, [role]))
        return found

    def _expected(self) -> set[tuple[str, str]]:
        """(member, group) as provisioning makes them."""
        pairs: set[tuple[str, str]] = set()
        for place in self._places:
            if place.row_tenants:
                groups = [group_role(each, place.database) for each in GROUPS]
                pairs |= {(row_role(place.database), group) for group in groups}
            for tenant in place.row_tenants:
                pairs |= {(role_name(tenant.id), group) for group in _groups(tenant)}
        return pairs

    async def _members(self) -> list[Finding]:
        found: list[Finding] = []
        expected = self._expected()
        own_groups = {group for _, group in expected}
        admin = self._conn.info.user
        for member, group, is_super in await self._rows(_MEMBERS, seal=SEAL_ROLE):
            if (member, group) in expected or (is_super and not member.startswith("tenantry")):
                continue
            if member not in self._whom and group != SEAL_ROLE:
                continue  # another installation's, or left over, which is told by itself
            if group == SEAL_ROLE and member == admin:
                continue
            fix = sql.SQL("REVOKE {} FROM {}").format(sql.Identifier(group), sql.Identifier(member))
            thing = f"role {member} in {group}"
            if group in own_groups and member in self._whom:
                what, severity = "has privileges that its permissions do not allow", "risk"
            elif group == SEAL_ROLE:
                what, severity = "may seal a session for any tenant", "hole"
            else:
                what, severity = "has the privileges of another role", "hole"
            found.append(
                self._finding(
                    "hole" if severity == "hole" else "risk",
                    "membership",
                    thing,
                    what,
                    fix,
                    [member],
                )
            )
        return found

    async def _parameters(self) -> list[Finding]:
        if self._conn.info.server_version < 150_000:
            return []
        found: list[Finding] = []
        for name, grantee, privilege in await self._rows(
            _PARAMETERS, seal=SEAL_ROLE, setting=SEAL_SETTING
        ):
            whom = sql.SQL("PUBLIC") if grantee == PUBLIC else sql.Identifier(grantee)
            fix = sql.SQL("REVOKE {} ON PARAMETER {} FROM {}").format(
                sql.SQL(privilege), sql.Identifier(*name.split(".")), whom
            )
            what = f"{grantee} may set it, which is for superusers"
            if name == SEAL_SETTING:
                what = f"{grantee} may write the seal, and so be any tenant"
            found.append(
                self._finding("hole", "seal-settable", f"parameter {name}", what, fix, [grantee])
            )
        return found

    async def _settings(self) -> list[Finding]:
        """What sessions start with: nobody else's role, nobody else's seal."""
        found: list[Finding] = []
        seals: dict[tuple[str, str], list[str]] = defaultdict(list)
        values = {
            (role_name(each.id), each.database): setting(each.row_value)
            for each in self._tenants
            if each.isolation.strategy == "row"
        }
        for role, database, text in await self._rows(_SETTINGS):
            name, _, value = text.partition("=")
            thing = f"settings of {role or 'all roles'}" + (f" in {database}" if database else "")
            fix = _reset(role, database, name)
            if name in _IDENTITY:
                what = f"its sessions begin as {value}"
                found.append(
                    self._finding("hole", "role-setting", thing, what, fix, [role or PUBLIC])
                )
            elif name == SEAL_SETTING and value.startswith("tenantry_"):
                if values.get((role, database)) != value:
                    what = "its sessions are sealed for another tenant than its own"
                    found.append(
                        self._finding("hole", "seal-value", thing, what, fix, [role or PUBLIC])
                    )
                seals[database, value].append(role)
        for (database, _), roles in seals.items():
            if len(roles) > 1:
                what = "they have the same seal, and so the same rows"
                thing = f"seal of {', '.join(roles)} in {database}"
                found.append(self._finding("hole", "seal-value", thing, what, None, roles))
        return found

    async def _entries(self) -> list[Finding]:
        found: list[Finding] = []
        for database, grantee, _ in await self._rows(_DATABASES):
            place = self._databases.get(database)
            if place is not None and grantee != PUBLIC and grantee in place.whom:
                continue
            if place is None and grantee != PUBLIC and grantee not in self._whom:
                continue  # another installation's tenant and database
            whom = sql.SQL("PUBLIC") if grantee == PUBLIC else sql.Identifier(grantee)
            fix = sql.SQL("REVOKE ALL ON DATABASE {} FROM {}").format(
                sql.Identifier(database), whom
            )
            what = "tenants can enter it, though it is none of theirs"
            severity: Severity = "risk"
            if place is not None:
                what, severity = "other tenants can enter it than those it is for", "hole"
            found.append(
                self._finding(severity, "connect", f"database {database}", what, fix, [grantee])
            )
        for database, owner in await self._rows(_OWNERS):
            fix = sql.SQL("ALTER DATABASE {} OWNER TO CURRENT_USER").format(
                sql.Identifier(database)
            )
            what = "its owner is a tenant's role, which may change settings for all who enter"
            thing = f"database {database}"
            found.append(self._finding("hole", "ownership", thing, what, fix, [owner]))
        return found

    async def _server_settings(self) -> list[Finding]:
        found: list[Finding] = []
        for name, value in await self._rows(_SERVER_SETTINGS):
            fix = sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(name))
            what = "every role may read and change every large object"
            if name == SEAL_SETTING:
                what = f"sessions without a seal begin as one tenant's ({value})"
            found.append(
                self._finding("hole", "server-setting", f"parameter {name}", what, fix, [PUBLIC])
            )
        return found

    async def _bases(self) -> list[Finding]:
        """A base with sessions cannot be cloned."""
        bases = {
            each.isolation.branch_base or ""
            for each in self._tenants
            if each.isolation.strategy == "branch"
        }
        found: list[Finding] = []
        for base, count in await self._rows(_SESSIONS, bases=sorted(bases)):
            users = [
                role_name(each.id)
                for each in self._tenants
                if each.isolation.strategy == "branch" and each.isolation.branch_base == base
            ]
            what = f"{count} sessions are in it, so no branch can be cloned from it meanwhile"
            found.append(
                self._finding("note", "branch-base", f"database {base}", what, None, users)
            )
        return found

    def _same_roles(self) -> Iterator[Finding]:
        """Two row tenants of a database with one value are one tenant to the database."""
        for place in self._places:
            values: dict[tuple[str, str], list[Tenant]] = defaultdict(list)
            for tenant in place.row_tenants:
                values[tenant.isolation.tenant_column, _canonical(tenant.row_value)].append(tenant)
            for (_, value), same in values.items():
                if len({each.id for each in same}) > 1:
                    yield Finding(
                        "hole" if len({each.row_value for each in same}) == 1 else "risk",
                        "same-value",
                        place.database,
                        f"value {value}",
                        "these tenants have the same value in the tenant column, or would in a "
                        "column of numbers or uuids: they have the same rows",
                        "",
                        tuple(sorted(each.id for each in same)),
                    )


def _groups(tenant: Tenant) -> tuple[str, ...]:
    try:
        wanted = plan(tenant)
    except TenantryError:
        return ()
    assert len(GROUP_OPERATIONS) == len(GROUPS), "one group for each operation"
    return wanted.rows.groups if wanted.rows else ()


def _canonical(value: str) -> str:
    """Texts that are equal as numbers or as uuids become one text."""
    text = value.strip()
    digits = text.removeprefix("+")
    if digits.removeprefix("-").isdecimal() and digits.isascii():
        return str(int(digits))
    bare = text.lower().replace("-", "").strip("{}")
    return bare if len(bare) == 32 and set(bare) <= set("0123456789abcdef") else value


def _reset(role: str, database: str, name: str) -> sql.Composable:
    what = sql.Identifier(*name.split("."))
    if role and database:
        text = sql.SQL("ALTER ROLE {} IN DATABASE {} RESET {}")
        return text.format(sql.Identifier(role), sql.Identifier(database), what)
    if role:
        return sql.SQL("ALTER ROLE {} RESET {}").format(sql.Identifier(role), what)
    if database:
        return sql.SQL("ALTER DATABASE {} RESET {}").format(sql.Identifier(database), what)
    return sql.SQL("ALTER ROLE ALL RESET {}").format(what)
