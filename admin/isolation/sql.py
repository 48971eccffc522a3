"""What the audit's queries are made of. They run with search_path = pg_catalog, and values:

%(all)s   %(rows)s      OIDs of the roles of all tenants here, of the row tenants; 0 is PUBLIC
%(own)s   %(schemas)s   OIDs of schema tenants' roles, and at the same position their schemas
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from admin.isolation.finding import Severity

ANYWHERE: Final = "anywhere"
TOGETHER: Final = "together"
ROW: Final = "row"

ALL: Final = "%(all)s::oid[]"
ROWS: Final = "%(rows)s::oid[]"
COMMON: Final = "%(common)s::oid[]"
OWN: Final = "unnest(%(own)s::oid[], %(schemas)s::text[]) AS o (role, schema)"
USER_SCHEMA: Final = "n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'tenantry')"
FUNCTION_ACL: Final = "aclexplode(coalesce(p.proacl, acldefault('f', p.proowner)))"
SCHEMA_ACL: Final = "aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner)))"
RELATION_ACL: Final = """(SELECT a.grantee, a.privilege_type FROM aclexplode(c.relacl) a
  UNION ALL SELECT a.grantee, a.privilege_type FROM pg_attribute t, aclexplode(t.attacl) a
  WHERE t.attrelid = c.oid)"""
REVOKE_FUNCTION: Final = """format('REVOKE EXECUTE ON FUNCTION %%s FROM %%s;',
  p.oid::regprocedure, w.list)"""


@dataclass(frozen=True)
class Check:
    """One query answers it, with rows of: object, the roles that could use it (PUBLIC among them),
    SQL that corrects it, and optionally another severity.

    where   in every database, in those that tenants share, or in those of row tenants
    what    what it lets happen
    """

    name: str
    severity: Severity
    where: str
    what: str
    query: str


def who(acl: str, roles: str, *privileges: str, only: str = "true") -> str:
    """A relation `w`: the roles of `roles` that have a privilege in `acl` (rows of grantee and
    privilege_type), as an array `who` and as `list` for SQL; both are NULL when there are none."""
    asked = ", ".join(f"'{each}'" for each in privileges)
    one_of = f"x.privilege_type IN ({asked})" if privileges else "true"
    return f"""CROSS JOIN LATERAL (
  SELECT array_agg(DISTINCT coalesce(g.rolname::text, 'PUBLIC')) AS who,
    string_agg(DISTINCT coalesce(quote_ident(g.rolname), 'PUBLIC'), ', ') AS list
  FROM {acl} x LEFT JOIN pg_roles g ON g.oid = x.grantee
  WHERE x.grantee = ANY({roles}) AND {one_of} AND {only}) w"""  # noqa: S608 - constants only


def usable(roles: str) -> str:
    """Whether any of `roles` may look into the schema `n`."""
    return f"""EXISTS (SELECT FROM {SCHEMA_ACL} u WHERE u.grantee = ANY({roles})
  AND u.privilege_type = 'USAGE')"""


def names(given: tuple[str, ...]) -> str:
    """As a list of SQL literals; `given` are ours."""
    return ", ".join(f"'{name}'" for name in given)


def functions(given: tuple[str, ...], roles: str, only: str = "true") -> str:
    """PostgreSQL's own functions of these names that `roles` may run."""
    return f"""SELECT p.oid::regprocedure::text, w.who, {REVOKE_FUNCTION}
FROM pg_proc p {who(FUNCTION_ACL, roles, "EXECUTE", only=only)}
WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname IN ({names(given)})
  AND w.who IS NOT NULL"""  # noqa: S608 - constants only


def extensions(given: tuple[str, ...], roles: str) -> str:
    """Functions of these extensions that `roles` may run."""
    return f"""SELECT e.extname || ': ' || p.oid::regprocedure::text, w.who, {REVOKE_FUNCTION}
FROM pg_extension e JOIN pg_depend d ON d.refobjid = e.oid AND d.deptype = 'e'
  AND d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_proc'::regclass
JOIN pg_proc p ON p.oid = d.objid {who(FUNCTION_ACL, roles, "EXECUTE")}
WHERE e.extname IN ({names(given)}) AND w.who IS NOT NULL"""  # noqa: S608 - constants only
