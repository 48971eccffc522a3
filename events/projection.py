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
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import ValidationError

from events.facts import (
    KIND_INSTALLATION,
    KIND_TENANT,
    KIND_TIER,
    Commit,
    InstallationChanged,
)
from events.installation import Installation
from events.model import Settings, Tenant
from events.named import NAMED_KINDS, Misfit, Named, fold_named, forget_expired, misfit
from events.personal import Opener, without_sealed
from events.places import Place, Places, place_of
from events.seen import Seen, SeenCommands
from events.settings import merge, read_leniently, with_strategy_defaults
from events.tenant_entry import (
    DELETED,
    DISABLED,
    EXISTS,
    NOTHING,
    PURGED,
    Entry,
    fold,
    fold_closing,
    is_live,
)

log = logging.getLogger("tenantry.projection")

# Resolved tenants kept at hand. Working tenants hold their own in their lease, so this serves only
# bursts of log-ins; at about 4 kB each it stays under 10 MB.
RESOLVED_MAX = 2_000

Subscriber = Callable[[str, str], None]


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
    deleted_at: str = ""
    """When it was deleted (UTC, ISO 8601), as far as that is known."""
    purged: bool = False


@dataclass(frozen=True, slots=True)
class Parked:
    """Why nothing more is folded for a subject, since which sequence, and how many commits wait."""

    sequence: int
    reason: str
    commits: int


class GapError(Exception):
    """A sequence was skipped. The state would be wrong from here on, so it is not taken."""


class Projection:
    """Folds commits in sequence. `position` is the last sequence taken, 0 before the first.

    `opener` opens personal data (events.personal); without it there is none to be seen. Only where
    commands are decided do their ids need to be known (`remember_commands`).
    """

    def __init__(self, opener: Opener | None = None, *, remember_commands: bool = True) -> None:
        self.position = 0
        self.installation_version = 0
        self._tenants: dict[str, Entry] = {}
        self._live = 0
        self._installation: Installation | None = None
        self._installation_settings: Settings = {}
        self._parked: dict[tuple[str, str], Parked] = {}
        self._resolved: dict[str, Tenant] = {}
        self._named: dict[str, dict[str, Named]] = {kind: {} for kind in NAMED_KINDS}
        self._deleted_at: dict[str, str] = {}
        self.opener = opener
        self._commands = SeenCommands() if remember_commands else None
        # Made when somebody asks for the first time, which only the one who decides does.
        self._places: Places | None = None
        self._tier_users: Counter[str] | None = None
        self._subscribers: list[Subscriber] = []

    # --- folding -------------------------------------------------------------------------------

    def apply(self, sequence: int, kind: str, id: str, commit: Commit) -> None:
        """Take one commit. What was taken before is ignored; raises GapError on a skipped one."""
        if sequence <= self.position:
            return
        if sequence != self.position + 1:
            raise GapError(f"sequence {sequence} follows {self.position}")
        self.position = sequence
        if self._commands is not None:
            self._commands.remember(commit.id, sequence, kind, id, commit.time, commit.actor)
        if kind == KIND_TENANT:
            self._apply_tenant(sequence, id, commit)
        elif kind == KIND_INSTALLATION:
            self._apply_installation(sequence, id, commit)
        elif kind in self._named:
            self._apply_named(sequence, kind, id, commit)
        # Another kind was written by a newer version and concerns nothing that is known here.
        self._tell(kind, id)

    def personal_changed(self, id: str) -> None:
        """What opens the tenant's personal data has come or gone: resolve it anew."""
        if self._resolved.pop(id, None) is not None or id in self._tenants:
            self._tell(KIND_TENANT, id)

    def _tell(self, kind: str, id: str) -> None:
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(kind, id)
            except Exception:
                # One listener's fault must not keep the facts from the others.
                log.exception("a subscriber failed on %s %s", kind, id)

    def _apply_tenant(self, sequence: int, id: str, commit: Commit) -> None:
        self._resolved.pop(id, None)
        before = self._tenants.get(id, NOTHING)
        after = before
        waiting = self._parked.get((KIND_TENANT, id))
        if waiting is None:
            try:
                for fact in commit.events:
                    after = fold(id, after, fact)
            except (Misfit, ValidationError) as error:
                after = before
                waiting = self._park(KIND_TENANT, id, sequence, error)
        if waiting is not None:
            after = fold_closing(after, commit)
            count = waiting.commits + 1
            self._parked[KIND_TENANT, id] = Parked(waiting.sequence, waiting.reason, count)
        if after.flags & DELETED and not before.flags & DELETED:
            self._deleted_at[id] = commit.time
        elif not after.flags & DELETED or after.flags & PURGED:
            self._deleted_at.pop(id, None)
        self._live += is_live(after.flags) - is_live(before.flags)
        self._tenants[id] = Entry(after.settings, after.provisioned, sequence, after.flags)
        self._index(id, before, after)

    def _index(self, id: str, before: Entry, after: Entry) -> None:
        """Keep what was asked for up to date: who has which place, how many have which tier."""
        if self._tier_users is not None:
            for entry, number in ((before, -1), (after, 1)):
                tier = orjson.loads(entry.settings).get("tier")
                if tier is not None and is_live(entry.flags):
                    self._tier_users[tier] += number
        if self._places is not None:
            place = self._place(id, after)
            if place is None:
                self._places.release(id)
            else:
                self._places.take(id, place)

    def _place(self, id: str, entry: Entry) -> Place | None:
        """A tenant keeps its place for ever: nobody erases what PostgreSQL holds there."""
        if not entry.flags & EXISTS:
            return None
        return place_of(id, orjson.loads(entry.settings), self.defaults())

    def _apply_installation(self, sequence: int, id: str, commit: Commit) -> None:
        """Each fact carries the whole installation, so a good one ends the parking of a bad one."""
        self.installation_version = sequence
        try:
            for fact in commit.events:
                if not isinstance(fact, InstallationChanged):
                    raise Misfit(misfit(fact, "an installation"))
                self._installation = read_leniently(Installation, fact.settings)
                before, self._installation_settings = self._installation_settings, fact.settings
                if _isolation(before) != _isolation(fact.settings):
                    self._places = None
            self._parked.pop((KIND_INSTALLATION, id), None)
        except (Misfit, ValidationError) as error:
            waiting = self._park(KIND_INSTALLATION, id, sequence, error)
            self._parked[KIND_INSTALLATION, id] = waiting
        self._resolved.clear()

    def _apply_named(self, sequence: int, kind: str, id: str, commit: Commit) -> None:
        """As for the installation: each fact carries the whole, so a good one ends a parking."""
        known = self._named[kind]
        before = known.get(id)
        try:
            after = before
            for fact in commit.events:
                after = fold_named(kind, id, after, fact)
            self._parked.pop((kind, id), None)
        except (Misfit, ValidationError) as error:
            after = before
            self._parked[kind, id] = self._park(kind, id, sequence, error)
        if after is not None:
            known[id] = Named(after.settings, sequence, after.deleted)
        elif before is None:
            known[id] = Named({}, sequence, True)
        forget_expired(kind, known, commit.time)
        if kind == KIND_TIER:
            self._resolved.clear()

    def _park(self, kind: str, id: str, sequence: int, error: Exception) -> Parked:
        reason = str(error) if isinstance(error, Misfit) else "its settings are not valid here"
        log.error("%s %s is parked at sequence %d: %s", kind, id, sequence, reason)
        return Parked(sequence, reason, 0)

    # --- reading -------------------------------------------------------------------------------

    def tenant(self, id: str) -> Tenant | None:
        """The tenant, resolved: built-in values < the installation's defaults < its tier < its own
        settings.

        None for one that never was or was deleted; a disabled one has enabled=False. `version`
        grows whenever the resolved values may have changed.
        """
        found = self._resolved.get(id)
        if found is not None:
            return found
        entry = self._tenants.get(id)
        if entry is None or not is_live(entry.flags):
            return None
        own = self._opened(id, entry)
        settings = merge(self.defaults(), self.tier_settings(own.get("tier")))
        settings = merge(settings, own)
        settings["id"] = id
        settings["enabled"] = not entry.flags & DISABLED
        tier = self._named[KIND_TIER].get(own.get("tier", ""))
        versions = (entry.version, self.installation_version, tier.version if tier else 0)
        settings["version"] = max(versions)
        if entry.provisioned:
            settings["provisioned"] = orjson.loads(entry.provisioned)
        tenant = read_leniently(Tenant, with_strategy_defaults(settings))
        if len(self._resolved) >= RESOLVED_MAX:
            del self._resolved[next(iter(self._resolved))]
        self._resolved[id] = tenant
        return tenant

    def _opened(self, id: str, entry: Entry) -> Settings:
        settings: Settings = orjson.loads(entry.settings)
        return without_sealed(settings) if self.opener is None else self.opener(id, settings)

    def defaults(self) -> Settings:
        """What tenants get that do not say otherwise."""
        return {} if self._installation is None else self._installation.defaults

    def tier_settings(self, tier: str | None) -> Settings:
        """What the tier sets; nothing when there is none of that name."""
        found = self._named[KIND_TIER].get(tier) if tier else None
        return {} if found is None or found.deleted else found.settings

    def ids(self) -> Iterator[str]:
        """All tenants that exist, disabled ones included, in order of their first fact."""
        return (id for id, entry in tuple(self._tenants.items()) if is_live(entry.flags))

    def may_have_rows(self) -> bool:
        """Whether some tenant shares tables, or may: asked of all at once, so that nothing is
        resolved; a wrong yes does no harm."""
        written = b'"strategy":"row"'
        above = [self.defaults(), *(each.settings for each in self.named_all(KIND_TIER).values())]
        return any(written in orjson.dumps(each) for each in above) or any(
            written in each.settings for each in self._tenants.values()
        )

    def tenant_count(self) -> int:
        return self._live

    def record(self, id: str) -> Record | None:
        """The tenant as folded, deleted ones included; None when no fact ever named it."""
        entry = self._tenants.get(id)
        if entry is None:
            return None
        waiting = self._parked.get((KIND_TENANT, id))
        return Record(
            settings=self._opened(id, entry),
            provisioned=orjson.loads(entry.provisioned) if entry.provisioned else None,
            exists=bool(entry.flags & EXISTS),
            enabled=not entry.flags & DISABLED,
            deleted=bool(entry.flags & DELETED),
            version=entry.version,
            parked="" if waiting is None else waiting.reason,
            deleted_at=self._deleted_at.get(id, ""),
            purged=bool(entry.flags & PURGED),
        )

    def is_purged(self, id: str) -> bool:
        """Whether the tenant's personal data was erased."""
        entry = self._tenants.get(id)
        return entry is not None and bool(entry.flags & PURGED)

    def deleted(self) -> dict[str, str]:
        """Tenants that are deleted and not purged, and since when (UTC, ISO 8601)."""
        return dict(self._deleted_at)

    def named(self, kind: str, id: str) -> Named | None:
        """A tier, operator or token as folded, deleted ones included."""
        return self._named[kind].get(id)

    def named_all(self, kind: str) -> dict[str, Named]:
        """All tiers, operators or tokens that exist, by name."""
        return {id: each for id, each in self._named[kind].items() if not each.deleted}

    def version_of(self, kind: str, id: str) -> int:
        """The last sequence of the subject, the one to expect when appending; 0: none yet."""
        if kind == KIND_INSTALLATION:
            return self.installation_version
        if kind == KIND_TENANT:
            entry = self._tenants.get(id)
            return 0 if entry is None else entry.version
        found = self._named[kind].get(id)
        return 0 if found is None else found.version

    def rival(self, id: str, place: Place) -> str | None:
        """Another tenant that has `place`, or a part of it, if there is one."""
        if self._places is None:
            self._places = Places()
            for each, entry in self._tenants.items():
                theirs = self._place(each, entry)
                if theirs is not None:
                    self._places.take(each, theirs)
        return self._places.rival(id, place)

    def tier_users(self, tier: str) -> int:
        """How many tenants name the tier."""
        if self._tier_users is None:
            self._tier_users = Counter(
                orjson.loads(entry.settings).get("tier")
                for entry in self._tenants.values()
                if is_live(entry.flags)
            )
        count: int = self._tier_users[tier]
        return count

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
        """Where the command was stored, if it was carried out in the last 31 days."""
        return None if self._commands is None else self._commands.get(command_id)

    @property
    def commands_forgotten_to(self) -> int:
        """Commands stored up to this sequence are no longer recognised."""
        return self.position if self._commands is None else self._commands.horizon

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call subscriber(kind, id) after each commit; the returned function ends that."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    def digest(self) -> str:
        """A hash of the whole state, equal wherever the same facts were folded."""
        total = hashlib.sha256(f"{self.position} {self.installation_version} ".encode())
        total.update(orjson.dumps(self._installation_settings, option=orjson.OPT_SORT_KEYS))
        # Names alone sort in a fifth of the time that pairs take, and others wait for it.
        for id in sorted(self._tenants):
            entry = self._tenants[id]
            total.update(f"{id} {entry.version} {entry.flags} ".encode())
            total.update(entry.settings + b" " + entry.provisioned)
        for kind, names in self._named.items():
            for id, named in sorted(names.items()):
                total.update(f"{kind} {id} {named.version} {named.deleted} ".encode())
                total.update(orjson.dumps(named.settings, option=orjson.OPT_SORT_KEYS))
        for id, since in sorted(self._deleted_at.items()):
            total.update(f"{id} deleted {since} ".encode())
        for subject, waiting in sorted(self._parked.items()):
            total.update(f"{subject} {waiting}".encode())
        return total.hexdigest()


def _isolation(installation: Settings) -> Any:
    return installation.get("defaults", {}).get("isolation", {})
