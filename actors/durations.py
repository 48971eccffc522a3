"""Limits in time of what runs on a server: a statement, a transaction, idling in one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wire import errors as e
from wire.postgres import protocol as p
from wire.postgres.noting import refused

if TYPE_CHECKING:
    from wire.postgres.server import ServerConnection

# A query that does not end this long after it was cancelled loses its connection.
CANCEL_GRACE_SECONDS: Final = 5.0
# PostgreSQL forgets a cancel that comes before its process has begun with the query, as it may on a
# busy machine; so it is told again, as long as the query goes on.
CANCEL_AGAIN_SECONDS: Final = 1.0


def check_duration(server: ServerConnection, now: float) -> None:
    """Enforce the time limits of the tenant on one lent server."""
    lease = server.lease
    client = server.client
    if lease is None or client is None:
        return
    in_block = server.status != p.IDLE or not server.synced
    if server.outstanding() > 0:
        if server.progress != server.progress_seen:
            # A pipeline is not one long query: the time counts from the last one that ended.
            server.progress_seen = server.progress
            server.query_since = now
        busy = now - server.query_since
        limit = lease.max_query_seconds
        if limit and busy > limit:
            if not server.override and not server.muted:
                error = e.TimedOut(
                    f"query took longer than {limit:g} seconds",
                    hint="The limit is rate_limits.max_query_duration.",
                    limit="duration",
                )
                refused(client, error, server.sql)
                server.cancelled_since = server.cancelled_at = now
                server.cancel(error)
                return
            # From when it was cancelled, which is late when there was no time to look.
            since = server.cancelled_since if server.override else server.query_since + limit
            if now - since > CANCEL_GRACE_SECONDS:
                client.end(e.TimedOut(f"query took longer than {limit:g} seconds"))
                return
            if server.override and now - server.cancelled_at > CANCEL_AGAIN_SECONDS:
                server.cancelled_at = now
                server.cancel()
    elif in_block:
        limit = lease.max_idle_in_transaction_seconds
        if limit and now - server.idle_since > limit:
            idle = e.IdleInTransaction(
                "terminating connection due to idle-in-transaction timeout",
                limit="idle_transaction",
            )
            refused(client, idle, b"")
            client.end(idle)
            return
    if in_block:
        limit = lease.max_transaction_seconds
        if limit and now - server.transaction_since > limit:
            late = e.TransactionTimedOut(
                "terminating connection due to transaction timeout", limit="transaction"
            )
            refused(client, late, server.sql)
            client.end(late)
