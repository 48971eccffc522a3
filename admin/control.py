"""Commands and provisioning: keeps the folded configuration, changes it, makes PostgreSQL match it.

It lives on the supervisor's event loop rather than in a process of its own: it holds nothing that
a query needs, its tasks are started again when they fail, and one process fewer costs 40 MB less.
What needs to be alone later (an API, a command consumer) gets this class in its own process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pykka import ActorDeadError

from actors.analytics import Analytics, Ready, ask
from actors.analytics_fold import View
from actors.mailbox import MailboxFull
from actors.reference import AsyncioActorRef
from admin.audit_open import open_audit
from admin.books import note_commands, note_refused
from admin.command_service import CommandService
from admin.config.apply import Plan, plan
from admin.config.load import Loaded
from admin.console.calls import node_id
from admin.engines.process import Say
from admin.listen_port import split_address
from admin.provision.provisioner import Provisioner
from admin.reports import Reports, of_process
from admin.restarts import Restarts
from admin.telemetry.metrics import (
    Family,
    TopTenants,
    health_families,
    render,
    report_families,
    tenant_families,
    view_families,
)
from admin.telemetry.page import MetricsPage
from admin.telemetry.setup import endpoints, open_tracer
from events import snapshot
from events.audit_publisher import AuditPublisher
from events.audit_sink import AuditSink
from events.commander import Accepted, Commander
from events.commands import Command, CommandRefused
from events.facts import KIND_INSTALLATION, KIND_TENANT
from events.installation import Installation, Node
from events.keys import KeyRing
from events.log import ConfigLog
from events.projection import Projection
from events.secrets import Vault, is_sealed, sealed_with
from events.spans import NO_SPANS, TRACEPARENT
from events.stream import Conflict
from wire.tasks import end, spawn

if TYPE_CHECKING:
    from admin.telemetry.tracing import Tracer

log = logging.getLogger("tenantry.control")

FILE_ACTOR: Final = "configuration file"
# How long a start waits for NATS: a cluster that elects its leader needs some seconds.
PATIENCE: Final = 10.0
# How often the first provisioning is looked at, and how often people hear of it. Seconds.
LOOK_SECONDS: Final = 0.02
TELL_SECONDS: Final = 2.0
# How often analytics are asked whether they have caught up. Seconds.
LOOK_READY_SECONDS: Final = 0.2
# How often a file is worked out anew because others wrote meanwhile. Proxies that apply one file to
# an empty log at once need one turn each; a log that moves on this often has another trouble.
APPLY_TRIES_MAX: Final = 10
# Between two tries, at random up to twice as long each time. Seconds.
APPLY_PAUSE_SECS: Final = 0.02
APPLY_PAUSE_MAX_SECS: Final = 4.0
# What the audit calls the way by which a file's commands came.
FILE_SURFACE: Final = "file"


@dataclass(frozen=True)
class Applied:
    """What a file came to: what was changed by it; tenants that it does not name and that
    stay as they are; sentences about tenants that cannot be had."""

    changed: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


class Control:
    """The one who changes the configuration: `open`, `apply`, work in the background, `close`."""

    def __init__(
        self,
        log: ConfigLog,
        vault: Vault,
        projection: Projection | None = None,
        keys: KeyRing | None = None,
    ) -> None:
        self.log = log
        self.vault = vault
        self.projection = Projection() if projection is None else projection
        self.keys = KeyRing(log, vault) if keys is None else keys
        self.keys.serve(self.projection)
        self.commander = Commander(log, self.projection, self.keys)
        self.provisioner: Provisioner | None = None
        self.service = CommandService(log, self.commander, self.projection, vault, self.keys)
        self.audit: AuditSink = AuditSink()
        self._publisher: AuditPublisher | None = None
        self._auditing: asyncio.Task[None] | None = None
        self._tracer: Tracer | None = None
        self.reports = Reports()
        self._node = ""
        self._hearing = False
        self.metrics_port = 0
        self._top = TopTenants(0)
        self._page: MetricsPage | None = None
        self._exporting: asyncio.Task[None] | None = None
        # What all tenants use, while it is kept (`follow`); whether it has caught up.
        self.analytics: AsyncioActorRef[Analytics] | None = None
        self.analytics_ready = False
        self._analysing: asyncio.Task[None] | None = None
        # Worker processes that live, and that should.
        self.workers: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self._following: asyncio.Task[None] | None = None
        self._saving: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._provisioning: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        servers: Sequence[str],
        vault: Vault,
        *,
        replicas: int | None = None,
        name: str = "control",
        patience: float = PATIENCE,
    ) -> Control:
        """Connect to the log within `patience` seconds, fold all that it holds: from the newest
        snapshot on, if there is a good one. `replicas` as in ConfigLog.connect. Raises LogError;
        SecretError, before anything can be changed, when the log belongs to another key."""
        config_log = await ConfigLog.connect(
            servers, replicas=replicas, name=f"tenantry-{name}", patience=patience
        )
        try:
            keys = KeyRing(config_log, vault)
            await keys.load()
            vault.must_be_one_of(keys.sealed_with())
            control = cls(config_log, vault, await snapshot.load(config_log, vault), keys)
            await control.commander.catch_up()
            nodes = control.projection.installation_settings().get("nodes", ())
            passwords = (node.get("password", "") for node in nodes)
            vault.must_be_one_of({sealed_with(each) for each in passwords if is_sealed(each)})
        except BaseException:
            await config_log.close()
            raise
        return control

    async def plan(self, loaded: Loaded) -> Plan:
        """What `loaded` asks for beyond what the log says. Raises LogError, SecretError."""
        await self.commander.catch_up()
        # What another proxy has just stored must not look as if it lacked its users: each key is
        # stored before what it seals.
        await self.keys.load()
        # Checking passwords takes milliseconds each, on purpose; the loop has other work to do.
        return await asyncio.to_thread(plan, loaded, self.projection, self.vault)

    async def apply(self, loaded: Loaded, actor: str = FILE_ACTOR) -> Applied:
        """Bring the log to what `loaded` says; all of it, or nothing when a command is refused.

        Where another proxy writes meanwhile, what is still missing is worked out anew.
        Raises CommandRefused, Conflict, LogError, SecretError.
        """
        for left in range(APPLY_TRIES_MAX - 1, -1, -1):
            planned = await self.plan(loaded)
            position = self.projection.position
            try:
                accepted = await self._execute_all(self._expecting(planned.commands), actor)
                break
            except (CommandRefused, Conflict) as error:
                await self.commander.catch_up()
                if not left or self.projection.position == position:
                    note_refused(self.audit, type(error).__name__, actor, FILE_SURFACE)
                    raise
            # Whoever was faster goes on with the next of the same tenants: let them.
            pause = min(APPLY_PAUSE_SECS * 2 ** (APPLY_TRIES_MAX - left), APPLY_PAUSE_MAX_SECS)
            await asyncio.sleep(pause * random.random())  # noqa: S311 - no secret
        changed = [
            " ".join((command.kind, *_id_of(command)))
            for command, each in zip(planned.commands, accepted, strict=True)
            if each.events
        ]
        return Applied(changed, planned.unlisted, planned.refused)

    async def execute_all(self, commands: Sequence[Command], actor: str) -> list[Accepted]:
        """Carry out all of a file's commands or none, as Commander.execute_all, and tell the
        audit."""
        try:
            return await self._execute_all(commands, actor)
        except (CommandRefused, Conflict) as error:
            note_refused(self.audit, type(error).__name__, actor, FILE_SURFACE)
            raise

    def _expecting(self, commands: Sequence[Command]) -> list[Command]:
        """`commands` that are refused when their subject has changed since they were worked out.
        Else two proxies would overwrite each other's verifiers of the same passwords."""
        known: set[tuple[str, str]] = set()
        made: list[Command] = []
        for each in commands:
            subject = each.kind, each.subject_id
            if subject not in known:
                version = self.projection.version_of(*subject)
                made.append(each.model_copy(update={"expected_version": version}))
            else:
                made.append(each)
            known.add(subject)
        return made

    async def _execute_all(self, commands: Sequence[Command], actor: str) -> list[Accepted]:
        with self.log.spans.command("apply", "", FILE_SURFACE, "") as parent:
            headers = {TRACEPARENT: parent} if parent else {}
            accepted = await self.commander.execute_all(commands, actor, headers)
            note_commands(self.audit, commands, accepted, actor, FILE_SURFACE, parent)
            return accepted

    # --- the audit -------------------------------------------------------------------------------

    def open_audit(self, data: Path, installation: Installation, writer: str = "control") -> None:
        """Tell the audit of what is done here, from now on; `data` is the data directory."""
        self._node = node_id(data)
        audit = open_audit(
            self.log.nats,
            data,
            writer,
            self.vault,
            installation,
            lambda id: self.projection.version_of(KIND_TENANT, id) > 0,
        )
        self.audit = self.service.audit = self._publisher = audit
        self._auditing = spawn(audit.run(), name="audit")

    def open_telemetry(self, installation: Installation) -> None:
        """Make spans of commands from now on, if somebody wants them."""
        self._tracer = open_tracer(installation.telemetry, "control", lambda _: ("", "", 0))
        if self._tracer is not None:
            self.log.spans = self._tracer.spans

    async def _close_telemetry(self) -> None:
        tracer, self._tracer = self._tracer, None
        if tracer is not None:
            self.log.spans = NO_SPANS
            await asyncio.to_thread(tracer.stop)

    async def _close_audit(self) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher is not None and self._auditing is not None:
            self.audit = self.service.audit = AuditSink()
            await end(self._auditing)
            await publisher.close()

    # --- analytics and health --------------------------------------------------------------------

    async def _analyse(self) -> None:
        """Keep the actor that knows what tenants use alive, and know when it has caught up."""
        restarts = Restarts()
        while True:
            installation = self.projection.installation() or Installation()
            ref = Analytics.start(self.log.nats, installation.analytics.detailed_tenants)
            self.analytics = ref
            gone = asyncio.get_running_loop().create_future()
            ref.watch(partial(_gone, gone))
            try:
                while not gone.done():
                    if not self.analytics_ready:
                        with contextlib.suppress(ActorDeadError):
                            self.analytics_ready = await ref.ask(Ready())
                    wait = None if self.analytics_ready else LOOK_READY_SECONDS
                    await asyncio.wait((gone,), timeout=wait)
            finally:
                self.analytics = None
                self.analytics_ready = False
                await ref.stop()
            log.error("analytics failed (%r); starting again", gone.result())
            await asyncio.sleep(restarts.pause(time.monotonic()))

    # --- metrics ---------------------------------------------------------------------------------

    async def metrics(self) -> list[Family]:
        """All that is measured now."""
        settings = (self.projection.installation() or Installation()).telemetry
        prefix, now = settings.metric_prefix, time.time()
        if self._top.most != settings.top_tenants:
            self._top = TopTenants(settings.top_tenants)
        reports = self.reports.current()
        for said in reports.values():
            if "position" in said:
                said["event_lag"] = max(0.0, self.projection.position - said["position"])
        own = {**of_process(), "event_lag": 0.0}
        staleness = self.log.staleness()
        if not math.isinf(staleness):
            own["configuration_staleness_seconds"] = staleness
        if self._publisher is not None:
            own["audit_waiting"] = self._publisher.size()
            own["audit_lost_total"] = self._publisher.lost
        reports["control"] = own
        families = health_families(self.health(), prefix) + report_families(reports, prefix)
        analytics = self.analytics
        if analytics is None:
            return families
        with contextlib.suppress(ActorDeadError, MailboxFull):
            families += await ask(analytics, partial(self._of_tenants, now, prefix))
        return families

    def _of_tenants(self, now: float, prefix: str, view: View) -> list[Family]:
        tenants = tenant_families(view, self._top, self.projection.tenant, now, prefix)
        return tenants + view_families(view, prefix)

    async def metrics_page(self) -> bytes:
        """Prometheus's page (metrics.CONTENT_TYPE)."""
        return render(await self.metrics())

    async def serve_metrics(self, installation: Installation) -> None:
        """Hear what workers report; serve the page, and send metrics, where that is configured."""
        if not self._hearing:
            self._hearing = True
            await self.reports.listen(self.log.nats, self._node)
        settings = installation.telemetry
        if settings.prometheus_address is not None:
            host, port = split_address(settings.prometheus_address)
            page = MetricsPage(self.metrics_page)
            try:
                self.metrics_port = await page.start(host, port)
                self._page = page
            except OSError as error:
                # Nobody's query depends on it.
                log.error("no page for Prometheus on %s: %s", settings.prometheus_address, error)
        where = endpoints(settings)
        if where.metrics:
            exporting = self._export(where.metrics, settings.metrics_interval_secs)
            self._exporting = spawn(exporting, name="export metrics")

    async def _export(self, endpoint: str, seconds: float) -> None:
        from admin.telemetry.export import MetricsExport

        export = MetricsExport(endpoint, "control", seconds)
        try:
            while True:
                export.tell(await self.metrics())
                await asyncio.sleep(seconds)
        finally:
            await asyncio.to_thread(export.stop)

    async def change_telemetry(self, installation: Installation) -> None:
        """Another endpoint, page or ratio counts from now on."""
        await self.stop_metrics()
        await self._close_telemetry()
        self.open_telemetry(installation)
        await self.serve_metrics(installation)

    async def stop_metrics(self) -> None:
        """Let go of the page's address, export no more."""
        page, self._page = self._page, None
        if page is not None:
            await page.stop()
        exporting, self._exporting = self._exporting, None
        if exporting is not None:
            await end(exporting)

    def health(self) -> dict[str, Any]:
        """How the installation is, without asking anybody; `ready` when all of it works.

        `staleness_seconds` is None before the log was read; `analytics_ready` is None without
        analytics.
        """
        staleness = self.log.staleness()
        alive, wanted = self.workers()
        pending = 0 if self.provisioner is None else self.provisioner.untried
        failing = 0 if self.provisioner is None else len(self.provisioner.reasons)
        analytics = None if self._analysing is None else self.analytics_ready
        return {
            "ready": self.log.connected and alive >= wanted and analytics is not False,
            "log_connected": self.log.connected,
            "staleness_seconds": None if math.isinf(staleness) else round(staleness, 3),
            "position": self.projection.position,
            "workers": {"alive": alive, "wanted": wanted},
            "provisioning_pending": pending,
            "provisioning_failing": failing,
            "analytics_ready": analytics,
        }

    # --- work in the background ------------------------------------------------------------------

    def follow(self) -> None:
        """Fold what others change, from now on."""
        self._following = spawn(self._follow(), name="control follows the log")
        self._keeping = spawn(self.keys.follow(make=True), name="control follows the keys")
        saving = snapshot.keep_saving(self.log, self.vault, self.projection)
        self._saving = spawn(saving, name="snapshots")
        installation = self.projection.installation()
        if installation is None or installation.analytics.enabled:
            self._analysing = spawn(self._analyse(), name="analytics")

    async def _follow(self) -> None:
        restarts = Restarts()
        while True:
            try:
                await self.log.follow(self.projection.position + 1, self.projection.apply)
            except Exception:
                log.exception("the configuration cannot be followed; trying again")
            await asyncio.sleep(restarts.pause(time.monotonic()))

    async def serve_commands(self, audit: AuditSink | None = None) -> None:
        """Take commands over NATS, from now on. Raises NatsError, OSError."""
        if audit is not None:
            self.audit = self.service.audit = audit
        await self.service.start()

    async def provision_on(self, node: Node, password: str) -> None:
        """Let every tenant have its place on `node`, from now on; a node before is let go."""
        await self._stop_provisioning()
        self.provisioner = Provisioner(node, node_password=password)
        self._provisioning = spawn(self._provision(self.provisioner), name="provisioning")
        await asyncio.sleep(0)  # so that it has looked at the tenants that there are

    async def _provision(self, provisioner: Provisioner) -> None:
        restarts = Restarts()
        never = asyncio.Event()
        while True:
            try:
                await provisioner.run(self.projection, self, self.vault, never)
            except Exception:
                log.exception("provisioning failed; trying again")
            await asyncio.sleep(restarts.pause(time.monotonic()))

    async def execute(self, command: Command, actor: str) -> Accepted:
        """One command of a part of Tenantry's own, told to the audit. Raises as the Commander."""
        accepted = await self.commander.execute(command, actor)
        note_commands(self.audit, [command], [accepted], actor, actor)
        return accepted

    async def provisioned_once(self, seconds: float, say: Say) -> bool:
        """Wait until each tenant has been tried, `seconds` at most; False when some are left."""
        provisioner = self.provisioner
        assert provisioner is not None, "provision_on comes first"
        start = told = time.monotonic()
        while provisioner.untried:
            now = time.monotonic()
            if now - start > seconds:
                return False
            if now - told > TELL_SECONDS:
                say(f"provisioning: {provisioner.untried} tenants to go")
                told = now
            await asyncio.sleep(LOOK_SECONDS)
        return True

    # --- the end ---------------------------------------------------------------------------------

    async def _stop_provisioning(self) -> None:
        if self._provisioning is not None:
            await end(self._provisioning)
            self._provisioning = None

    async def close(self) -> None:
        """Stop; what provisioning leaves half done is finished by the next one."""
        await self.stop_metrics()
        await self.service.stop()
        await self._stop_provisioning()
        for task in (self._following, self._saving, self._keeping, self._analysing):
            if task is not None:
                await end(task)
        self._following = self._saving = self._keeping = self._analysing = None
        await self._close_audit()
        await self._close_telemetry()
        await self.log.close()


def _gone(future: asyncio.Future[BaseException | None], cause: BaseException | None) -> None:
    if not future.done():
        future.set_result(cause)


def _id_of(command: Command) -> tuple[str, ...]:
    """For people; there is one installation."""
    return () if command.kind == KIND_INSTALLATION else (command.subject_id,)
