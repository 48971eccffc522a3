"""One worker process: folds the configuration, accepts clients, serves them, meters them.

Started by the supervisor, which hands it an `Assignment` as JSON on standard input: nothing secret
appears in arguments or the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from actors import reference
from actors.budget import Budget
from actors.commons import Commons, Grounds, load_rules
from actors.directory import Directory
from actors.dispatcher import Dispatcher
from actors.manage import Pauses
from actors.tenant import Surroundings, TenantActor
from admin.audit_open import open_audit
from admin.catalog_reader import CatalogReader
from admin.console.calls import Responder, node_id
from admin.console.open import open_console
from admin.console.stats import Counters
from admin.data_dir import socket_folder
from admin.operator_access import is_whole, whole_database, whole_target
from admin.provision.sql import row_role
from admin.reports import report
from admin.telemetry.setup import open_tracer
from events import snapshot
from events.audit_publisher import AuditPublisher
from events.audit_sink import CONFIG_CHANGE, OK
from events.facts import KIND_INSTALLATION, KIND_OPERATOR, KIND_TENANT, KIND_TIER
from events.installation import Installation, Node
from events.keys import KeyRing
from events.log import ConfigLog
from events.model import Settings, Tenant
from events.projection import Projection
from events.secrets import Vault, tenant_purpose
from events.spans import about
from events.spool import Spool
from events.usage import USAGE_FOLDER, Delta, UsagePublisher
from wire.errors import ServerUnavailable, TenantryError
from wire.postgres.connect import Target
from wire.postgres.listener import Listener
from wire.postgres.tls_setup import listener_tls, node_tls
from wire.sql import framed
from wire.sql.guard import OF_DATABASE
from wire.tasks import end, spawn

if TYPE_CHECKING:
    from admin.telemetry.tracing import Tracer

log = logging.getLogger("tenantry.worker")

# Cancel requests to other workers are datagrams of at most a key and a process id.
CANCEL_DATAGRAM_BYTES: Final = 512
DRAIN_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the supervisor tells a worker: one line of JSON. `embedded_node` is laid over the
    configured node when that is embedded; `reuse_port` lets others listen on the port as well."""

    data_dir: str
    nats_servers: list[str] = field(repr=False)
    host: str
    port: int
    worker: int = 0
    workers: int = 1
    reuse_port: bool = False
    embedded_node: dict[str, object] | None = None
    log_level: str = "INFO"
    json_logs: bool = False
    drain_seconds: float = DRAIN_SECONDS

    @classmethod
    def read(cls, text: bytes) -> Assignment:
        return cls(**orjson.loads(text))

    def text(self) -> bytes:
        return orjson.dumps(self) + b"\n"


class Worker:
    """Everything one worker owns, in the order in which it starts."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.vault = Vault.load(assignment.data_dir)
        # Commands are decided elsewhere, so their ids need not be known here.
        self.projection = Projection(remember_commands=False)
        self.log: ConfigLog | None = None
        self.usage: UsagePublisher | None = None
        self.audit: AuditPublisher | None = None
        self.tracer: Tracer | None = None
        self.budget = Budget(1)
        self._auditing: asyncio.Task[None] | None = None
        self.listener: Listener | None = None
        self.dispatcher: Dispatcher | None = None
        self.commons: Commons | None = None
        self.catalogs: CatalogReader | None = None
        self.port = 0
        # What operators see and do of this worker (SQL console, calls over NATS).
        self.pauses = Pauses()
        self.counters = Counters()
        self._calls: Responder | None = None
        self._tasks: list[asyncio.Task[object]] = []
        self._cancel_transport: asyncio.DatagramTransport | None = None
        self._cancel_inode = 0

    async def start(self) -> int:
        """Catch up with the log, then listen; gives the port."""
        assignment = self.assignment
        self.log = await ConfigLog.connect(
            assignment.nats_servers, name=f"tenantry-worker-{assignment.worker}"
        )
        keys = KeyRing(self.log, self.vault)
        await keys.load()
        loaded = await snapshot.load(
            self.log, self.vault, opener=keys.open, remember_commands=False
        )
        if loaded is not None:
            self.projection = loaded
        keys.serve(self.projection)
        await self.log.read_all(self.projection.position + 1, self.projection.apply)
        installation = self.projection.installation()
        if installation is None:
            raise ServerUnavailable("the log holds no configuration yet")
        self.tracer = open_tracer(
            installation.telemetry, f"worker-{assignment.worker}", self._place
        )
        if self.tracer is not None:
            self.log.spans = self.tracer.spans
        if self.projection.may_have_rows():
            self._spawn(load_rules(), "load the rules of shared tables")
        self._open_books(self.log, installation)
        self._arrange(installation)
        self.projection.subscribe(self._changed)
        self._spawn(self.log.follow(self.projection.position + 1, self.projection.apply), "follow")
        self._spawn(keys.follow(), "follow the keys")
        node = node_id(assignment.data_dir)
        self._spawn(report(self.log.nats, node, f"worker-{assignment.worker}", self.look), "report")
        self._spawn(self._report_usage(installation.events.usage_interval_secs), "usage")
        await self._listen_for_cancels()
        assert self.listener is not None
        self._calls = await open_console(self)
        self.port = await self.listener.start(
            assignment.host, assignment.port, reuse_port=assignment.reuse_port
        )
        return self.port

    def _open_books(self, log: ConfigLog, installation: Installation) -> None:
        """Where usage is counted, and the audit told."""
        name = f"worker-{self.assignment.worker}"
        data = Path(self.assignment.data_dir)
        replicas = installation.events.replicas
        spool = Spool(data / USAGE_FOLDER)
        self.usage = UsagePublisher(log.nats, name, replicas=replicas, spool=spool)
        self.audit = open_audit(log.nats, data, name, self.vault, installation, self._is_known)
        self._auditing = spawn(self.audit.run(), name="audit")

    def _place(self, tenant: str) -> tuple[str, str, int]:
        """Database, host and port of a tenant, for telemetry."""
        found = self.tenant(tenant)
        node = primary(self.projection.installation(), self.assignment.embedded_node)
        database = "" if found is None else found.database
        return (database, "", 0) if node is None else (database, node.host, node.port)

    def _is_known(self, tenant: str) -> bool:
        return self.projection.version_of(KIND_TENANT, tenant) > 0

    def _arrange(self, installation: Installation) -> None:
        assert self.audit is not None
        assignment = self.assignment
        workers = assignment.workers
        self.catalogs = CatalogReader(self.shared_target, self._uses, self._catalog_changed)
        self.budget = Budget(max(1, installation.pool.max_connections // workers))
        commons = Commons(self.vault.derive, self.shared_target, self.catalogs.learn)
        self.catalogs.commons = self.commons = commons
        around = Surroundings(
            commons=commons,
            tenant=self.tenant,
            target=self.target,
            budget=self.budget,
            installation=installation,
            workers=workers,
            record=self._record,
            pauses=self.pauses,
            audit=self.audit,
            tracing=self.tracer.tracing if self.tracer is not None else None,
        )
        self.dispatcher = Dispatcher(lambda id: TenantActor.start(id, around))
        staleness = installation.events.max_staleness_secs
        directory = Directory(
            self.tenant,
            self.dispatcher,
            database_suffix=installation.identification.database_suffix,
            prepare=commons.prepare,
            operator=self.operator,
            fresh=lambda: (
                staleness is None or self.log is None or self.log.staleness() <= staleness
            ),
            audit=self.audit,
        )
        self.listener = Listener(
            installation,
            directory,
            mock_secret=self.vault.derive("unknown users"),
            tls=listener_tls(installation.tls),
            worker=assignment.worker,
            forward_cancel=self._forward_cancel,
            audit=self.audit,
            tracing=self.tracer.tracing if self.tracer is not None else None,
        )

    def _spawn(self, work: object, name: str) -> None:
        self._tasks.append(spawn(work, name=name))  # type: ignore[arg-type]

    # --- configuration ---------------------------------------------------------------------------

    def _changed(self, kind: str, id: str) -> None:
        if self.dispatcher is None:
            return
        if self.audit is not None:
            self.audit.note(
                CONFIG_CHANGE,
                id if kind == KIND_TENANT else "",
                outcome=OK,
                trace_id=about().trace_id,
                span_id=about().span_id,
                detail=f"{kind} {id} {self.projection.position}",
            )
        if kind == KIND_TENANT:
            self._tell(id)
        elif kind in (KIND_INSTALLATION, KIND_TIER):
            # What tenants get that set nothing may have changed; the rest of an installation needs
            # another worker.
            for tenant in self.dispatcher.active():
                self._tell(tenant)

    def _tell(self, id: str) -> None:
        """Have the tenant's actor take its configuration anew, if it has one."""
        assert self.dispatcher is not None
        assert self.commons is not None
        tenant = self.projection.tenant(id)
        row = tenant is not None and tenant.isolation.strategy == "row"
        if row and not framed.is_loaded():
            # Before its first client comes, who would have to wait for it.
            spawn(load_rules(), name="load the rules of shared tables")
        if tenant is not None and row and self.dispatcher.connections(id):
            spawn(self._prepare(tenant), name="prepare a tenant")
        else:
            self.dispatcher.config_changed(id)

    async def _prepare(self, tenant: Tenant) -> None:
        assert self.dispatcher is not None
        assert self.commons is not None
        # Without the catalog the actor ends the tenant's connections.
        with contextlib.suppress(TenantryError):
            await self.commons.prepare(tenant)
        self.dispatcher.config_changed(tenant.id)

    def _of(self, grounds: Grounds) -> Iterator[str]:
        """The active tenants whose statements are read on these grounds."""
        for id in self.dispatcher.active() if self.dispatcher is not None else ():
            tenant = self.projection.tenant(id)
            row = tenant is not None and tenant.isolation.strategy == "row"
            if tenant is not None and row and Grounds.of(tenant) == grounds:
                yield id

    def _uses(self, grounds: Grounds) -> bool:
        return any(True for _ in self._of(grounds))

    def _catalog_changed(self, grounds: Grounds) -> None:
        for id in list(self._of(grounds)):
            assert self.dispatcher is not None
            self.dispatcher.config_changed(id)

    def tenant(self, id: str) -> Tenant | None:
        """A tenant as it is now, or what stands for a whole database."""
        return whole_database(id) if is_whole(id) else self.projection.tenant(id)

    def operator(self, name: str) -> Settings | None:
        """What the log says of an operator; None for one that is unknown, deleted or shut out."""
        found = self.projection.named(KIND_OPERATOR, name)
        if found is None or found.deleted or found.settings.get("disabled"):
            return None
        return found.settings

    def node(self) -> Node | None:
        """Where tenants are."""
        return primary(self.projection.installation(), self.assignment.embedded_node)

    def target(self, tenant: Tenant) -> Target:
        """Where the tenant's servers are. Raises ServerUnavailable while it is not provisioned."""
        installation = self.projection.installation()
        node = primary(installation, self.assignment.embedded_node)
        if tenant.provisioned is None or node is None:
            raise ServerUnavailable("the tenant is being set up")
        if is_whole(tenant.id):
            return whole_target(tenant.id, node, self.assignment.data_dir, self.vault)
        password = self.vault.open(tenant.provisioned.secret, tenant_purpose(tenant.id))
        return Target(
            node.host, node.port, tenant.database, tenant.provisioned.role, password, node_tls(node)
        )

    def shared_target(self, tenant: Tenant) -> Target:
        """Where servers are that tenants of shared tables share. Raises ServerUnavailable."""
        installation = self.projection.installation()
        node = primary(installation, self.assignment.embedded_node)
        if tenant.provisioned is None or node is None:
            raise ServerUnavailable("the tenant is being set up")
        database = tenant.database
        return Target(
            node.host,
            node.port,
            database,
            row_role(database),
            self.vault.derive(f"row role {database}").hex(),
            node_tls(node),
            sealed=tenant.isolation.enforcement != "rewrite",
        )

    # --- time ------------------------------------------------------------------------------------

    async def _report_usage(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            if self.usage is not None:
                await self.usage.flush()

    def look(self) -> dict[str, float]:
        """What there is to report now, by the names of admin.telemetry.metrics.REPORTED."""
        assert self.log is not None
        assert self.dispatcher is not None
        assert self.listener is not None
        actors = reference.running()
        pools = self.budget.pools
        shelves = {pool.shelf for pool in pools if pool.shelf is not None}
        idle = sum(len(pool.idle) for pool in pools) + sum(len(each.idle) for each in shelves)
        said: dict[str, float] = {
            "configuration_staleness_seconds": self.log.staleness(),
            "position": self.projection.position,
            "clients": len(self.listener.clients),
            "tenants_active": len(self.dispatcher.active()),
            "actors": len(actors),
            "actor_messages_waiting": sum(len(each._inbox) for each in actors),
            "pool_servers_limit": self.budget.limit,
            "pool_servers_used": self.budget.used,
            "pool_servers_idle": idle,
            "pool_clients_waiting": sum(pool.waiting() for pool in pools),
            "cache_statements": len(OF_DATABASE),
        }
        if self.audit is not None:
            said["audit_waiting"] = self.audit.size()
            said["audit_lost_total"] = self.audit.lost
            said["audit_spool_bytes"] = self.audit.waiting_bytes()
        if self.usage is not None:
            said["usage_waiting"] = self.usage.waiting()
            said["usage_lost_total"] = self.usage.lost
        return said

    def _record(self, tenant: str, delta: Delta) -> None:
        self.counters.add(tenant, delta)
        if self.usage is not None:
            self.usage.add(tenant, delta)

    # --- cancel requests between workers ---------------------------------------------------------

    async def _listen_for_cancels(self) -> None:
        if self.assignment.workers == 1:
            return
        path = cancel_path(self.assignment.data_dir, self.assignment.worker)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind(str(path))
        path.chmod(0o600)
        self._cancel_inode = path.stat().st_ino
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: Cancels(self), sock=sock)
        self._cancel_transport = transport

    def _forward_cancel(self, worker: int, process_id: int, key: bytes) -> None:
        path = cancel_path(self.assignment.data_dir, worker)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            # A worker that is gone has no clients to cancel anything of.
            with contextlib.suppress(OSError):
                sock.sendto(process_id.to_bytes(4, "big") + key, str(path))

    def cancel_here(self, process_id: int, key: bytes) -> None:
        if self.listener is not None:
            client = self.listener.keys.find(process_id, key)
            if client is not None:
                client.cancel()

    # --- the end ---------------------------------------------------------------------------------

    async def stop(self, drain_seconds: float) -> None:
        """Let transactions end, close the rest, hand in what was metered."""
        if self.listener is not None:
            await self.listener.drain(drain_seconds)
        if self._calls is not None:
            await self._calls.stop()
            self._calls = None
        if self.dispatcher is not None:
            await self.dispatcher.close()
        await end(*self._tasks)
        if self.catalogs is not None:
            await self.catalogs.close()
        if self.usage is not None:
            await self.usage.flush()
            self.usage.close()
            self.usage = None
        await self._close_audit()
        if self.log is not None:
            await self.log.close()
        tracer, self.tracer = self.tracer, None
        if tracer is not None:
            await asyncio.to_thread(tracer.stop)
        if self._cancel_transport is not None:
            self._cancel_transport.close()
            path = cancel_path(self.assignment.data_dir, self.assignment.worker)
            # The one who takes our place may have put its own there already.
            if path.exists() and path.stat().st_ino == self._cancel_inode:
                path.unlink(missing_ok=True)

    async def _close_audit(self) -> None:
        if self._auditing is not None:
            await end(self._auditing)
            self._auditing = None
        audit, self.audit = self.audit, None
        if audit is not None:
            await audit.close()


class Cancels(asyncio.DatagramProtocol):
    """Receives the cancel requests that reached another worker's listener."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def datagram_received(self, data: bytes, addr: object) -> None:
        if 4 < len(data) <= CANCEL_DATAGRAM_BYTES:
            self._worker.cancel_here(int.from_bytes(data[:4], "big"), data[4:])


def cancel_path(data_dir: str, worker: int) -> Path:
    return socket_folder(Path(data_dir)) / f"worker-{worker}.sock"


def primary(installation: Installation | None, embedded: dict[str, object] | None) -> Node | None:
    """The node that tenants live on: the first enabled primary."""
    if installation is None:
        return None
    for node in installation.nodes:
        if node.enabled and node.role == "primary":
            if node.embedded and embedded is not None:
                return node.model_copy(update=embedded)
            return node
    return None
