"""Tenants and other things of the configuration, as answers show them. Never a secret.

Unlimited is the word "unlimited", as in settings: null says "not set" there. So what GET answers
can be sent back with PUT.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from admin.cli.event_text import masked
from events.installation import Installation
from events.model import Settings, Tenant
from events.projection import Record

if TYPE_CHECKING:
    from admin.control import Control

_UNLIMITED: Final = "unlimited"
# Keys whose None says "not set"; everywhere else in these tables it says "unlimited".
_UNSET: Final = frozenset({"mode", "knowledge_base", "embedding_model"})
_LIMIT_TABLES: Final = ("pool", "rate_limits", "permissions", "ai")
# The password in an address like nats://user:password@host:4222.
_URL_PASSWORD: Final = re.compile(r"(?<=://)[^/@\s]*@")


def tenant(tenant: Tenant, record: Record, control: Control) -> dict[str, Any]:
    """All of a tenant, resolved; `settings` is what was set."""
    shown = tenant.model_dump(mode="json", exclude={"users", "provisioned", "version"})
    for table in _LIMIT_TABLES:
        shown[table] = {
            key: _UNLIMITED if value is None else value
            for key, value in shown[table].items()
            if value is not None or key not in _UNSET
        }
    isolation = {key: value for key, value in shown["isolation"].items() if value is not None}
    isolation.setdefault("database_name", tenant.database)
    if tenant.isolation.strategy == "schema":
        isolation["schema_name"] = tenant.schema_name
    shown["isolation"] = isolation
    shown["users"] = [{"name": user.name} for user in tenant.users]
    state, reason = status(tenant, record, control)
    shown["status"] = state
    shown["status_reason"] = reason
    shown["provisioned"] = _provisioned(tenant)
    shown["settings"] = settings(record.settings)
    shown["version"] = record.version
    return shown


def status(tenant: Tenant, record: Record, control: Control | None) -> tuple[str, str]:
    """active, pending, failed, disabled or parked; and why, for people."""
    if record.parked:
        return "parked", record.parked
    if not tenant.enabled:
        return "disabled", ""
    provisioner = control.provisioner if control is not None else None
    reason = provisioner.reasons.get(tenant.id, "") if provisioner is not None else ""
    if reason:
        return "failed", reason
    return ("active" if tenant.provisioned is not None else "pending"), ""


def _provisioned(tenant: Tenant) -> dict[str, str] | None:
    found = tenant.provisioned
    return None if found is None else {"role": found.role, "node": found.node}


def settings(given: Settings) -> dict[str, Any]:
    """What was set; users by name only."""
    shown: dict[str, Any] = masked(given)
    if "users" in shown:
        shown["users"] = [{"name": user.get("name", "")} for user in given["users"]]
    return shown


def installation(found: Installation) -> dict[str, Any]:
    """The installation, resolved; passwords hidden."""
    shown: dict[str, Any] = without_passwords(masked(found.model_dump(mode="json")))
    return shown


def without_passwords(value: Any) -> Any:
    """`value` with the passwords in its addresses hidden."""
    if isinstance(value, dict):
        return {key: without_passwords(below) for key, below in value.items()}
    if isinstance(value, list):
        return [without_passwords(below) for below in value]
    return _URL_PASSWORD.sub("(hidden)@", value) if isinstance(value, str) else value
