"""What a purge leaves in PostgreSQL, and the SQL that removes it. Pure.

A purge erases what the log holds of people. The tenant's own data is another matter: it may be
large, shared, or wanted by somebody else, so people remove it, knowing what it is. Nobody else
ever gets the place: ids are not used again, and a purged tenant keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from admin.provision.names import owner_name, role_name
from events.model import Isolation
from events.places import place_of
from events.settings import merge


def leftovers(
    id: str, settings: Mapping[str, Any], defaults: Mapping[str, Any], others: Sequence[str] = ()
) -> list[str]:
    """Lines for people: what is left of the tenant with these settings, and how it goes.

    `others` are the ids of tenants whose data is in the same database.
    """
    place = place_of(id, settings, defaults)
    if place is None:
        return ["Where its data is in PostgreSQL cannot be told: its settings make no sense."]
    told = [f"PostgreSQL still holds its data: {place}."]
    whole = not place.schema
    if others:
        some = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        told.append(f"In that database are others too: {some}.")
    if whole and others:
        told.append("So do not drop the database: find out first what is whose.")
        return told
    told.append("To remove it, as the node's user:")
    told += [f"  {line}" for line in _sql(id, place, settings, defaults)]
    told.append("Backups and replicas of PostgreSQL keep it for as long as you keep those.")
    return told


def _sql(
    id: str, place: Any, settings: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterator[str]:
    roles = ", ".join(_quoted(name) for name in (role_name(id), owner_name(id)))
    if not place.schema:
        yield f"DROP DATABASE IF EXISTS {_quoted(place.database)} WITH (FORCE);"
    elif place.value is None:
        yield f"\\c {_quoted(place.database)}"
        yield f"DROP SCHEMA IF EXISTS {_quoted(place.schema)} CASCADE;"
        yield from _dropped(roles)
    else:
        column = _column(settings, defaults)
        yield f"\\c {_quoted(place.database)}"
        value = place.value.replace("'", "''")
        condition = f"{_quoted(column)} = '{value}'"
        schema = _quoted(place.schema)
        # Printed for a person, never run.
        yield f"DELETE FROM {schema}.… WHERE {condition};    (each table that has the column)"  # noqa: S608
        yield from _dropped(roles)
    yield f"DROP ROLE IF EXISTS {roles};"


def _dropped(roles: str) -> Iterator[str]:
    """Privileges hold a role fast, in each database where it has some."""
    yield f"DROP OWNED BY {roles};    (leave out a role that is not there)"


def _column(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    above, own = defaults.get("isolation") or {}, settings.get("isolation") or {}
    return Isolation.model_validate(merge(above, own)).tenant_column


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
