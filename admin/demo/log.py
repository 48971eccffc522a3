"""Reads the log for the demo: what each event says, and whether any says nothing new."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from admin.cli.event_text import told
from events.facts import Commit
from events.projection import Projection


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored commit."""

    sequence: int
    kind: str
    id: str
    commit: Commit


def describe(entry: Entry) -> str:
    """One line for people: no secret is in it."""
    facts = "; ".join(told(fact) for fact in entry.commit.events)
    time = entry.commit.time[11:19]
    return (
        f"#{entry.sequence:<3} {time}  {entry.commit.actor:<18}  {entry.kind} {entry.id}: {facts}"
    )


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
