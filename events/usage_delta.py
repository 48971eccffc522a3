"""What was used, as a difference, and the message that carries it. Old messages stay readable.

Message (JSON, version 2): tenant, worker, boot, n (counts the boot's messages from 1), from and to
(seconds since 1970), and what is not 0 of COUNTERS, plus `limits` {kind: hits}, `latency`
{bucket: statements}, and `now` [clients, servers, idle servers] when the worker knows them.
Whole numbers only, so that sums are the same in any order.

Version 1 had `busy_seconds` as a fraction and none of what is new since.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import orjson

VERSION: Final = 2

# In the order in which every view keeps them. Entries are added at the end and never removed.
COUNTERS: Final = (
    "queries",
    "errors",
    "refused",
    "rows_out",
    "rows_written",
    "bytes_in",
    "bytes_out",
    "transactions",
    "busy_us",
    "connections",
    "connection_ms",
    "slow_queries",
    "latency_us",
)

# What `limits` counts. A kind that is not here is folded all the same.
LIMIT_KINDS: Final = (
    "qps",  # rate_limits.qps_limit
    "concurrency",  # max_concurrent_queries
    "connections",  # max_connections
    "pool",  # no server within acquire_timeout
    "pins",  # max_pinned_servers
    "statement_size",
    "result_rows",
    "result_bytes",
    "duration",  # max_query_duration
    "transaction",  # max_transaction_duration
    "idle_transaction",  # max_idle_in_transaction
)
# Distinct kinds that one delta keeps: a writer that invents names cannot make views grow.
LIMIT_KINDS_MAX: Final = 64


@dataclass(slots=True)
class Delta:
    """What was used since the last delta. Counts, bytes, seconds; the last three are not
    differences: how many there are now, None when nobody looked."""

    queries: int = 0
    errors: int = 0
    refused: int = 0
    rows_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    transactions: int = 0
    busy_seconds: float = 0.0
    connections: int = 0
    rows_written: int = 0
    connection_seconds: float = 0.0
    slow_queries: int = 0
    latency_seconds: float = 0.0
    limits: dict[str, int] = field(default_factory=dict)
    latency: dict[int, int] = field(default_factory=dict)
    clients: int | None = None
    servers: int | None = None
    servers_idle: int | None = None

    def merge(self, other: Delta) -> None:
        """Add what came after."""
        self.queries += other.queries
        self.errors += other.errors
        self.refused += other.refused
        self.rows_out += other.rows_out
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.transactions += other.transactions
        self.busy_seconds += other.busy_seconds
        self.connections += other.connections
        self.rows_written += other.rows_written
        self.connection_seconds += other.connection_seconds
        self.slow_queries += other.slow_queries
        self.latency_seconds += other.latency_seconds
        add_counts(self.limits, other.limits)
        add_counts(self.latency, other.latency)
        if other.clients is not None:
            self.clients = other.clients
        if other.servers is not None:
            self.servers = other.servers
        if other.servers_idle is not None:
            self.servers_idle = other.servers_idle

    def copy(self) -> Delta:
        made = Delta()
        made.merge(self)
        return made


@dataclass(slots=True)
class Usage:
    """One message, decoded. `counters` stand as in COUNTERS; `now` is clients, servers, idle."""

    tenant: str
    worker: str
    boot: str
    n: int
    since: float
    until: float
    counters: list[int]
    limits: dict[str, int]
    latency: dict[int, int]
    now: tuple[int, int, int] | None = None


def add_counts(into: dict[Any, int], more: dict[Any, int]) -> None:
    for name, count in more.items():
        into[name] = into.get(name, 0) + count


def encode(
    tenant: str, worker: str, boot: str, n: int, since: float, until: float, delta: Delta
) -> bytes:
    """The message for one delta."""
    message: dict[str, Any] = {
        "v": VERSION,
        "tenant": tenant,
        "worker": worker,
        "boot": boot,
        "n": n,
        "from": since,
        "to": until,
    }
    for name in COUNTERS:
        count = _count(delta, name)
        if count:
            message[name] = count
    if delta.limits:
        message["limits"] = delta.limits
    if delta.latency:
        message["latency"] = {str(bucket): count for bucket, count in delta.latency.items()}
    if delta.clients is not None:
        message["now"] = [delta.clients, delta.servers or 0, delta.servers_idle or 0]
    return orjson.dumps(message)


def _count(delta: Delta, name: str) -> int:
    if name == "busy_us":
        return round(delta.busy_seconds * 1e6)
    if name == "connection_ms":
        return round(delta.connection_seconds * 1e3)
    if name == "latency_us":
        return round(delta.latency_seconds * 1e6)
    count: int = getattr(delta, name)
    return count


def decode(data: bytes) -> Usage | None:
    """The message in `data`; None for what is none, or is of a later version. Raises nothing."""
    try:
        raw = orjson.loads(data)
        if raw["v"] == 1:
            raw["busy_us"] = round(raw.get("busy_seconds", 0.0) * 1e6)
        elif raw["v"] != VERSION:
            return None
        texts = (raw["tenant"], raw["worker"], raw["boot"])
        if not all(isinstance(text, str) for text in texts):
            return None
        now = raw.get("now")
        return Usage(
            *texts,
            n=int(raw["n"]),
            since=float(raw["from"]),
            until=float(raw["to"]),
            counters=[int(raw.get(name, 0)) for name in COUNTERS],
            limits=_limits(raw.get("limits", {})),
            latency={int(bucket): int(n) for bucket, n in raw.get("latency", {}).items()},
            now=(int(now[0]), int(now[1]), int(now[2])) if now else None,
        )
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError):
        return None


def _limits(raw: dict[str, Any]) -> dict[str, int]:
    return {str(kind): int(hits) for kind, hits in list(raw.items())[:LIMIT_KINDS_MAX]}
