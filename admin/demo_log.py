"""Reads the log for the demo: what each event says, and whether any says nothing new."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from events.facts import (
    Commit,
    Fact,
    InstallationChanged,
    TenantChanged,
    TenantCreated,
    TenantProvisioned,
)
from events.projection import Projection
from events.settings import UNLIMITED


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored commit."""

    sequence: int
    kind: str
    id: str
    commit: Commit


def describe(entry: Entry) -> str:
    """One line for people: no secret is in it."""
    facts = "; ".join(_told(fact) for fact in entry.commit.events)
    time = entry.commit.time[11:19]
    return (
        f"#{entry.sequence:<3} {time}  {entry.commit.actor:<18}  {entry.kind} {entry.id}: {facts}"
    )


def _told(fact: Fact) -> str:
    if isinstance(fact, TenantCreated):
        return f"created, {fact.settings.get('isolation', {}).get('strategy', 'schema')} isolation"
    if isinstance(fact, TenantChanged):
        return "changed, " + ", ".join(_changes(fact.changes))
    if isinstance(fact, TenantProvisioned):
        return f"provisioned, role {fact.role}"
    if isinstance(fact, InstallationChanged):
        return "configured"
    return fact.TYPE.removeprefix("Tenant").lower()


def _changes(changes: dict[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in changes.items():
        if isinstance(value, dict):
            found += _changes(value, f"{prefix}{key}.")
        elif isinstance(value, int | float | bool) or value in (None, UNLIMITED):
            found.append(f"{prefix}{key} = {'default' if value is None else value}")
        else:
            # Verifiers are no passwords, but nothing to show either.
            found.append(f"{prefix}{key}")
    return found


def repeated(entries: Iterable[Entry]) -> list[str]:
    """The entries after which everything is as it was before: there should be none."""
    state = Projection()
    found: list[str] = []
    for entry in entries:
        before = _state(state, entry.id)
        state.apply(entry.sequence, entry.kind, entry.id, entry.commit)
        if _state(state, entry.id) == before:
            found.append(f"#{entry.sequence} {entry.kind} {entry.id}")
    return found


def _state(state: Projection, id: str) -> tuple[Any, ...]:
    record = state.record(id)
    installation = state.installation_settings()
    if record is None:
        return (installation,)
    flags = (record.exists, record.enabled, record.deleted)
    return (installation, record.settings, record.provisioned, flags)
