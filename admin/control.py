"""Commands and provisioning: keeps the folded configuration, changes it, makes PostgreSQL match it.

It lives on the supervisor's event loop rather than in a process of its own: it holds nothing that
a query needs, its tasks are started again when they fail, and one process fewer costs 40 MB less.
What needs to be alone later (an API, a command consumer) gets this class in its own process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from admin.apply import Plan, plan
from admin.command_service import CommandService
from admin.config import Loaded
from admin.engine_process import Say
from admin.provisioner import Provisioner
from admin.restarts import Restarts
from events import snapshot
from events.audit_sink import AuditSink
from events.commander import Commander
from events.installation import Node
from events.keys import KeyRing
from events.log import ConfigLog
from events.projection import Projection
from events.secrets import Vault
from wire.tasks import spawn

log = logging.getLogger("tenantry.control")

FILE_ACTOR: Final = "configuration file"
# How long a start waits for NATS: a cluster that elects its leader needs some seconds.
PATIENCE: Final = 10.0
# How often the first provisioning is looked at, and how often people hear of it. Seconds.
LOOK_SECONDS: Final = 0.02
TELL_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Applied:
    """What a file came to: commands that changed something; tenants that it does not name and that
    stay as they are; sentences about tenants that cannot be had."""

    changed: int = 0
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
        replicas: int = 1,
        name: str = "control",
        patience: float = PATIENCE,
    ) -> Control:
        """Connect to the log within `patience` seconds, fold all that it holds: from the newest
        snapshot on, if there is a good one. Raises LogError."""
        config_log = await ConfigLog.connect(
            servers, replicas=replicas, name=f"tenantry-{name}", patience=patience
        )
        try:
            keys = KeyRing(config_log, vault)
            await keys.load()
            control = cls(config_log, vault, await snapshot.load(config_log, vault), keys)
            await control.commander.catch_up()
        except BaseException:
            await config_log.close()
            raise
        return control

    async def plan(self, loaded: Loaded) -> Plan:
        """What `loaded` asks for beyond what the log says. Raises LogError, SecretError."""
        await self.commander.catch_up()
        # Checking passwords takes milliseconds each, on purpose; the loop has other work to do.
        return await asyncio.to_thread(plan, loaded, self.projection, self.vault)

    async def apply(self, loaded: Loaded, actor: str = FILE_ACTOR) -> Applied:
        """Bring the log to what `loaded` says; all of it, or nothing when a command is refused.

        Raises CommandRefused, Conflict, LogError, SecretError.
        """
        planned = await self.plan(loaded)
        accepted = await self.commander.execute_all(planned.commands, actor)
        changed = sum(1 for each in accepted if each.events)
        return Applied(changed, planned.unlisted, planned.refused)

    # --- work in the background ------------------------------------------------------------------

    def follow(self) -> None:
        """Fold what others change, from now on."""
        self._following = spawn(self._follow(), name="control follows the log")
        self._keeping = spawn(self.keys.follow(make=True), name="control follows the keys")
        saving = snapshot.keep_saving(self.log, self.vault, self.projection)
        self._saving = spawn(saving, name="snapshots")

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
            self.service.audit = audit
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
                await provisioner.run(self.projection, self.commander, self.vault, never)
            except Exception:
                log.exception("provisioning failed; trying again")
            await asyncio.sleep(restarts.pause(time.monotonic()))

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
            self._provisioning.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._provisioning
            self._provisioning = None

    async def close(self) -> None:
        """Stop; what provisioning leaves half done is finished by the next one."""
        await self.service.stop()
        await self._stop_provisioning()
        for task in (self._following, self._saving, self._keeping):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._following = self._saving = self._keeping = None
        await self.log.close()
