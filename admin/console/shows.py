"""What each SHOW of the console shows, as rows with the names of its columns."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from admin.cli.event_text import describe_facts, masked
from admin.console.calls import Call, Row
from admin.console.node import summed
from admin.console.stats import PERIOD_SECONDS
from events import audit, tail
from events.history import commit_of, moment_of
from events.installation import Installation, Node
from events.log import ConfigLog
from events.model import Tenant
from events.projection import Projection
from events.reader import Stored
from events.stream import SUBJECT_PREFIX, LogError
from wire import errors as e
from wire.ports import OperatorLogin
from wire.postgres.console_tables import SHOWN
from wire.postgres.console_words import Statement

Ask = Callable[[Call], Awaitable[list[Row]]]

# Rows of SHOW EVENTS and SHOW AUDIT when no number is given, and at most.
NEWEST: Final = 50
NEWEST_MAX: Final = 10_000
# How far back those look for what one tenant has.
EVENTS_BACK: Final = 100_000
AUDIT_BACK: Final = 50_000


class Shows:
    """`node` is where tenants are; None while that is not known."""

    def __init__(
        self, log: ConfigLog, projection: Projection, node: Callable[[], Node | None]
    ) -> None:
        self._log = log
        self._projection = projection
        self._node = node

    async def rows(self, statement: Statement, who: OperatorLogin, ask: Ask) -> list[Row]:
        """Raises TenantryError."""
        show = getattr(self, f"_{statement.thing}", None)
        assert show is not None, f"{statement.thing} has columns and no rows"
        found: list[Row] = await show(statement, who, ask)
        return found

    def _tenants_of(self, who: OperatorLogin, name: str) -> Iterator[Tenant]:
        ids = [name] if name else sorted(self._projection.ids())
        for id in ids:
            tenant = self._projection.tenant(id) if who.may(id) else None
            if tenant is not None:
                yield tenant

    def _mode(self, tenant: Tenant) -> str:
        installation = self._projection.installation() or Installation()
        return tenant.pool.mode or installation.pool_mode.mode

    # --- pools and connections -------------------------------------------------------------------

    async def _looked(
        self, statement: Statement, who: OperatorLogin, ask: Ask, *, sockets: bool = False
    ) -> list[Row]:
        found = await ask(Call("look", tenant=statement.name, sockets=sockets))
        return [row for row in found if who.may(row["tenant"])]

    async def _pools(self, statement: Statement, who: OperatorLogin, ask: Ask) -> list[Row]:
        pools = summed(await self._looked(statement, who, ask))
        return [
            {
                **row,
                "database": tenant,
                "cl_active": row["clients"] - row["cl_waiting"],
                "maxwait": row["wait_us"] // 1_000_000,
                "maxwait_us": row["wait_us"] % 1_000_000,
            }
            for tenant, row in sorted(pools.items())
        ]

    async def _sockets(
        self, statement: Statement, who: OperatorLogin, ask: Ask, which: str
    ) -> list[Row]:
        found = []
        for pool in await self._looked(statement, who, ask, sockets=True):
            for row in pool[which]:
                found.append(
                    {
                        **row,
                        "database": row["tenant"],
                        "connect_time": _time(row["connected"]),
                        "request_time": _time(row["request_time"]),
                        "close_needed": 0,
                        "ptr": f"{row['worker']}/{row['serial'] or row['remote_pid']}",
                    }
                )
        return found

    async def _clients(self, statement: Statement, who: OperatorLogin, ask: Ask) -> list[Row]:
        return await self._sockets(statement, who, ask, "client_rows")

    async def _servers(self, statement: Statement, who: OperatorLogin, ask: Ask) -> list[Row]:
        return await self._sockets(statement, who, ask, "server_rows")

    # --- counts ----------------------------------------------------------------------------------

    async def _counted(
        self, statement: Statement, who: OperatorLogin, ask: Ask
    ) -> dict[str, tuple[list[int], list[int]]]:
        """Of each tenant the totals and the last period, all workers together."""
        found: dict[str, tuple[list[int], list[int]]] = {}
        for row in await ask(Call("stats", tenant=statement.name)):
            if not who.may(row["tenant"]):
                continue
            known = found.setdefault(row["tenant"], ([0] * 8, [0] * 8))
            for sums, name in zip(known, ("total", "recent"), strict=True):
                for at, value in enumerate(row[name]):
                    sums[at] += value
        return dict(sorted(found.items()))

    async def _stats_totals(self, statement: Statement, who: OperatorLogin, ask: Ask) -> list[Row]:
        counted = await self._counted(statement, who, ask)
        return [{"database": id, **_totals(total)} for id, (total, _) in counted.items()]

    async def _stats_averages(
        self, statement: Statement, who: OperatorLogin, ask: Ask
    ) -> list[Row]:
        counted = await self._counted(statement, who, ask)
        return [{"database": id, **_averages(recent)} for id, (_, recent) in counted.items()]

    async def _stats(self, statement: Statement, who: OperatorLogin, ask: Ask) -> list[Row]:
        rows = []
        for id, (total, recent) in (await self._counted(statement, who, ask)).items():
            sums, mean = _totals(total), _averages(recent)
            row: Row = {"database": id}
            for name, short in _STATS:
                row[f"total_{short}" if short else f"total_{name}"] = sums[name]
            for name, short in _AVERAGES:
                row[short] = mean[name]
            row.update(total_errors=total[5], total_refused=total[6], total_rows=total[7])
            rows.append(row)
        return rows

    async def _totals(self, statement: Statement, who: OperatorLogin, ask: Ask) -> list[Row]:
        totals = [0] * 8
        for total, _ in (await self._counted(statement, who, ask)).values():
            totals = [a + b for a, b in zip(totals, total, strict=True)]
        return [{"name": f"total_{k}", "value": v} for k, v in _totals(totals).items()]

    async def _lists(self, statement: Statement, who: OperatorLogin, ask: Ask) -> list[Row]:
        states = await ask(Call("state"))
        tenants = list(self._tenants_of(who, ""))
        counts = {
            "databases": len(tenants),
            "users": sum(len(tenant.users) for tenant in tenants),
            "peers": len(states) - 1,
            "peer_pools": 0,
            "pools": sum(row["tenants"] for row in states),
            "free_clients": 0,
            "used_clients": sum(row["clients"] for row in states),
            "login_clients": sum(row["login_clients"] for row in states),
            "free_servers": sum(max(0, row["servers_max"] - row["servers"]) for row in states),
            "used_servers": sum(row["servers"] for row in states),
            **dict.fromkeys(("dns_names", "dns_zones", "dns_queries", "dns_pending"), 0),
        }
        return [{"list": name, "items": count} for name, count in counts.items()]

    async def _mem(self, statement: Statement, who: OperatorLogin, ask: Ask) -> list[Row]:
        page = 4096
        return [
            {
                "name": f"worker {row['node']}/{row['worker']}",
                "size": page,
                "used": row["memory"] // page,
                "memtotal": row["memory"],
            }
            for row in await ask(Call("state"))
        ]

    async def _state(self, statement: Statement, who: OperatorLogin, ask: Ask) -> list[Row]:
        states = await ask(Call("state"))
        everyone = any(row["paused_all"] for row in states)
        paused = sorted({id for row in states for id in row["paused"] if who.may(id)})
        told = {
            "active": "no" if everyone else "yes",
            "paused": "yes" if everyone else "no",
            "suspended": "no",
            "paused_tenants": ", ".join(paused),
            "draining": "yes" if any(row["draining"] for row in states) else "no",
            "log_connected": "yes" if all(row["log_connected"] for row in states) else "no",
        }
        return [{"key": key, "value": value} for key, value in told.items()]

    async def _workers(self, statement: Statement, who: OperatorLogin, ask: Ask) -> list[Row]:
        rows = await ask(Call("state"))
        rows.sort(key=lambda row: (row["node"], row["worker"]))
        return [
            {**row, "instance": row["node"], "staleness": _seconds(row["staleness"])}
            for row in rows
        ]

    async def _peers(self, statement: Statement, who: OperatorLogin, ask: Ask) -> list[Row]:
        return []

    async def _version(self, statement: Statement, who: OperatorLogin, ask: Ask) -> list[Row]:
        from admin.console.operator import version

        return [{"version": f"Tenantry {version()}"}]

    # --- configuration ---------------------------------------------------------------------------

    async def _tenants(self, statement: Statement, who: OperatorLogin, ask: Ask) -> list[Row]:
        pools = summed(await self._looked(statement, who, ask))
        states = await ask(Call("state"))
        everyone = any(row["paused_all"] for row in states)
        paused = {id for row in states for id in row["paused"]}
        node = self._node()
        place = "" if node is None else f"{node.host}:{node.port}"
        rows = []
        for tenant in self._tenants_of(who, statement.name):
            pool = pools.get(tenant.id, {})
            limits = tenant.rate_limits
            state = "active"
            if not tenant.enabled:
                state = "disabled"
            elif tenant.provisioned is None:
                state = "being set up"
            elif everyone or tenant.id in paused:
                state = "paused"
            rows.append(
                {
                    "tenant": tenant.id,
                    "name": tenant.name,
                    "tier": tenant.tier or "",
                    "isolation": tenant.isolation.strategy,
                    "database": tenant.database,
                    "state": state,
                    "clients": pool.get("clients", 0),
                    "servers": pool.get("sv_active", 0) + pool.get("sv_idle", 0),
                    "waiting": pool.get("cl_waiting", 0),
                    "qps_limit": _limit(limits.qps_limit),
                    "max_connections": _limit(limits.max_connections),
                    "node": place,
                    "version": self._projection.version_of("tenant", tenant.id),
                }
            )
        return rows

    async def _databases(self, statement: Statement, who: OperatorLogin, ask: Ask) -> list[Row]:
        pools = summed(await self._looked(statement, who, ask))
        node = self._node()
        rows = []
        for tenant in self._tenants_of(who, statement.name):
            pool = pools.get(tenant.id, {})
            role = tenant.provisioned.role if tenant.provisioned is not None else ""
            rows.append(
                {
                    "name": tenant.id,
                    "host": None if node is None else node.host,
                    "port": 0 if node is None else node.port,
                    "database": tenant.database,
                    "force_user": pool.get("user", role) or None,
                    "pool_size": tenant.pool.max_connections or 0,
                    "min_pool_size": tenant.pool.min_idle,
                    "pool_mode": self._mode(tenant),
                    "max_connections": tenant.pool.max_connections or 0,
                    "current_connections": pool.get("sv_active", 0) + pool.get("sv_idle", 0),
                    "paused": pool.get("paused", 0),
                    "disabled": int(not tenant.enabled),
                    "max_client_connections": tenant.rate_limits.max_connections or 0,
                    "current_client_connections": pool.get("clients", 0),
                }
            )
        return rows

    async def _users(self, statement: Statement, who: OperatorLogin, ask: Ask) -> list[Row]:
        return [
            {"name": user.name, "pool_mode": self._mode(tenant), "tenant": tenant.id}
            for tenant in self._tenants_of(who, statement.name)
            for user in tenant.users
        ]

    async def _config(self, statement: Statement, who: OperatorLogin, ask: Ask) -> list[Row]:
        installation = self._projection.installation() or Installation()
        now = _leaves(masked(installation.model_dump(mode="json")))
        default = _leaves(masked(Installation().model_dump(mode="json")))
        most = installation.limits.max_clients
        # Exporters of PgBouncer look for these two by name.
        now["max_client_conn"] = "0" if most is None else str(most)
        now["max_user_connections"] = "0"
        return [
            {
                "key": key,
                "value": value,
                "default": default.get(key, ""),
                "changeable": "no" if key.startswith(("events.", "nodes")) else "yes",
            }
            for key, value in sorted(now.items())
        ]

    # --- what happened ---------------------------------------------------------------------------

    async def _events(self, statement: Statement, who: OperatorLogin, ask: Ask) -> list[Row]:
        most = min(statement.number or NEWEST, NEWEST_MAX)
        names = [statement.name] if statement.name else sorted(who.tenants or ())
        subjects = [f"{SUBJECT_PREFIX}tenant.{name}" for name in names]
        found: deque[Stored] = deque(maxlen=most)
        try:
            last = await self._log.last_sequence()
            back = EVENTS_BACK if subjects else most
            if last and (subjects or who.tenants is None):
                first = max(1, last - back + 1)
                await self._log.scan(found.append, first=first, last=last, subjects=subjects)
        except LogError as error:
            raise e.ServerUnavailable(str(error)) from None
        return [_event(stored) for stored in found]

    async def _audit(self, statement: Statement, who: OperatorLogin, ask: Ask) -> list[Row]:
        if who.tenants is not None and not statement.name:
            raise e.Forbidden("name the tenant", hint="SHOW AUDIT acme 50")
        most = min(statement.number or NEWEST, NEWEST_MAX)
        subject = audit.SUBJECT_PREFIX + statement.name if statement.name else ""
        found: deque[audit.AuditEvent] = deque(maxlen=most)
        try:
            info = await tail.info(self._log.nats, audit.STREAM)
            last = 0 if info is None else int(info["state"]["last_seq"])
            after = max(0, last - (AUDIT_BACK if subject else most))
            if last:
                async for batch in tail.read(
                    self._log.nats, audit.STREAM, subject=subject, after=after
                ):
                    for stored in batch:
                        event = audit.decode(stored.data)
                        if event is not None:
                            found.append(event)
        except LogError as error:
            raise e.ServerUnavailable(str(error)) from None
        return [_audited(event) for event in found]


_NAMES: Final = tuple(column.name for column in SHOWN["stats_totals"] if column.name != "database")
# PgBouncer calls the same figures otherwise in SHOW STATS.
_STATS: Final = (
    *(("xact_count", ""), ("query_count", ""), ("bytes_received", "received")),
    *(("bytes_sent", "sent"), ("xact_time", ""), ("query_time", ""), ("wait_time", "")),
)
_AVERAGES: Final = (
    *(("xact_count", "avg_xact_count"), ("query_count", "avg_query_count")),
    *(("bytes_received", "avg_recv"), ("bytes_sent", "avg_sent")),
    *(("xact_time", "avg_xact_time"), ("query_time", "avg_query_time")),
    ("wait_time", "avg_wait_time"),
)


def _totals(figures: list[int]) -> dict[str, int]:
    """The time between the statements of a transaction is not measured, nor that of waiting."""
    xacts, queries, received, sent, time = figures[:5]
    return dict(zip(_NAMES, (xacts, queries, received, sent, time, time, 0), strict=True))


def _averages(figures: list[int]) -> dict[str, int]:
    """A second's counts and bytes, and times of one query or transaction, in microseconds."""
    xacts, queries, received, sent, time = figures[:5]
    a_second = [int(value / PERIOD_SECONDS) for value in (xacts, queries, received, sent)]
    values = (*a_second, time // xacts if xacts else 0, time // queries if queries else 0, 0)
    return dict(zip(_NAMES, values, strict=True))


def _event(stored: Stored) -> Row:
    commit = commit_of(stored)
    return {
        "sequence": stored.sequence,
        "time": moment_of(stored).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "actor": commit.actor,
        "kind": stored.kind,
        "id": stored.id,
        "event": describe_facts(commit),
    }


def _audited(event: audit.AuditEvent) -> Row:
    statement = " ".join(part for part in (event.statement_kind, event.fingerprint) if part)
    return {
        "time": event.time,
        "kind": event.kind,
        "tenant": event.tenant,
        "actor": event.actor,
        "address": event.address,
        "outcome": event.outcome,
        "count": event.count,
        "statement": statement,
        "reason": " ".join(part for part in (event.sqlstate, event.reason) if part),
        "detail": event.detail,
    }


def _leaves(value: Any, prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, below in value.items():
        if isinstance(below, dict):
            found.update(_leaves(below, f"{prefix}{key}."))
        elif isinstance(below, str):
            found[prefix + key] = below
        else:
            found[prefix + key] = "" if below is None else orjson.dumps(below).decode()
    return found


def _time(seconds: float) -> str:
    if not seconds:
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g} s"


def _limit(value: float | int | None) -> str:
    return "unlimited" if value is None else f"{value:g}"
