"""Turns a configuration file into commands, only for what differs from what the log says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from admin.config.load import Loaded
from events.commands import Command, PutInstallation, PutTenant, PutTier
from events.facts import KIND_TIER
from events.model import Settings
from events.named import Named
from events.projection import Record
from events.secrets import Vault, seal_nodes
from events.settings import canonical
from wire.postgres.scram import make_verifier, verify_password


class Folded(Protocol):
    """What planning reads of the folded log; a Projection has it."""

    def record(self, id: str) -> Record | None: ...

    def ids(self) -> Iterator[str]: ...

    def installation_settings(self) -> Settings: ...

    def named(self, kind: str, id: str) -> Named | None: ...


@dataclass
class Plan:
    """What to ask for, in order. `unlisted` are tenants that the file does not name: they are left
    alone. `refused` says, for people, which tenants of the file cannot be had."""

    commands: list[Command] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def plan(loaded: Loaded, folded: Folded, vault: Vault) -> Plan:
    """The commands that bring the log to what `loaded` says; none when it is so already.

    `loaded` has no mistakes. Passwords become verifiers and sealed texts here; those in the log
    are kept where they fit the password, because new ones would look like a change each time.
    Checking a password costs some milliseconds of CPU on purpose (RFC 5802, section 4: iterations).
    Raises events.secrets.SecretError.
    """
    assert loaded.installation is not None, "a file with mistakes is not applied"
    result = Plan()
    known = folded.installation_settings()
    wanted = seal_nodes(canonical(loaded.installation), known, vault)
    if wanted != known:
        result.commands.append(PutInstallation(settings=wanted))
    for name, settings in loaded.tiers:
        tier = folded.named(KIND_TIER, name)
        if tier is None or tier.deleted or tier.settings != settings:
            result.commands.append(PutTier(name=name, settings=settings))
    for id, settings in loaded.tenants:
        _plan_tenant(result, id, settings, folded.record(id), loaded)
    listed = {id for id, _ in loaded.tenants}
    result.unlisted = [id for id in folded.ids() if id not in listed]
    return result


def _plan_tenant(
    result: Plan, id: str, settings: Settings, record: Record | None, loaded: Loaded
) -> None:
    if record is not None and record.deleted:
        result.refused.append(
            f'tenant "{id}" was deleted, and an id is never used again. Choose another id.'
        )
        return
    if record is not None and record.parked:
        result.refused.append(
            f'tenant "{id}" is parked ({record.parked}). Upgrade this installation.'
        )
        return
    known = {} if record is None else record.settings
    wanted = dict(settings)
    if "users" in wanted:
        before = {user["name"]: user["scram"] for user in known.get("users", ())}
        wanted["users"] = [
            _with_verifier(user, before.get(user["name"]), loaded.passwords.get((id, user["name"])))
            for user in wanted["users"]
        ]
    if record is None or _differs(record, wanted):
        result.commands.append(PutTenant(id=id, settings=wanted))


def _differs(record: Record, wanted: Settings) -> bool:
    """A file that does not say "enabled" leaves that switch to the operator."""
    if wanted.get("enabled", record.enabled) != record.enabled:
        return True
    return record.settings != {key: value for key, value in wanted.items() if key != "enabled"}


def _with_verifier(user: dict[str, Any], before: str | None, password: str | None) -> Settings:
    if password is None:
        return user
    if before is not None and verify_password(password, before):
        return {**user, "scram": before}
    return {**user, "scram": make_verifier(password)}
