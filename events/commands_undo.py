"""Undo: the command that takes back what one stored commit changed. Pure.

Each value that the commit changed goes back to what it was before it. A value that was changed
again since belongs to whoever changed it, so it is left alone and told, unless `force` is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from events.commands_model import (
    ChangeTenant,
    Command,
    CommandRefused,
    DeleteOperator,
    DeleteTenant,
    DeleteTier,
    Mistake,
    PutInstallation,
    PutOperator,
    PutTier,
    RestoreTenant,
    Undo,
)
from events.dumped import pass_over
from events.facts import (
    KIND_INSTALLATION,
    KIND_TENANT,
    KIND_TIER,
    Commit,
    TenantCreated,
    TenantDeleted,
    TenantProvisioned,
    TenantPurged,
    TenantRestored,
    Undecodable,
)
from events.model import Settings
from events.projection import Projection
from events.settings import diff, merge

if TYPE_CHECKING:
    from events.personal import Opener

History = Sequence[tuple[int, Commit]]
"""All that is stored of one subject, in order: sequence and commit."""

# What cannot be taken back, and what to do instead.
_FINAL = {
    TenantCreated: "Delete the tenant instead.",
    TenantProvisioned: "Provisioning keeps it as the tenant's settings say.",
    TenantPurged: "What is erased is gone.",
    Undecodable: "Upgrade this process.",
}


def inverse(undo: Undo, history: History, now: Projection, opener: Opener | None) -> Command:
    """The command that takes back the commit at `undo.sequence`. Raises CommandRefused."""
    found = next((commit for sequence, commit in history if sequence == undo.sequence), None)
    if found is None:
        text = f"nothing was stored for {undo.of_kind} {undo.id} at sequence {undo.sequence}"
        raise CommandRefused([Mistake("sequence", text)], "missing")
    for fact in found.events:
        hint = _FINAL.get(type(fact))
        if hint is not None:
            mistake = Mistake("sequence", f"{fact.TYPE} cannot be undone", hint)
            raise CommandRefused([mistake])
    same = undo.model_dump(include=set(Command.model_fields))
    if any(isinstance(fact, TenantDeleted) for fact in found.events):
        return RestoreTenant(id=undo.id, **same)
    if any(isinstance(fact, TenantRestored) for fact in found.events):
        return DeleteTenant(id=undo.id, **same)
    before = _state_of(undo, [each for each in history if each[0] < undo.sequence], opener)
    after = _state_of(undo, [each for each in history if each[0] <= undo.sequence], opener)
    current = _settings(now, undo)
    if after is None or before is None or current is None:
        return _made_or_deleted(undo, before, current, same)
    back = _back(undo, before, after, current)
    if undo.of_kind == KIND_TENANT:
        return ChangeTenant(id=undo.id, patch=back, force=undo.force, **same)
    wanted = merge(current, back)
    if undo.of_kind == KIND_TIER:
        return PutTier(name=undo.id, settings=wanted, **same)
    if undo.of_kind == KIND_INSTALLATION:
        return PutInstallation(settings=wanted, force=undo.force, **same)
    return _operator(undo.id, wanted, same)


def _state_of(undo: Undo, history: History, opener: Opener | None) -> Settings | None:
    folded = Projection(opener, remember_commands=False)
    for sequence, commit in history:
        pass_over(folded, sequence - 1)
        folded.apply(sequence, undo.of_kind, undo.id, commit)
    return _settings(folded, undo)


def _settings(state: Projection, undo: Undo) -> Settings | None:
    """What is set, as one table; None for what does not exist."""
    if undo.of_kind == KIND_INSTALLATION:
        return state.installation_settings() or None
    if undo.of_kind == KIND_TENANT:
        record = state.record(undo.id)
        if record is None or not record.exists or record.deleted:
            return None
        return {**record.settings, "enabled": record.enabled}
    named = state.named(undo.of_kind, undo.id)
    return None if named is None or named.deleted else named.settings


def _made_or_deleted(
    undo: Undo, before: Settings | None, current: Settings | None, same: dict[str, Any]
) -> Command:
    """The commit made something, or deleted it, or it is not there any more."""
    if undo.of_kind in (KIND_TENANT, KIND_INSTALLATION):
        text = f"{undo.of_kind} {undo.id} was not there before, or is not there now"
        raise CommandRefused([Mistake("sequence", text)])
    tier = undo.of_kind == KIND_TIER
    if before is None:
        return DeleteTier(name=undo.id, **same) if tier else DeleteOperator(name=undo.id, **same)
    if current is not None and not undo.force:
        raise CommandRefused([Mistake("sequence", f"{undo.of_kind} {undo.id} was made anew since")])
    if tier:
        return PutTier(name=undo.id, settings=before, **same)
    return _operator(undo.id, before, same)


def _operator(name: str, settings: Settings, same: dict[str, Any]) -> Command:
    """What was not set then is to be set no more."""
    return PutOperator.model_validate(
        {"name": name, "scram": "", "tenants": [], **settings, **same}
    )


def _back(undo: Undo, before: Settings, after: Settings, current: Settings) -> Settings:
    """The patch that brings what changed from `before` to `after` back, on top of `current`."""
    back = _single(diff(after, before), after)
    if undo.force:
        return back
    mistakes = [
        Mistake(
            ".".join(path),
            "was changed again since",
            "Undo that first, or force it.",
        )
        for path in _leaves(back)
        if _at(current, path) not in (_at(after, path), _at(before, path))
    ]
    if mistakes:
        raise CommandRefused(mistakes, "changed")
    return back


def _single(patch: Settings, settings: Settings) -> Settings:
    """`patch` without taking whole tables away: what others have added to one stays."""
    result: Settings = {}
    for key, value in patch.items():
        known = settings.get(key)
        if value is None and isinstance(known, dict) and known:
            value = dict.fromkeys(known)
        result[key] = _single(value, known or {}) if isinstance(value, dict) else value
    return result


def _leaves(patch: Settings, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in patch.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key)


def _at(settings: Settings, path: tuple[str, ...]) -> Any:
    value: Any = settings
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
