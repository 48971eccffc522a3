"""What all client connections of a worker share: the address, who may log in, the cancel keys."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, cast

from events.audit_sink import AuditSink
from events.installation import Installation
from wire import errors as e
from wire.identify import Identifier
from wire.ports import NO_AUDIT, Meter, Tenants, Tracing
from wire.postgres import noting
from wire.postgres.cancel import LONG_KEY_BYTES, SHORT_KEY_BYTES, CancelKeys
from wire.postgres.client import ClientConnection
from wire.postgres.console import ConsolePort
from wire.postgres.startup import Startup
from wire.postgres.tls_setup import ListenerTls
from wire.sql.guard import Guard
from wire.tasks import spawn

log = logging.getLogger("tenantry.listener")

# Bytes written to a client that has not read them; above it, its server's reading is paused.
WRITE_HIGH_WATER: Final = 256 * 1024
# How often a draining worker looks whether its clients have left.
DRAIN_POLL_SECONDS: Final = 0.05
LISTEN_BACKLOG: Final = 1024


class Listener:
    """Accepts clients; `tenants` knows who they are."""

    def __init__(
        self,
        installation: Installation,
        tenants: Tenants,
        *,
        mock_secret: bytes,
        tls: ListenerTls | None = None,
        worker: int = 0,
        forward_cancel: Callable[[int, int, bytes], None] | None = None,
        audit: AuditSink = NO_AUDIT,
        tracing: Tracing | None = None,
    ) -> None:
        self.tenants = tenants
        self.identifier = Identifier(installation.identification)
        self.tenant_option = installation.identification.option
        self.keys = CancelKeys(worker, mock_secret)
        # Of clients that have not logged in.
        self.meter = Meter(audit, tracing)
        self.tls = tls
        self.tls_required = installation.tls.require
        self.mock_secret = mock_secret
        self.auth_seconds = installation.auth.timeout_secs
        self.max_clients = installation.limits.max_clients
        self.max_prepared = installation.pool_mode.max_prepared_statements
        self.clients: set[ClientConnection] = set()
        self.draining = False
        # Whose turn it is among the texts of one tenant that a helper has to read. One for each
        # tenant that has sent such a text: as many as there are actors, at most.
        self._reading: dict[str, asyncio.Lock] = {}
        self._serial = 0
        self._worker = worker
        self._forward_cancel = forward_cancel
        self._servers: list[asyncio.Server] = []
        # Who answers in the SQL console; None: there is none.
        self.console: ConsolePort | None = None

    async def start(self, host: str, port: int, *, reuse_port: bool = False) -> int:
        """Listen; gives the port (useful when `port` is 0). Raises OSError."""
        # The protocols are duck-typed: a compiled class cannot inherit from asyncio's.
        factory = cast("Callable[[], asyncio.Protocol]", self.connection)
        server = await asyncio.get_running_loop().create_server(
            factory, host, port, reuse_port=reuse_port, backlog=LISTEN_BACKLOG
        )
        self._servers.append(server)
        number: int = server.sockets[0].getsockname()[1]
        return number

    def connection(self) -> ClientConnection:
        return ClientConnection(self)

    # --- connections ----------------------------------------------------------------------------

    def opened(self, client: ClientConnection) -> None:
        self._serial += 1
        client.serial = self._serial
        client.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self.clients.add(client)
        startup = Startup(client)
        client.startup = startup
        if self.draining:
            startup.refuse(e.ShuttingDown("the proxy is shutting down"))
        elif self.max_clients is not None and len(self.clients) > self.max_clients:
            many = e.TooManyConnections("sorry, too many clients already", limit="clients")
            startup.refuse(many)
        else:
            spawn(startup.run(), name="login")

    def logged_in(self, client: ClientConnection) -> None:
        if self.draining:
            client.end(e.ShuttingDown("the proxy is shutting down"))

    def gone(self, client: ClientConnection) -> None:
        self.clients.discard(client)
        if client.key:
            self.keys.revoke(client.process_id, client.key)
        if self.meter.tracing is not None:
            self.meter.tracing.closed(client)
        if client.tenant:
            self.tenants.closed(client)

    # --- services -------------------------------------------------------------------------------

    def cancel(self, process_id: int, key: bytes) -> None:
        """A cancel request has come: for one of our clients, or for another worker's."""
        client = self.keys.find(process_id, key)
        if client is not None:
            client.cancel()
        elif self._forward_cancel is not None and SHORT_KEY_BYTES <= len(key) <= LONG_KEY_BYTES:
            owner = self.keys.owner(process_id, key)
            if owner != self._worker & 0xFF:
                self._forward_cancel(owner, process_id, key)

    def offload(self, client: ClientConnection, guard: Guard, sql: bytes) -> None:
        """Read a large statement in a helper process; the client waits, the others do not."""
        spawn(self._read_elsewhere(client, guard, sql), name="read statement")

    def change_tenant(self, client: ClientConnection, tenant: str) -> None:
        """An operator's client goes on in another tenant; it waits until then."""
        spawn(self._change_tenant(client, tenant), name="change tenant")

    async def _change_tenant(self, client: ClientConnection, tenant: str) -> None:
        operator = client.operator
        assert operator is not None
        try:
            lease = await self.tenants.open(client, tenant, "")
        except e.TenantryError as error:
            noting.changed_tenant(client, tenant, error)
            operator.failure = e.Forbidden(f'tenant "{tenant}": {error.message}', hint=error.hint)
        else:
            noting.changed_tenant(client, tenant, None)
            self.tenants.closed(client)
            client.enter(tenant, lease)
        client.unblock()

    def note_operator(self, client: ClientConnection, sql: bytes) -> None:
        """An operator's statement is about to run."""
        noting.operator_statement(client, sql)

    async def _read_elsewhere(self, client: ClientConnection, guard: Guard, sql: bytes) -> None:
        turn = self._reading.setdefault(client.tenant, asyncio.Lock())
        try:
            # The helper takes texts in the order of their coming: with one of each tenant at a
            # time, nobody waits for all that another one has sent.
            async with turn:
                if client.closed:
                    return
                facts = await asyncio.wrap_future(guard.submit(sql))
            guard.adopt(sql, facts)
        except Exception as error:
            log.warning("a statement of %d bytes could not be read: %r", len(sql), error)
            client.end(e.TooLarge("the statement is too complex to be read"))
            return
        client.unblock()

    # --- the end --------------------------------------------------------------------------------

    async def drain(self, seconds: float) -> None:
        """Accept nobody new, let transactions end, then close the rest."""
        self.draining = True
        for server in self._servers:
            server.close()
        error = e.ShuttingDown("terminating connection due to administrator command")
        deadline = asyncio.get_running_loop().time() + seconds
        while self.clients:
            late = asyncio.get_running_loop().time() >= deadline
            for client in list(self.clients):
                if late or client.at_rest():
                    client.end(error)
            if late:
                break
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        await asyncio.sleep(DRAIN_POLL_SECONDS)
        for client in list(self.clients):
            client.transport.abort()
