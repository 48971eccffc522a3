"""The tenant's actor: the only writer of its pool, limits and leases on this worker."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Final

from actors.budget import Budget
from actors.commons import Commons, TokenSeal, quoted
from actors.lease import TenantLease, share
from actors.limits import TokenBucket
from actors.manage import Manage, Pauses, manage
from actors.messages import ConfigChanged, ConnectionClosed, ConnectionOpened, OpenLease, Tick
from actors.pool import TenantPool
from actors.runtime import AsyncioActor
from events.audit_sink import AuditSink
from events.installation import Installation
from events.model import Tenant
from events.spans import ABOUT, About
from events.usage import Delta
from wire import errors as e
from wire.ports import NO_AUDIT, Meter, Tracing
from wire.postgres.client import ClientConnection
from wire.postgres.connect import Target
from wire.postgres.prepared import Statements
from wire.postgres.session import GUC_PREFIX, SEARCH_PATH
from wire.sql import edits
from wire.sql.guard import Analyser, Guard

log = logging.getLogger("tenantry.tenant")

NOT_AVAILABLE: Final = "the tenant is not available"
# Who is connected is told this often when nothing changes; analytics forget it after 90. Seconds.
TELL_SECONDS: Final = 30.0


class Surroundings:
    """What the actors of one worker share."""

    def __init__(
        self,
        *,
        tenant: Callable[[str], Tenant | None],
        target: Callable[[Tenant], Target],
        budget: Budget,
        installation: Installation,
        workers: int,
        record: Callable[[str, Delta], None],
        commons: Commons,
        audit: AuditSink = NO_AUDIT,
        tracing: Tracing | None = None,
        pauses: Pauses | None = None,
    ) -> None:
        self.pauses = Pauses() if pauses is None else pauses
        self.audit = audit
        self.tracing = tracing
        self.commons = commons
        self.tenant = tenant
        self.target = target
        self.budget = budget
        self.installation = installation
        self.workers = workers
        self.record = record


class TenantActor(AsyncioActor):
    """One tenant on one worker, from its first connection until it has been idle for a while."""

    # Refusals are answers; after anything else the actor's state cannot be trusted.
    answers = (e.TenantryError,)

    def __init__(self, id: str, around: Surroundings) -> None:
        super().__init__()
        self.id = id
        self.around = around
        self.clients: set[ClientConnection] = set()
        self.meter = Meter(around.audit, around.tracing)
        self.meter.slow_seconds = around.installation.analytics.slow_query_ms / 1000.0
        # Until when the time of connections is counted; what was told of now, and when.
        self.counted_at = monotonic()
        self.told = (0, 0, 0)
        self.told_at = 0.0
        self.statements = Statements()
        self.bucket = TokenBucket(0.0, 1.0)
        self.tenant: Tenant | None = None
        self.analyser: Analyser | None = None
        self.seal: TokenSeal | None = None
        self.pool: TenantPool | None = None
        self.budget: Budget | None = None
        self.lease: TenantLease | None = None

    def on_start(self) -> None:
        # The context is the actor's own: all that it logs is about its tenant.
        ABOUT.set(About(self.id))
        self.load()

    def on_stop(self) -> None:
        self.dismiss()
        self.collect()

    def on_failure(self, *_: object) -> None:
        self.dismiss()

    def on_receive(self, message: object) -> object:
        if isinstance(message, OpenLease):
            return self.open(message.connection)
        if isinstance(message, ConnectionClosed):
            self.close(message.connection)
        elif isinstance(message, ConnectionOpened):
            self.adopt(message.connection)
        elif isinstance(message, ConfigChanged):
            self.load()
        elif isinstance(message, Tick):
            self.tick()
        elif isinstance(message, Manage):
            return manage(self, message)
        return None

    # --- connections ----------------------------------------------------------------------------

    def open(self, client: object) -> TenantLease:
        """Count a client in. Raises TooManyConnections and ShuttingDown."""
        assert isinstance(client, ClientConnection)
        tenant, lease = self.tenant, self.lease
        if tenant is None or lease is None:
            raise e.ShuttingDown(NOT_AVAILABLE)
        limit = share(tenant.rate_limits.max_connections, self.around.workers)
        if limit and len(self.clients) >= limit:
            self.meter.refused += 1
            self.meter.limited("connections")
            raise e.TooManyConnections(
                f"more than {limit} connections",
                hint="Close some (rate_limits.max_connections).",
                limit="connections",
            )
        if client.closed:
            raise e.ShuttingDown("the client has gone")
        self.count_time()
        self.clients.add(client)
        self.meter.connections += 1
        self.meter.clients = len(self.clients)
        return lease

    def adopt(self, client: object) -> None:
        """Take over a client that the actor before this one has let in."""
        if isinstance(client, ClientConnection) and not client.closed and self.lease is not None:
            self.count_time()
            self.clients.add(client)
            client.lease = self.lease
            client.meter = self.meter
            self.meter.clients = len(self.clients)

    def close(self, client: object) -> None:
        if isinstance(client, ClientConnection):
            self.count_time()
            self.clients.discard(client)
            self.meter.clients = len(self.clients)

    # --- configuration --------------------------------------------------------------------------

    def load(self) -> None:
        """Take the configuration as it is now; connected clients see it at their next statement."""
        tenant = self.around.tenant(self.id)
        if tenant is None or not tenant.enabled or tenant.provisioned is None:
            self.dismiss()
            return
        analyser = self.around.commons.analyser(tenant)
        if analyser is None:
            self.dismiss()
            return
        before = self.tenant
        if before is not None and before == tenant and analyser is self.analyser:
            return
        mode = tenant.pool.mode or self.around.installation.pool_mode.mode
        sharing = shares_servers(tenant, mode)
        pool = self.arrange_pool(tenant, sharing)
        limits = tenant.rate_limits
        workers = self.around.workers
        self.bucket.change((limits.qps_limit or 0.0) / workers, limits.burst_multiplier)
        values = self.around.commons.values(tenant)
        schemas = None
        if tenant.isolation.strategy == "schema":
            schemas = frozenset((tenant.schema_name, "public"))
        guard = Guard(tenant.permissions, limits, analyser, values, schemas)
        lease = TenantLease(
            tenant,
            guard,
            pool,
            self.meter,
            self.statements,
            self.bucket,
            session_mode=mode == "session",
            workers=workers,
        )
        lease.channel_prefix = values[edits.CHANNEL]
        if tenant.isolation.strategy == "row":
            self.make_row_lease(tenant, lease, sharing)
        self.tenant, self.lease, self.analyser = tenant, lease, analyser
        for client in self.clients:
            if client.tenant != self.id:
                # An operator's, which has gone on to another tenant.
                continue
            client.lease = lease
            if client.server is not None:
                # In session pooling it is never handed over again: limits of results and of time
                # are read there.
                client.server.lease = lease

    def make_row_lease(self, tenant: Tenant, lease: TenantLease, sharing: bool) -> None:
        """Rows among those of others: the servers' seal, and what the rewriting alone needs."""
        lease.veiled = tenant.isolation.enforcement == "rewrite"
        if not sharing:
            # The tenant's own role is sealed from its login on.
            self.seal = None
            return
        seal = self.around.commons.seal(tenant)
        before = self.seal
        if before is None or (before.value, before.enters) != (seal.value, seal.enters):
            # Servers are known by the object.
            self.seal = seal
        lease.seal = self.seal
        lease.settings = row_settings(tenant)

    def arrange_pool(self, tenant: Tenant, sharing: bool) -> TenantPool:
        shelf = self.around.commons.shelf(tenant) if sharing else None
        target = self.around.target(tenant) if shelf is None else shelf.target
        settings = tenant.pool
        workers = self.around.workers
        limit = share(settings.max_connections, workers)
        clients = tenant.rate_limits.max_connections
        if clients is not None:
            limit = min(limit, share(clients, workers))
        pool = self.pool
        if pool is not None and (
            (pool.budget is self.around.budget) == settings.dedicated_pool
            or pool.shelf is not shelf
        ):
            # From the shared budget to its own, or back: servers that are lent end as they return.
            pool.close_when_idle()
            pool = None
        if pool is None:
            own = settings.dedicated_pool
            pool = TenantPool(target, Budget(limit) if own else self.around.budget, shelf)
            self.pool = pool
        elif not pool.target.same(target):
            pool.retarget(target)
        if settings.dedicated_pool:
            pool.budget.limit = limit
        pool.limit = limit
        pool.min_idle = min(settings.min_idle, limit)
        shared = self.around.installation.pool
        own = settings.dedicated_pool
        pool.idle_seconds = shorter(
            settings.idle_timeout, None if own else shared.idle_timeout_secs
        )
        pool.lifetime_seconds = shorter(
            settings.max_lifetime, None if own else shared.max_lifetime_secs
        )
        pool.acquire_seconds = shorter(
            settings.acquire_timeout, None if own else shared.acquire_timeout_secs
        )
        if self.around.pauses.holds(self.id):
            pool.hold()
        return pool

    def resume(self) -> None:
        """The tenant is not paused any more, if it was."""
        pool = self.pool
        if self.tenant is not None and pool is not None and pool.held:
            pool.let_go()
            self.arrange_pool(self.tenant, pool.shelf is not None)
            pool.grow()

    def dismiss(self) -> None:
        """The tenant has been disabled or deleted: end its connections, now."""
        self.tenant = None
        self.lease = None
        for client in list(self.clients):
            client.end(e.ShuttingDown(NOT_AVAILABLE))
        if self.pool is not None:
            self.pool.close()
            self.pool = None

    # --- time -----------------------------------------------------------------------------------

    def tick(self) -> None:
        pool = self.pool
        if pool is not None:
            pool.sweep(monotonic())
            if self.clients:
                pool.keep_warm()
        self.collect()

    def collect(self) -> None:
        """Hand on what has been used since the last time, when that is anything, or when there
        are other clients or servers than were told; at least every TELL_SECONDS with clients."""
        meter = self.meter
        pool = self.pool
        servers = idle = 0
        if pool is not None:
            # Idle servers that tenants have in common are nobody's.
            idle = len(pool.idle)
            servers = len(pool.lent) + idle
        present = (len(self.clients), servers, idle)
        now = monotonic()
        used = meter.queries or meter.refused or meter.connections or meter.bytes_in
        if (
            not (used or meter.rows_out or meter.limits or meter.latency)
            and present == self.told
            and (not self.clients or now - self.told_at < TELL_SECONDS)
        ):
            return
        self.count_time()
        self.told, self.told_at = present, now
        delta = Delta(
            clients=present[0],
            servers=servers,
            servers_idle=idle,
            rows_written=meter.rows_written,
            connection_seconds=meter.connection_seconds,
            slow_queries=meter.slow_queries,
            latency_seconds=meter.latency_seconds,
            limits=meter.limits,
            latency=meter.latency,
            queries=meter.queries,
            errors=meter.errors,
            refused=meter.refused,
            rows_out=meter.rows_out,
            bytes_in=meter.bytes_in,
            bytes_out=meter.bytes_out,
            transactions=meter.transactions,
            busy_seconds=meter.busy_seconds,
            connections=meter.connections,
        )
        meter.reset()
        self.around.record(self.id, delta)

    def count_time(self) -> None:
        """Called before the number of clients changes: they have all been there until now."""
        now = monotonic()
        self.meter.connection_seconds += len(self.clients) * (now - self.counted_at)
        self.counted_at = now


def shares_servers(tenant: Tenant, mode: str) -> bool:
    """Whether the tenant's servers also serve other tenants, each sealed at its hand-over."""
    return (
        tenant.isolation.strategy == "row"
        and not tenant.pool.dedicated_pool
        and mode == "transaction"
    )


def row_settings(tenant: Tenant) -> dict[str, bytes]:
    """Session state of every client of a tenant that shares its servers."""
    schema = tenant.row_schema.replace('"', '""').encode()
    state = {SEARCH_PATH: b'SET search_path TO "' + schema + b'"'}
    if tenant.permissions.read_only:
        state[GUC_PREFIX + "default_transaction_read_only"] = (
            b"SET default_transaction_read_only TO on"
        )
    for name in tenant.isolation.setting_names:
        state[GUC_PREFIX + name] = b"SET " + name.encode() + b" TO " + quoted(tenant.row_value)
    return state


def shorter(tenant: float | None, shared: float | None) -> float:
    """Who shares the budget keeps to the shared times too. Seconds; 0 when neither sets a limit."""
    return min([seconds for seconds in (tenant, shared) if seconds], default=0.0)
