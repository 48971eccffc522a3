"""Several tenants behind one wire path, on a real database: the worker without its event log.

Everything but the log is real: provisioning, `protect`, listener, dispatcher, actors, catalogs.

    with estate(server, tenants, prepare="CREATE TABLE …") as made:
        with made.connect("acme") as client: ...
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import psycopg
import uvloop
from psycopg import conninfo
from support.engines import Postgres
from support.provisioning import VAULT, node

from actors.budget import Budget
from actors.commons import Commons, Grounds
from actors.directory import Directory
from actors.dispatcher import Dispatcher
from actors.tenant import Surroundings, TenantActor
from admin.catalog_reader import CatalogReader
from admin.operator_access import is_whole, whole_database, whole_target
from admin.protect.protect import Wishes, apply
from admin.provision.sql import row_role
from admin.provision.tenant import open_admin, provision
from events.audit_sink import AuditSink
from events.installation import Installation, Node
from events.model import Tenant
from events.secrets import node_purpose, tenant_purpose
from wire.errors import ServerUnavailable
from wire.postgres.connect import Target
from wire.postgres.listener import Listener
from wire.postgres.scram import make_verifier

PASSWORD = "estate-secret"
USER = "app"
START_SECONDS = 30.0
POLL_SECONDS = 0.02
# Nothing is limited unless a test asks for it; what row tenants may not do, they may not anyway.
UNLIMITED: dict[str, Any] = dict.fromkeys(
    (
        *("qps_limit", "max_connections", "max_query_duration", "max_idle_in_transaction"),
        *("max_pinned_servers", "max_statement_size", "max_result_size", "max_rows_per_query"),
    ),
    "unlimited",
)
PERMITTED: dict[str, Any] = {
    "allowed_operations": (
        *("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE", "LOCK", "COPY"),
        *("CALL", "DO", "EXECUTE", "LISTEN", "NOTIFY"),
    ),
    "max_tables_per_query": "unlimited",
}
_VERIFIER = make_verifier(PASSWORD)


def tenant(id: str, strategy: str = "row", **settings: Any) -> Tenant:
    """A tenant whose user is "app". `settings`: parts of the model (pool, permissions …); other
    keys go into isolation."""
    parts = {
        name: settings.pop(name, {}) for name in ("pool", "permissions", "rate_limits", "metadata")
    }
    parts["permissions"] = PERMITTED | parts["permissions"]
    parts["rate_limits"] = UNLIMITED | parts["rate_limits"]
    return Tenant.model_validate(
        {
            "id": id,
            "isolation": {"strategy": strategy, **settings},
            "users": [{"name": USER, "scram": _VERIFIER}],
            **parts,
        }
    )


class Notes(AuditSink):
    """What the audit was told: pairs of kind and what it heard."""

    def __init__(self) -> None:
        self.heard: list[dict[str, str]] = []

    def note(self, kind: str, tenant: str, **told: str) -> None:  # type: ignore[override]
        self.heard.append({"kind": kind, "tenant": tenant, **told})

    def of(self, kind: str) -> list[dict[str, str]]:
        return [each for each in self.heard if each["kind"] == kind]


class Estate:
    """The running wire path and its tenants. What belongs to the loop is touched by `call` only."""

    def __init__(self, server: Postgres, tenants: Sequence[Tenant], mode: str, budget: int) -> None:
        self.server = server
        self.mode = mode
        self.port = 0
        self.tenants = {each.id: each for each in tenants}
        # Settings of operators by their names, as in the log (events/named.py).
        self.operators: dict[str, dict[str, Any]] = {}
        self.installation = Installation.model_validate({"pool_mode": {"mode": mode}})
        self.budget = Budget(budget)
        # Set by the thread before it says that it is ready.
        self.dispatcher: Dispatcher
        self.commons: Commons
        self.catalogs: CatalogReader
        self.listener: Listener
        self._loop: asyncio.AbstractEventLoop
        self.notes = Notes()
        self._stop: asyncio.Event
        self._ready: Future[int] = Future()

    # --- clients ----------------------------------------------------------------------------------

    def dsn(self, tenant: str, **options: object) -> str:
        known = {"host": "127.0.0.1", "port": self.port, "user": f"{tenant}.{USER}"}
        known |= {"password": PASSWORD, "dbname": tenant, "sslmode": "disable"}
        return conninfo.make_conninfo(**(known | {"connect_timeout": 20} | options))

    def connect(self, tenant: str, **options: Any) -> psycopg.Connection[Any]:
        """A client of the tenant's, in autocommit mode."""
        return psycopg.connect(self.dsn(tenant, **options), autocommit=True)

    def admin(self, tenant: str, **options: Any) -> psycopg.Connection[Any]:
        """The server's superuser in the tenant's database, in autocommit mode, past the proxy."""
        return self.server.connect(self.tenants[tenant].database, **options)

    # --- what the worker's parts need -------------------------------------------------------------

    def change(self, tenant: Tenant) -> None:
        """A new configuration of a tenant takes effect; what is provisioned stays."""

        def run() -> None:
            kept = self.tenants[tenant.id].provisioned
            self.tenants[tenant.id] = tenant.model_copy(update={"provisioned": kept})
            self.dispatcher.config_changed(tenant.id)

        self.call(run)

    def tenant(self, id: str) -> Tenant | None:
        return whole_database(id) if is_whole(id) else self.tenants.get(id)

    def target(self, tenant: Tenant) -> Target:
        if is_whole(tenant.id):
            return whole_target(tenant.id, sealed_node(self.server), "", VAULT)
        assert tenant.provisioned is not None
        password = VAULT.open(tenant.provisioned.secret, tenant_purpose(tenant.id))
        role = tenant.provisioned.role
        server = self.server
        return Target(server.host, server.port, tenant.database, role, password, None)

    def shared_target(self, tenant: Tenant) -> Target:
        if tenant.provisioned is None:
            raise ServerUnavailable("the tenant is being set up")
        database = tenant.database
        password = VAULT.derive(f"row role {database}").hex()
        sealed = tenant.isolation.enforcement != "rewrite"
        role = row_role(database)
        server = self.server
        return Target(server.host, server.port, database, role, password, None, sealed=sealed)

    def _of(self, grounds: Grounds) -> list[str]:
        known = ((id, self.tenants.get(id)) for id in self.dispatcher.active())
        return [id for id, each in known if each is not None and Grounds.of(each) == grounds]

    def _changed(self, grounds: Grounds) -> None:
        for id in self._of(grounds):
            self.dispatcher.config_changed(id)

    def build(self) -> Listener:
        self.catalogs = CatalogReader(
            self.shared_target, lambda grounds: bool(self._of(grounds)), self._changed
        )
        self.commons = Commons(VAULT.derive, self.shared_target, self.catalogs.learn)
        self.catalogs.commons = self.commons
        around = Surroundings(
            commons=self.commons,
            tenant=self.tenant,
            target=self.target,
            budget=self.budget,
            installation=self.installation,
            workers=1,
            record=lambda tenant, delta: None,
            audit=self.notes,
        )
        self.dispatcher = Dispatcher(lambda id: TenantActor.start(id, around))
        directory = Directory(
            self.tenant,
            self.dispatcher,
            operator=self.operators.get,
            database_suffix="_db",
            prepare=self.commons.prepare,
            audit=self.notes,
        )
        self.listener = Listener(
            self.installation, directory, mock_secret=b"m" * 32, audit=self.notes
        )
        return self.listener

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

    async def serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        listener = self.build()
        self._ready.set_result(await listener.start("127.0.0.1", 0))
        await self._stop.wait()
        await listener.drain(0.0)
        await self.dispatcher.close()
        await self.catalogs.close()
        # Closed transports say so to their protocols in the loop's next round.
        await asyncio.sleep(POLL_SECONDS)


@contextlib.contextmanager
def estate(
    server: Postgres,
    tenants: Sequence[Tenant],
    *,
    prepare: Callable[[Estate], None] | None = None,
    mode: str = "transaction",
    budget: int = 20,
) -> Iterator[Estate]:
    """Provision the tenants on `server` (which must be the test's own), let `prepare` make and
    protect tables, and serve on a free port until the end."""
    made = Estate(server, tenants, mode, budget)
    for each in tenants:
        provision_one(made, each)
    if prepare is not None:
        prepare(made)
    thread = threading.Thread(target=_run, args=(made,), name="estate")
    thread.start()
    try:
        made.port = made._ready.result(START_SECONDS)
        yield made
    finally:
        if made._ready.done() and made._ready.exception() is None:
            made._loop.call_soon_threadsafe(made._stop.set)
        thread.join()


def protect(
    made: Estate, database: str, *, share: Sequence[str] = (), accept: Sequence[str] = ()
) -> None:
    """What `tenantry protect --apply --accept-primary-keys` does; it must leave nothing open."""
    tenants = [each for each in made.tenants.values() if each.database == database]
    wishes = Wishes(database, shared=tuple(share), accept=tuple(accept), accept_primary_keys=True)

    async def run() -> None:
        server = made.server
        async with await open_admin(node(server), server.password, database) as conn:
            looked, _ = await apply(conn, wishes, tenants, lambda text: None)
            assert looked.plan.complete, looked.plan

    asyncio.run(run())


def provision_one(made: Estate, tenant: Tenant) -> None:
    done = asyncio.run(
        provision(
            tenant,
            node(made.server),
            VAULT,
            node_password=made.server.password,
            previous=tenant.provisioned,
        )
    )
    made.tenants[tenant.id] = tenant.model_copy(update={"provisioned": done})


def sealed_node(server: Postgres) -> Node:
    """The node as the log has it: with its password sealed."""
    plain = node(server)
    purpose = node_purpose(plain.host, plain.port, plain.user)
    return plain.model_copy(update={"password": VAULT.seal(server.password, purpose)})


def _run(made: Estate) -> None:
    try:
        uvloop.run(made.serve())
    except BaseException as error:
        if made._ready.done():
            raise
        made._ready.set_exception(error)
