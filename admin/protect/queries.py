"""The questions that protecting and auditing ask a shared database's catalog.

All run with pg_catalog first in search_path, so no name needs its schema. Roles of tenants are all
whose names begin with `tenantry_`, `tenantry-row_` or `tenantry-owner_` (admin.provision.sql).
"""

from __future__ import annotations

from typing import Final, LiteralString

CATALOG_QUERY: Final[LiteralString] = """
SELECT n.nspname::text, c.relname::text, c.relkind::text, l.columns, l.generated,
  coalesce(t.typname::text, ''),
  coalesce(t.typname IN ('text', 'varchar', 'int2', 'int4', 'int8', 'uuid') AND g.granted
    AND CASE WHEN c.relkind = 'v' THEN coalesce(c.reloptions && ARRAY['security_invoker=true',
      'security_invoker=on', 'security_invoker=1', 'security_invoker=yes'], false)
    ELSE c.relkind IN ('r', 'p') AND c.relrowsecurity AND c.relforcerowsecurity
      AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'tenantry'
        AND NOT p.polpermissive AND p.polcmd = '*' AND p.polroles = '{0}') END, false),
  t.typname IS NULL AND a.attname IS NULL AND g.granted,
  (SELECT v.relname::text FROM pg_class v JOIN pg_namespace s ON s.oid = v.relnamespace
   WHERE s.nspname = 'tenantry' AND v.relname = 'copy_' || c.oid::text AND v.relkind = 'v'
     AND l.plain = ARRAY(SELECT b.attname::text FROM pg_attribute b
       WHERE b.attrelid = v.oid AND b.attnum > 0 ORDER BY b.attnum)),
  (SELECT coalesce(jsonb_agg(k.names ORDER BY k.names), '[]') FROM pg_index i
   CROSS JOIN LATERAL (SELECT jsonb_agg(b.attname ORDER BY b.attname::text) AS names
     FROM pg_attribute b WHERE b.attrelid = c.oid
     AND b.attnum = ANY((i.indkey::int2[])[:i.indnkeyatts - 1])) k
   WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indexprs IS NULL)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = %(column)s
  AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_type t ON t.oid = a.atttypid AND t.typnamespace = 'pg_catalog'::regnamespace
CROSS JOIN LATERAL (SELECT
  coalesce(array_agg(b.attname::text ORDER BY b.attnum), '{}') AS columns,
  coalesce(array_agg(b.attname::text ORDER BY b.attnum) FILTER (WHERE b.attgenerated = ''),
    '{}') AS plain,
  coalesce(array_agg(b.attname::text ORDER BY b.attnum) FILTER (WHERE b.attgenerated <> ''),
    '{}') AS generated
  FROM pg_attribute b WHERE b.attrelid = c.oid AND b.attnum > 0 AND NOT b.attisdropped) l
CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM aclexplode(c.relacl) x
  JOIN pg_roles r ON r.oid = x.grantee
  WHERE x.privilege_type = 'SELECT' AND starts_with(r.rolname, 'tenantry-select_')) AS granted) g
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_'
  AND n.nspname NOT IN ('information_schema', 'tenantry')
ORDER BY 1, 2"""
"""What the proxy must know of a database; reads only catalogs that every role may read.

Placeholder: %(column)s, the tenant column. One row per table, partition, view, materialized view
and foreign table outside of the server's own schemas and of `tenantry`:

0 schema, 1 name, 2 relkind (`r`, `p`, `v`, `m`, `f`)
3 columns in order, generated ones too; 4 those of them that are generated
5 type of the tenant column as in pg_catalog (`int4`); "" when there is none, or a type of others
6 protected: policies and FORCE (of a view: security_invoker), a usable type, and granted
7 shared: it has no tenant column, and tenants may read it
8 name of the view in schema `tenantry` that COPY FROM goes through; None when there is none, or
  when it no longer has the columns of the table
9 the columns of each unique index without expressions, in alphabetical order
"""

CALLS_QUERY: Final[LiteralString] = """
SELECT p.proname::text,
  bool_or(one.is_one), bool_or(one.is_one AND (v.typtype IN ('c', 'p') OR b.typtype = 'c')),
  bool_or(crosses.they), array_agg(DISTINCT o.oprname::text) FILTER (WHERE crosses.they)
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
LEFT JOIN pg_type v ON v.oid = p.proargtypes[0]
LEFT JOIN pg_type b ON b.oid = v.typbasetype
LEFT JOIN pg_operator o ON o.oprcode = p.oid
CROSS JOIN LATERAL (SELECT p.pronargs > 0 AND p.pronargs - p.pronargdefaults <= 1 AS is_one) one
CROSS JOIN LATERAL (SELECT n.nspname <> 'pg_catalog' AND (p.prosecdef OR %(trusted)s)
  AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass
    AND e.objid = p.oid AND e.deptype = 'e') AS they) crosses
WHERE n.nspname = ANY(%(schemas)s) AND has_function_privilege(p.oid, 'EXECUTE')
  AND NOT ('internal'::regtype = ANY (p.proargtypes) OR 'cstring'::regtype = ANY (p.proargtypes))
GROUP BY 1"""
"""The functions that the caller may run, by name. Placeholders: %(schemas)s, where they are looked
up; %(trusted)s, whether functions meet other tenants' rows even with the caller's rights.

0 name, 1 one argument is enough, 2 which may be a row
3 it could show other tenants' rows, and no extension has made it; 4 operators made of such
"""

# --- what protecting looks at --------------------------------------------------------------------

TENANT_ROLE: Final = """(starts_with(r.rolname, 'tenantry_')
  OR starts_with(r.rolname, 'tenantry-row_') OR starts_with(r.rolname, 'tenantry-owner_'))"""
"""Whether the role `r` is a tenant's, or logs in for tenants."""

_NO_EXTENSION: Final = """NOT EXISTS (SELECT FROM pg_depend e WHERE e.objid = c.oid
  AND e.classid = 'pg_class'::regclass AND e.deptype = 'e')"""

TABLES: Final = f"""
WITH RECURSIVE scope (oid) AS (
  SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = %(column)s
    AND a.attnum > 0 AND NOT a.attisdropped
  WHERE c.relkind IN ('r', 'p') AND n.nspname = ANY(%(schemas)s) AND {_NO_EXTENSION}
  UNION SELECT i.inhrelid FROM scope s JOIN pg_inherits i ON i.inhparent = s.oid)
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name,
  c.relkind = 'p' AS partitioned, c.relispartition AS is_partition,
  pg_get_userbyid(c.relowner)::text AS owner,
  EXISTS (SELECT FROM pg_roles r WHERE r.oid = c.relowner AND {TENANT_ROLE}) AS tenant_owned,
  c.relrowsecurity AS rls, c.relforcerowsecurity AS forced,
  a.attnum AS attnum, a.attnotnull AS not_null,
  CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN t.typname::text
    ELSE format_type(t.oid, -1) END AS type,
  coalesce(co.collisdeterministic, true) AS deterministic,
  a.attgenerated <> '' AS generated,
  pg_get_expr(d.adbin, d.adrelid) AS default_value,
  EXISTS (SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
    WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = a.attnum
    AND x.relam IN (SELECT m.oid FROM pg_am m WHERE m.amname = 'btree')) AS indexed,
  (SELECT i.indisvalid FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
    WHERE i.indrelid = c.oid AND x.relname = 'tenantry_' || c.oid::text) AS own_index,
  ARRAY(SELECT i.inhparent::int8 FROM pg_inherits i JOIN scope p ON p.oid = i.inhparent
    WHERE i.inhrelid = c.oid) AS parents,
  ARRAY(SELECT i.inhparent::int8 FROM pg_index x JOIN pg_class xc ON xc.oid = x.indexrelid
    JOIN pg_inherits i ON i.inhrelid = x.indexrelid
    WHERE x.indrelid = c.oid AND xc.relname = 'tenantry_' || c.oid::text) AS attached,
  c.reltuples::int8 AS estimate
FROM pg_class c JOIN scope s ON s.oid = c.oid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = %(column)s
  AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_collation co ON co.oid = a.attcollation
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relkind IN ('r', 'p')
ORDER BY n.nspname, c.relname"""  # noqa: S608 - constants only

POLICIES: Final = """
SELECT p.polrelid::int8, p.polname::text, p.polpermissive, p.polcmd = '*' AND p.polroles = '{0}',
  pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
FROM pg_policy p WHERE p.polrelid = ANY(%(oids)s) ORDER BY 1, 2"""

GRANTS: Final = f"""
SELECT c.oid::int8, coalesce(r.rolname::text, ''), array_agg(DISTINCT x.privilege_type),
  bool_or(x.whole)
FROM pg_class c CROSS JOIN LATERAL (
  SELECT a.grantee, a.privilege_type, true AS whole FROM aclexplode(c.relacl) a
  UNION ALL SELECT a.grantee, a.privilege_type, false FROM pg_attribute t, aclexplode(t.attacl) a
    WHERE t.attrelid = c.oid) x
LEFT JOIN pg_roles r ON r.oid = x.grantee
WHERE c.oid = ANY(%(oids)s) AND (x.grantee = 0 OR r.rolname = ANY(%(groups)s) OR {TENANT_ROLE})
GROUP BY 1, 2 ORDER BY 1, 2"""  # noqa: S608 - constants only
"""oid, grantee ("" is PUBLIC), privileges on the table or a column of it, on the table itself."""

SEQUENCES: Final = """
SELECT DISTINCT s.oid::int8, n.nspname::text, s.relname::text,
  ARRAY(SELECT d.refobjid::int8)
FROM pg_class s JOIN pg_namespace n ON n.oid = s.relnamespace
JOIN LATERAL (
  SELECT d.refobjid FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = s.oid
    AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
  UNION SELECT ad.adrelid FROM pg_depend d JOIN pg_attrdef ad ON ad.oid = d.objid
    WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass
    AND d.refobjid = s.oid) d ON true
WHERE s.relkind = 'S' AND d.refobjid = ANY(%(oids)s)
ORDER BY 2, 3"""

KEYS: Final = """
SELECT i.indrelid::int8, coalesce(k.conname, x.relname)::text,
  CASE WHEN i.indisprimary THEN 'primary' WHEN i.indisexclusion THEN 'exclusion'
    ELSE 'unique' END,
  coalesce(pg_get_constraintdef(k.oid), pg_get_indexdef(i.indexrelid)),
  k.oid IS NOT NULL,
  CASE WHEN i.indexprs IS NULL THEN ARRAY(SELECT a.attname::text
    FROM unnest(i.indkey::int2[]) WITH ORDINALITY u (num, at)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.num
    WHERE u.at <= i.indnkeyatts ORDER BY u.at) ELSE '{}' END,
  i.indnkeyatts = 1 AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = i.indrelid
    AND a.attnum = i.indkey[0] AND (a.atthasdef OR a.attidentity <> ''))
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid
  AND k.contype IN ('p', 'u', 'x')
JOIN pg_attribute t ON t.attrelid = i.indrelid AND t.attname = %(column)s AND NOT t.attisdropped
WHERE i.indrelid = ANY(%(oids)s) AND (i.indisunique OR i.indisexclusion) AND NOT x.relispartition
  AND NOT EXISTS (SELECT FROM unnest(i.indkey::int2[]) WITH ORDINALITY u (num, at)
    WHERE u.num = t.attnum AND u.at <= i.indnkeyatts AND (NOT i.indisexclusion OR EXISTS (
      SELECT FROM pg_operator o WHERE o.oid = k.conexclop[u.at] AND o.oprname = '=')))
ORDER BY 1, 2"""
"""Keys without the tenant column: oid of the table, name, kind, definition, whether it is a
constraint, its columns (none when it has expressions), whether its values are generated."""

FOREIGN_KEYS: Final = """
SELECT k.conrelid::int8, k.confrelid::int8, k.conname::text, pg_get_constraintdef(k.oid),
  ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u (num, at)
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num ORDER BY u.at),
  ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u (num, at)
    JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num ORDER BY u.at),
  k.confdeltype::text, k.confupdtype::text,
  k.confrelid::regclass::text
FROM pg_constraint k WHERE k.contype = 'f' AND k.conparentid = 0 AND k.conrelid = ANY(%(oids)s)
ORDER BY 1, 3"""

ATTACHED: Final = """
SELECT t.tgrelid::int8, 'trigger', t.tgname::text, pg_get_triggerdef(t.oid),
  p.oid::regprocedure::text
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
WHERE t.tgrelid = ANY(%(oids)s) AND NOT t.tgisinternal AND p.prosecdef AND t.tgparentid = 0
UNION ALL
SELECT w.ev_class::int8, 'rule', w.rulename::text, pg_get_ruledef(w.oid), ''
FROM pg_rewrite w WHERE w.ev_class = ANY(%(oids)s) AND w.rulename <> '_RETURN'
UNION ALL
SELECT d.adrelid::int8, 'default', a.attname::text, pg_get_expr(d.adbin, d.adrelid),
  p.oid::regprocedure::text
FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
JOIN pg_depend e ON e.classid = 'pg_attrdef'::regclass AND e.objid = d.oid
  AND e.refclassid = 'pg_proc'::regclass
JOIN pg_proc p ON p.oid = e.refobjid
WHERE d.adrelid = ANY(%(oids)s) AND p.pronamespace::regnamespace::text <> 'tenantry'
UNION ALL
SELECT r.prrelid::int8, 'publication', b.pubname::text, '', ''
FROM pg_publication_rel r JOIN pg_publication b ON b.oid = r.prpubid
WHERE r.prrelid = ANY(%(oids)s)
UNION ALL
SELECT c.oid::int8, 'publication', b.pubname::text, '', ''
FROM pg_publication b, pg_class c WHERE b.puballtables AND c.oid = ANY(%(oids)s)
ORDER BY 1, 2, 3"""
"""What else hangs on the tables: oid, kind, name, definition, function."""

VIEWS: Final = """
WITH RECURSIVE over (oid, base) AS (
  SELECT DISTINCT w.ev_class, d.refobjid FROM pg_depend d
  JOIN pg_rewrite w ON w.oid = d.objid AND w.rulename = '_RETURN'
  WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
    AND d.refobjid = ANY(%(oids)s) AND w.ev_class <> d.refobjid
  UNION SELECT w.ev_class, o.base FROM over o
  JOIN pg_depend d ON d.refobjid = o.oid AND d.classid = 'pg_rewrite'::regclass
    AND d.refclassid = 'pg_class'::regclass
  JOIN pg_rewrite w ON w.oid = d.objid AND w.rulename = '_RETURN' AND w.ev_class <> o.oid)
SELECT c.oid::int8, n.nspname::text, c.relname::text, c.relkind = 'm',
  coalesce(c.reloptions && ARRAY['security_invoker=true', 'security_invoker=on',
    'security_invoker=1', 'security_invoker=yes'], false),
  EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = %(column)s
    AND a.attnum > 0 AND NOT a.attisdropped),
  ARRAY(SELECT DISTINCT o.base::regclass::text FROM over o WHERE o.oid = c.oid ORDER BY 1),
  md5(pg_get_viewdef(c.oid))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid IN (SELECT o.oid FROM over o) AND n.nspname <> 'tenantry'
ORDER BY 2, 3"""
"""Views over the tables, at any depth: oid, schema, name, materialized, security_invoker, whether
it has the tenant column, the tables, a hash of its definition."""

OTHERS: Final = f"""
SELECT c.oid::int8, n.nspname::text, c.relname::text, c.relkind::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%(schemas)s) AND c.relkind IN ('r', 'p', 'f', 'v', 'm')
  AND NOT c.oid = ANY(%(oids)s) AND {_NO_EXTENSION}
ORDER BY 2, 3"""  # noqa: S608 - constants only

COLUMNS: Final = """
WITH RECURSIVE bases (oid, base) AS (
  SELECT t.oid, t.oid FROM pg_type t WHERE t.oid IN
    (SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = ANY(%(oids)s))
  UNION SELECT b.oid, t.typbasetype FROM bases b JOIN pg_type t ON t.oid = b.base
    WHERE t.typtype = 'd')
SELECT a.attrelid::int8, a.attnum, a.attname::text, format_type(a.atttypid, -1),
  CASE WHEN t.oid < 16384 OR EXISTS (SELECT FROM pg_depend e
    WHERE e.classid = 'pg_type'::regclass AND e.objid = t.oid AND e.deptype = 'e')
    THEN format_type(t.oid, -1) ELSE 'text' END,
  CASE WHEN a.attidentity <> '' THEN (SELECT format('nextval(%%L::regclass)', format('%%I.%%I',
      n.nspname, s.relname)) FROM pg_depend x JOIN pg_class s ON s.oid = x.objid
      JOIN pg_namespace n ON n.oid = s.relnamespace
      WHERE x.classid = 'pg_class'::regclass AND x.refclassid = 'pg_class'::regclass
      AND x.refobjid = a.attrelid AND x.refobjsubid = a.attnum AND x.deptype = 'i')
    ELSE pg_get_expr(d.adbin, d.adrelid) END,
  a.attidentity <> '' OR EXISTS (SELECT FROM pg_depend e
    WHERE e.classid = 'pg_attrdef'::regclass AND e.objid = d.oid AND e.deptype = 'n')
FROM pg_attribute a
JOIN bases b ON b.oid = a.atttypid
JOIN pg_type t ON t.oid = b.base AND t.typtype <> 'd'
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = ANY(%(oids)s) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY 1, 2"""
"""Columns that can be written: oid, number, name, type, the type that COPY reads it as, default,
whether the default depends on what can be dropped."""

STAGING: Final = """
SELECT c.relname::text, coalesce(obj_description(c.oid, 'pg_class'), ''),
  EXISTS (SELECT FROM aclexplode(c.relacl) x JOIN pg_roles r ON r.oid = x.grantee
    WHERE r.rolname = %(insert)s AND x.privilege_type = 'INSERT')
FROM pg_class c WHERE c.relnamespace = to_regnamespace('tenantry') AND c.relkind = 'v'
  AND c.relname ~ '^copy_[0-9]+$'"""

DEFAULT_GRANTS: Final = f"""
SELECT pg_get_userbyid(d.defaclrole)::text, coalesce(n.nspname::text, ''),
  CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' ELSE 'SEQUENCES' END,
  coalesce(r.rolname::text, ''), array_agg(x.privilege_type)
FROM pg_default_acl d CROSS JOIN LATERAL aclexplode(d.defaclacl) x
LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace
LEFT JOIN pg_roles r ON r.oid = x.grantee
WHERE d.defaclobjtype IN ('r', 'S') AND (n.nspname IS NULL OR n.nspname = ANY(%(schemas)s))
  AND (x.grantee = 0 OR r.rolname = ANY(%(groups)s) OR {TENANT_ROLE})
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"""  # noqa: S608 - constants only
"""Default privileges that would open new tables: role, schema ("" for all), kind, grantee."""

ELSEWHERE: Final = f"""
SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = %(column)s AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') AND NOT c.oid = ANY(%(oids)s) AND n.nspname !~ '^pg_'
  AND n.nspname NOT IN ('information_schema', 'tenantry') AND {_NO_EXTENSION}
  AND NOT EXISTS (SELECT FROM pg_roles r WHERE {TENANT_ROLE} AND r.oid IN (c.relowner, n.nspowner))
ORDER BY 1"""  # noqa: S608 - constants only
