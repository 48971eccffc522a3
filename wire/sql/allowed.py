"""What of PostgreSQL's own functions, relations and settings tenants of a shared database may use.

These are allow-lists: what a new version of PostgreSQL brings is refused until somebody has gone
through it. Each function here answers with the reason of a refusal, or None.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from wire.sql.allowed_names import (
    FUNCTIONS,
    INFORMATION_FUNCTIONS,
    INFORMATION_RELATIONS,
    OWN_RELATIONS,
    RELATIONS,
    SETTINGS,
)
from wire.sql.catalog import Catalog

SYSTEM_SCHEMAS: Final = frozenset({"pg_catalog", "information_schema", "pg_toast"})

# Nobody in a shared database may set these: they change who the session is, what row-level security
# does, or what code the server loads. PostgreSQL refuses most of them to ordinary roles by itself.
_REFUSED_SETTINGS: Final = frozenset(
    [
        *("role", "session_authorization", "row_security", "backtrace_functions"),
        *("session_preload_libraries", "local_preload_libraries", "dynamic_library_path"),
        *("lo_compat_privileges", "allow_system_table_mods", "zero_damaged_pages"),
        *("ignore_system_indexes", "ignore_checksum_failure", "exit_on_error"),
        *("session_replication_role", "createrole_self_grant", "transaction snapshot"),
        *("trace_notify", "trace_sort", "debug_print_parse", "debug_print_rewritten"),
        *("debug_print_plan", "debug_parallel_query", "force_parallel_mode"),
        *("debug_logical_replication_streaming", "debug_discard_caches"),
        *("tcp_keepalives_count", "tcp_keepalives_idle", "tcp_keepalives_interval"),
        *("tcp_user_timeout", "client_connection_check_interval"),
    ]
)
# With a role and tables of one's own it only makes errors of rows that policies would hide: that
# is what pg_dump wants.
_OWN_ONLY: Final = frozenset({"row_security"})
_OWN_PREFIX: Final = "tenantry."


def function_refused(schema: str, name: str, catalog: Catalog) -> str | None:
    """Why a row tenant may not call schema.name ("" for no schema), or None.

    An unqualified name means PostgreSQL's own function if it has one of that name, unless there is
    another one on the search path (Catalog.overloads): then the arguments' types decide. The
    operator can allow any function by its qualified name (Catalog.functions).

    set_config is refused here: whoever has looked at its arguments (setting_refused) need not ask.
    """
    schemas = (schema,) if schema else ("pg_catalog", *catalog.path)
    if any((each, name) in catalog.functions for each in schemas):
        return None
    if schema in ("", "pg_catalog") and name in FUNCTIONS:
        if not schema and name in catalog.overloads:
            return f"permission denied for function {name}; pg_catalog.{name} is PostgreSQL's own"
        return None
    if schema == "information_schema" and name in INFORMATION_FUNCTIONS:
        return None
    return f"permission denied for function {name}"


def statistics_refused(name: str) -> str | None:
    """Why a tenant beside others may not call this function of the server, or None.

    They are what the statistics views are made of, and tell of everybody's tables and sessions.
    """
    if name.startswith("pg_stat_get_") or name == "pg_lock_status":
        return f"permission denied for function {name}"
    return None


def is_system(schema: str, name: str) -> bool:
    """Whether the name of a relation means one of PostgreSQL's own; "" for no schema.

    Unqualified names that begin with pg_ do, as all of pg_catalog's: a table of such a name must be
    qualified.
    """
    if schema:
        return schema in SYSTEM_SCHEMAS or schema.startswith("pg_toast")
    return name.startswith("pg_")


def relation_refused(schema: str, name: str, *, row: bool = True) -> str | None:
    """Why a tenant may not read one of PostgreSQL's own relations (`is_system`), or None.

    row  the tenant's rows are in shared tables; else it has a role and a schema of its own
    What is refused here may be shown in part instead: see masked.py.
    """
    if schema == "information_schema":
        known = name in INFORMATION_RELATIONS
    elif schema in ("", "pg_catalog"):
        known = name in RELATIONS or (not row and name in OWN_RELATIONS)
    else:
        known = False
    return None if known else f"permission denied for relation {name}"


def setting_refused(name: str, catalog: Catalog | None) -> str | None:
    """Why a tenant may not SET, RESET or set_config a setting, or None.

    name     as written; "transaction" and "session characteristics" for those forms of SET
    catalog  of a row tenant, who may set what is listed only; None for a tenant with a role and a
             schema of its own, who may set all but what is listed
    Values are not looked at: search_path has search_path_refused.
    """
    name = name.lower()
    refused = name in _REFUSED_SETTINGS or name.startswith(_OWN_PREFIX)
    if catalog is None and name in _OWN_ONLY:
        return None
    if catalog is not None and not refused:
        protected = name in {each.lower() for each in catalog.settings}
        # With a dot it is the client's own, or an extension's; what those guard, PostgreSQL does.
        refused = protected or (name not in SETTINGS and "." not in name)
    return f'permission denied to set parameter "{name}"' if refused else None


def search_path_refused(
    values: Sequence[str | None], allowed: Collection[str], *, row: bool = False
) -> str | None:
    """Why search_path may not get these values, or None.

    values   the names in order, as PostgreSQL reads them; None for one that is not known
    allowed  schemas that it may hold besides pg_catalog and information_schema
    row      names without a schema must go on meaning PostgreSQL's own functions first
    """
    for position, value in enumerate(values):
        if value is None:
            return "search_path can be set to plain names only"
        if value == "pg_catalog" and row and position:
            return "pg_catalog must come first in search_path"
        if value and value not in allowed and value not in ("pg_catalog", "information_schema"):
            return f"permission denied for schema {value}"
    return None
