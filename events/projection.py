"""The state folded from the log: pure, synchronous, the same wherever the same facts are folded.

Tenants are kept as JSON bytes, because 100,000 resolved models would take gigabytes; the model is
made when somebody asks. A fact that cannot be read or does not fit parks its tenant, and only that
one: it stays as it was before that fact, is marked as parked, and takes no further changes. It is
not switched off, for the same reason as when the log is unreachable: what a newer version wrote
must not be an outage for the customer. What only takes away (disabled, deleted) still counts while
parked, because it depends on nothing before it and ignoring it would fail open.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import orjson
from pydantic import ValidationError

from events.facts import (
    KIND_INSTALLATION,
    KIND_TENANT,
    Commit,
    Fact,
    InstallationChanged,
    TenantChanged,
    TenantCreated,
    TenantDeleted,
    TenantDisabled,
    TenantEnabled,
    TenantProvisioned,
    Undecodable,
)
from events.installation import Installation
from events.model import Settings, Tenant
from events.settings import merge, read_leniently

log = logging.getLogger("tenantry.projection")

# Resolved tenants kept at hand. Working tenants hold their own in their lease, so this serves only
# bursts of log-ins; at about 4 kB each it stays under 10 MB.
RESOLVED_MAX = 2_000

# Command ids remembered after the server's own two-minute window has forgotten them: a command that
# is sent again within this many commits is answered from here. About 200 bytes each.
COMMANDS_REMEMBERED_MAX = 10_000

Subscriber = Callable[[str, str], None]

_EXISTS = 1
_DISABLED = 2
_DELETED = 4


@dataclass(frozen=True, slots=True)
class Record:
    """A tenant as folded: what deciding about it needs. `version` is its last sequence, the one to
    expect when appending; `parked` says why it is parked, or is empty."""

    settings: Settings
    provisioned: Settings | None
    exists: bool
    enabled: bool
    deleted: bool
    version: int
    parked: str


@dataclass(frozen=True, slots=True)
class Parked:
    """Why nothing more is folded for a subject, since which sequence, and how many commits wait."""

    sequence: int
    reason: str
    commits: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Where a command was stored."""

    sequence: int
    kind: str
    id: str


class GapError(Exception):
    """A sequence was skipped. The state would be wrong from here on, so it is not taken."""


class _Misfit(Exception):
    """A fact that contradicts the state it should change."""


class _Entry:
    """One tenant, compact. Never changed in place once stored, so a failed fold leaves no trace."""

    __slots__ = ("flags", "provisioned", "settings", "version")

    def __init__(self, settings: bytes, provisioned: bytes, version: int, flags: int) -> None:
        self.settings = settings
        self.provisioned = provisioned
        self.version = version
        self.flags = flags


_NOTHING = _Entry(b"{}", b"", 0, 0)


class Projection:
    """Folds commits in sequence. `position` is the last sequence taken, 0 before the first."""

    def __init__(self) -> None:
        self.position = 0
        self.installation_version = 0
        self._tenants: dict[str, _Entry] = {}
        self._live = 0
        self._installation: Installation | None = None
        self._installation_settings: Settings = {}
        self._parked: dict[tuple[str, str], Parked] = {}
        self._resolved: dict[str, Tenant] = {}
        self._commands: dict[str, Seen] = {}
        self._subscribers: list[Subscriber] = []

    # --- folding -------------------------------------------------------------------------------

    def apply(self, sequence: int, kind: str, id: str, commit: Commit) -> None:
        """Take one commit. What was taken before is ignored; raises GapError on a skipped one."""
        if sequence <= self.position:
            return
        if sequence != self.position + 1:
            raise GapError(f"sequence {sequence} follows {self.position}")
        self.position = sequence
        self._remember(commit.id, Seen(sequence, kind, id))
        if kind == KIND_TENANT:
            self._apply_tenant(sequence, id, commit)
        elif kind == KIND_INSTALLATION:
            self._apply_installation(sequence, id, commit)
        # Another kind was written by a newer version and concerns nothing that is known here.
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(kind, id)
            except Exception:
                # One listener's fault must not keep the facts from the others.
                log.exception("a subscriber failed on %s %s", kind, id)

    def _apply_tenant(self, sequence: int, id: str, commit: Commit) -> None:
        self._resolved.pop(id, None)
        before = self._tenants.get(id, _NOTHING)
        after = before
        waiting = self._parked.get((KIND_TENANT, id))
        if waiting is None:
            try:
                for fact in commit.events:
                    after = _fold(id, after, fact)
            except (_Misfit, ValidationError) as error:
                after = before
                waiting = self._park(KIND_TENANT, id, sequence, error)
        if waiting is not None:
            after = _fold_closing(after, commit)
            count = waiting.commits + 1
            self._parked[KIND_TENANT, id] = Parked(waiting.sequence, waiting.reason, count)
        self._live += _is_live(after.flags) - _is_live(before.flags)
        self._tenants[id] = _Entry(after.settings, after.provisioned, sequence, after.flags)

    def _apply_installation(self, sequence: int, id: str, commit: Commit) -> None:
        """Each fact carries the whole installation, so a good one ends the parking of a bad one."""
        self.installation_version = sequence
        try:
            for fact in commit.events:
                if not isinstance(fact, InstallationChanged):
                    raise _Misfit(_misfit(fact, "an installation"))
                self._installation = read_leniently(Installation, fact.settings)
                self._installation_settings = fact.settings
            self._parked.pop((KIND_INSTALLATION, id), None)
        except (_Misfit, ValidationError) as error:
            waiting = self._park(KIND_INSTALLATION, id, sequence, error)
            self._parked[KIND_INSTALLATION, id] = waiting
        self._resolved.clear()

    def _park(self, kind: str, id: str, sequence: int, error: Exception) -> Parked:
        reason = str(error) if isinstance(error, _Misfit) else "its settings are not valid here"
        log.error("%s %s is parked at sequence %d: %s", kind, id, sequence, reason)
        return Parked(sequence, reason, 0)

    def _remember(self, command_id: str, seen: Seen) -> None:
        if command_id:
            self._commands[command_id] = seen
            if len(self._commands) > COMMANDS_REMEMBERED_MAX:
                del self._commands[next(iter(self._commands))]

    # --- reading -------------------------------------------------------------------------------

    def tenant(self, id: str) -> Tenant | None:
        """The tenant, resolved: built-in values < the installation's defaults < its settings.

        None for one that never was or was deleted; a disabled one has enabled=False. `version`
        grows whenever the resolved values may have changed.
        """
        found = self._resolved.get(id)
        if found is not None:
            return found
        entry = self._tenants.get(id)
        if entry is None or not _is_live(entry.flags):
            return None
        defaults = {} if self._installation is None else self._installation.defaults
        settings = merge(defaults, orjson.loads(entry.settings))
        settings["id"] = id
        settings["enabled"] = not entry.flags & _DISABLED
        settings["version"] = max(entry.version, self.installation_version)
        if entry.provisioned:
            settings["provisioned"] = orjson.loads(entry.provisioned)
        tenant = read_leniently(Tenant, settings)
        if len(self._resolved) >= RESOLVED_MAX:
            del self._resolved[next(iter(self._resolved))]
        self._resolved[id] = tenant
        return tenant

    def ids(self) -> Iterator[str]:
        """All tenants that exist, disabled ones included, in order of their first fact."""
        return (id for id, entry in tuple(self._tenants.items()) if _is_live(entry.flags))

    def tenant_count(self) -> int:
        return self._live

    def record(self, id: str) -> Record | None:
        """The tenant as folded, deleted ones included; None when no fact ever named it."""
        entry = self._tenants.get(id)
        if entry is None:
            return None
        waiting = self._parked.get((KIND_TENANT, id))
        return Record(
            settings=orjson.loads(entry.settings),
            provisioned=orjson.loads(entry.provisioned) if entry.provisioned else None,
            exists=bool(entry.flags & _EXISTS),
            enabled=not entry.flags & _DISABLED,
            deleted=bool(entry.flags & _DELETED),
            version=entry.version,
            parked="" if waiting is None else waiting.reason,
        )

    def installation(self) -> Installation | None:
        """The installation, resolved; its secrets are sealed. None before the first fact."""
        return self._installation

    def installation_settings(self) -> Settings:
        """What was set of the installation."""
        return self._installation_settings

    def parked(self) -> dict[tuple[str, str], Parked]:
        """All that is parked, by kind and id."""
        return dict(self._parked)

    def seen(self, command_id: str) -> Seen | None:
        """Where the command was stored, if it is among the last COMMANDS_REMEMBERED_MAX."""
        return self._commands.get(command_id)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call subscriber(kind, id) after each commit; the returned function ends that."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    def digest(self) -> str:
        """A hash of the whole state, equal wherever the same facts were folded."""
        total = hashlib.sha256(f"{self.position} {self.installation_version} ".encode())
        total.update(orjson.dumps(self._installation_settings, option=orjson.OPT_SORT_KEYS))
        for id, entry in sorted(self._tenants.items()):
            total.update(f"{id} {entry.version} {entry.flags} ".encode())
            total.update(entry.settings + b" " + entry.provisioned)
        for subject, waiting in sorted(self._parked.items()):
            total.update(f"{subject} {waiting}".encode())
        return total.hexdigest()


def _is_live(flags: int) -> bool:
    return flags & (_EXISTS | _DELETED) == _EXISTS


def _fold(id: str, entry: _Entry, fact: Fact) -> _Entry:
    """`entry` after `fact`. Raises _Misfit or ValidationError."""
    if isinstance(fact, TenantCreated):
        if entry.flags & _EXISTS:
            raise _Misfit(_misfit(fact, "a tenant that exists"))
        return _Entry(_checked(id, fact.settings), b"", 0, _EXISTS)
    if not _is_live(entry.flags):
        raise _Misfit(_misfit(fact, "a tenant that does not exist"))
    if isinstance(fact, TenantChanged):
        settings = _checked(id, merge(orjson.loads(entry.settings), fact.changes))
        return _Entry(settings, entry.provisioned, 0, entry.flags)
    if isinstance(fact, TenantDisabled):
        return _Entry(entry.settings, entry.provisioned, 0, entry.flags | _DISABLED)
    if isinstance(fact, TenantEnabled):
        return _Entry(entry.settings, entry.provisioned, 0, entry.flags & ~_DISABLED)
    if isinstance(fact, TenantDeleted):
        return _Entry(entry.settings, entry.provisioned, 0, entry.flags | _DELETED)
    if isinstance(fact, TenantProvisioned):
        return _Entry(entry.settings, _dumps(fact.model_dump()), 0, entry.flags)
    raise _Misfit(_misfit(fact, "a tenant"))


def _fold_closing(entry: _Entry, commit: Commit) -> _Entry:
    """Of a parked commit, only what takes away."""
    flags = entry.flags
    for fact in commit.events:
        if isinstance(fact, TenantDisabled):
            flags |= _DISABLED
        elif isinstance(fact, TenantDeleted):
            flags |= _EXISTS | _DELETED
    return _Entry(entry.settings, entry.provisioned, 0, flags)


def _checked(id: str, settings: Settings) -> bytes:
    """Settings that make a tenant, as stored here. Checked when folded and not when used: later
    there would be no last good state to stay with."""
    read_leniently(Tenant, {**settings, "id": id})
    return _dumps(settings)


def _dumps(settings: Settings) -> bytes:
    # Sorted, so that equal states are equal bytes. Copied, because what orjson returns still holds
    # its 4 kB work buffer (measured: 8.4 kB a tenant instead of 1 kB).
    return bytes(memoryview(orjson.dumps(settings, option=orjson.OPT_SORT_KEYS)))


def _misfit(fact: Fact, state: str) -> str:
    return fact.reason if isinstance(fact, Undecodable) else f"{fact.TYPE} does not fit {state}"
