"""What all tenants used, folded from usage messages: totals, history, what goes on now.

The same messages in any order, each any number of times, give the same totals and the same history
(as long as no tenant leaves the detailed ones, and no more than RANGES_MAX holes are open). A
message counts for the slot of time in which its interval ended.

What is kept for how many:
- every tenant: totals, months, six minutes, three hours, and what its workers said last; 2 kB
  each, up to ACCOUNTS_MAX tenants, the rest of them folded together into `other`;
- the busiest DETAILS_MAX tenants and the sum of all: minutes, hours and days of HISTORY; 250 kB
  each when full.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from events.usage_delta import COUNTERS, LIMIT_KINDS_MAX, Usage, add_counts

# What is kept of each message, by position.
MEASURES: Final = (*COUNTERS, "limit_hits")
WIDTH: Final = len(MEASURES)
AT: Final = {name: at for at, name in enumerate(MEASURES)}
_QUERIES: Final = AT["queries"]
_LIMIT_HITS: Final = AT["limit_hits"]
_BYTES: Final = (AT["bytes_in"], AT["bytes_out"])

# Seconds of a slot, and how many are kept: three hours, two weeks, thirteen months.
HISTORY: Final = {"minute": (60, 180), "hour": (3600, 336), "day": (86400, 400)}
# What every tenant has of it: enough for rates over five minutes and for hourly metering.
BRIEF: Final = {"minute": (60, 6), "hour": (3600, 3)}
MONTHS_MAX: Final = 14

ACCOUNTS_MAX: Final = 100_000
DETAILS_MAX: Final = 200
# The detailed ones are chosen anew this often, in seconds of the messages' time; who comes in must
# have twice the queries of who goes, or two equal ones would take turns.
CHOOSE_SECONDS: Final = 60.0
CHOOSE_FACTOR: Final = 2.0

# A worker that said nothing of a tenant for so long does nothing for it now / has no clients of it.
# Workers report every 10 seconds what was used, and every 30 who is connected.
CURRENT_SECONDS: Final = 30.0
PRESENCE_SECONDS: Final = 90.0
# A worker's clock may be ahead of the server's by this; more, and the server's counts.
SKEW_SECONDS: Final = 300.0

# Starts of workers whose messages are known; the oldest are forgotten.
BOOTS_MAX: Final = 10_000
# Holes in one worker's numbers: messages that are late or lost.
RANGES_MAX: Final = 10_000


class Ranges:
    """A set of whole numbers that mostly follow each other."""

    __slots__ = ("ends", "ranges_max", "starts")

    def __init__(self, ranges_max: int = RANGES_MAX) -> None:
        self.ranges_max = ranges_max
        self.starts: list[int] = []
        self.ends: list[int] = []

    def add(self, n: int) -> bool:
        """False when it was there."""
        starts, ends = self.starts, self.ends
        at = bisect_right(starts, n)
        if at and n <= ends[at - 1]:
            return False
        joins_left = at > 0 and ends[at - 1] == n - 1
        joins_right = at < len(starts) and starts[at] == n + 1
        if joins_left and joins_right:
            ends[at - 1] = ends[at]
            del starts[at], ends[at]
        elif joins_left:
            ends[at - 1] = n
        elif joins_right:
            starts[at] = n
        else:
            starts.insert(at, n)
            ends.insert(at, n)
            if len(starts) > self.ranges_max:
                # The oldest hole is given up: what was in it, should it come, counts as a repeat.
                ends[0] = ends[1]
                del starts[1], ends[1]
        return True

    def missing(self) -> int:
        """How many between 1 and the greatest are not there."""
        there = sum(end - start + 1 for start, end in zip(self.starts, self.ends, strict=True))
        return (self.ends[-1] if self.ends else 0) - there


class Series:
    """Sums per slot of time; slots older than the newest of all by `keep` are gone."""

    __slots__ = ("keep", "slots", "step")

    def __init__(self, step: int, keep: int) -> None:
        self.step = step
        self.keep = keep
        self.slots: dict[int, array[int]] = {}

    def add(self, time: float, parts: Iterable[tuple[int, int]], newest: float) -> None:
        slot = int(time // self.step)
        oldest = int(newest // self.step) - self.keep + 1
        if slot < oldest:
            return
        sums = self.slots.get(slot)
        if sums is None:
            sums = self.slots[slot] = array("q", bytes(8 * WIDTH))
            if len(self.slots) > self.keep:
                for old in [each for each in self.slots if each < oldest]:
                    del self.slots[old]
        for at, value in parts:
            sums[at] += value

    def rows(self, newest: float) -> list[tuple[int, array[int]]]:
        """(start of the slot in seconds since 1970, sums), oldest first; empty slots left out."""
        oldest = int(newest // self.step) - self.keep + 1
        return [
            (slot * self.step, self.slots[slot]) for slot in sorted(self.slots) if slot >= oldest
        ]

    def recent(self, seconds: float, now: float) -> list[float]:
        """Sums over the last `seconds`; of the slot that this cuts, its part."""
        start = now - seconds
        sums = [0.0] * WIDTH
        for slot, values in self.slots.items():
            begin = slot * self.step
            if begin > now or begin + self.step <= start:
                continue
            share = min(1.0, (begin + self.step - start) / self.step)
            for at, value in enumerate(values):
                sums[at] += value * share
        return sums


class Presence:
    """What one worker said last of one tenant: of its traffic, and of who is connected."""

    __slots__ = ("clients", "idle", "n", "now_n", "now_until", "qps", "servers", "until")

    def __init__(self) -> None:
        self.n = self.now_n = 0
        self.until = self.now_until = 0.0
        self.qps = 0.0
        self.clients = self.servers = self.idle = 0


class Detail:
    """The history of a tenant that is kept in detail, since when, and how busy it is."""

    __slots__ = ("latency", "score", "series", "since")

    def __init__(self, since: float) -> None:
        self.series = {name: Series(*shape) for name, shape in HISTORY.items()}
        # Minute → latency buckets, of the last minutes.
        self.latency: dict[int, dict[int, int]] = {}
        self.score = 0.0
        self.since = since


class Account:
    """One tenant's usage, or that of several."""

    __slots__ = (
        *("brief", "detail", "first_seen", "last_seen", "latency", "limits", "months"),
        *("presences", "totals"),
    )

    def __init__(self) -> None:
        self.totals = array("q", bytes(8 * WIDTH))
        self.limits: dict[str, int] = {}
        self.latency: dict[int, int] = {}
        # 202611 → bytes both ways.
        self.months: dict[int, int] = {}
        self.brief = {name: Series(*shape) for name, shape in BRIEF.items()}
        self.presences: dict[str, Presence] = {}
        self.first_seen = float("inf")
        self.last_seen = 0.0
        self.detail: Detail | None = None

    def total(self, measure: str) -> int:
        return self.totals[AT[measure]]

    def series(self, name: str) -> Series:
        """History by `minute`, `hour` or `day`: in detail where there is one; else what there is
        in brief (no days)."""
        if self.detail is not None:
            return self.detail.series[name]
        return self.brief.get(name) or Series(*HISTORY[name])

    def rates(self, seconds: float, now: float) -> dict[str, float]:
        """Each measure per second over the last `seconds`, five minutes at most."""
        sums = self.brief["minute"].recent(seconds, now)
        return {name: sums[at] / seconds for at, name in enumerate(MEASURES)}

    def qps(self, now: float) -> float:
        """Queries per second over each worker's last interval."""
        return sum(p.qps for p in self.presences.values() if p.until > now - CURRENT_SECONDS)

    def connected(self, now: float) -> tuple[int, int, int]:
        """Clients, servers, idle servers, now."""
        live = [p for p in self.presences.values() if p.now_until > now - PRESENCE_SECONDS]
        return sum(p.clients for p in live), sum(p.servers for p in live), sum(p.idle for p in live)

    def recent_latency(self, now: float) -> dict[int, int]:
        """Buckets of the last five minutes where that is kept, else of all time."""
        if self.detail is None:
            return self.latency
        found: dict[int, int] = {}
        for minute, buckets in self.detail.latency.items():
            if minute > now // 60 - BRIEF["minute"][1]:
                add_counts(found, buckets)
        return found


class View:
    """All accounts. `apply` each usage message; everything else only reads."""

    def __init__(
        self,
        *,
        details_max: int = DETAILS_MAX,
        accounts_max: int = ACCOUNTS_MAX,
        ranges_max: int = RANGES_MAX,
    ) -> None:
        self.accounts: dict[str, Account] = {}
        self.all = Account()
        self.all.detail = Detail(0.0)
        self.other = Account()
        self.newest = 0.0
        self.messages = self.repeats = self.unread = 0
        # The stream's sequence up to which all is folded.
        self.position = 0
        self._details_max = details_max
        self._accounts_max = accounts_max
        self._ranges_max = ranges_max
        self._seen: OrderedDict[str, Ranges] = OrderedDict()
        # Tenants in detail, and queries of all active ones since these were chosen.
        self._detailed: set[str] = set()
        self._active: dict[str, int] = {}
        self._chosen_at = 0.0

    def account(self, tenant: str) -> Account:
        """The tenant's account; an empty one for a tenant that has used nothing."""
        return self.accounts.get(tenant) or Account()

    def missing(self) -> int:
        """Messages that are late or lost: numbers left out by those who counted."""
        return sum(ranges.missing() for ranges in self._seen.values())

    def apply(self, usage: Usage | None, stored_at: float | None = None) -> bool:
        """Fold one message, once; False for a repeat and for what could not be read."""
        if usage is None:
            self.unread += 1
            return False
        if not self._is_new(usage):
            self.repeats += 1
            return False
        self.messages += 1
        time = usage.until
        if stored_at is not None and time > stored_at + SKEW_SECONDS:
            time = stored_at
        self.newest = max(self.newest, time)
        parts = [(at, value) for at, value in enumerate(usage.counters) if value]
        if usage.limits:
            parts.append((_LIMIT_HITS, sum(usage.limits.values())))
        self._add(self.all, usage, time, parts)
        account = self._open(usage.tenant)
        self._add(account, usage, time, parts)
        if account is not self.other:
            queries = usage.counters[_QUERIES]
            self._active[usage.tenant] = self._active.get(usage.tenant, 0) + queries
        if time - self._chosen_at >= CHOOSE_SECONDS:
            self._choose(time)
        return True

    def _is_new(self, usage: Usage) -> bool:
        seen = self._seen.get(usage.boot)
        if seen is None:
            seen = self._seen[usage.boot] = Ranges(self._ranges_max)
            if len(self._seen) > BOOTS_MAX:
                self._seen.popitem(last=False)
        else:
            self._seen.move_to_end(usage.boot)
        return seen.add(usage.n)

    def _open(self, tenant: str) -> Account:
        account = self.accounts.get(tenant)
        if account is None:
            if len(self.accounts) >= self._accounts_max:
                return self.other
            account = self.accounts[tenant] = Account()
            if len(self._detailed) < self._details_max:
                self._detailed.add(tenant)
                account.detail = Detail(0.0)
        return account

    def _add(
        self, account: Account, usage: Usage, time: float, parts: list[tuple[int, int]]
    ) -> None:
        totals = account.totals
        for at, value in parts:
            totals[at] += value
        for series in account.brief.values():
            series.add(time, parts, self.newest)
        if usage.latency:
            add_counts(account.latency, usage.latency)
        for kind, hits in usage.limits.items():
            if kind in account.limits or len(account.limits) < LIMIT_KINDS_MAX:
                account.limits[kind] = account.limits.get(kind, 0) + hits
        self._add_month(account, usage, time)
        account.first_seen = min(account.first_seen, time)
        account.last_seen = max(account.last_seen, time)
        if account is not self.all and account is not self.other:
            _hear(account, usage, time, self.newest)
        detail = account.detail
        if detail is None:
            return
        for series in detail.series.values():
            series.add(time, parts, self.newest)
        if usage.latency:
            minute, oldest = int(time // 60), int(self.newest // 60) - BRIEF["minute"][1]
            if minute > oldest:
                add_counts(detail.latency.setdefault(minute, {}), usage.latency)
                for old in [each for each in detail.latency if each <= oldest]:
                    del detail.latency[old]

    def _add_month(self, account: Account, usage: Usage, time: float) -> None:
        used = sum(usage.counters[at] for at in _BYTES)
        if used:
            month = month_of(time)
            account.months[month] = account.months.get(month, 0) + used
            if len(account.months) > MONTHS_MAX:
                del account.months[min(account.months)]

    def _choose(self, time: float) -> None:
        """Let the busiest tenants of the last while have a detailed history."""
        active, self._active, self._chosen_at = self._active, {}, time
        for tenant in self._detailed:
            detail = self.accounts[tenant].detail
            assert detail is not None
            detail.score = detail.score / 2 + active.pop(tenant, 0)
        if len(active) == 0 or len(self._detailed) < self._details_max:
            return
        leaving = [(_score(self.accounts[tenant]), tenant) for tenant in self._detailed]
        heapq.heapify(leaving)
        for tenant in heapq.nlargest(self._details_max, active, key=active.__getitem__):
            account = self.accounts[tenant]
            if active[tenant] <= CHOOSE_FACTOR * leaving[0][0]:
                continue
            _, gone = heapq.heapreplace(leaving, (float(active[tenant]), tenant))
            self.accounts[gone].detail = None
            self._detailed.discard(gone)
            self._detailed.add(tenant)
            account.detail = Detail(time)
            account.detail.score = float(active[tenant])


def _score(account: Account) -> float:
    return account.detail.score if account.detail is not None else 0.0


def _hear(account: Account, usage: Usage, time: float, newest: float) -> None:
    """Remember what the worker says of now, unless it has said something later."""
    presence = account.presences.get(usage.boot)
    if presence is None:
        if time <= newest - PRESENCE_SECONDS:
            return
        for boot, old in list(account.presences.items()):
            if max(old.until, old.now_until) <= newest - PRESENCE_SECONDS:
                del account.presences[boot]
        presence = account.presences[usage.boot] = Presence()
    if usage.n > presence.n:
        presence.n, presence.until = usage.n, time
        presence.qps = usage.counters[_QUERIES] / max(usage.until - usage.since, 1.0)
    if usage.now is not None and usage.n > presence.now_n:
        presence.now_n, presence.now_until = usage.n, time
        presence.clients, presence.servers, presence.idle = usage.now


def month_of(time: float) -> int:
    """202611 for November 2026 (UTC)."""
    moment = datetime.fromtimestamp(time, UTC)
    return moment.year * 100 + moment.month
