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
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from admin.config import Loaded, load
from admin.control import Applied, Control
from admin.data_dir import DataDir, Remembered
from admin.engine_keeper import EngineKeeper, Moved
from admin.engines import EmbeddedNats, EmbeddedPostgres, Engines
from admin.failure import MISTAKE, Failure, WrongFile
from admin.listen_port import HeldPort, hold_port, split_address
from admin.reconfigure import embeds, needs
from admin.worker import DRAIN_SECONDS, Assignment, Worker, primary
from admin.worker_keeper import WorkerKeeper
from admin.worker_process import finish
from events.commands import CommandRefused
from events.facts import KIND_INSTALLATION
from events.installation import Installation, Node
from events.secrets import SecretError, Vault, node_purpose
from events.stream import LogError
from wire.tasks import spawn

log = logging.getLogger("tenantry.supervisor")

# Clients are served meanwhile; this only bounds how long the start-up waits to tell how it went.
FIRST_PROVISIONING_SECONDS: Final = 60.0
# More than one per core only adds processes to share the limits with.
WORKERS_MAX: Final = 256

Say = Callable[[str], None]


@dataclass(frozen=True)
class Running:
    """What has been started. `node` and `nats_urls` hold passwords: never show them."""

    host: str
    port: int
    data_dir: Path
    nats_urls: list[str] = field(repr=False)
    node: Node = field(repr=False)
    """The primary, with its true address and password, embedded or not."""
    control: Control = field(repr=False)


class Supervisor:
    """One installation on this machine. `say` hears progress, in lines for people.

    `port` overrides the configured one (0: any); `next_free` takes the next free port when it is
    taken. `workers` 0 serves in this process. `fast_engines` gives up durability, for tests.
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
        fast_engines: bool = False,
        drain_seconds: float = DRAIN_SECONDS,
        log_level: str = "INFO",
        json_logs: bool = False,
    ) -> None:
        self.data = DataDir(data_dir)
        self.control: Control | None = None
        self._config = config
        self._workers = workers
        self._say = say
        self._port_asked = port
        self._next_free = next_free
        self._fast = fast_engines
        self._drain_seconds = drain_seconds
        self._log_level = log_level
        self._json_logs = json_logs
        self._vault: Vault | None = None
        self._engines: Engines | None = None
        self._engine_keepers: list[EngineKeeper] = []
        self._events_dir = ""
        self._servers: list[str] = []
        self._node: Node | None = None
        self._installation = Installation()
        self._held: HeldPort | None = None
        self._keepers: list[WorkerKeeper] = []
        self._inside: Worker | None = None
        self._stop = asyncio.Event()
        self._now = asyncio.Event()
        self._starting: asyncio.Task[object] | None = None
        self._changing = asyncio.Lock()
        self._unsubscribe: Callable[[], None] | None = None
        self._background: set[asyncio.Task[None]] = set()

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
        self.data.lock()
        vault = self._vault = Vault.load(self.data.path)
        await self._start_log(loaded, vault)
        replicas = loaded.installation.events.replicas if loaded and loaded.installation else 1
        control = self.control = await Control.open(self._servers, vault, replicas=replicas)
        if loaded is not None:
            self._tell(await control.apply(loaded))
        installation = control.projection.installation()
        if installation is None:
            raise self._nothing_configured()
        self._installation = installation
        await self._start_postgres(installation)
        node = self._resolve_node(installation)
        self._held = self._hold(installation)
        self.data.remember(
            Remembered(
                servers=() if self._engines and self._engines.nats else tuple(self._servers),
                events_dir=self._events_dir,
                host=self._held.host,
                port=self._held.port,
                pid=os.getpid(),
            ),
            vault,
        )
        control.follow()
        self._unsubscribe = control.projection.subscribe(self._changed)
        await control.provision_on(node, node.password)
        await self._start_workers()
        await self._tell_provisioning(control)
        return Running(
            host=self._held.host,
            port=self._held.port,
            data_dir=self.data.path,
            nats_urls=list(self._servers),
            node=node,
            control=control,
        )

    async def _start_log(self, loaded: Loaded | None, vault: Vault) -> None:
        """Find out where the log is; start what is embedded. With a file PostgreSQL starts at the
        same time; without, only the log tells whether it is needed."""
        postgres = False
        if loaded is not None and loaded.installation is not None:
            events = loaded.installation.events
            servers = () if events.embedded else events.servers
            self._events_dir, postgres = events.data_dir, embeds(loaded.installation)
        else:
            known = self.data.recall(vault)
            if known is None and not (self.data.path / "nats").exists():
                raise self._nothing_configured()
            servers = known.servers if known else ()
            self._events_dir = known.events_dir if known else ""
        engines = self._engines = Engines(
            self.data.path, postgres=postgres, nats=not servers, fast=self._fast
        )
        if engines.nats is not None and self._events_dir:
            engines.nats = EmbeddedNats(Path(self._events_dir), fast=self._fast)
        await engines.start(self._say)
        if engines.nats is not None:
            self._servers = [engines.nats.nats_url()]
            self._keep(engines.nats, self._nats_moved)
        else:
            self._servers = list(servers)

    async def _start_postgres(self, installation: Installation) -> None:
        engines = self._engines
        assert engines is not None
        if embeds(installation):
            if engines.postgres is None:
                engines.postgres = Engines(self.data.path, nats=False, fast=self._fast).postgres
                assert engines.postgres is not None
                await engines.postgres.start(self._say)
            self._keep(engines.postgres, self._postgres_moved)

    def _keep(self, engine: EmbeddedPostgres | EmbeddedNats, moved: Moved) -> None:
        keeper = EngineKeeper(engine, moved)
        keeper.watch()
        self._engine_keepers.append(keeper)

    def _nothing_configured(self) -> Failure:
        return Failure(
            f"Nothing is configured in {self.data.path} yet: start once with "
            "`tenantry serve --config FILE` (see `tenantry demo` for an example).",
            MISTAKE,
        )

    def _resolve_node(self, installation: Installation) -> Node:
        """The primary with its true address and its password in clear."""
        assert self._vault is not None
        node = primary(installation, self._embedded_node())
        if node is None:
            raise Failure("No node is an enabled primary: correct [[nodes]].", MISTAKE)
        engine = self._engines.postgres if self._engines else None
        if node.embedded and engine is not None:
            password = engine.password()
        elif node.password:
            purpose = node_purpose(node.host, node.port, node.user)
            password = self._vault.open(node.password, purpose)
        else:
            password = ""
        self._node = node.model_copy(update={"password": password})
        return self._node

    def _embedded_node(self) -> dict[str, object] | None:
        engine = self._engines.postgres if self._engines else None
        if engine is None:
            return None
        # It cannot do TLS. A name, because the address changes when its port is taken, and that
        # is no reason to provision every tenant again.
        place = {"host": engine.host, "port": engine.port(), "user": engine.user}
        return {**place, "sslmode": "disable", "name": "embedded"}

    def _hold(self, installation: Installation) -> HeldPort:
        host, port = split_address(installation.listen_address)
        wanted = port if self._port_asked is None else self._port_asked
        held = hold_port(host, wanted, next_free=self._next_free)
        if wanted and held.port != wanted:
            self._say(f"port {wanted} is taken; using {held.port}")
        return held

    # --- workers ---------------------------------------------------------------------------------

    def _assign(self, number: int) -> Assignment:
        assert self._held is not None
        return Assignment(
            data_dir=str(self.data.path),
            nats_servers=self._servers,
            host=self._held.host,
            port=self._held.port,
            worker=number,
            workers=max(1, self._workers),
            reuse_port=True,
            embedded_node=self._embedded_node(),
            log_level=self._log_level,
            json_logs=self._json_logs,
            drain_seconds=self._drain_seconds,
        )

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

    async def _tell_provisioning(self, control: Control) -> None:
        provisioner = control.provisioner
        assert provisioner is not None
        if not await control.provisioned_once(FIRST_PROVISIONING_SECONDS, self._say):
            self._say(f"{provisioner.untried} tenants are still being set up; they follow")
        for id, reason in provisioner.reasons.items():
            self._say(f'tenant "{id}" is not usable yet: {reason}')

    def _tell(self, applied: Applied) -> None:
        count = applied.changed
        if count:
            self._say(f"{count} {'change' if count == 1 else 'changes'} taken from the file")
        for sentence in applied.refused:
            self._say(f"warning: {sentence}")
        if applied.unlisted:
            self._say(f"not in the file, left as they are: {', '.join(applied.unlisted[:10])}")

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
        count = running.control.projection.tenant_count()
        tenants = f"{count} {'tenant' if count == 1 else 'tenants'}"
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
        if self._stop.is_set():
            self._now.set()
            for keeper in self._keepers:
                keeper.hurry()
        self._stop.set()
        if self._starting is not None:
            self._starting.cancel()

    def _told_to_reload(self) -> None:
        self._in_background(self.reload(), "reload")

    def _in_background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = spawn(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def reload(self) -> None:
        """Read the file again and apply it; all or nothing, and the log says which."""
        if self._config is None or self.control is None:
            log.warning("there is no file to read again: use `tenantry apply FILE`")
            return
        try:
            async with self._changing:
                loaded = load_or_fail(self._config, self._say)
                self._tell(await self.control.apply(loaded))
        except (Failure, CommandRefused, LogError, SecretError) as error:
            log.error("%s was not applied: %s", self._config, error)
        else:
            log.info("%s is applied", self._config)

    def _changed(self, kind: str, id: str) -> None:
        if kind == KIND_INSTALLATION:
            self._in_background(self._adapt(), "adapt")

    async def _adapt(self) -> None:
        """The installation has changed: start again what does not follow by itself."""
        async with self._changing:
            control = self.control
            new = control.projection.installation() if control is not None else None
            if control is None or new is None:
                return
            old, self._installation = self._installation, new
            needed = needs(old, new)
            if needed.restart:
                keys = ", ".join(needed.restart)
                log.warning("%s: takes effect when Tenantry is started again", keys)
            if not needed.workers:
                return
            try:
                await self._renew(control, old, new, needed.workers)
            except (Failure, SecretError) as error:
                log.error("the change of %s is not in effect: %s", needed.workers, error)

    async def _renew(
        self, control: Control, old: Installation, new: Installation, keys: list[str]
    ) -> None:
        if self._inside is not None:
            log.warning("%s: takes effect when Tenantry is started again", ", ".join(keys))
            return
        log.info("%s changed: replacing the workers one by one", ", ".join(keys))
        before = self._held
        if old.listen_address != new.listen_address and self._port_asked is None:
            self._held = self._hold(new)
        if old.nodes != new.nodes:
            node = self._resolve_node(new)
            await control.provision_on(node, node.password)
        await self._replace_workers()
        if before is not None and before is not self._held:
            before.close()

    async def _replace_workers(self) -> None:
        for keeper in self._keepers:
            await keeper.replace()

    async def _postgres_moved(self) -> None:
        control = self.control
        if control is not None:
            node = self._resolve_node(self._installation)
            await control.provision_on(node, node.password)
            async with self._changing:
                await self._replace_workers()

    async def _nats_moved(self) -> None:
        log.critical("the port of NATS was taken meanwhile: start Tenantry again")

    # --- the end ---------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Drain, then stop everything that was started. Doing so twice does no harm."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        for task in tuple(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        for watch in self._engine_keepers:
            await watch.close()
        drain = 0.0 if self._now.is_set() else self._drain_seconds
        await asyncio.gather(*(keeper.stop(drain) for keeper in self._keepers))
        self._keepers = []
        if self._inside is not None:
            await finish(self._inside, drain, self._now)
            self._inside = None
        if self.control is not None:
            await self.control.close()
            self.control = None
        if self._engines is not None:
            await self._engines.stop(self._say)
            self._engines = None
        if self._held is not None:
            self._held.close()
            self._held = None
        self.data.unlock()


def load_or_fail(config: Path, say: Say) -> Loaded:
    """The file, read; its warnings are said. Raises Failure with every mistake, one a line."""
    loaded = load(config, os.environ)
    for warning in loaded.warnings:
        say(f"warning: {warning.text(str(config))}")
    if loaded.mistakes:
        raise WrongFile([mistake.text(str(config)) for mistake in loaded.mistakes])
    return loaded
