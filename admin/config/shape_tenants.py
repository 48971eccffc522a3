"""Tenants and tiers of other shapes, as native tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

# Flat keys of a tenant, and where they are in the native table.
_FLAT: Final = {
    "max_connections": (("rate_limits", "max_connections"), ("pool", "max_connections")),
    "qps_limit": (("rate_limits", "qps_limit"),),
    "read_only": (("permissions", "read_only"),),
    "allow_ddl": (("permissions", "allow_ddl"),),
    "database": (("isolation", "database_name"),),
    "database_name": (("isolation", "database_name"),),
    "schema": (("isolation", "schema_name"),),
    "schema_name": (("isolation", "schema_name"),),
    "tenant_column": (("isolation", "tenant_column"),),
    "branch": (("isolation", "branch_name"),),
    "branch_name": (("isolation", "branch_name"),),
    "ai_config": (("ai",),),
}
_KEPT: Final = (*("name", "enabled", "tier", "users", "metadata", "pool", "permissions", "ai"),)


class Taken:
    """Collects what has no place."""

    def __init__(self, ignored: list[tuple[str, str]], notes: list[str]) -> None:
        self.ignored = ignored
        self._notes = notes

    def ignore(self, path: str, value: Any) -> None:
        """Tell of every key beneath as well."""
        if isinstance(value, dict) and value:
            for name, below in value.items():
                self.ignore(f"{path}.{name}", below)
        elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
            for at, below in enumerate(value):
                self.ignore(f"{path}[{at}]", below)
        else:
            self.ignored.append((path, "has no place in Tenantry's configuration"))

    def note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)


def tenants_of(
    tenancy: dict[str, Any], made: dict[str, Any], taken: Taken, shape: str
) -> list[dict[str, Any]]:
    """Takes tenants and defaults out of `tenancy`."""
    given = tenancy.pop("tenants", None) or []
    default = tenancy.pop("default", None)
    if isinstance(default, dict):
        made["default"] = table_of(default, "multi_tenancy.default", taken)
    if shape == "list":
        column = tenancy.pop("tenant_column", "tenant_id")
        made["default"] = {"isolation": {"strategy": "row", "tenant_column": column}}
        tables = tenancy.pop("tenant_tables", [])
        if tables:
            names = ", ".join(map(str, tables))
            taken.note(f"the tables {names} are to be protected: `tenantry protect --help`")
        return [{"id": str(each)} for each in given]
    pairs: Iterable[tuple[str, Any, str]]
    if isinstance(given, dict):
        pairs = [(id, table, f"multi_tenancy.tenants.{id}") for id, table in given.items()]
    else:
        pairs = [
            (str(each.get("id", "")), each, f"multi_tenancy.tenants[{at}]")
            for at, each in enumerate(given)
            if isinstance(each, dict)
        ]
    found = []
    for id, table, path in pairs:
        rest = {key: value for key, value in table.items() if key != "id"}
        found.append({"id": id, **table_of(rest, path, taken)})
    return found


def tiers_of(tiers: dict[str, Any], taken: Taken) -> dict[str, Any]:
    return {
        name: table_of(table, f"multi_tenancy.tiers.{name}", taken)
        for name, table in tiers.items()
        if isinstance(table, dict)
    }


def table_of(given: dict[str, Any], path: str, taken: Taken) -> dict[str, Any]:
    """One tenant, tier or the defaults."""
    rest = dict(given)
    made: dict[str, Any] = {name: rest.pop(name) for name in _KEPT if name in rest}
    isolation = rest.pop("isolation", None)
    if isinstance(isolation, str):
        made["isolation"] = {"strategy": isolation}
    elif isinstance(isolation, dict):
        made["isolation"] = dict(isolation)
    for name, places in _FLAT.items():
        if name in rest:
            value = rest.pop(name)
            for place in places:
                _put(made, place, value)
    _rates(rest, made, path, taken)
    _limits(rest, made, path, taken)
    features = rest.pop("features", None)
    if isinstance(features, dict):
        made["features"] = features
    for name, value in rest.items():
        taken.ignore(f"{path}.{name}", value)
    return made


def _rates(rest: dict[str, Any], made: dict[str, Any], path: str, taken: Taken) -> None:
    """Requests a second are queries a second here; a burst is a multiple of them."""
    rates = dict(rest.pop("rate_limits", None) or {})
    if not rates:
        return
    second = rates.pop("requests_per_second", None)
    burst = rates.pop("burst", None)
    if second is not None:
        _put(made, ("rate_limits", "qps_limit"), second)
        if burst is not None and second:
            _put(made, ("rate_limits", "burst_multiplier"), max(1.0, burst / second))
    elif burst is not None:
        taken.ignore(f"{path}.rate_limits.burst", burst)
    if "endpoints" in rates:
        taken.ignore(f"{path}.rate_limits.endpoints", rates.pop("endpoints"))
    for name, value in rates.items():
        _put(made, ("rate_limits", name), value)


def _limits(rest: dict[str, Any], made: dict[str, Any], path: str, taken: Taken) -> None:
    limits = rest.pop("limits", None)
    if not isinstance(limits, dict):
        return
    for name, value in limits.items():
        if name == "max_connections":
            _put(made, ("rate_limits", "max_connections"), value)
        elif name == "max_response_size":
            _put(made, ("rate_limits", "max_result_size"), value)
        elif name == "max_request_size":
            _put(made, ("rate_limits", "max_statement_size"), value)
        else:
            taken.ignore(f"{path}.limits.{name}", value)


def _put(made: dict[str, Any], place: tuple[str, ...], value: Any) -> None:
    below = made
    for step in place[:-1]:
        below[step] = dict(below.get(step, {}))
        below = below[step]
    below[place[-1]] = value
