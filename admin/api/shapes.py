"""Settings as both source documents write them, brought to our own.

    isolation: "schema", database, schema, branch, tenant_column, tenant_value   → isolation.…
    max_connections                → rate_limits.max_connections and pool.max_connections
    qps_limit, requests_per_second → rate_limits.qps_limit
    rate_limits.requests_per_second, rate_limits.burst → qps_limit, burst_multiplier
    limits.max_connections, …max_request_size, …max_response_size
                                   → rate_limits.max_connections, …_statement_size, …_result_size
    read_only, allow_ddl           → permissions.…

What belongs to planes that are not built yet (upstream, routing, quotas …) is accepted, not stored,
and told in `ignored`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from events.commands_model import Mistake
from events.model import Settings

# Key → why it has no effect.
_HTTP: Final = "the HTTP plane is not part of this version"
_QUOTA: Final = "quotas are not part of this version"
IGNORED: Final = {
    "upstream": _HTTP,
    "routing": _HTTP,
    "quotas": _QUOTA,
    "limits.max_requests_per_connection": _HTTP,
    "rate_limits.endpoints": _HTTP,
}
# What an answer of ours says and nobody sets: sent back, it is no mistake.
READ_ONLY: Final = frozenset(
    {"version", "status", "status_reason", "provisioned", "ignored", "as_of_sequence"}
)
# With these beside it, `settings` is part of an answer as well. Alone it is a mistake: commands
# over NATS have their settings in it, and here it would set nothing.
_ANSWERED: Final = frozenset({"version", "status"})
# Short form → table and key. As in admin.config.shape_tenants, which reads files of these shapes.
_FLAT: Final = {
    "database": ("isolation", "database_name"),
    "database_name": ("isolation", "database_name"),
    "schema": ("isolation", "schema_name"),
    "schema_name": ("isolation", "schema_name"),
    "branch": ("isolation", "branch_name"),
    "branch_name": ("isolation", "branch_name"),
    "tenant_column": ("isolation", "tenant_column"),
    "tenant_value": ("isolation", "tenant_value"),
    "qps_limit": ("rate_limits", "qps_limit"),
    "requests_per_second": ("rate_limits", "qps_limit"),
    "read_only": ("permissions", "read_only"),
    "allow_ddl": ("permissions", "allow_ddl"),
}
_LIMITS: Final = {
    "max_connections": "max_connections",
    "max_request_size": "max_statement_size",
    "max_response_size": "max_result_size",
}


@dataclass
class Shaped:
    """`settings` in our arrangement; `ignored` has no effect; `mistakes` contradict each other."""

    settings: Settings
    ignored: list[Mistake] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)

    @property
    def told(self) -> dict[str, Any]:
        """`ignored` as an answer tells it; nothing when there is nothing."""
        rows = [
            {"path": each.path, "message": each.message, "hint": each.hint} for each in self.ignored
        ]
        return {"ignored": rows} if rows else {}


def settings_of(body: dict[str, Any], *, qps: float | None = None) -> Shaped:
    """What the body sets. `qps` is the rate that a burst counts from when the body names none."""
    shaped = Shaped({key: value for key, value in body.items() if key not in READ_ONLY})
    if "settings" in shaped.settings:
        del shaped.settings["settings"]
        if not set(body) >= _ANSWERED:
            hint = "Write what is in it directly into the body."
            shaped.mistakes.append(Mistake("settings", "is not known here", hint))
    _take_flat(shaped)
    _take_limits(shaped)
    _take_rates(shaped, qps)
    _take_ignored(shaped)
    return shaped


def _put(shaped: Shaped, table: str, key: str, value: Any, said: str) -> None:
    """Set what a short form says, unless the long one says something else."""
    below = shaped.settings.setdefault(table, {})
    if not isinstance(below, dict):
        return  # a mistake, told by the model
    if key in below and below[key] != value:
        shaped.mistakes.append(Mistake(said, f"contradicts {table}.{key}", "Keep one of the two."))
        return
    shaped.settings[table] = {**below, key: value}


def _take_flat(shaped: Shaped) -> None:
    settings = shaped.settings
    if isinstance(settings.get("isolation"), str):
        settings["isolation"] = {"strategy": settings["isolation"]}
    for name, (table, key) in _FLAT.items():
        if name in settings:
            _put(shaped, table, key, settings.pop(name), name)
    if "max_connections" in settings:
        value = settings.pop("max_connections")
        _put(shaped, "rate_limits", "max_connections", value, "max_connections")
        _put(shaped, "pool", "max_connections", value, "max_connections")


def _take_limits(shaped: Shaped) -> None:
    limits = shaped.settings.get("limits")
    if not isinstance(limits, dict):
        return
    shaped.settings["limits"] = rest = dict(limits)
    for name, key in _LIMITS.items():
        if name in rest:
            _put(shaped, "rate_limits", key, rest.pop(name), f"limits.{name}")


def _take_rates(shaped: Shaped, qps: float | None) -> None:
    rates = shaped.settings.get("rate_limits")
    if not isinstance(rates, dict):
        return
    shaped.settings["rate_limits"] = rates = dict(rates)
    if "requests_per_second" in rates:
        value = rates.pop("requests_per_second")
        _put(shaped, "rate_limits", "qps_limit", value, "rate_limits.requests_per_second")
        rates = shaped.settings["rate_limits"]
    if "burst" not in rates:
        return
    burst, base = rates.pop("burst"), rates.get("qps_limit", qps)
    if burst is None:
        rates["burst_multiplier"] = None
    elif _is_number(burst) and _is_number(base) and base and burst >= base:
        rates["burst_multiplier"] = burst / base
    else:
        text = "must be a number, not below requests_per_second, which is to be known"
        shaped.mistakes.append(Mistake("rate_limits.burst", text, "Set both."))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _take_ignored(shaped: Shaped) -> None:
    for path, reason in IGNORED.items():
        *above, name = path.split(".")
        table: Any = shaped.settings
        for key in above:
            table = table.get(key) if isinstance(table, dict) else None
        if isinstance(table, dict) and name in table:
            if above:
                shaped.settings[above[0]] = table = dict(table)
            del table[name]
            shaped.ignored.append(
                Mistake(path, "accepted, not stored", f"{reason[:1].upper()}{reason[1:]}.")
            )
    for table in ("limits", "rate_limits"):
        if shaped.settings.get(table) == {}:
            del shaped.settings[table]
