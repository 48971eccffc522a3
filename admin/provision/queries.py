"""The questions that provisioning asks a database's catalog, each answered in full by one query.

They run with search_path fixed to pg_catalog, so no name needs its schema.
"""

from __future__ import annotations

from typing import Final

# Members of an extension stay as its script left them.
_NO_EXTENSION: Final = """NOT EXISTS (SELECT FROM pg_depend e WHERE e.objid = {}
  AND e.classid = '{}'::regclass AND e.deptype = 'e')"""

SCHEMAS: Final = f"""
SELECT n.nspname, pg_get_userbyid(n.nspowner), pg_has_role(n.nspowner, 'USAGE'),
  ARRAY(SELECT a.privilege_type FROM aclexplode(n.nspacl) a WHERE a.grantee = %(oid)s),
  ARRAY(SELECT a.privilege_type FROM aclexplode(n.nspacl) a WHERE a.grantee = 0)
FROM pg_namespace n
WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'tenantry')
  AND {_NO_EXTENSION.format("n.oid", "pg_namespace")}
ORDER BY 1"""  # noqa: S608 - constants only

OWNS: Final = """
SELECT EXISTS (SELECT FROM pg_shdepend d WHERE d.refclassid = 'pg_authid'::regclass
  AND d.refobjid = %(oid)s AND d.deptype = 'o' AND d.classid <> 'pg_largeobject'::regclass
  AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()))"""

# Statements that give the tenant what the admin made. Sequences of a column follow their table;
# types of a table, of an array and of a range's multirange follow theirs. What runs with its
# owner's rights (SECURITY DEFINER) was made by the admin for a purpose and stays the admin's.
ADOPT: Final = f"""
SELECT format('ALTER TABLE %%I.%%I OWNER TO %%I', n.nspname, c.relname, %(role)s::text)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%(schemas)s) AND c.relowner = ANY(%(owners)s)
  AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  AND NOT (c.relkind = 'S' AND EXISTS (SELECT FROM pg_depend s
    WHERE s.objid = c.oid AND s.classid = 'pg_class'::regclass
    AND s.refclassid = 'pg_class'::regclass AND s.deptype IN ('a', 'i')))
  AND {_NO_EXTENSION.format("c.oid", "pg_class")}
UNION ALL
SELECT format('ALTER ROUTINE %%s OWNER TO %%I', p.oid::regprocedure, %(role)s::text)
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = ANY(%(schemas)s) AND p.proowner = ANY(%(owners)s) AND NOT p.prosecdef
  AND {_NO_EXTENSION.format("p.oid", "pg_proc")}
UNION ALL
SELECT format('ALTER TYPE %%I.%%I OWNER TO %%I', n.nspname, t.typname, %(role)s::text)
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
LEFT JOIN pg_class c ON c.oid = t.typrelid
WHERE n.nspname = ANY(%(schemas)s) AND t.typowner = ANY(%(owners)s)
  AND (t.typtype IN ('e', 'd', 'r') OR c.relkind = 'c')
  AND {_NO_EXTENSION.format("t.oid", "pg_type")}"""  # noqa: S608 - constants only

DISARM_ROUTINES: Final = """
SELECT format('ALTER ROUTINE %%s SECURITY INVOKER', p.oid::regprocedure)
FROM pg_proc p WHERE p.proowner = %(owner)s AND p.prosecdef"""
DISARM_VIEWS: Final = """
SELECT format('ALTER VIEW %%I.%%I SET (security_invoker = true)', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relowner = %(owner)s AND c.relkind = 'v'
  AND NOT coalesce(c.reloptions, '{}') @> '{security_invoker=true}'"""

RELATIONS: Final = f"""
SELECT n.nspname, c.relname, c.relkind = 'S', pg_has_role(c.relowner, 'USAGE'),
  ARRAY(SELECT DISTINCT a.privilege_type FROM aclexplode(c.relacl) a WHERE a.grantee = %(oid)s),
  ARRAY(SELECT DISTINCT a.privilege_type FROM aclexplode(c.relacl) a WHERE a.grantee = 0),
  ARRAY(SELECT DISTINCT a.privilege_type FROM pg_attribute t, aclexplode(t.attacl) a
    WHERE t.attrelid = c.oid AND a.grantee = %(oid)s),
  ARRAY(SELECT DISTINCT a.privilege_type FROM pg_attribute t, aclexplode(t.attacl) a
    WHERE t.attrelid = c.oid AND a.grantee = 0)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%(schemas)s) AND c.relowner <> %(oid)s
  AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  AND {_NO_EXTENSION.format("c.oid", "pg_class")}
ORDER BY 1, 2"""  # noqa: S608 - constants only

DEFAULTS: Final = """
SELECT d.defaclobjtype, array_agg(a.privilege_type)
FROM pg_default_acl d, aclexplode(d.defaclacl) a
WHERE d.defaclrole = (SELECT oid FROM pg_roles WHERE rolname = current_user)
  AND a.grantee = %(oid)s AND d.defaclnamespace =
    coalesce((SELECT n.oid FROM pg_namespace n WHERE n.nspname = %(schema)s), 0)
GROUP BY 1"""

FUNCTIONS: Final = """
SELECT p.oid::regprocedure::text, p.proname, coalesce((SELECT x.extname FROM pg_depend d
    JOIN pg_extension x ON x.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
    WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'), ''),
  pg_has_role(p.proowner, 'USAGE'),
  EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
    WHERE a.grantee = 0),
  EXISTS (SELECT FROM aclexplode(p.proacl) a WHERE a.grantee = %(oid)s)
FROM pg_proc p
WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY(%(names)s)
   OR EXISTS (SELECT FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid
     WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
     AND d.refclassid = 'pg_extension'::regclass AND x.extname = ANY(%(extensions)s))
ORDER BY 1"""

OTHER_TENANTS: Final = """
SELECT r.rolname FROM pg_database d, aclexplode(d.datacl) a, pg_roles r
WHERE d.datname = current_database() AND r.oid = a.grantee AND a.privilege_type = 'CONNECT'
  AND starts_with(r.rolname, 'tenantry_') AND r.rolname <> %(role)s
  AND NOT EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
    WHERE m.member = r.oid AND g.rolname = ANY(%(groups)s))
ORDER BY 1"""

# Roles of other tenants that own something here, which they do in a clone of their database.
OTHER_OWNERS: Final = """
SELECT DISTINCT r.rolname, r.oid FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o'
  AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (starts_with(r.rolname, 'tenantry_') OR starts_with(r.rolname, 'tenantry-owner_'))
  AND r.rolname <> ALL(%(mine)s)
ORDER BY 1"""

BASE_OWNER: Final = "SELECT datdba FROM pg_database WHERE datname = %(base)s"

# The row tenants' tables and whether each has the tenant column.
ROW_TABLES: Final = f"""
SELECT n.nspname, c.relname, c.relkind, EXISTS (SELECT FROM pg_attribute t
    WHERE t.attrelid = c.oid AND t.attname = %(column)s AND t.attnum > 0 AND NOT t.attisdropped),
  ARRAY(SELECT a.privilege_type || ' ' || pg_get_userbyid(a.grantee)
    FROM aclexplode(c.relacl) a),
  ARRAY(SELECT format('%%I.%%I', sn.nspname, s.relname) FROM pg_depend d
    JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
    JOIN pg_namespace sn ON sn.oid = s.relnamespace
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
      AND d.refobjid = c.oid AND d.deptype = 'a')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%(schemas)s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND {_NO_EXTENSION.format("c.oid", "pg_class")}
ORDER BY 1, 2"""  # noqa: S608 - constants only
