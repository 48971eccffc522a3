"""Names that protected databases have in common: group roles, policies, views that COPY goes to."""

from __future__ import annotations

from typing import Final

from admin.provision.names import SEAL_ROLE, group_role, row_role

__all__ = [
    "ACCEPTED_TABLE",
    "DDL_TRIGGER",
    "DROP_TRIGGER",
    "GROUPS",
    "GUARD_POLICY",
    "ROWS_POLICY",
    "SCHEMA",
    "SEAL_ROLE",
    "TYPES",
    "group_role",
    "groups",
    "index_name",
    "row_role",
    "staging_name",
]

SCHEMA: Final = "tenantry"
# Restrictive, so that no policy of somebody else's can widen what tenants see; and its permissive
# twin, without which a restrictive policy lets nothing through. Equal predicates run only once.
GUARD_POLICY: Final = "tenantry"
ROWS_POLICY: Final = "tenantry_rows"
ACCEPTED_TABLE: Final = "accepted"
DDL_TRIGGER: Final = "tenantry_ddl"
DROP_TRIGGER: Final = "tenantry_drop"
CHANNEL: Final = "tenantry/catalog"

# Privilege by group: protecting grants these and nothing else, and to nobody else.
GROUPS: Final = ("select", "insert", "update", "delete")

# bpchar is missing on purpose: it ignores trailing blanks, so two tenants could be equal.
TYPES: Final = ("text", "varchar", "int2", "int4", "int8", "uuid")


def groups(database: str) -> dict[str, str]:
    """The group roles of a database by privilege, in capitals."""
    return {each.upper(): group_role(each, database) for each in GROUPS}


def staging_name(table: int) -> str:
    """The view in schema tenantry that COPY FROM of the table with this OID goes through."""
    return f"copy_{table}"


def index_name(table: int) -> str:
    """The index that protecting makes, in the schema of its table."""
    return f"tenantry_{table}"
