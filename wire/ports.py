"""What the wire needs of the tenant's owner: a Lease, with its Pool and its Meter.

The classes of actors/ implement these. They are base classes rather than typing.Protocol because
the compiled build calls them by slot, not by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mypy_extensions import mypyc_attr

from events.audit_sink import AuditSink
from events.latency import bucket_of
from wire.errors import TenantryError

if TYPE_CHECKING:
    from wire.postgres.borrower import Borrower
    from wire.postgres.client import ClientConnection
    from wire.postgres.prepared import Statements
    from wire.postgres.server import ServerConnection
    from wire.sql.guard import Guard


@mypyc_attr(allow_interpreted_subclasses=True)
class Tracing:
    """Who hears of connections and of work, to make spans of some. This one forgets everything."""

    def opened(self, client: ClientConnection) -> None:
        """The client has logged in."""

    def closed(self, client: ClientConnection) -> None:
        """It has gone."""

    def worked(self, server: ServerConnection, started: float, ended: float) -> None:
        """The server has answered all it was sent: one query, or one pipeline (`server.sql`).
        Times are of the monotonic clock, in seconds."""

    def ids(self, client: Borrower, sql: bytes) -> tuple[str, str]:
        """Trace and span id of what the audit is told about a client's statement ("": none)."""
        return "", ""


NO_AUDIT: Final = AuditSink()


class Meter:
    """What one tenant has used on this worker since the last time somebody collected it.

    It also knows where the tenant's clients leave their notes (`audit`, `tracing`), and from when
    on a query counts as slow (`slow_seconds`).
    """

    def __init__(self, audit: AuditSink = NO_AUDIT, tracing: Tracing | None = None) -> None:
        self.audit = audit
        self.tracing = tracing
        self.slow_seconds = 1.0
        self.queries = 0
        self.transactions = 0
        self.errors = 0
        self.refused = 0
        self.rows_out = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.connections = 0
        self.busy_seconds = 0.0
        self.rows_written = 0
        self.connection_seconds = 0.0
        self.slow_queries = 0
        self.latency_seconds = 0.0
        # Hits by the limit's name, and times by their bucket (events.latency).
        self.limits: dict[str, int] = {}
        self.latency: dict[int, int] = {}
        # Gauges, which reset() leaves alone: servers that work now, clients that keep theirs,
        # clients connected.
        self.running = 0
        self.pinned = 0
        self.clients = 0

    def reset(self) -> None:
        self.queries = 0
        self.transactions = 0
        self.errors = 0
        self.refused = 0
        self.rows_out = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.connections = 0
        self.busy_seconds = 0.0
        self.rows_written = 0
        self.connection_seconds = 0.0
        self.slow_queries = 0
        self.latency_seconds = 0.0
        self.limits = {}
        self.latency = {}

    def worked(self, seconds: float) -> None:
        """A server has answered a query, or a pipeline of them, after so long."""
        self.busy_seconds += seconds
        self.latency_seconds += seconds
        if seconds >= self.slow_seconds:
            self.slow_queries += 1
        bucket: int = bucket_of(int(seconds * 1e6))
        self.latency[bucket] = self.latency.get(bucket, 0) + 1

    def limited(self, limit: str) -> None:
        """A limit was over."""
        self.limits[limit] = self.limits.get(limit, 0) + 1


class Pool:
    """Server connections of one tenant: lends each to one client at a time."""

    def acquire(self, client: Borrower) -> ServerConnection | None:
        """A free server, or None: then `client.acquired` or `client.acquire_failed` comes later."""
        raise NotImplementedError

    def forget(self, client: Borrower) -> None:
        """The client is gone or has given up waiting."""
        raise NotImplementedError

    def release(self, server: ServerConnection) -> None:
        """The server is idle, outside a transaction, and owes nothing."""
        raise NotImplementedError

    def discard(self, server: ServerConnection) -> None:
        """The server must not be used again; it is closed."""
        raise NotImplementedError

    def told_id(self, process_id: int) -> int:
        """What the client that uses the server process, or used it last, was told to be the
        process's id; 0 when it is none of ours."""
        return 0

    def departed(self, serial: int) -> None:
        """A client that may have left locks and the like on idle servers has gone."""
        raise NotImplementedError

    def waiting(self) -> int:
        """How many clients wait for a server."""
        raise NotImplementedError


class Welcome:
    """How a session begins for clients with the same startup settings: shared by all of them."""

    def __init__(self, state: dict[str, bytes], parameters: dict[str, str]) -> None:
        self.state = state
        self.parameters = parameters


@mypyc_attr(allow_interpreted_subclasses=True)
class Seal:
    """How a server that several tenants share is made one tenant's, at each hand-over.

    A server is sealed for a tenant while it holds the tenant's very Seal object. `enters` is False
    where the database has nothing to enter: then the proxy's rewriting alone keeps tenants apart.
    """

    def __init__(self, tenant: str, *, enters: bool) -> None:
        self.tenant = tenant
        self.enters = enters

    def token(self, backend: str) -> bytes:
        """What `tenantry.enter` wants on the server process that `tenantry.backend` describes."""
        raise NotImplementedError


# Distinct sets of startup settings remembered per lease. Applications have a handful.
MAX_WELCOMES: Final = 200


class Lease:
    """What a connection may use of its tenant, with no mailbox in between.

    Swapped whole when the configuration changes: a connection reads `client.lease` anew for each
    statement. Sizes are bytes and times seconds; 0 means unlimited.
    """

    def __init__(
        self, tenant: str, guard: Guard, pool: Pool, meter: Meter, statements: Statements
    ) -> None:
        self.tenant = tenant
        self.guard = guard
        self.pool = pool
        self.meter = meter
        self.statements = statements
        self.session_mode = False
        # None: the servers are the tenant's own.
        self.seal: Seal | None = None
        # Session state that every client of the tenant starts with (transaction pooling).
        self.settings: dict[str, bytes] = {}
        # What the tenant's notification channels begin with on the server; b"": nothing.
        self.channel_prefix = b""
        # Errors of the server may cite rows that are not the tenant's: their texts are replaced.
        self.veiled = False
        self.max_statement_bytes = 0
        self.max_result_bytes = 0
        self.max_result_rows = 0
        self.max_query_seconds = 0.0
        self.max_transaction_seconds = 0.0
        self.max_idle_in_transaction_seconds = 0.0
        self.welcomes: dict[tuple[tuple[str, str], ...], Welcome] = {}

    def remember_welcome(
        self,
        settings: tuple[tuple[str, str], ...],
        state: dict[str, bytes],
        parameters: dict[str, str],
    ) -> None:
        if len(self.welcomes) >= MAX_WELCOMES:
            self.welcomes.clear()
        self.welcomes[settings] = Welcome(state, parameters)

    def admit(self, more: bool = False) -> TenantryError | None:
        """Take one query from the rate, and see that not too many run; None when it may go on.

        `more`: it follows another one on a server that is at work, so it runs after that, not
        beside it.
        """
        raise NotImplementedError

    def also(self, queries: int) -> None:
        """Charge what one admitted text holds beyond its first statement."""
        raise NotImplementedError

    def pin(self) -> TenantryError | None:
        """A client is about to keep a server beyond its transaction."""
        raise NotImplementedError

    def unpin(self) -> None:
        """It no longer does."""
        raise NotImplementedError


class OperatorLogin:
    """An operator's credential: `tenants` that it spans (None: all), the one it begins in.

    console  it wants the SQL console instead
    role     viewer or operator
    """

    def __init__(
        self,
        name: str,
        verifier: str,
        tenants: frozenset[str] | None,
        tenant: str,
        *,
        console: bool = False,
        role: str = "operator",
    ) -> None:
        self.name = name
        self.verifier = verifier
        self.tenants = tenants
        self.tenant = tenant
        self.console = console
        self.role = role

    def may(self, tenant: str) -> bool:
        return self.tenants is None or tenant in self.tenants


@mypyc_attr(allow_interpreted_subclasses=True)
class Tenants:
    """Who may log in, and where their lease comes from."""

    def verifier(self, tenant: str, user: str, address: str) -> str | None:
        """The user's SCRAM verifier; None when there is no such user, tenant or right to come."""
        raise NotImplementedError

    def operator(self, user: str, database: str, address: str) -> OperatorLogin | None:
        """What an operator's login needs; None when nobody of that name may log in there."""
        return None

    async def open(self, client: ClientConnection, tenant: str, database: str) -> Lease:
        """Count the proven client in; `database` is what it named, "" for nothing.

        Raises TooManyConnections, UnknownDatabase and what else keeps it out.
        """
        raise NotImplementedError

    def closed(self, client: ClientConnection) -> None:
        """The client has gone."""
        raise NotImplementedError

    def refused(self, tenant: str, user: str, address: str) -> None:
        """Somebody at `address` could not prove to be `user`."""
        raise NotImplementedError
