"""What follows from commands on one tenant. Pure; see events.commands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from events.commands_checks import CONTROLS, check_tenant, is_plain
from events.commands_model import (
    ChangeTenant,
    CommandRefused,
    DeleteTenant,
    DisableTenant,
    EnableTenant,
    Mistake,
    PurgeTenant,
    PutTenant,
    PutUser,
    RecordProvisioned,
    RemoveUser,
    RestoreTenant,
    TenantCommand,
)
from events.facts import (
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
from events.installation import Installation
from events.model import Settings, check_tenant_id
from events.places import place_of
from events.projection import Record
from events.secrets import is_sealed
from events.settings import diff, merge, read_leniently

if TYPE_CHECKING:
    from events.commands import State


def decide_tenant(state: State, command: TenantCommand, now: datetime) -> list[Fact]:
    """The facts that follow. Raises CommandRefused."""
    mistakes: list[Mistake] = []
    try:
        check_tenant_id(command.id)
    except ValueError as error:
        mistakes.append(Mistake("id", str(error)))
    record = state.record(command.id)
    code = _standing(record, command, mistakes)
    facts: list[Fact] = []
    if isinstance(command, PutTenant):
        facts = _put(state, record, command, mistakes)
    elif record is not None:
        facts = _on_known(state, record, command, mistakes, now)
    if mistakes:
        raise CommandRefused(mistakes, code)
    return facts


def _on_known(
    state: State, record: Record, command: TenantCommand, mistakes: list[Mistake], now: datetime
) -> list[Fact]:
    if isinstance(command, ChangeTenant):
        return _change(state, record, command, mistakes)
    if isinstance(command, PutUser | RemoveUser):
        return _change_users(record, command, mistakes)
    if isinstance(command, RecordProvisioned):
        return _provisioned(record, command, mistakes)
    if isinstance(command, EnableTenant | DisableTenant):
        return _switch(record, isinstance(command, EnableTenant))
    if isinstance(command, RestoreTenant):
        return _restore(state, record, command, mistakes)
    if isinstance(command, PurgeTenant):
        return _purge(state, record, command, mistakes, now)
    assert isinstance(command, DeleteTenant), f"{type(command).__name__} cannot be decided"
    return [] if record.deleted else [TenantDeleted()]


def _standing(record: Record | None, command: TenantCommand, mistakes: list[Mistake]) -> str:
    """What speaks against any command on this tenant, and the code of the refusal."""
    closing = isinstance(command, DeleteTenant | PurgeTenant)
    if (
        record is not None
        and record.deleted
        and not (closing or isinstance(command, RestoreTenant))
    ):
        hint = "" if record.purged else "Undo the deletion to have it back."
        text = f"{command.id} was deleted, and an id is never used again"
        mistakes.append(Mistake("id", text, hint))
        return "exists" if isinstance(command, PutTenant) else "missing"
    if record is not None and record.parked and not (closing or isinstance(command, DisableTenant)):
        text = f"{command.id} is parked ({record.parked}); upgrade this process"
        mistakes.append(Mistake("id", text))
        return "refused"
    missing = record is None or not record.exists
    # A parked tenant can be deleted before its first good fact: then it is known, and deleted.
    if missing and not isinstance(command, PutTenant) and not (record and record.deleted):
        mistakes.append(Mistake("id", f"there is no tenant {command.id}"))
        return "missing"
    if not missing and isinstance(command, PutTenant) and command.create_only:
        mistakes.append(Mistake("id", f"there is a tenant {command.id}", "Change it instead."))
        return "exists"
    return "refused"


def _put(
    state: State, record: Record | None, command: PutTenant, mistakes: list[Mistake]
) -> list[Fact]:
    wanted = _checked(state, record, command.id, command.settings, command.force, mistakes)
    enabled = wanted.pop("enabled", None)
    if record is None:
        _check_number(state, mistakes)
        created: list[Fact] = [TenantCreated(settings=wanted)]
        return created if enabled is not False else [*created, TenantDisabled()]
    return _difference(record, wanted, record.enabled if enabled is None else enabled)


def _change(
    state: State, record: Record, command: ChangeTenant, mistakes: list[Mistake]
) -> list[Fact]:
    patch = dict(command.patch)
    # Unlike in PutTenant, None is said outright here: back to the default, which is enabled.
    enabled = record.enabled
    if "enabled" in patch and patch["enabled"] is None:
        enabled, patch = True, {key: v for key, v in patch.items() if key != "enabled"}
    merged = merge(record.settings, patch)
    wanted = _checked(state, record, command.id, merged, command.force, mistakes)
    return _difference(record, wanted, wanted.pop("enabled", enabled))


def _checked(
    state: State,
    record: Record | None,
    id: str,
    settings: Settings,
    force: bool,
    mistakes: list[Mistake],
) -> Settings:
    """`settings` normalised, after they were held against everything else that there is."""
    tier = settings.get("tier")
    tier = tier if isinstance(tier, str) else None
    below = merge(state.defaults(), state.tier_settings(tier))
    found: list[Mistake] = []
    wanted = check_tenant(id, settings, below, found)
    mistakes += found
    if found:
        return wanted
    if (tier and not (known := state.named("tier", tier))) or (tier and known and known.deleted):
        mistakes.append(Mistake("tier", f"there is no tier {tier}", "Make it first."))
    _check_place(state, record, id, wanted, force, mistakes)
    return wanted


def _check_place(
    state: State,
    record: Record | None,
    id: str,
    wanted: Settings,
    force: bool,
    mistakes: list[Mistake],
) -> None:
    defaults = state.defaults()
    place = place_of(id, wanted, defaults)
    before = None if record is None else place_of(id, record.settings, defaults)
    if place is None or (place == before and record is not None and record.exists):
        return
    rival = state.rival(id, place)
    if rival is not None:
        # Who it is, is said: only operators give commands that choose places.
        text = f"the {place} is taken by tenant {rival}"
        mistakes.append(Mistake("isolation", text, "Choose another database, schema or value."))
    if before is not None and record is not None and record.provisioned and not force:
        text = f"its data is in the {before} and would stay there"
        hint = "Migration comes in a later version; force it if the data is in place already."
        mistakes.append(Mistake("isolation", text, hint))


def _difference(record: Record, wanted: Settings, enabled: bool) -> list[Fact]:
    changes = diff(record.settings, wanted)
    facts: list[Fact] = [TenantChanged(changes=changes)] if changes else []
    return facts + _switch(record, enabled)


def _switch(record: Record, enabled: bool) -> list[Fact]:
    if record.enabled == enabled:
        return []
    return [TenantEnabled() if enabled else TenantDisabled()]


def _change_users(
    record: Record, command: PutUser | RemoveUser, mistakes: list[Mistake]
) -> list[Fact]:
    """Decided on the users that there are now, so that two who add at once lose nobody."""
    before = record.settings.get("users", [])
    names = [user["name"] for user in before]
    users = list(before)
    if isinstance(command, RemoveUser):
        if command.name not in names and not mistakes:
            mistakes.append(Mistake("name", f"{command.id} has no user {command.name}"))
        users = [user for user in users if user["name"] != command.name]
    else:
        if not is_plain(command.name):
            mistakes.append(Mistake("name", CONTROLS))
        user = {"name": command.name, "scram": command.scram}
        if command.name in names:
            users[names.index(command.name)] = user
        else:
            users.append(user)
    # Without users the key goes, as when settings are put.
    return [] if users == before else [TenantChanged(changes={"users": users})]


def _restore(
    state: State, record: Record, command: RestoreTenant, mistakes: list[Mistake]
) -> list[Fact]:
    if not record.deleted:
        return []
    if record.purged:
        mistakes.append(Mistake("id", f"the data of {command.id} was erased"))
    _check_number(state, mistakes)
    return [TenantRestored()]


def _check_number(state: State, mistakes: list[Mistake]) -> None:
    most = state.installation_settings().get("max_tenants")
    if isinstance(most, int) and state.tenant_count() >= most:
        mistakes.append(Mistake("id", f"the installation's max_tenants ({most}) is reached"))


def _purge(
    state: State, record: Record, command: PurgeTenant, mistakes: list[Mistake], now: datetime
) -> list[Fact]:
    if record.purged:
        return []
    if not record.deleted:
        if not mistakes:
            mistakes.append(Mistake("id", f"{command.id} is not deleted", "Delete it first."))
        return []
    due = purge_due(state.installation_settings(), record.deleted_at)
    if now < due and not command.force:
        text = f"{command.id} can be restored until {due.isoformat(timespec='seconds')}"
        mistakes.append(Mistake("id", text, "Wait until then, or force it."))
    return [TenantPurged()]


def purge_due(installation: Settings, deleted_at: str) -> datetime:
    """When what was deleted at `deleted_at` may be purged. A time that is not known is long ago; a
    retention without limit never ends."""
    keep = read_leniently(Installation, installation).deletion_retention
    try:
        deleted = datetime.fromisoformat(deleted_at)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    try:
        return datetime.max.replace(tzinfo=UTC) if keep is None else deleted + timedelta(0, keep)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def _provisioned(record: Record, command: RecordProvisioned, mistakes: list[Mistake]) -> list[Fact]:
    if not is_sealed(command.secret):
        mistakes.append(Mistake("secret", "must be sealed before it becomes an event"))
    fact = TenantProvisioned(
        role=command.role,
        secret=command.secret,
        node=command.node,
        fingerprint=command.fingerprint,
    )
    return [] if record.provisioned == fact.model_dump() else [fact]
