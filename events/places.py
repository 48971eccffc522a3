"""Where tenants have their data, and that no two have it in one place.

    strategy            place                          nobody else may have
    database, branch    the database                   anything in that database
    schema              a schema of a database         that schema; the whole database
    row                 a value in the shared tables   that value there; the schema of the tables

Pure and synchronous; the projection keeps one `Places` where commands are decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from events.model import Isolation, Settings, Tenant
from events.settings import merge


class Place(NamedTuple):
    """`schema` is "" for a whole database; `value` is None unless the tenant has rows only."""

    database: str
    schema: str = ""
    value: str | None = None

    def __str__(self) -> str:
        text = f'database "{self.database}"'
        if self.schema:
            text = f'schema "{self.schema}" of {text}'
        return text if self.value is None else f'rows of "{self.value}" in {text}'


def place_of(id: str, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> Place | None:
    """The place of the tenant with these settings; None when they do not make sense."""
    try:
        isolation = Isolation.model_validate(merge(_table(defaults), _table(settings)))
    except ValidationError:
        return None
    # Only the id and the isolation are asked: the rule for names stays in one place, the model.
    tenant = Tenant.model_construct(id=id, isolation=isolation)
    if isolation.strategy in ("database", "branch"):
        return Place(tenant.database)
    if isolation.strategy == "schema":
        return Place(tenant.database, tenant.schema_name)
    return Place(tenant.database, tenant.row_schema, tenant.row_value)


def _table(settings: Mapping[str, Any]) -> Settings:
    found = settings.get("isolation", {})
    return found if isinstance(found, dict) else {}


class Places:
    """Who has what. A tenant has one place at most."""

    def __init__(self) -> None:
        self._held: dict[str, Place] = {}
        # Everybody in a database; who has a schema or the rows of a value alone; whose rows are in
        # the tables of a schema.
        self._inside: dict[str, set[str]] = {}
        self._alone: dict[Place, str] = {}
        self._rows: dict[Place, set[str]] = {}

    def take(self, id: str, place: Place) -> None:
        """Note the place of `id`. What a rival has already, the rival keeps."""
        self.release(id)
        self._held[id] = place
        self._inside.setdefault(place.database, set()).add(id)
        self._alone.setdefault(_alone(place), id)
        if place.value is not None:
            self._rows.setdefault(place._replace(value=None), set()).add(id)

    def release(self, id: str) -> None:
        place = self._held.pop(id, None)
        if place is None:
            return
        _discard(self._inside, place.database, id)
        if self._alone.get(_alone(place)) == id:
            del self._alone[_alone(place)]
        if place.value is not None:
            _discard(self._rows, place._replace(value=None), id)

    def rival(self, id: str, place: Place) -> str | None:
        """Another tenant that cannot be there at the same time, if there is one."""
        inside = self._inside.get(place.database)
        if not inside:
            return None
        known = self._alone.get(_alone(place)) or self._alone.get(Place(place.database))
        if known is not None and known != id:
            return known
        if not place.schema:
            return _another(inside, id)
        if place.value is None:
            return _another(self._rows.get(place, ()), id)
        owner = self._alone.get(place._replace(value=None))
        return owner if owner != id else None


def _alone(place: Place) -> Place:
    """What the tenant must have for itself: the seal of rows holds for the whole database."""
    return place if place.value is None else place._replace(schema="")


def _another(ids: Iterable[str], id: str) -> str | None:
    return next((each for each in ids if each != id), None)


def _discard(sets: dict[Any, set[str]], key: Any, id: str) -> None:
    sets[key].discard(id)
    if not sets[key]:
        del sets[key]
