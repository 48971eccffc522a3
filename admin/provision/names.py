"""The names of the roles that provisioning makes, and what their secrets are derived for.

None is ever two things: prefixes do not collide, and PostgreSQL's cut at 63 bytes is never reached.
"""

from __future__ import annotations

import hashlib
from typing import Final

# PostgreSQL cuts longer names silently (NAMEDATALEN - 1), so two long ones could become one.
MAX_NAME_BYTES: Final = 63
ROLE_PREFIX: Final = "tenantry_"
# No tenant id makes this prefix of the other one, so the two kinds of role never collide.
OWNER_PREFIX: Final = "tenantry-owner_"
ROW_PREFIX: Final = "tenantry-row_"
SEAL_ROLE: Final = "tenantry-seal"
"""Owns the seal's schema, key and functions; alone may write the setting that holds the seal."""
SEAL_SCHEMA: Final = "tenantry"

GROUP_OPERATIONS: Final = ("select", "insert", "update", "delete")
"""Table privileges of row tenants; each is a group role per database."""

_DIGEST_CHARACTERS: Final = 16


def role_name(tenant_id: str) -> str:
    """The tenant's login role: `tenantry_<id>`, at most 63 bytes, never two tenants' the same."""
    return _fit(ROLE_PREFIX, tenant_id)


def owner_name(tenant_id: str) -> str:
    """The role without login that keeps what the tenant made once it may make nothing more."""
    return _fit(OWNER_PREFIX, tenant_id)


def row_role(database: str) -> str:
    """The login role of the server connections that row tenants of `database` share."""
    return _fit(ROW_PREFIX, database)


def group_role(operation: str, database: str) -> str:
    """The role without login that has the privilege `operation` (one of GROUP_OPERATIONS) on the
    protected tables of `database`; the shared login role and tenants' own roles are members."""
    return _fit(f"tenantry-{operation}_", database)


def fresh_name(database: str) -> str:
    """The database that is to take the place of `database`."""
    return _fit("tenantry-fresh_", database)


def row_role_purpose(database: str) -> str:
    """What to derive from the installation's key; its hex is the password of `row_role`."""
    return f"row role {database}"


def seal_key_purpose(database: str) -> str:
    """What to derive from the installation's key to sign the tokens of `database`."""
    return f"seal key {database}"


def _fit(prefix: str, name: str) -> str:
    whole = prefix + name
    if len(whole.encode()) <= MAX_NAME_BYTES and "~" not in name:
        return whole
    # What contains "~" is shortened too: so a shortened name is never another's whole one.
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_CHARACTERS]
    kept = whole.encode()[: MAX_NAME_BYTES - 1 - _DIGEST_CHARACTERS].decode(errors="ignore")
    return f"{kept}~{digest}"
