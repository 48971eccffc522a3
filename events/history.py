"""The past of the configuration: the state as it was, and what changed between two times.

"At 10:00" means: with everything that the log's server had stored by then, by its clock. The times
that writers put into their commits are theirs and need not agree. An import keeps the first times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from events import codec, dumped
from events.facts import (
    KIND_INSTALLATION,
    KIND_OPERATOR,
    KIND_TENANT,
    KIND_TIER,
    KIND_TOKEN,
    Commit,
)
from events.log import ConfigLog
from events.model import Settings
from events.personal import Opener
from events.projection import Projection
from events.reader import Stored
from events.stream import SUBJECT_PREFIX

# What a tenant's resolved settings depend on besides its own facts.
_AROUND_A_TENANT: Final = (KIND_INSTALLATION, KIND_TIER)
KINDS: Final = (KIND_TENANT, KIND_INSTALLATION, KIND_TIER, KIND_OPERATOR, KIND_TOKEN)

_NANO: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that differs: dotted path, and the values, None where it is not set."""

    path: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class SubjectChange:
    """What happened to one subject between two sequences. `what` is created, deleted, restored,
    changed or unchanged (changed and changed back)."""

    kind: str
    id: str
    commits: int
    what: str
    changes: tuple[Change, ...]


# --- reading the past ----------------------------------------------------------------------------


async def sequence_at(log: ConfigLog, moment: datetime) -> int:
    """The last sequence stored at or before `moment` (aware); 0 when there is none.

    Found by halving: about 20 questions for a million messages. Raises LogUnavailable.
    """
    # Times are told to the microsecond; an event must be found at the time that was told of it.
    behind_it = nanoseconds(moment) + 1000
    before, behind = 0, await log.last_sequence() + 1
    while behind - before > 1:
        middle = (before + behind) // 2
        message = await log.get(middle)
        if message is None or message.stored_at >= behind_it:
            behind = middle
        else:
            before = middle
    return before


async def state_at(
    log: ConfigLog,
    sequence: int,
    *,
    start: Projection | None = None,
    opener: Opener | None = None,
) -> Projection:
    """Everything as it was when `sequence` was the last one. `start` is where to begin, if it is
    not later (a snapshot); it is moved on. Raises LogUnavailable, LogGap."""
    state = start
    if state is None or state.position > sequence:
        state = Projection(opener, remember_commands=False)
    if sequence > state.position:
        await log.scan(_into(state), first=state.position + 1, last=sequence)
    return state


async def tenant_at(
    log: ConfigLog, id: str, sequence: int, *, opener: Opener | None = None
) -> Projection:
    """As state_at, but only what concerns the tenant `id` is read, so that it takes milliseconds
    however long the log is: its facts, the installation and the tiers."""
    state = Projection(opener, remember_commands=False)
    apply = _into(state)

    def take(stored: Stored) -> None:
        dumped.pass_over(state, stored.sequence - 1)
        apply(stored)

    subjects = [f"{SUBJECT_PREFIX}{kind}.>" for kind in _AROUND_A_TENANT]
    if sequence > 0:
        subjects.append(f"{SUBJECT_PREFIX}{KIND_TENANT}.{id}")
        await log.scan(take, last=sequence, subjects=subjects)
    return state


def _into(state: Projection) -> Any:
    def take(stored: Stored) -> None:
        state.apply(stored.sequence, stored.kind, stored.id, codec.decode(stored.data))

    return take


# --- comparing -----------------------------------------------------------------------------------


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Every setting that differs, by path."""
    return list(_differences(before, after, ""))


def _differences(
    before: Mapping[str, Any], after: Mapping[str, Any], prefix: str
) -> Iterator[Change]:
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) or isinstance(new, dict):
            below = [value if isinstance(value, dict) else {} for value in (old, new)]
            yield from _differences(below[0], below[1], f"{prefix}{key}.")
        elif old != new:
            yield Change(f"{prefix}{key}", old, new)


async def changed_between(
    log: ConfigLog,
    first: int,
    last: int,
    *,
    start: Projection | None = None,
    opener: Opener | None = None,
) -> list[SubjectChange]:
    """What the commits behind `first` up to `last` came to, by subject in order of first change.

    Raises LogUnavailable, LogGap.
    """
    state = await state_at(log, first, start=start, opener=opener)
    before = dumped.copy(state)
    touched: dict[tuple[str, str], int] = {}
    apply = _into(state)

    def take(stored: Stored) -> None:
        subject = (stored.kind, stored.id)
        touched[subject] = touched.get(subject, 0) + 1
        apply(stored)

    if last > first:
        await log.scan(take, first=first + 1, last=last)
    return [
        _subject_change(kind, id, commits, before, state) for (kind, id), commits in touched.items()
    ]


def _subject_change(
    kind: str, id: str, commits: int, before: Projection, after: Projection
) -> SubjectChange:
    was, old = standing(before, kind, id)
    now, new = standing(after, kind, id)
    changes = tuple(compare(old, new))
    if was == now:
        what = "changed" if changes else "unchanged"
    elif now != "there":
        what = now
    else:
        what = "restored" if was == "deleted" else "created"
    return SubjectChange(kind, id, commits, what, changes)


def standing(state: Projection, kind: str, id: str) -> tuple[str, Settings]:
    """Whether the subject is "there", "deleted" or "absent", and its settings as they were set;
    whether a tenant is enabled is among them."""
    if kind == KIND_TENANT:
        record = state.record(id)
        if record is None or (not record.exists and not record.deleted):
            return "absent", {}
        if record.deleted:
            return "deleted", {}
        return "there", {**record.settings, "enabled": record.enabled}
    if kind == KIND_INSTALLATION:
        settings = state.installation_settings()
        return ("there" if settings else "absent"), settings
    named = state.named(kind, id) if kind in KINDS else None
    if named is None:
        return "absent", {}
    return ("deleted", {}) if named.deleted else ("there", named.settings)


# --- parts ---------------------------------------------------------------------------------------


def nanoseconds(moment: datetime) -> int:
    """Since 1970, exactly."""
    since = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86400 + since.seconds) * _NANO + since.microseconds * 1000


def moment_of(stored: Stored) -> datetime:
    """When it was stored, in UTC, to the microsecond."""
    return datetime.fromtimestamp(stored.stored_at // _NANO, UTC).replace(
        microsecond=stored.stored_at % _NANO // 1000
    )


def commit_of(stored: Stored) -> Commit:
    """What it says."""
    return codec.decode(stored.data)
