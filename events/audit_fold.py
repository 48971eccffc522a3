"""Equal audit notes become one event with a count, so that nobody can flood the audit.

The first of a kind is told at the next flush; those that follow are counted and told once when
FOLD_SECONDS are over, then after twice as long, and so on up to FOLD_SECONDS_MAX while they keep
coming. Notes are equal when kind, tenant, actor, outcome, reason, SQLSTATE and fingerprint are (and
for logins the address). A tenant that varies them has a budget of different ones; over it, all
further ones are counted together for each kind. So a tenant that does its worst, day and night,
brings about BUDGET_PER_SECOND events, which is 4 MB a day.
"""

from __future__ import annotations

from typing import Final

from events.audit import AuditEvent, iso
from events.audit_sink import COMMAND, FAILED, FOLDED_KINDS, LOGIN, LOGIN_FAILED, LOST, REFUSED

# Short enough to see that something goes on, and a day of it is 144 events.
FOLD_SECONDS: Final = 10.0
FOLD_SECONDS_MAX: Final = 640.0
# Different notes of one tenant: a thousand at once (all its users log in in the morning), then one
# more every ten seconds.
BUDGET_MAX: Final = 1000.0
BUDGET_PER_SECOND: Final = 0.1
# For all tenants together, about a kilobyte each.
KEYS_MAX: Final = 20_000
# Events that are told one by one, between two flushes: people and their tools make fewer.
SINGLE_MAX: Final = 10_000
# Texts are shortened to this: names and reasons are short, what is long is somebody's attempt.
TEXT_MAX: Final = 200

SEVERAL: Final = "further events of this kind, not told apart"

_Key = tuple[str, str, str, str, str, str, str, str]


class _Open:
    """Equal notes: the event for those that are not told yet, and for how long they are folded."""

    __slots__ = ("event", "first", "last", "told_at", "window")

    def __init__(self, event: AuditEvent, now: float) -> None:
        self.event = event
        self.first = self.last = now
        self.told_at = 0.0
        self.window = FOLD_SECONDS


class Fold:
    """Notes in, events out. Bounded; `lost` counts what found no room since the last `due`."""

    def __init__(self) -> None:
        self.lost = 0
        self._open: dict[_Key, _Open] = {}
        # What is left of the budget of tenants that have not all of it, and when that was so.
        self._budgets: dict[str, tuple[float, float]] = {}
        self._single: list[AuditEvent] = []

    def add(self, event: AuditEvent, now: float) -> None:
        """Note `event`, which happened `now` (seconds since 1970)."""
        _shorten(event)
        if not _is_folded(event):
            if len(self._single) >= SINGLE_MAX:
                self.lost += 1
                return
            event.time = event.until = iso(now)
            self._single.append(event)
            return
        key = _key(event)
        found = self._open.get(key)
        if found is None and not self._afford(event.tenant, now):
            key = (event.kind, event.tenant, "", "", SEVERAL, "", "", "")
            event = AuditEvent(event.kind, event.tenant, reason=SEVERAL)
            found = self._open.get(key)
        if found is not None:
            _count(found, event, now)
        elif len(self._open) < 2 * KEYS_MAX:
            self._open[key] = _Open(event, now)
        else:
            self.lost += 1

    def due(self, now: float, *, everything: bool = False) -> list[AuditEvent]:
        """What is to be told now; `everything` at the end."""
        events, self._single = self._single, []
        for key, found in list(self._open.items()):
            if found.told_at and not everything and now - found.told_at < found.window:
                continue
            if not found.event.count:
                del self._open[key]
                continue
            if found.told_at:
                found.window = min(2 * found.window, FOLD_SECONDS_MAX)
            found.told_at = now
            events.append(_told(found))
        if self.lost:
            events.append(AuditEvent(LOST, count=self.lost, time=iso(now)))
            self.lost = 0
        return events

    def size(self) -> int:
        """What waits or is compared with."""
        return len(self._open) + len(self._single)

    def _afford(self, tenant: str, now: float) -> bool:
        """Take one different note out of the tenant's budget."""
        if len(self._open) >= KEYS_MAX:
            return False
        left, at = self._budgets.pop(tenant, (BUDGET_MAX, now))
        left = min(left + (now - at) * BUDGET_PER_SECOND, BUDGET_MAX)
        affordable = left >= 1.0
        # Put back at the end: those in front have been left alone the longest.
        self._budgets[tenant] = (left - 1.0 if affordable else left, now)
        while len(self._budgets) > KEYS_MAX:
            del self._budgets[next(iter(self._budgets))]
        return affordable


def _is_folded(event: AuditEvent) -> bool:
    """Commands that change something are told one by one. Those that do not cost nothing to send:
    told each, they would push everything else out of the stream."""
    return event.kind in FOLDED_KINDS or (
        event.kind == COMMAND and event.outcome in (REFUSED, FAILED)
    )


def _key(event: AuditEvent) -> _Key:
    return (
        event.kind,
        event.tenant,
        event.actor,
        event.outcome,
        event.reason,
        event.sqlstate,
        event.fingerprint,
        event.address if event.kind in (LOGIN, LOGIN_FAILED) else "",
    )


def _count(found: _Open, event: AuditEvent, now: float) -> None:
    kept = found.event
    if kept.count == 0:
        found.event = event
        found.first = now
    else:
        kept.count += 1
        if kept.address != event.address:
            kept.address = "several"
    found.last = now


def _told(found: _Open) -> AuditEvent:
    """The event to store; what comes from now on is counted anew."""
    event = found.event
    event.time, event.until = iso(found.first), iso(found.last)
    found.event = AuditEvent(event.kind, count=0)
    return event


def _shorten(event: AuditEvent) -> None:
    for name in ("actor", "address", "reason", "detail", "trace_id", "span_id", "statement_kind"):
        text = getattr(event, name)
        if len(text) > TEXT_MAX:
            setattr(event, name, text[:TEXT_MAX] + "…")
