"""One tenant as the projection keeps it, and how a fact changes it.

Entries are JSON bytes and flags: 100,000 of them are what a worker holds of tenants it does not
serve now.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints

import orjson
from pydantic import TypeAdapter, ValidationError

from events.facts import (
    Commit,
    Fact,
    TenantChanged,
    TenantCreated,
    TenantDeleted,
    TenantDisabled,
    TenantEnabled,
    TenantProvisioned,
    TenantPurged,
    TenantRestored,
)
from events.model import Settings, Tenant
from events.named import Misfit, misfit
from events.personal import PERSONAL, is_erasable, without_sealed
from events.settings import merge, read_leniently

EXISTS = 1
DISABLED = 2
DELETED = 4
PURGED = 8


class Entry:
    """One tenant, compact. Never changed in place once stored, so a failed fold leaves no trace."""

    __slots__ = ("flags", "provisioned", "settings", "version")

    def __init__(self, settings: bytes, provisioned: bytes, version: int, flags: int) -> None:
        self.settings = settings
        self.provisioned = provisioned
        self.version = version
        self.flags = flags


NOTHING = Entry(b"{}", b"", 0, 0)


def is_live(flags: int) -> bool:
    return flags & (EXISTS | DELETED) == EXISTS


def fold(id: str, entry: Entry, fact: Fact) -> Entry:
    """`entry` after `fact`. Raises Misfit or ValidationError."""
    if isinstance(fact, TenantCreated):
        if entry.flags & EXISTS:
            raise Misfit(misfit(fact, "a tenant that exists"))
        return Entry(checked(id, fact.settings), b"", 0, EXISTS)
    if isinstance(fact, TenantRestored | TenantPurged):
        return _fold_deleted(entry, fact)
    if not is_live(entry.flags):
        raise Misfit(misfit(fact, "a tenant that does not exist"))
    if isinstance(fact, TenantChanged):
        settings = merge(orjson.loads(entry.settings), fact.changes)
        if not _fits(settings, fact.changes):
            return Entry(checked(id, settings), entry.provisioned, 0, entry.flags)
        return Entry(dumps(settings), entry.provisioned, 0, entry.flags)
    if isinstance(fact, TenantDisabled):
        return Entry(entry.settings, entry.provisioned, 0, entry.flags | DISABLED)
    if isinstance(fact, TenantEnabled):
        return Entry(entry.settings, entry.provisioned, 0, entry.flags & ~DISABLED)
    if isinstance(fact, TenantDeleted):
        return Entry(entry.settings, entry.provisioned, 0, entry.flags | DELETED)
    if isinstance(fact, TenantProvisioned):
        return Entry(entry.settings, dumps(fact.model_dump()), 0, entry.flags)
    raise Misfit(misfit(fact, "a tenant"))


def _fold_deleted(entry: Entry, fact: Fact) -> Entry:
    """What may happen to a deleted tenant. Purged, nothing of it is kept but that it was."""
    if not entry.flags & DELETED or entry.flags & PURGED:
        raise Misfit(misfit(fact, "a tenant that is not deleted, or purged already"))
    if isinstance(fact, TenantPurged):
        return Entry(_place_only(entry.settings), b"", 0, entry.flags | PURGED)
    return Entry(entry.settings, entry.provisioned, 0, entry.flags & ~DELETED)


def _place_only(settings: bytes) -> bytes:
    """What is kept of a purged tenant: where its data was, so that nobody else gets the place."""
    isolation = orjson.loads(settings).get("isolation")
    return orjson.dumps({"isolation": isolation}) if isolation else b"{}"


def fold_closing(entry: Entry, commit: Commit) -> Entry:
    """Of a parked commit, only what takes away."""
    flags = entry.flags
    for fact in commit.events:
        if isinstance(fact, TenantDisabled):
            flags |= DISABLED
        elif isinstance(fact, TenantDeleted):
            flags |= EXISTS | DELETED
        elif isinstance(fact, TenantPurged) and flags & DELETED:
            return Entry(_place_only(entry.settings), b"", 0, flags | PURGED)
    return Entry(entry.settings, entry.provisioned, 0, flags)


def checked(id: str, settings: Settings) -> bytes:
    """Settings that make a tenant, as stored here. Checked when folded and not when used: later
    there would be no last good state to stay with."""
    read_leniently(Tenant, {**without_sealed(settings), "id": id})
    return dumps(settings)


def _fits(settings: Settings, changes: Settings) -> bool:
    """Whether `settings`, which were fine before these changes, are fine beyond doubt: nothing of a
    tenant's settings is judged together with anything outside of its own table, so only the tables
    that were touched are looked at (a third of what folding costs). When it is in doubt, the whole
    is looked at, and that verdict counts."""
    for name in changes:
        check = _CHECKS.get(name)
        if check is None:
            return False
        value = settings.get(name)
        if value is None or (name in PERSONAL and is_erasable(value)):
            continue
        try:
            check(value)
        except ValidationError:
            return False
    return True


def _checks() -> dict[str, Callable[[Any], Any]]:
    """What judges each part of a tenant's settings by itself, as the model of all would."""
    judged = Tenant.__pydantic_decorators__
    assert not judged.model_validators, "parts of a tenant are judged together"
    assert not judged.field_validators, "a part is judged by more than its type"
    hints = get_type_hints(Tenant, include_extras=True)
    names = (name for name in Tenant.model_fields if name != "id")
    return {name: TypeAdapter(hints[name]).validator.validate_python for name in names}


_CHECKS = _checks()


def dumps(settings: Settings) -> bytes:
    # Sorted, so that equal states are equal bytes. Copied, because what orjson returns still holds
    # its 4 kB work buffer (measured: 8.4 kB a tenant instead of 1 kB).
    return bytes(memoryview(orjson.dumps(settings, option=orjson.OPT_SORT_KEYS)))
