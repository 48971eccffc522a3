"""Checks of databases that tenants share: who owns, creates, reads, and whose rights run what."""

# ruff: noqa: S608 - the queries are made of constants only

from __future__ import annotations

from typing import Final

from admin.isolation.sql import (
    ALL,
    FUNCTION_ACL,
    OWN,
    RELATION_ACL,
    REVOKE_FUNCTION,
    ROWS,
    SCHEMA_ACL,
    TOGETHER,
    USER_SCHEMA,
    Check,
    usable,
    who,
)

# The tenant's own schema, and what it has there, are its own business.
_NOT_OWN: Final = f"NOT EXISTS (SELECT FROM {OWN} WHERE o.role = {{}} AND o.schema = n.nspname)"
_KINDS: Final = """CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW'
  WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END"""

CHECKS: Final[tuple[Check, ...]] = (
    Check(
        "ownership",
        "hole",
        TOGETHER,
        "its owner is a tenant's role, which can change what others use, and who may use it",
        f"""SELECT k.what || ' ' || k.name, ARRAY[r.rolname::text],
  format('ALTER %%s %%s OWNER TO CURRENT_USER;', k.what, k.name)
FROM (SELECT {_KINDS}, c.oid::regclass::text, c.relowner, c.relnamespace
    FROM pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  UNION ALL SELECT 'FUNCTION', p.oid::regprocedure::text, p.proowner, p.pronamespace FROM pg_proc p
  UNION ALL SELECT 'SCHEMA', quote_ident(s.nspname), s.nspowner, s.oid FROM pg_namespace s
  UNION ALL SELECT 'TYPE', t.oid::regtype::text, t.typowner, t.typnamespace FROM pg_type t
    WHERE t.typtype IN ('e', 'd', 'r')) k (what, name, owner, namespace)
JOIN pg_namespace n ON n.oid = k.namespace AND n.nspname !~ '^pg_(toast|temp)'
JOIN pg_roles r ON r.oid = k.owner
WHERE (starts_with(r.rolname, 'tenantry_') OR starts_with(r.rolname, 'tenantry-row_'))
  AND {_NOT_OWN.format("k.owner")}""",
    ),
    Check(
        "create",
        "hole",
        TOGETHER,
        "tenants can create objects there: functions and operators that others run unawares",
        f"""SELECT 'schema ' || n.nspname, w.who,
  format('REVOKE CREATE ON SCHEMA %%I FROM %%s;', n.nspname, w.list)
FROM pg_namespace n {who(SCHEMA_ACL, ALL, "CREATE", only=_NOT_OWN.format("x.grantee"))}
WHERE n.nspname !~ '^pg_' AND w.who IS NOT NULL""",
    ),
    Check(
        "create-in-database",
        "risk",
        TOGETHER,
        "tenants can create schemas or temporary objects, which shadow what others named",
        f"""SELECT 'database ' || d.datname, w.who,
  format('REVOKE CREATE, TEMPORARY ON DATABASE %%I FROM %%s;', d.datname, w.list)
FROM pg_database d
{
            who(
                "aclexplode(coalesce(d.datacl, acldefault('d', d.datdba)))",
                ALL,
                "CREATE",
                "TEMPORARY",
                only=f"(x.privilege_type = 'CREATE' OR x.grantee = ANY({ROWS}))",
            )
        }
WHERE d.datname = current_database() AND w.who IS NOT NULL""",
    ),
    Check(
        "schema-of-others",
        "hole",
        TOGETHER,
        "other tenants may use this tenant's schema",
        f"""SELECT 'schema ' || n.nspname, w.who,
  format('REVOKE ALL ON SCHEMA %%I FROM %%s;', n.nspname, w.list)
FROM {OWN} JOIN pg_namespace n ON n.nspname = o.schema
{who(SCHEMA_ACL, ALL, only="x.grantee <> o.role")} WHERE w.who IS NOT NULL""",
    ),
    Check(
        "grants-to-others",
        "risk",
        TOGETHER,
        "other tenants have privileges on it, and only the schema keeps them out",
        f"""SELECT c.oid::regclass::text, w.who,
  format('REVOKE ALL ON %%s FROM %%s;', c.oid::regclass, w.list)
FROM {OWN} JOIN pg_namespace n ON n.nspname = o.schema
JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
{who(RELATION_ACL, ALL, only="x.grantee <> o.role")} WHERE w.who IS NOT NULL""",
    ),
    Check(
        "default-grants",
        "risk",
        TOGETHER,
        "what is created later is open from its first moment",
        f"""SELECT 'new ' || lower(k.kind) || ' of ' || pg_get_userbyid(d.defaclrole)
    || coalesce(' in ' || n.nspname, ''), w.who,
  format('ALTER DEFAULT PRIVILEGES FOR ROLE %%I %%s REVOKE ALL ON %%s FROM %%s;',
    pg_get_userbyid(d.defaclrole), coalesce('IN SCHEMA ' || quote_ident(n.nspname), ''), k.kind,
    w.list)
FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace
JOIN (VALUES ('r', 'TABLES'), ('S', 'SEQUENCES'), ('n', 'SCHEMAS')) k (letter, kind)
  ON k.letter = d.defaclobjtype::text
{who("aclexplode(d.defaclacl)", ALL, only=_NOT_OWN.format("x.grantee"))}
WHERE w.who IS NOT NULL""",
    ),
    Check(
        "definer-function",
        "risk",
        TOGETHER,
        "runs with its owner's rights, whatever tenant calls it",
        f"""SELECT p.oid::regprocedure::text, w.who, {REVOKE_FUNCTION},
  CASE WHEN r.rolsuper OR r.rolbypassrls THEN 'hole' ELSE 'risk' END
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_roles r ON r.oid = p.proowner
{who(FUNCTION_ACL, ALL, "EXECUTE", only="x.grantee <> p.proowner")}
WHERE p.prosecdef AND {USER_SCHEMA} AND w.who IS NOT NULL
  AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype) AND {usable(ALL)}""",
    ),
    Check(
        "owner-view",
        "hole",
        TOGETHER,
        "reads a tenant's schema with its owner's rights, for other tenants",
        f"""WITH RECURSIVE over (oid, base) AS (
  SELECT DISTINCT e.ev_class, d.refobjid FROM pg_depend d
  JOIN pg_rewrite e ON e.oid = d.objid AND e.rulename = '_RETURN' AND e.ev_class <> d.refobjid
  WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
  UNION SELECT e.ev_class, v.base FROM over v
  JOIN pg_depend d ON d.refobjid = v.oid AND d.classid = 'pg_rewrite'::regclass
  JOIN pg_rewrite e ON e.oid = d.objid AND e.rulename = '_RETURN' AND e.ev_class <> v.oid)
SELECT DISTINCT c.oid::regclass::text, w.who,
  format('REVOKE ALL ON %%s FROM %%s;', c.oid::regclass, w.list)
FROM over v JOIN pg_class c ON c.oid = v.oid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class b ON b.oid = v.base JOIN pg_namespace s ON s.oid = b.relnamespace
JOIN {OWN} ON o.schema = s.nspname
{who(RELATION_ACL, ALL, "SELECT", only="x.grantee <> o.role")}
WHERE w.who IS NOT NULL AND n.nspname <> o.schema AND {usable(ALL)}
  AND NOT coalesce(c.reloptions && ARRAY['security_invoker=true', 'security_invoker=on'], false)""",
    ),
    Check(
        "foreign-table",
        "hole",
        TOGETHER,
        "its rows come from elsewhere, where no row-level security of this database holds",
        f"""SELECT c.oid::regclass::text, w.who,
  format('REVOKE ALL ON %%s FROM %%s;', c.oid::regclass, w.list)
FROM pg_class c {who(RELATION_ACL, ROWS)} WHERE c.relkind = 'f' AND w.who IS NOT NULL""",
    ),
    Check(
        "leakproof",
        "risk",
        TOGETHER,
        "is called LEAKPROOF by others than PostgreSQL: it sees rows before a policy does",
        """SELECT p.oid::regprocedure::text, ARRAY['PUBLIC'],
  format('ALTER FUNCTION %%s NOT LEAKPROOF;', p.oid::regprocedure)
FROM pg_proc p WHERE p.proleakproof AND p.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend d
  WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')""",
    ),
    Check(
        "seal-data",
        "hole",
        TOGETHER,
        "who reads the key of the seal makes tokens for every tenant; who writes here unseals",
        f"""SELECT 'tenantry.' || c.relname, w.who,
  format('REVOKE ALL ON tenantry.%%I FROM %%s;', c.relname, w.list)
FROM pg_class c CROSS JOIN LATERAL (
  SELECT array_agg(DISTINCT coalesce(g.rolname::text, 'PUBLIC')) AS who,
    string_agg(DISTINCT coalesce(quote_ident(g.rolname), 'PUBLIC'), ', ') AS list
  FROM {RELATION_ACL} x LEFT JOIN pg_roles g ON g.oid = x.grantee
  WHERE x.grantee <> c.relowner AND NOT g.rolsuper IS TRUE
    AND NOT (c.relkind = 'v' AND x.privilege_type = 'INSERT'
      AND starts_with(coalesce(g.rolname, ''), 'tenantry-insert_'))) w
WHERE c.relnamespace = to_regnamespace('tenantry') AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  AND w.who IS NOT NULL""",
    ),
)
