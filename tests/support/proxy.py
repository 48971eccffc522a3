"""The wire path alone, for tests: Listener, Guard, TenantLease and TenantPool in a thread's loop.

No supervisor, no actors, no events: one tenant ("acme") in front of one database. Most tests need
no more than the fixtures, each a `WireProxy`:

    session_proxy, transaction_proxy     one per module, with a database of their own
    proxy                                both, one after the other

and those who need limits or permissions make their own:

    with wire_proxy(server, limits={"max_rows_per_query": 10}) as proxy: ...
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from time import monotonic
from typing import Any

import psycopg
import pytest
import uvloop
from psycopg import conninfo, sql
from support.engines import Postgres, unique_name

from actors.budget import Budget
from actors.lease import TenantLease
from actors.limits import TokenBucket
from actors.pool import TenantPool
from events.installation import Installation
from events.model import Tenant
from wire.errors import TenantryError
from wire.ports import Lease, Meter, Tenants
from wire.postgres.client import ClientConnection
from wire.postgres.connect import Target
from wire.postgres.listener import Listener
from wire.postgres.prepared import Statements
from wire.postgres.scram import make_verifier
from wire.postgres.tls_setup import ListenerTls, NodeTls
from wire.sql.guard import Guard

TENANT = "acme"
USER = "acme.app"
PASSWORD = "wire-secret"
SWEEP_SECONDS = 0.02
START_SECONDS = 20.0
# The tests are about the wire: nothing is limited or forbidden unless a test asks for it.
UNLIMITED: dict[str, Any] = {
    "qps_limit": None,
    "max_connections": None,
    "max_query_duration": None,
    "max_idle_in_transaction": None,
    "max_pinned_servers": None,
    "max_statement_size": None,
    "max_result_size": None,
    "max_rows_per_query": None,
}
PERMITTED: dict[str, Any] = {
    "allowed_operations": (
        *("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE", "LOCK", "COPY"),
        *("CALL", "DO", "EXECUTE", "LISTEN", "NOTIFY"),
    ),
    "allow_ddl": True,
    "allow_system_access": True,
    "max_tables_per_query": None,
}


class OneTenant(Tenants):
    """Knows one user of one tenant, and hands out whatever lease is current."""

    def __init__(self, lease: Lease, password: str) -> None:
        self.lease = lease
        self.known = make_verifier(password)
        self.refusal: TenantryError | None = None
        self.open_clients = 0

    def verifier(self, tenant: str, user: str, address: str) -> str | None:
        return self.known if (tenant, user) == (TENANT, USER.partition(".")[2]) else None

    async def open(self, client: ClientConnection, tenant: str, database: str) -> Lease:
        if self.refusal is not None:
            raise self.refusal
        self.open_clients += 1
        return self.lease

    def closed(self, client: ClientConnection) -> None:
        self.open_clients -= 1

    def refused(self, tenant: str, user: str, address: str) -> None:
        pass


class WireProxy:
    """A running wire path. What belongs to the loop is touched through `call` only."""

    def __init__(self, server: Postgres, database: str, mode: str) -> None:
        self.server = server
        self.database = database
        self.mode = mode
        self.host = "127.0.0.1"
        self.port = 0
        self.user = USER
        self.password = PASSWORD
        # Set by the thread before it says that it is ready.
        self.listener: Listener
        self.tenants: OneTenant
        self.pool: TenantPool
        self.meter = Meter()
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._ready: Future[int] = Future()

    def dsn(self, **options: object) -> str:
        """A libpq connection string of the tenant's user; options override."""
        known = {"host": self.host, "port": self.port, "user": self.user, "sslmode": "disable"}
        known |= {"password": self.password, "dbname": self.database, "connect_timeout": 10}
        return conninfo.make_conninfo(**(known | options))

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """A client in autocommit mode."""
        return psycopg.connect(self.dsn(**options), autocommit=True)

    def direct(self, **options: Any) -> psycopg.Connection[Any]:
        """A client of the server itself, as the role the proxy uses, in autocommit mode."""
        return psycopg.connect(self.direct_dsn(**options), autocommit=True)

    def direct_dsn(self, **options: object) -> str:
        return self.server.dsn(self.database, **options)

    def call(self, work: Callable[[], Any]) -> Any:
        """Run `work` in the proxy's loop and give what it returns."""
        result: Future[Any] = Future()

        def run() -> None:
            try:
                result.set_result(work())
            except BaseException as error:
                result.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return result.result(START_SECONDS)

    def servers(self) -> tuple[int, int]:
        """How many server connections are idle, and how many are lent."""
        counts: tuple[int, int] = self.call(lambda: (len(self.pool.idle), len(self.pool.lent)))
        return counts

    def backends(self) -> list[int]:
        """Process ids of all server connections."""
        found: list[int] = self.call(
            lambda: [s.target.process_id for s in [*self.pool.idle, *self.pool.lent]]
        )
        return found


@contextlib.contextmanager
def wire_proxy(
    server: Postgres,
    *,
    mode: str = "transaction",
    database: str = "postgres",
    limits: Mapping[str, Any] | None = None,
    permissions: Mapping[str, Any] | None = None,
    servers: int = 20,
    acquire_seconds: float = 10.0,
    max_prepared: int | None = None,
    listener_tls: ListenerTls | None = None,
    node_tls: NodeTls | None = None,
    installation: Mapping[str, Any] | None = None,
) -> Iterator[WireProxy]:
    """Serve one tenant on a free port. Servers log in as `server.user` with `server.password`.

    mode            "transaction" or "session"
    limits          keys of rate_limits; what is not named is unlimited
    permissions     keys of permissions; what is not named is permitted
    servers         most server connections at once
    max_prepared    prepared statements kept on one server (pool_mode.max_prepared_statements)
    """
    tenant = Tenant.model_validate(
        {
            "id": TENANT,
            "rate_limits": UNLIMITED | dict(limits or {}),
            "permissions": PERMITTED | dict(permissions or {}),
        }
    )
    settings = dict(installation or {})
    if max_prepared is not None:
        settings["pool_mode"] = {"max_prepared_statements": max_prepared}
    proxy = WireProxy(server, database, mode)

    def build() -> Listener:
        target = Target(server.host, server.port, database, server.user, server.password, node_tls)
        proxy.pool = TenantPool(target, Budget(servers))
        proxy.pool.limit = servers
        proxy.pool.acquire_seconds = acquire_seconds
        proxy.tenants = OneTenant(make_lease(proxy, tenant), PASSWORD)
        proxy.listener = Listener(
            Installation.model_validate(settings),
            proxy.tenants,
            mock_secret=b"m" * 32,
            tls=listener_tls,
        )
        return proxy.listener

    thread = threading.Thread(target=_run, args=(proxy, build), name="wire proxy")
    thread.start()
    try:
        proxy.port = proxy._ready.result(START_SECONDS)
        yield proxy
    finally:
        if proxy._ready.done() and proxy._ready.exception() is None:
            proxy._loop.call_soon_threadsafe(proxy._stop.set)
        thread.join()


def make_lease(proxy: WireProxy, tenant: Tenant) -> TenantLease:
    """A lease on the proxy's pool under this tenant's policy (a new one is a changed policy)."""
    return TenantLease(
        tenant,
        Guard(tenant.permissions, tenant.rate_limits),
        proxy.pool,
        proxy.meter,
        Statements(),
        TokenBucket(tenant.rate_limits.qps_limit or 0.0, tenant.rate_limits.burst_multiplier),
        session_mode=proxy.mode == "session",
        workers=1,
    )


def _run(proxy: WireProxy, build: Callable[[], Listener]) -> None:
    try:
        uvloop.run(_serve(proxy, build))
    except BaseException as error:
        if proxy._ready.done():
            raise
        proxy._ready.set_exception(error)


async def _serve(proxy: WireProxy, build: Callable[[], Listener]) -> None:
    proxy._loop = asyncio.get_running_loop()
    proxy._stop = asyncio.Event()
    listener = build()
    proxy._ready.set_result(await listener.start("127.0.0.1", 0))
    while not proxy._stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(proxy._stop.wait(), SWEEP_SECONDS)
        proxy.pool.sweep(monotonic())
    await listener.drain(0.0)
    proxy.pool.close()
    # Closed transports say so to their protocols in the loop's next round.
    await asyncio.sleep(SWEEP_SECONDS)


@contextlib.contextmanager
def own_database(server: Postgres) -> Iterator[tuple[Postgres, str]]:
    """A new database that belongs to a new ordinary role: the server as that role sees it."""
    name = unique_name("wire")
    role, password = sql.Identifier(name), sql.Literal(PASSWORD)
    with server.connect() as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, password))
        admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(role, role))
        try:
            yield Postgres(server.host, server.port, name, PASSWORD, server.pid), name
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(role))
            admin.execute(sql.SQL("DROP ROLE {}").format(role))


@pytest.fixture(scope="module")
def tenant_database(postgres: Postgres) -> Iterator[tuple[Postgres, str]]:
    """The module's own database, and the server as its owner."""
    with own_database(postgres) as made:
        yield made


@pytest.fixture(scope="module")
def transaction_proxy(tenant_database: tuple[Postgres, str]) -> Iterator[WireProxy]:
    """Transaction pooling in front of the module's database."""
    with wire_proxy(tenant_database[0], database=tenant_database[1]) as made:
        yield made


@pytest.fixture(scope="module")
def session_proxy(tenant_database: tuple[Postgres, str]) -> Iterator[WireProxy]:
    """Session pooling in front of the same database."""
    with wire_proxy(tenant_database[0], database=tenant_database[1], mode="session") as made:
        yield made


@pytest.fixture(params=["session", "transaction"])
def proxy(request: pytest.FixtureRequest) -> WireProxy:
    """Both modes, one after the other."""
    made: WireProxy = request.getfixturevalue(f"{request.param}_proxy")
    return made
