"""The lease: a tenant's policy in the form in which connections ask for it at every statement."""

from __future__ import annotations

import math

from actors.limits import TokenBucket
from events.model import Tenant
from wire.errors import RateExceeded, TenantryError
from wire.ports import Lease, Meter, Pool
from wire.postgres.prepared import Statements
from wire.sql.guard import Guard


class TenantLease(Lease):
    """One version of one tenant's policy; the bucket and the meter outlive it."""

    def __init__(
        self,
        tenant: Tenant,
        guard: Guard,
        pool: Pool,
        meter: Meter,
        statements: Statements,
        bucket: TokenBucket,
        *,
        session_mode: bool,
        workers: int,
    ) -> None:
        super().__init__(tenant.id, guard, pool, meter, statements)
        limits = tenant.rate_limits
        self.bucket = bucket
        self.session_mode = session_mode
        self.max_statement_bytes = limits.max_statement_size or 0
        self.max_result_bytes = limits.max_result_size or 0
        self.max_result_rows = limits.max_rows_per_query or 0
        self.max_query_seconds = limits.max_query_duration or 0.0
        self.max_transaction_seconds = limits.max_transaction_duration or 0.0
        self.max_idle_in_transaction_seconds = limits.max_idle_in_transaction or 0.0
        self.max_running = share(limits.max_concurrent_queries, workers)
        self.max_pinned = share(limits.max_pinned_servers, workers)

    def admit(self, more: bool = False) -> TenantryError | None:
        # Who waits for a server has been admitted, and will run as soon as there is one.
        if (
            not more
            and self.max_running
            and self.meter.running + self.pool.waiting() >= self.max_running
        ):
            return RateExceeded(
                f"more than {self.max_running} queries at a time",
                hint="Wait for one to end (rate_limits.max_concurrent_queries).",
                limit="concurrency",
            )
        if self.bucket.take():
            return None
        wait = math.ceil(self.bucket.wait() * 1000)
        return RateExceeded(
            "query rate limit exceeded",
            hint=f"Retry after {wait} ms; the limit is {self.bucket.rate:g} queries per second "
            "(rate_limits.qps_limit).",
            limit="qps",
        )

    def also(self, queries: int) -> None:
        self.bucket.owe(float(queries))

    def pin(self) -> TenantryError | None:
        if self.max_pinned and self.meter.pinned >= self.max_pinned:
            return RateExceeded(
                f"more than {self.max_pinned} clients keep a server for their session state",
                hint="Drop temporary tables, UNLISTEN or unlock in another session "
                "(rate_limits.max_pinned_servers).",
                limit="pins",
            )
        self.meter.pinned += 1
        return None

    def unpin(self) -> None:
        self.meter.pinned -= 1


def share(limit: int | None, workers: int) -> int:
    """One worker's part of a count: at least 1; 0 stays for unlimited."""
    return 0 if limit is None else max(1, limit // workers)
