"""`tenantry serve`: starts the engines asked for, the control and the workers; keeps them alive.

start:   file → lock → engines → log (only what differs) → port → provisioning and workers
SIGHUP:  the file is read again and applied
SIGTERM: workers drain, then all of it stops; a second one stops it at once
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from admin.api.port import AdminPort
from admin.cli.failure import MISTAKE, Failure, WrongFile
from admin.config.load import Loaded, load
from admin.config.watch import FileWatch, watch
from admin.console.calls import SUPERVISOR, Call, Place, Responder, Row, node_id
from admin.control import Applied, Control
from admin.data_dir import DataDir, Remembered
from admin.engines.process import Say
from admin.engines.room import EngineRoom
from admin.listen_port import HeldPort, hold_port, split_address
from admin.reconfigure import needs, tls_files
from admin.worker import DRAIN_SECONDS, Assignment, Worker
from admin.worker_keeper import WorkerKeeper
from admin.worker_process import finish
from events.commands import CommandRefused
from events.facts import KIND_INSTALLATION
from events.installation import Installation, Node
from events.operators import Principal
from events.secrets import SecretError, Vault
from events.stream import Conflict, LogError
from events.tokens import TokenChecker, TokenSigner
from wire.errors import NotSupported
from wire.tasks import end, spawn

log = logging.getLogger("tenantry.supervisor")

# Clients are served meanwhile; this only bounds how long the start-up waits to tell how it went.
FIRST_PROVISIONING_SECONDS: Final = 60.0
# Names shown in one line; who needs them all asks `tenantry tenants list`.
NAMES_SHOWN: Final = 10


@dataclass(frozen=True)
class Running:
    """What has been started. `node` and `nats_urls` hold passwords: never show them."""

    host: str
    port: int
    data_dir: Path
    nats_urls: list[str] = field(repr=False)
    node: Node = field(repr=False)
    """The primary, with its true address and password, embedded or not."""
    tenants: int = 0


class Supervisor:
    """One installation on this machine. `say` hears progress, in lines for people.

    `port` overrides the configured one (0: any); `next_free` takes the next free port when it is
    taken, `next_free_api` does so for the admin API. `workers` 0 serves in this process.
    `fast_engines` gives up durability, for tests. `watch_file` applies the file when it changes.
    """

    def __init__(
        self,
        *,
        config: Path | None,
        data_dir: Path,
        workers: int,
        say: Say,
        port: int | None = None,
        next_free: bool = False,
        next_free_api: bool = False,
        fast_engines: bool = False,
        drain_seconds: float = DRAIN_SECONDS,
        log_level: str = "INFO",
        json_logs: bool = False,
        watch_file: bool = False,
    ) -> None:
        self._data = DataDir(data_dir)
        self._config = config
        self._workers = workers
        self._say = say
        self._port_asked = port
        self._next_free = next_free
        self._fast = fast_engines
        self._drain_seconds = drain_seconds
        self._log_level = log_level
        self._json_logs = json_logs
        self._watched = FileWatch(config) if watch_file and config is not None else None
        # In the order in which they are started, and stopped in the reverse one.
        self._vault: Vault | None = None
        self._engines: EngineRoom | None = None
        self._control: Control | None = None
        self._installation = Installation()
        self._held: HeldPort | None = None
        self._keepers: list[WorkerKeeper] = []
        self._inside: Worker | None = None
        self._api = AdminPort(lambda: self._control, say, next_free=next_free_api)
        # While it runs.
        self._tls_files: tuple[object, ...] = ()
        self._stop = asyncio.Event()
        self._now = asyncio.Event()
        self._starting: asyncio.Task[object] | None = None
        self._changing = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()
        self._calls: Responder | None = None

    # --- the start -------------------------------------------------------------------------------

    async def start(self) -> Running:
        """Start everything; what was started is stopped again when that fails.

        Raises Failure, EngineError, LogError, SecretError, CommandRefused.
        """
        try:
            return await self._start()
        except BaseException:
            self._now.set()
            await self.stop()
            raise

    async def _start(self) -> Running:
        loaded = load_or_fail(self._config, self._say) if self._config is not None else None
        self._data.lock()
        vault = self._vault = Vault.load(self._data.path)
        engines = self._engines = EngineRoom(self._data, vault, self._say, fast=self._fast)
        if loaded is not None and loaded.installation is not None:
            await engines.start_as_told(loaded.installation)
        elif not await engines.start_as_before():
            raise self._nothing_configured()
        control = await self._open_control(loaded.installation if loaded else None)
        if loaded is not None:
            self._tell(await control.apply(loaded))
        installation = control.projection.installation()
        if installation is None:
            raise self._nothing_configured()
        self._installation = installation
        await engines.start_postgres(installation)
        node = engines.node(installation)
        self._held = self._hold(installation)
        self._remember()
        self._tls_files = tls_files(installation)
        await self._put_to_work(control, node)
        await self._start_workers()
        self._in_background(self._api.adapt(installation), "admin API")
        if self._watched is not None:
            self._in_background(watch(self._watched, self.reload), "watch the file")
        engines.watch(nats_moved=self._nats_moved, postgres_moved=self._postgres_moved)
        await self._tell_provisioning(control)
        return Running(
            host=self._held.host,
            port=self._held.port,
            data_dir=self._data.path,
            nats_urls=engines.servers(),
            node=node,
            tenants=control.projection.tenant_count(),
        )

    async def _open_control(self, installation: Installation | None) -> Control:
        assert self._vault is not None
        assert self._engines is not None
        replicas = installation.events.replicas if installation is not None else None
        self._control = await Control.open(
            self._engines.servers(), self._vault, replicas=replicas, name="control"
        )
        known = installation or self._control.projection.installation()
        self._control.open_telemetry(known or self._installation)
        self._control.open_audit(self._data.path, known or self._installation)
        self._control.workers = self._count_workers
        return self._control

    @property
    def api_url(self) -> str:
        """Where the admin API listens; "" when it does not, or not yet."""
        return self._api.url

    def _count_workers(self) -> tuple[int, int]:
        """How many workers live, and how many should."""
        if self._workers == 0:
            return int(self._inside is not None), 1
        return sum(keeper.pid is not None for keeper in self._keepers), self._workers

    async def _put_to_work(self, control: Control, node: Node) -> None:
        control.follow()
        control.projection.subscribe(self._changed)
        await control.serve_commands()
        await self._hear_calls(control)
        await control.serve_metrics(self._installation)
        await control.provision_on(node, node.password)

    async def _hear_calls(self, control: Control) -> None:
        """Operators may ask for a reload, over NATS."""
        assert self._vault is not None
        calls, self._calls = self._calls, None
        if calls is not None:
            await calls.stop()
        checker = TokenChecker(TokenSigner(self._vault).public_key, control.projection)
        place = Place(node_id(self._data.path), role=SUPERVISOR)
        self._calls = Responder(control.log.connection, place, checker, self._called)
        await self._calls.start()

    async def _called(self, call: Call, principal: Principal) -> list[Row]:
        if call.do == "health" and self._control is not None:
            provisioner = self._control.provisioner
            reasons = {} if provisioner is None else dict(provisioner.reasons)
            return [{**self._control.health(), "reasons": reasons}]
        if call.do != "reload":
            raise NotSupported(f"a supervisor cannot {call.do}")
        log.info("%s asks for a reload", principal.name)
        return [{"error": await self.reload()}]

    def _nothing_configured(self) -> Failure:
        return Failure(
            f"Nothing is configured in {self._data.path} yet: start once with "
            "`tenantry serve --config FILE`, or see `tenantry demo`.",
            MISTAKE,
        )

    def _hold(self, installation: Installation) -> HeldPort:
        host, port = split_address(installation.listen_address)
        wanted = port if self._port_asked is None else self._port_asked
        held = hold_port(host, wanted, next_free=self._next_free)
        if wanted and held.port != wanted:
            self._say(f"port {wanted} is taken; using {held.port}")
        return held

    def _remember(self) -> None:
        assert self._vault is not None
        assert self._engines is not None
        assert self._held is not None
        what = Remembered(
            servers=self._engines.external(),
            events_dir=self._engines.events_dir,
            host=self._held.host,
            port=self._held.port,
            pid=os.getpid(),
        )
        self._data.remember(what, self._vault)

    async def _start_workers(self) -> None:
        if self._workers == 0:
            self._inside = Worker(self._assign(0))
            await self._inside.start()
            return
        if self._workers > 1:
            self._say(f"limits are split evenly among {self._workers} workers, at least 1 each")
        self._keepers = [WorkerKeeper(number, self._assign) for number in range(self._workers)]
        results = await asyncio.gather(
            *(keeper.start() for keeper in self._keepers), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _assign(self, number: int) -> Assignment:
        assert self._held is not None
        assert self._engines is not None
        return Assignment(
            data_dir=str(self._data.path),
            nats_servers=self._engines.servers(),
            host=self._held.host,
            port=self._held.port,
            worker=number,
            workers=max(1, self._workers),
            reuse_port=True,
            embedded_node=self._engines.embedded_node(),
            log_level=self._log_level,
            json_logs=self._json_logs,
            drain_seconds=self._drain_seconds,
        )

    # --- what people hear ------------------------------------------------------------------------

    async def _tell_provisioning(self, control: Control) -> None:
        provisioner = control.provisioner
        assert provisioner is not None
        if not await control.provisioned_once(FIRST_PROVISIONING_SECONDS, self._say):
            self._say(f"{provisioner.untried} tenants are still being set up; they follow")
        for id, reason in list(provisioner.reasons.items())[:NAMES_SHOWN]:
            self._say(f'tenant "{id}" is not usable yet: {reason}')
        if provisioner.reasons:
            self._say("it is tried again by itself; `tenantry doctor` tells what to mend")

    def _tell(self, applied: Applied) -> None:
        count = len(applied.changed)
        if count:
            what = _shown(applied.changed)
            self._say(
                f"{count} {'change' if count == 1 else 'changes'} taken from the file: {what}"
            )
        for sentence in applied.refused:
            self._say(f"warning: {sentence}")
        if applied.unlisted:
            self._say(f"not in the file, left as they are: {_shown(applied.unlisted)}")

    # --- while it runs ---------------------------------------------------------------------------

    async def run(self) -> int:
        """All of it for a command line: start, serve, stop; the exit code."""
        self._handle_signals()
        self._starting = asyncio.current_task()
        try:
            running = await self.start()
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise
            return 0
        finally:
            self._starting = None
        tenants = f"{running.tenants} {'tenant' if running.tenants == 1 else 'tenants'}"
        self._say(f"serving {tenants} on {running.host}:{running.port}")
        await self.run_until_stopped()
        return 0

    async def run_until_stopped(self) -> None:
        """Serve until SIGTERM or SIGINT, then stop everything."""
        self._handle_signals()
        await self._stop.wait()
        self._say("draining; a second signal stops at once")
        await self.stop()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._told_to_reload)

    def _told_to_stop(self) -> None:
        if self._starting is not None:
            if not self._stop.is_set():
                self._starting.cancel()
        elif self._stop.is_set():
            self._now.set()
            for keeper in self._keepers:
                keeper.hurry()
        self._stop.set()

    def _told_to_reload(self) -> None:
        self._in_background(self._reload(), "reload")

    def _in_background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = spawn(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _reload(self) -> None:
        await self.reload()

    async def reload(self) -> str:
        """Read the file again and apply it; all or nothing, and the log says which, and the answer
        why not ("": it is applied). Certificates are read again as well."""
        if self._config is None or self._control is None:
            log.warning("there is no file to read again: use `tenantry apply FILE`")
            return "it was started without a file: use `tenantry apply FILE`"
        try:
            async with self._changing:
                loaded = load_or_fail(self._config, self._say)
                self._tell(await self._control.apply(loaded))
                files = tls_files(self._control.projection.installation() or self._installation)
                if files != self._tls_files:
                    self._tls_files = files
                    log.info("certificates changed: replacing the workers one by one")
                    await self._replace_workers()
        except (Failure, CommandRefused, Conflict, LogError, SecretError) as error:
            log.error("%s was not applied: %s", self._config, error)
            return str(error)
        log.info("%s is applied", self._config)
        return ""

    def _changed(self, kind: str, id: str) -> None:
        if kind == KIND_INSTALLATION:
            self._in_background(self._adapt(), "adapt")

    async def _adapt(self) -> None:
        """The installation has changed: start again what does not follow by itself."""
        async with self._changing:
            control = self._control
            new = control.projection.installation() if control is not None else None
            if control is None or new is None:
                return
            old, self._installation = self._installation, new
            await self._api.adapt(new)
            needed = needs(old, new)
            if self._inside is not None:
                needed = needs(old, new, one_process=True)
            if needed.restart:
                keys = ", ".join(needed.restart)
                log.warning("%s: takes effect when Tenantry is started again", keys)
            if needed.workers:
                keys = ", ".join(needed.workers)
                log.info("%s changed: replacing the workers one by one", keys)
                try:
                    await self._renew(control, old, new)
                except (Failure, SecretError) as error:
                    log.error("the change of %s is not in effect: %s", keys, error)

    async def _renew(self, control: Control, old: Installation, new: Installation) -> None:
        assert self._engines is not None
        before = self._held
        if old.listen_address != new.listen_address and self._port_asked is None:
            self._held = self._hold(new)
            self._remember()
        if old.nodes != new.nodes:
            node = self._engines.node(new)
            await control.provision_on(node, node.password)
        if old.telemetry != new.telemetry:
            await control.change_telemetry(new)
        self._tls_files = tls_files(new)
        await self._replace_workers()
        if before is not None and before is not self._held:
            before.close()

    async def _replace_workers(self) -> None:
        """One after the other, so that somebody always serves."""
        for keeper in self._keepers:
            await keeper.replace()
        if self._inside is not None:
            log.warning("with --workers 0 this takes effect when Tenantry is started again")

    # --- engines that came back elsewhere, because their port was taken ---------------------------

    async def _postgres_moved(self) -> None:
        async with self._changing:
            if self._control is not None and self._engines is not None:
                node = self._engines.node(self._installation)
                await self._control.provision_on(node, node.password)
                await self._replace_workers()

    async def _nats_moved(self) -> None:
        async with self._changing:
            before = self._control
            assert self._engines is not None
            control = await self._open_control(None)
            if before is not None:
                await before.stop_metrics()
            await self._put_to_work(control, self._engines.node(self._installation))
            if before is not None:
                await before.close()
            await self._replace_workers()

    # --- the end ---------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Drain, then stop everything that was started. Doing so twice does no harm."""
        await end(*self._background)
        if self._engines is not None:
            await self._engines.unwatch()
        drain = 0.0 if self._now.is_set() else self._drain_seconds
        stops = [keeper.stop(drain) for keeper in self._keepers]
        await asyncio.gather(self._api.stop(), *stops)
        self._keepers = []
        if self._inside is not None:
            await finish(self._inside, drain, self._now)
            self._inside = None
        if self._calls is not None:
            await self._calls.stop()
            self._calls = None
        if self._control is not None:
            await self._control.close()
            self._control = None
        if self._engines is not None:
            await self._engines.stop()
            self._engines = None
        if self._held is not None:
            self._held.close()
            self._held = None
        self._data.unlock()


def load_or_fail(config: Path, say: Callable[[str], None]) -> Loaded:
    """The file, read; its warnings are said. Raises WrongFile with every mistake."""
    loaded = load(config, os.environ)
    for warning in loaded.warnings:
        say(f"warning: {warning.text(str(config))}")
    if loaded.mistakes:
        raise WrongFile([mistake.text(str(config)) for mistake in loaded.mistakes])
    return loaded


def _shown(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
