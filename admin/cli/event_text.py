"""What an event says, for people and for programs. No secret and no verifier is in it."""

from __future__ import annotations

from typing import Any, Final

from admin.printed import printable
from events.facts import (
    Commit,
    Fact,
    InstallationChanged,
    TenantChanged,
    TenantCreated,
    TenantProvisioned,
    Undecodable,
)
from events.history import moment_of
from events.reader import Stored
from events.settings import UNLIMITED

# Keys whose values are sealed or can be guessed at; they are named, never shown.
HIDDEN: Final = frozenset({"secret", "password", "scram", "token", "key"})
_SEALED: Final = ("sealed:", "erasable:")


def describe(stored: Stored, commit: Commit) -> str:
    """One line."""
    facts = describe_facts(commit)
    time = moment_of(stored).strftime("%Y-%m-%d %H:%M:%S")
    subject = f"{stored.kind} {stored.id}"
    return printable(f"#{stored.sequence:<5} {time}  {commit.actor:<18}  {subject}: {facts}")


def describe_facts(commit: Commit) -> str:
    """What it changed, without who and when."""
    return "; ".join(told(fact) for fact in commit.events)


def told(fact: Fact) -> str:
    """What one fact says, in a few words."""
    if isinstance(fact, TenantCreated):
        return f"created, {fact.settings.get('isolation', {}).get('strategy', 'schema')} isolation"
    if isinstance(fact, TenantChanged):
        return "changed, " + ", ".join(_changes(fact.changes))
    if isinstance(fact, TenantProvisioned):
        return f"provisioned, role {fact.role}"
    if isinstance(fact, InstallationChanged):
        return "configured"
    if isinstance(fact, Undecodable):
        return f"cannot be read here ({fact.reason})"
    return _words(fact.TYPE)


def as_dict(stored: Stored, commit: Commit) -> dict[str, Any]:
    """The event for programs."""
    events = [
        {"type": fact.TYPE, "version": fact.VERSION, "data": masked(fact.model_dump(mode="json"))}
        for fact in commit.events
    ]
    return {
        "sequence": stored.sequence,
        "kind": stored.kind,
        "id": stored.id,
        "time": moment_of(stored).isoformat(),
        "actor": commit.actor,
        "command_id": commit.id,
        "written_at": commit.time,
        "events": events,
    }


def masked(value: Any) -> Any:
    """`value` without what HIDDEN names, and without sealed texts."""
    if isinstance(value, dict):
        return {
            key: "(hidden)" if key in HIDDEN and isinstance(below, str) and below else masked(below)
            for key, below in value.items()
        }
    if isinstance(value, list | tuple):
        return [masked(below) for below in value]
    if isinstance(value, str) and value.startswith(_SEALED):
        return "(sealed)"
    return value


def _words(name: str) -> str:
    """`TenantDisabled` is "disabled", `TierSet` "set": the line names the kind already."""
    starts = [at for at, letter in enumerate(name) if letter.isupper()]
    return name[starts[1] :].lower() if len(starts) > 1 else name.lower()


def _changes(changes: dict[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in changes.items():
        if isinstance(value, dict):
            found += _changes(value, f"{prefix}{key}.")
        elif value is None or isinstance(value, int | float) or value == UNLIMITED:
            found.append(f"{prefix}{key} = {'default' if value is None else value}")
        else:
            # Verifiers are no passwords, but nothing to show either.
            found.append(f"{prefix}{key}")
    return found
