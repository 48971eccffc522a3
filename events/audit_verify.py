"""Checks the audit's chains as they are read: what is missing, changed, doubled or out of place.

Events may come late or twice (a batch was sent again): each chain is kept as the runs of numbers
seen so far, and hashes of the latest ones, so that millions of events need little memory.
"""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import orjson

from events.audit import (
    NO_TENANT,
    NOTHING_BEFORE,
    SUBJECT_PREFIX,
    AuditEvent,
    Head,
    decode,
    digest,
    iso,
    seal,
)
from events.audit_sink import CHAIN_CLOSE, CHAIN_OPEN, LOST

# A batch that is sent again repeats no more than one segment of the spool: 4 MiB of events.
RECENT_MAX: Final = 20_000
# A chain's last event is sealed when it is written; this long it may be under way.
UNSEALED_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Break:
    """What is wrong, and where. `sequence` is the stream's, 0 for what is not there."""

    chain: str
    n: int
    sequence: int
    what: str


@dataclass(slots=True)
class Run:
    """Events first…last of a chain, all linked."""

    first: int
    before: str
    last: int
    hash: str


@dataclass(slots=True)
class ChainReport:
    """One chain. `events` without repeats, `stands_for` what they were folded from, `sealed` the
    last number that is proven by the installation's key, 0 when none is or nobody checked."""

    id: str
    worker: str
    events: int = 0
    stands_for: int = 0
    lost: int = 0
    repeats: int = 0
    first_time: str = ""
    last_time: str = ""
    closed: bool = False
    sealed: int = 0
    runs: list[Run] = field(default_factory=list)

    @property
    def first(self) -> int:
        return self.runs[0].first if self.runs else 0

    @property
    def last(self) -> int:
        return self.runs[-1].last if self.runs else 0


class Verifier:
    """Takes every event of the stream, then `finish` tells. Without `key` macs are not checked."""

    def __init__(self, key: bytes | None, *, expired: bool) -> None:
        """`expired`: the stream no longer begins at its first message."""
        self.chains: dict[str, ChainReport] = {}
        self.breaks: list[Break] = []
        self._key = key
        self._expired = expired
        self._recent: dict[str, OrderedDict[int, str]] = {}
        self._heads: list[Head] = []

    def take(self, sequence: int, subject: str, data: bytes) -> AuditEvent | None:
        """Check one stored event; None when it is none. `sequence` 0 is one on disk, still to be
        stored."""
        event = decode(data)
        if event is None or not event.chain or event.n < 1:
            self.breaks.append(Break("", 0, sequence, "is not an audit event"))
            return None
        report = self.chains.get(event.chain)
        if report is None:
            report = self.chains[event.chain] = ChainReport(event.chain, event.worker)
            self._recent[event.chain] = OrderedDict()
        if digest(orjson.loads(data)) != event.hash:
            self._wrong(event, sequence, "was changed: its hash is another")
        if subject != SUBJECT_PREFIX + (event.tenant or NO_TENANT):
            self._wrong(event, sequence, f"is stored under {subject}")
        if self._repeats(report, event, sequence):
            return event
        self._count(report, event)
        self._place(report, event, sequence)
        if event.mac and self._key is not None:
            if not hmac.compare_digest(event.mac, seal(self._key, event.hash)):
                self._wrong(event, sequence, "has a seal that was not made with this key")
            else:
                report.sealed = max(report.sealed, event.n)
        if event.kind == CHAIN_OPEN:
            self._heads += _named(event)
        return event

    def finish(self, heads: Sequence[Head] = (), *, now: float | None = None) -> list[Break]:
        """All breaks, also those that only the end shows. `heads` is what the data directory
        remembers."""
        for report in self.chains.values():
            if report.first > 1 and not self._expired:
                self.breaks.append(Break(report.id, 1, 0, f"begins with event {report.first}"))
            for run, after in zip(report.runs, report.runs[1:], strict=False):
                gap = f"events {run.last + 1} to {after.first - 1} are missing"
                self.breaks.append(Break(report.id, run.last + 1, 0, gap))
            self._check_end(report, time.time() if now is None else now)
        for head in (*self._heads, *heads):
            self._check_head(head)
        self.breaks = sorted(set(self.breaks), key=lambda each: (each.chain, each.n))
        return self.breaks

    # --- one event -------------------------------------------------------------------------------

    def _repeats(self, report: ChainReport, event: AuditEvent, sequence: int) -> bool:
        """Whether this number was there before; then it must be the same event."""
        if not any(run.first <= event.n <= run.last for run in report.runs):
            return False
        report.repeats += 1
        known = self._recent[event.chain].get(event.n)
        if known is None:
            self._wrong(event, sequence, "comes again, too late to be compared")
        elif known != event.hash:
            self._wrong(event, sequence, "is there twice, with different contents")
        return True

    def _count(self, report: ChainReport, event: AuditEvent) -> None:
        report.events += 1
        if event.kind == LOST:
            report.lost += event.count
        else:
            report.stands_for += event.count
        report.first_time = min(report.first_time or event.time, event.time)
        report.last_time = max(report.last_time, event.until)
        report.closed = report.closed or event.kind == CHAIN_CLOSE
        recent = self._recent[event.chain]
        recent[event.n] = event.hash
        if len(recent) > RECENT_MAX:
            recent.popitem(last=False)

    def _place(self, report: ChainReport, event: AuditEvent, sequence: int) -> None:
        """Put the event into its run, and join runs that now touch."""
        runs = report.runs
        at = next((at for at, run in enumerate(runs) if run.first > event.n), len(runs))
        runs.insert(at, Run(event.n, event.prev, event.n, event.hash))
        if event.n == 1 and event.prev != NOTHING_BEFORE:
            self._wrong(event, sequence, "is the first one, but follows another")
        for left in (at, at - 1):
            if not 0 <= left < len(runs) - 1 or runs[left].last + 1 != runs[left + 1].first:
                continue
            after = runs.pop(left + 1)
            if runs[left].hash != after.before:
                self.breaks.append(
                    Break(report.id, after.first, sequence, "does not follow the one before it")
                )
            runs[left].last, runs[left].hash = after.last, after.hash

    def _wrong(self, event: AuditEvent, sequence: int, what: str) -> None:
        self.breaks.append(Break(event.chain, event.n, sequence, what))

    # --- the end ---------------------------------------------------------------------------------

    def _check_end(self, report: ChainReport, now: float) -> None:
        if self._key is None or report.sealed >= report.last:
            return
        # The time is what the event says of itself: one of the future is no excuse either.
        if not iso(now - UNSEALED_SECONDS) <= report.last_time <= iso(now + UNSEALED_SECONDS):
            self.breaks.append(
                Break(report.id, report.last + 1, 0, "is cut off: the seal of its end is missing")
            )

    def _check_head(self, head: Head) -> None:
        report = self.chains.get(head.chain)
        if report is None:
            if not self._expired and head.n > 0:
                self.breaks.append(Break(head.chain, 1, 0, f"had {head.n} events, and is gone"))
        elif report.last < head.n:
            cut = f"is cut off: it had {head.n} events"
            self.breaks.append(Break(head.chain, report.last + 1, 0, cut))
        elif self._recent[head.chain].get(head.n, head.hash) != head.hash:
            self.breaks.append(Break(head.chain, head.n, 0, "was another event when written"))


def _named(event: AuditEvent) -> list[Head]:
    """The heads that a chain's first event names."""
    try:
        return [
            Head(str(chain), int(n), str(hash)) for chain, n, hash in orjson.loads(event.detail)
        ]
    except (ValueError, TypeError):
        return []
