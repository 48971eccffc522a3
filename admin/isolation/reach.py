"""Checks of what reaches beyond a database's rows: the server, its files, other sessions."""

# ruff: noqa: S608 - the queries are made of constants only

from __future__ import annotations

from typing import Final

from admin.isolation.sql import (
    ALL,
    ANYWHERE,
    COMMON,
    FUNCTION_ACL,
    RELATION_ACL,
    REVOKE_FUNCTION,
    ROW,
    ROWS,
    TOGETHER,
    USER_SCHEMA,
    Check,
    extensions,
    functions,
    names,
    usable,
    who,
)
from admin.provision.functions import (
    BLOB_FUNCTIONS,
    BLOB_READERS,
    LOCK_FUNCTIONS,
    SERVER_EXTENSIONS,
    SESSION_EXTENSIONS,
    SESSION_FUNCTIONS,
    SIGNAL_FUNCTIONS,
)

_FILES: Final = (
    *("pg_read_file", "pg_read_binary_file", "pg_stat_file", "pg_ls_dir", "pg_ls_logdir"),
    *("pg_ls_waldir", "pg_ls_tmpdir", "pg_ls_archive_statusdir", "pg_file_write", "lo_import"),
    *("lo_export", "pg_file_read", "pg_file_unlink", "pg_file_rename", "pg_current_logfile"),
)
_SERVER: Final = (
    *("pg_reload_conf", "pg_rotate_logfile", "pg_switch_wal", "pg_create_restore_point"),
    *("pg_promote", "pg_wal_replay_pause", "pg_wal_replay_resume", "pg_logical_emit_message"),
    *("pg_backup_start", "pg_backup_stop", "pg_log_backend_memory_contexts"),
)
_CATALOGS: Final = (
    *("pg_authid", "pg_shadow", "pg_statistic", "pg_statistic_ext_data", "pg_subscription"),
    *("pg_user_mapping", "pg_largeobject", "pg_hba_file_rules", "pg_ident_file_mappings"),
    *("pg_file_settings", "pg_backend_memory_contexts", "pg_shmem_allocations"),
)
# Of pg_subscription every role may read the columns that hold no password.
_NOT_COLUMNS: Final = "NOT (c.relname = 'pg_subscription' AND x.grantee = 0)"

CHECKS: Final[tuple[Check, ...]] = (
    Check(
        "foreign-server",
        "risk",
        ANYWHERE,
        "tenants may use it: what it reaches, they reach",
        f"""SELECT 'server ' || s.srvname, w.who,
  format('REVOKE USAGE ON FOREIGN SERVER %%I FROM %%s;', s.srvname, w.list)
FROM pg_foreign_server s {who("aclexplode(s.srvacl)", ALL)} WHERE w.who IS NOT NULL
UNION ALL SELECT 'foreign-data wrapper ' || f.fdwname, w.who,
  format('REVOKE USAGE ON FOREIGN DATA WRAPPER %%I FROM %%s;', f.fdwname, w.list)
FROM pg_foreign_data_wrapper f {who("aclexplode(f.fdwacl)", ALL)} WHERE w.who IS NOT NULL
UNION ALL SELECT 'user mapping of ' || u.srvname, ARRAY[CASE u.umuser WHEN 0 THEN 'PUBLIC'
  ELSE u.usename END::text], format('DROP USER MAPPING FOR %%s SERVER %%I;',
  CASE u.umuser WHEN 0 THEN 'PUBLIC' ELSE quote_ident(u.usename) END, u.srvname)
FROM pg_user_mappings u WHERE u.umuser = ANY({ALL})""",
    ),
    Check(
        "extension",
        "hole",
        ANYWHERE,
        "opens connections or files on the server for whoever calls it",
        extensions(SERVER_EXTENSIONS, ALL),
    ),
    Check(
        "statements-of-others",
        "hole",
        ROW,
        "shows statements of other tenants, with the values in them",
        extensions(SESSION_EXTENSIONS, ROWS),
    ),
    Check(
        "sessions",
        "hole",
        ROW,
        "shows other tenants' sessions and their statements, since they share a login role",
        functions(SESSION_FUNCTIONS, ROWS),
    ),
    Check(
        "lock-keys",
        "risk",
        TOGETHER,
        "tells the keys of other tenants' advisory locks, so that functions can take them",
        functions(LOCK_FUNCTIONS, ALL, only="x.grantee = 0"),
    ),
    Check(
        "signals",
        "hole",
        ROW,
        "ends or cancels other tenants' sessions, since they share a login role",
        functions(SIGNAL_FUNCTIONS, COMMON),
    ),
    Check(
        "server-files",
        "hole",
        ANYWHERE,
        "reads or writes files of the server, the data of all tenants among them",
        functions(_FILES, ALL),
    ),
    Check(
        "server-functions",
        "risk",
        ANYWHERE,
        "works on the whole server, or writes into what replicas and the log get",
        # By name it is given to tenants with system access only.
        functions(_SERVER, ALL, only="x.grantee = 0"),
    ),
    Check(
        "large-objects",
        "hole",
        ROW,
        "large objects are not rows: the role that row tenants share reaches those of all",
        functions((*BLOB_FUNCTIONS, *BLOB_READERS), ROWS)
        + """
UNION ALL SELECT 'large object ' || l.oid::text, ARRAY[r.rolname::text],
  format('ALTER LARGE OBJECT %%s OWNER TO CURRENT_USER;', l.oid)
FROM pg_largeobject_metadata l JOIN pg_roles r ON r.oid = l.lomowner
WHERE starts_with(r.rolname, 'tenantry-row_')""",
    ),
    Check(
        "large-object-grants",
        "hole",
        ANYWHERE,
        "tenants may read or write a large object that is not theirs",
        f"""SELECT 'large object ' || l.oid::text, w.who,
  format('REVOKE ALL ON LARGE OBJECT %%s FROM %%s;', l.oid, w.list)
FROM pg_largeobject_metadata l
{who("aclexplode(l.lomacl)", ALL, only="x.grantee <> l.lomowner")} WHERE w.who IS NOT NULL""",
    ),
    Check(
        "secret-catalog",
        "hole",
        ANYWHERE,
        "shows passwords, files, or values of all tenants' rows",
        f"""SELECT c.relname::text, w.who,
  format('REVOKE ALL ON pg_catalog.%%I FROM %%s;', c.relname, w.list)
FROM pg_class c {who(RELATION_ACL, ALL, "SELECT", only=_NOT_COLUMNS)}
WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relname IN ({names(_CATALOGS)})
  AND w.who IS NOT NULL""",
    ),
    Check(
        "untrusted-language",
        "risk",
        ANYWHERE,
        "is written in a language that may do anything on the server",
        f"""SELECT p.oid::regprocedure::text || ' (' || l.lanname || ')', w.who, {REVOKE_FUNCTION}
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
JOIN pg_namespace n ON n.oid = p.pronamespace {who(FUNCTION_ACL, ALL, "EXECUTE")}
WHERE NOT l.lanpltrusted AND l.lanname NOT IN ('internal', 'sql') AND p.oid >= 16384
  AND {USER_SCHEMA} AND w.who IS NOT NULL AND {usable(ALL)}
  AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
    AND d.objid = p.oid AND d.deptype = 'e')""",
    ),
)
