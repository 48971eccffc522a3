"""The checks of a database that one query answers each: what to look for, what it lets happen.

A query's rows are: object, the roles that could use it (PUBLIC among them), SQL that corrects it,
and optionally another severity. They run with search_path = pg_catalog. Values for all of them:

%(all)s   %(rows)s      OIDs of the roles of all tenants here, of the row tenants; 0 is PUBLIC
%(own)s   %(schemas)s   OIDs of schema tenants' roles, and at the same position their schemas
%(shared)s              schemas that several tenants use
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from admin.isolation_audit_finding import Severity
from admin.provision_functions import (
    BLOB_FUNCTIONS,
    BLOB_READERS,
    SERVER_EXTENSIONS,
    SESSION_EXTENSIONS,
    SESSION_FUNCTIONS,
    SIGNAL_FUNCTIONS,
)

ANYWHERE: Final = "anywhere"
TOGETHER: Final = "together"
ROW: Final = "row"


@dataclass(frozen=True)
class Check:
    """`where`: in every database, in those that tenants share, or in those of row tenants."""

    name: str
    severity: Severity
    where: str
    what: str
    query: str


def _who(acl: str, roles: str, *privileges: str) -> str:
    """A lateral relation `w` with `who`: the roles of `roles` that have a privilege in `acl`."""
    asked = ", ".join(f"'{each}'" for each in privileges)
    only = f"AND x.privilege_type IN ({asked})" if privileges else ""
    return f"""CROSS JOIN LATERAL (SELECT array_agg(DISTINCT coalesce(r.rolname::text, 'PUBLIC'))
  AS who FROM aclexplode({acl}) x LEFT JOIN pg_roles r ON r.oid = x.grantee
  WHERE x.grantee = ANY({roles}) {only}) w"""


def _usable(schema: str, roles: str) -> str:
    """Whether any of `roles` may look into the schema `schema` (an alias of pg_namespace)."""
    return f"""EXISTS (SELECT FROM aclexplode(coalesce({schema}.nspacl,
  acldefault('n', {schema}.nspowner))) u WHERE u.grantee = ANY({roles})
  AND u.privilege_type = 'USAGE')"""


def _names(*names: str) -> str:
    return ", ".join(f"'{name}'" for name in names)


_ALL: Final = "%(all)s::oid[]"
_ROWS: Final = "%(rows)s::oid[]"
_OWN: Final = "unnest(%(own)s::oid[], %(schemas)s::text[]) AS o (role, schema)"
_USER_SCHEMA: Final = """n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema',
  'tenantry')"""
_FUNCTION_ACL: Final = "coalesce(p.proacl, acldefault('f', p.proowner))"
_REVOKE_FUNCTION: Final = """format('REVOKE EXECUTE ON FUNCTION %%s FROM %%s;',
  p.oid::regprocedure, (SELECT string_agg(CASE WHEN g = 'PUBLIC' THEN g ELSE quote_ident(g) END,
  ', ') FROM unnest(w.who) g))"""

_FILES: Final = (
    *("pg_read_file", "pg_read_binary_file", "pg_stat_file", "pg_ls_dir", "pg_ls_logdir"),
    *("pg_ls_waldir", "pg_ls_tmpdir", "pg_ls_archive_statusdir", "pg_file_write", "lo_import"),
    *("lo_export", "pg_file_read", "pg_file_unlink", "pg_file_rename", "pg_current_logfile"),
)
_SERVER: Final = (
    *("pg_reload_conf", "pg_rotate_logfile", "pg_switch_wal", "pg_create_restore_point"),
    *("pg_promote", "pg_wal_replay_pause", "pg_wal_replay_resume", "pg_logical_emit_message"),
    *("pg_backup_start", "pg_backup_stop", "pg_log_backend_memory_contexts"),
    *("pg_create_logical_replication_slot", "pg_create_physical_replication_slot"),
)
_SECRET_CATALOGS: Final = (
    *("pg_authid", "pg_shadow", "pg_statistic", "pg_statistic_ext_data", "pg_subscription"),
    *("pg_user_mapping", "pg_largeobject", "pg_hba_file_rules", "pg_ident_file_mappings"),
    *("pg_file_settings", "pg_backend_memory_contexts", "pg_shmem_allocations"),
)

# The tenant's own functions and its own schema are its own business.
_NOT_OWN: Final = f"""NOT EXISTS (SELECT FROM {_OWN} WHERE o.role = {{owner}}
  AND o.schema = n.nspname)"""


def _functions(names: tuple[str, ...], roles: str) -> str:
    return f"""SELECT p.oid::regprocedure::text, w.who, {_REVOKE_FUNCTION}
FROM pg_proc p {_who(_FUNCTION_ACL, roles, "EXECUTE")}
WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname IN ({_names(*names)})
  AND w.who IS NOT NULL"""  # noqa: S608 - constants only


def _extensions(names: tuple[str, ...], roles: str) -> str:
    return f"""SELECT x.extname || ': ' || p.oid::regprocedure::text, w.who, {_REVOKE_FUNCTION}
FROM pg_extension x JOIN pg_depend d ON d.refobjid = x.oid AND d.deptype = 'e'
  AND d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_proc'::regclass
JOIN pg_proc p ON p.oid = d.objid {_who(_FUNCTION_ACL, roles, "EXECUTE")}
WHERE x.extname IN ({_names(*names)}) AND w.who IS NOT NULL"""  # noqa: S608 - constants only


CHECKS: Final[tuple[Check, ...]] = (
    Check(
        "ownership",
        "hole",
        TOGETHER,
        "its owner is a tenant's role, which can change what others use, and who may use it",
        f"""SELECT k.what || ' ' || k.name, ARRAY[r.rolname::text],
  format('ALTER %%s %%s OWNER TO CURRENT_USER;', k.what, k.name)
FROM (SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW'
    WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END, c.oid::regclass::text, c.relowner,
    c.relnamespace FROM pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  UNION ALL SELECT 'FUNCTION', p.oid::regprocedure::text, p.proowner, p.pronamespace FROM pg_proc p
  UNION ALL SELECT 'SCHEMA', quote_ident(s.nspname), s.nspowner, s.oid FROM pg_namespace s
  UNION ALL SELECT 'TYPE', t.oid::regtype::text, t.typowner, t.typnamespace FROM pg_type t
    WHERE t.typtype IN ('e', 'd', 'r')) k (what, name, owner, namespace)
JOIN pg_namespace n ON n.oid = k.namespace AND n.nspname !~ '^pg_(toast|temp)'
JOIN pg_roles r ON r.oid = k.owner
WHERE (starts_with(r.rolname, 'tenantry_') OR starts_with(r.rolname, 'tenantry-row_'))
  AND {_NOT_OWN.format(owner="k.owner")}""",  # noqa: S608 - constants only
    ),
    Check(
        "create",
        "hole",
        TOGETHER,
        "tenants can create objects there: functions and operators that others run unawares",
        f"""SELECT 'schema ' || n.nspname, w.who, format('REVOKE CREATE ON SCHEMA %%I FROM %%s;',
  n.nspname, (SELECT string_agg(CASE WHEN g = 'PUBLIC' THEN g ELSE quote_ident(g) END, ', ')
  FROM unnest(w.who) g))
FROM pg_namespace n {_who("coalesce(n.nspacl, acldefault('n', n.nspowner))", _ALL, "CREATE")}
WHERE n.nspname !~ '^pg_' AND EXISTS (SELECT FROM unnest(w.who) g LEFT JOIN pg_roles r
  ON r.rolname = g WHERE NOT EXISTS (SELECT FROM {_OWN} WHERE o.role = r.oid
  AND o.schema = n.nspname))""",  # noqa: S608 - constants only
    ),
    Check(
        "create-in-database",
        "risk",
        TOGETHER,
        "tenants can create schemas or temporary objects, which shadow what others named",
        f"""SELECT 'database ' || d.datname, w.who, format('REVOKE CREATE, TEMPORARY ON DATABASE %%I
  FROM %%s;', d.datname, (SELECT string_agg(CASE WHEN g = 'PUBLIC' THEN g ELSE quote_ident(g) END,
  ', ') FROM unnest(w.who) g))
FROM pg_database d CROSS JOIN LATERAL (SELECT array_agg(DISTINCT coalesce(r.rolname::text,
  'PUBLIC')) AS who FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x
  LEFT JOIN pg_roles r ON r.oid = x.grantee
  WHERE x.grantee = ANY({_ALL}) AND x.privilege_type = 'CREATE'
  OR x.grantee = ANY({_ROWS}) AND x.privilege_type = 'TEMPORARY') w
WHERE d.datname = current_database() AND w.who IS NOT NULL""",  # noqa: S608 - constants only
    ),
    Check(
        "schema-of-others",
        "hole",
        TOGETHER,
        "other tenants may use this tenant's schema",
        f"""SELECT 'schema ' || n.nspname, ARRAY(SELECT g FROM unnest(w.who) g
  WHERE g <> owner.rolname), format('REVOKE ALL ON SCHEMA %%I FROM %%s;', n.nspname,
  (SELECT string_agg(CASE WHEN g = 'PUBLIC' THEN g ELSE quote_ident(g) END, ', ')
  FROM unnest(w.who) g WHERE g <> owner.rolname))
FROM {_OWN} JOIN pg_namespace n ON n.nspname = o.schema JOIN pg_roles owner ON owner.oid = o.role
{_who("coalesce(n.nspacl, acldefault('n', n.nspowner))", _ALL)}
WHERE EXISTS (SELECT FROM unnest(w.who) g WHERE g <> owner.rolname)""",  # noqa: S608 - constants only
    ),
    Check(
        "grants-to-others",
        "risk",
        TOGETHER,
        "other tenants have privileges on it, and only the schema keeps them out",
        f"""SELECT c.oid::regclass::text, ARRAY(SELECT g FROM unnest(w.who) g
  WHERE g <> owner.rolname), format('REVOKE ALL ON %%s FROM %%s;', c.oid::regclass,
  (SELECT string_agg(CASE WHEN g = 'PUBLIC' THEN g ELSE quote_ident(g) END, ', ')
  FROM unnest(w.who) g WHERE g <> owner.rolname))
FROM {_OWN} JOIN pg_namespace n ON n.nspname = o.schema JOIN pg_roles owner ON owner.oid = o.role
JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
CROSS JOIN LATERAL (SELECT array_agg(DISTINCT coalesce(r.rolname::text, 'PUBLIC')) AS who
  FROM (SELECT x.grantee FROM aclexplode(c.relacl) x UNION ALL
    SELECT x.grantee FROM pg_attribute t, aclexplode(t.attacl) x WHERE t.attrelid = c.oid) x
  LEFT JOIN pg_roles r ON r.oid = x.grantee WHERE x.grantee = ANY({_ALL})) w
WHERE EXISTS (SELECT FROM unnest(w.who) g WHERE g <> owner.rolname)""",  # noqa: S608 - constants only
    ),
    Check(
        "default-grants",
        "risk",
        TOGETHER,
        "what is created later is open from its first moment",
        f"""SELECT 'new ' || CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences'
    WHEN 'n' THEN 'schemas' ELSE 'objects' END || ' of ' || pg_get_userbyid(d.defaclrole)
    || coalesce(' in ' || n.nspname, ''), w.who,
  format('ALTER DEFAULT PRIVILEGES FOR ROLE %%I %%s REVOKE ALL ON %%s FROM %%s;',
    pg_get_userbyid(d.defaclrole), coalesce('IN SCHEMA ' || quote_ident(n.nspname), ''),
    CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' ELSE 'SCHEMAS' END,
    (SELECT string_agg(CASE WHEN g = 'PUBLIC' THEN g ELSE quote_ident(g) END, ', ')
    FROM unnest(w.who) g))
FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace
{_who("d.defaclacl", _ALL)}
WHERE d.defaclobjtype IN ('r', 'S', 'n') AND EXISTS (SELECT FROM unnest(w.who) g
  LEFT JOIN pg_roles r ON r.rolname = g WHERE NOT EXISTS (SELECT FROM {_OWN}
  WHERE o.role = r.oid AND o.schema = n.nspname))""",  # noqa: S608 - constants only
    ),
    Check(
        "definer-function",
        "risk",
        TOGETHER,
        "runs with its owner's rights, whatever tenant calls it",
        f"""SELECT p.oid::regprocedure::text, w.who, {_REVOKE_FUNCTION},
  CASE WHEN owner.rolsuper OR owner.rolbypassrls THEN 'hole' ELSE 'risk' END
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_roles owner ON owner.oid = p.proowner {_who(_FUNCTION_ACL, _ALL, "EXECUTE")}
WHERE p.prosecdef AND {_USER_SCHEMA} AND w.who IS NOT NULL AND w.who <> ARRAY[owner.rolname::text]
  AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
  AND {_usable("n", _ALL)}""",  # noqa: S608 - constants only
    ),
    Check(
        "owner-view",
        "hole",
        TOGETHER,
        "reads another tenant's schema with its owner's rights",
        f"""WITH RECURSIVE over (oid, base) AS (
  SELECT DISTINCT e.ev_class, d.refobjid FROM pg_depend d
  JOIN pg_rewrite e ON e.oid = d.objid AND e.rulename = '_RETURN' AND e.ev_class <> d.refobjid
  WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
  UNION SELECT e.ev_class, v.base FROM over v
  JOIN pg_depend d ON d.refobjid = v.oid AND d.classid = 'pg_rewrite'::regclass
  JOIN pg_rewrite e ON e.oid = d.objid AND e.rulename = '_RETURN' AND e.ev_class <> v.oid)
SELECT DISTINCT c.oid::regclass::text, w.who, format('ALTER VIEW %%s SET (security_invoker = true);',
  c.oid::regclass)
FROM over v JOIN pg_class c ON c.oid = v.oid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class b ON b.oid = v.base JOIN pg_namespace bn ON bn.oid = b.relnamespace
JOIN {_OWN} ON o.schema = bn.nspname {_who("c.relacl", _ALL, "SELECT")}
WHERE w.who IS NOT NULL AND c.relowner <> o.role AND n.nspname <> o.schema
  AND NOT coalesce(c.reloptions && ARRAY['security_invoker=true', 'security_invoker=on'], false)
  AND {_usable("n", _ALL)}""",  # noqa: S608 - constants only
    ),
    Check(
        "foreign-table",
        "hole",
        TOGETHER,
        "its rows come from elsewhere, where no row-level security of this database holds",
        f"""SELECT c.oid::regclass::text, w.who, format('REVOKE ALL ON %%s FROM %%s;',
  c.oid::regclass, (SELECT string_agg(CASE WHEN g = 'PUBLIC' THEN g ELSE quote_ident(g) END, ', ')
  FROM unnest(w.who) g))
FROM pg_class c {_who("c.relacl", _ROWS)} WHERE c.relkind = 'f' AND w.who IS NOT NULL
  AND NOT c.oid::regclass::text = ANY(%(shared)s)""",  # noqa: S608 - constants only
    ),
    Check(
        "foreign-server",
        "risk",
        ANYWHERE,
        "tenants may use it: what it reaches, they reach",
        f"""SELECT 'server ' || s.srvname, w.who, format('REVOKE USAGE ON FOREIGN SERVER %%I FROM %%s;',
  s.srvname, (SELECT string_agg(CASE WHEN g = 'PUBLIC' THEN g ELSE quote_ident(g) END, ', ')
  FROM unnest(w.who) g))
FROM pg_foreign_server s {_who("s.srvacl", _ALL)} WHERE w.who IS NOT NULL
UNION ALL SELECT 'foreign-data wrapper ' || f.fdwname, w.who,
  format('REVOKE USAGE ON FOREIGN DATA WRAPPER %%I FROM %%s;', f.fdwname, (SELECT string_agg(CASE
  WHEN g = 'PUBLIC' THEN g ELSE quote_ident(g) END, ', ') FROM unnest(w.who) g))
FROM pg_foreign_data_wrapper f {_who("f.fdwacl", _ALL)} WHERE w.who IS NOT NULL
UNION ALL SELECT 'user mapping of ' || u.srvname, ARRAY[CASE u.umuser WHEN 0 THEN 'PUBLIC'
  ELSE u.usename END::text], format('DROP USER MAPPING FOR %%s SERVER %%I;',
  CASE u.umuser WHEN 0 THEN 'PUBLIC' ELSE quote_ident(u.usename) END, u.srvname)
FROM pg_user_mappings u WHERE u.umuser = ANY({_ALL})""",  # noqa: S608 - constants only
    ),
    Check(
        "extension",
        "hole",
        ANYWHERE,
        "opens connections or files on the server for whoever calls it",
        _extensions(SERVER_EXTENSIONS, _ALL),
    ),
    Check(
        "statements-of-others",
        "hole",
        ROW,
        "shows statements of other tenants, with the values in them",
        _extensions(SESSION_EXTENSIONS, _ROWS),
    ),
    Check(
        "sessions",
        "hole",
        ROW,
        "shows other tenants' sessions and their statements, since they share a login role",
        _functions(SESSION_FUNCTIONS, _ROWS),
    ),
    Check(
        "signals",
        "hole",
        ROW,
        "ends or cancels other tenants' sessions, since they share a login role",
        _functions(SIGNAL_FUNCTIONS, _ROWS),
    ),
    Check(
        "server-files",
        "hole",
        ANYWHERE,
        "reads or writes files of the server, the data of all tenants among them",
        _functions(_FILES, _ALL),
    ),
    Check(
        "server-functions",
        "risk",
        TOGETHER,
        "works on the whole server, or writes into what replicas and the log get",
        _functions(_SERVER, "array_remove(%(all)s::oid[], NULL)")
        + " AND w.who && ARRAY['PUBLIC'::text]",
    ),
    Check(
        "large-objects",
        "hole",
        ROW,
        "large objects are not rows: the role that row tenants share reaches those of all",
        _functions((*BLOB_FUNCTIONS, *BLOB_READERS), _ROWS)
        + f"""
UNION ALL SELECT 'large object ' || l.oid::text, ARRAY[coalesce(w.who[1], r.rolname::text)],
  format('ALTER LARGE OBJECT %%s OWNER TO CURRENT_USER; REVOKE ALL ON LARGE OBJECT %%s FROM PUBLIC;',
  l.oid, l.oid)
FROM pg_largeobject_metadata l JOIN pg_roles r ON r.oid = l.lomowner {_who("l.lomacl", _ROWS)}
WHERE w.who IS NOT NULL OR starts_with(r.rolname, 'tenantry-row_')""",  # noqa: S608 - constants only
    ),
    Check(
        "large-object-grants",
        "hole",
        ANYWHERE,
        "a large object that other tenants may read or write",
        f"""SELECT 'large object ' || l.oid::text, w.who,
  format('REVOKE ALL ON LARGE OBJECT %%s FROM PUBLIC;', l.oid)
FROM pg_largeobject_metadata l JOIN pg_roles r ON r.oid = l.lomowner {_who("l.lomacl", _ALL)}
WHERE w.who IS NOT NULL AND w.who <> ARRAY[r.rolname::text]""",  # noqa: S608 - constants only
    ),
    Check(
        "secret-catalog",
        "hole",
        ANYWHERE,
        "shows passwords, files, or values of all tenants' rows",
        f"""SELECT c.relname::text, w.who, format('REVOKE ALL ON pg_catalog.%%I FROM %%s;', c.relname,
  (SELECT string_agg(CASE WHEN g = 'PUBLIC' THEN g ELSE quote_ident(g) END, ', ')
  FROM unnest(w.who) g))
FROM pg_class c CROSS JOIN LATERAL (SELECT array_agg(DISTINCT coalesce(r.rolname::text, 'PUBLIC'))
  AS who FROM (SELECT x.grantee, x.privilege_type FROM aclexplode(c.relacl) x
    UNION ALL SELECT x.grantee, x.privilege_type FROM pg_attribute t, aclexplode(t.attacl) x
    WHERE t.attrelid = c.oid AND t.attname IN ('rolpassword', 'passwd', 'subconninfo', 'umoptions',
      'data', 'stxdmcv', 'stavalues1')) x
  LEFT JOIN pg_roles r ON r.oid = x.grantee
  WHERE x.grantee = ANY({_ALL}) AND x.privilege_type = 'SELECT') w
WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relname IN ({_names(*_SECRET_CATALOGS)})
  AND w.who IS NOT NULL""",  # noqa: S608 - constants only
    ),
    Check(
        "seal-data",
        "hole",
        ANYWHERE,
        "who reads the key of the seal makes tokens for every tenant; who writes here unseals",
        f"""SELECT 'tenantry.' || c.relname, w.who, format('REVOKE ALL ON tenantry.%%I FROM %%s;',
  c.relname, (SELECT string_agg(CASE WHEN g = 'PUBLIC' THEN g ELSE quote_ident(g) END, ', ')
  FROM unnest(w.who) g))
FROM pg_class c CROSS JOIN LATERAL (SELECT array_agg(DISTINCT coalesce(r.rolname::text, 'PUBLIC'))
  AS who FROM (SELECT x.grantee, x.privilege_type FROM aclexplode(c.relacl) x
    UNION ALL SELECT x.grantee, x.privilege_type FROM pg_attribute t, aclexplode(t.attacl) x
    WHERE t.attrelid = c.oid) x LEFT JOIN pg_roles r ON r.oid = x.grantee
  WHERE x.grantee <> c.relowner AND NOT (c.relkind = 'v' AND x.privilege_type = 'INSERT'
    AND starts_with(r.rolname, 'tenantry-insert_'))) w
WHERE c.relnamespace = to_regnamespace('tenantry') AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  AND w.who IS NOT NULL""",  # noqa: S608 - constants only
    ),
    Check(
        "leakproof",
        "risk",
        TOGETHER,
        "is called LEAKPROOF by others than PostgreSQL: it sees rows before the policy does",
        """SELECT p.oid::regprocedure::text, ARRAY['PUBLIC'],
  format('ALTER FUNCTION %%s NOT LEAKPROOF;', p.oid::regprocedure)
FROM pg_proc p WHERE p.proleakproof AND p.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend d
  WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')""",
    ),
    Check(
        "untrusted-language",
        "risk",
        ANYWHERE,
        "is written in a language that may do anything on the server",
        f"""SELECT p.oid::regprocedure::text || ' (' || l.lanname || ')', w.who, {_REVOKE_FUNCTION}
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang JOIN pg_namespace n ON n.oid = p.pronamespace
{_who(_FUNCTION_ACL, _ALL, "EXECUTE")}
WHERE NOT l.lanpltrusted AND l.lanname NOT IN ('internal', 'sql') AND p.oid >= 16384
  AND {_USER_SCHEMA} AND w.who IS NOT NULL AND {_usable("n", _ALL)}
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid
    AND d.deptype = 'e')
  AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)""",  # noqa: S608 - constants only
    ),
)
