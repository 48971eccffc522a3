"""What each tenant has used since this worker started, and in the last whole minute: for the
console, which counts as PgBouncer does. Long-term figures are in the usage stream."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from events.usage import Delta

# PgBouncer's stats_period.
PERIOD_SECONDS: Final = 60.0
# Tenants counted by name; the rest of a worker's tenants are counted together.
TENANTS_MAX: Final = 100_000
OTHERS: Final = "(others)"

FIGURES: Final = (
    *("xact_count", "query_count", "bytes_received", "bytes_sent", "query_time"),
    *("errors", "refused", "rows"),
)


class Counted:
    """Of one tenant, in the order of FIGURES; times are microseconds."""

    __slots__ = ("at", "before", "now", "total")

    def __init__(self, period: int) -> None:
        self.total = [0] * len(FIGURES)
        self.at = period
        self.now = [0] * len(FIGURES)
        self.before = [0] * len(FIGURES)

    def roll(self, period: int) -> None:
        if period != self.at:
            self.before = self.now if period == self.at + 1 else [0] * len(FIGURES)
            self.now = [0] * len(FIGURES)
            self.at = period


class Counters:
    """All tenants of a worker."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tenants: dict[str, Counted] = {}

    def add(self, tenant: str, delta: Delta) -> None:
        period = self._period()
        counted = self._tenants.get(tenant)
        if counted is None:
            if len(self._tenants) >= TENANTS_MAX:
                tenant = OTHERS
            counted = self._tenants.setdefault(tenant, Counted(period))
        counted.roll(period)
        values = (
            *(delta.transactions, delta.queries, delta.bytes_in, delta.bytes_out),
            *(int(delta.latency_seconds * 1e6), delta.errors, delta.refused, delta.rows_out),
        )
        for at, value in enumerate(values):
            counted.total[at] += value
            counted.now[at] += value

    def rows(self) -> list[dict[str, Any]]:
        """Of each tenant the totals, and the sums of the last whole period."""
        period = self._period()
        found = []
        for tenant, counted in self._tenants.items():
            counted.roll(period)
            found.append({"tenant": tenant, "total": counted.total, "recent": counted.before})
        return found

    def _period(self) -> int:
        return int(self._clock() / PERIOD_SECONDS)
