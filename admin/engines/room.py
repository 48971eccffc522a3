"""Where the log and PostgreSQL are: starts what is embedded and keeps it alive, finds the rest."""

from __future__ import annotations

import logging
from pathlib import Path

from admin.cli.failure import MISTAKE, Failure
from admin.data_dir import DataDir
from admin.engines.both import EmbeddedNats, EmbeddedPostgres, Engines
from admin.engines.keeper import EngineKeeper, Moved
from admin.engines.process import Say
from admin.reconfigure import embeds
from admin.worker import primary
from events.installation import Events, Installation, Node
from events.nats_login import addresses
from events.secrets import Vault, node_purpose

log = logging.getLogger("tenantry.supervisor")


class EngineRoom:
    """The engines of one installation. `fast` gives up their durability, for tests."""

    def __init__(self, data: DataDir, vault: Vault, say: Say, *, fast: bool = False) -> None:
        self.events_dir = ""
        self._data = data
        self._vault = vault
        self._say = say
        self._fast = fast
        self._servers: tuple[str, ...] = ()
        self._engines: Engines | None = None
        self._keepers: list[EngineKeeper] = []

    # --- the log ---------------------------------------------------------------------------------

    async def start_as_told(self, installation: Installation) -> None:
        """Start what a file asks for, side by side. Raises EngineError."""
        events: Events = installation.events
        self._servers = () if events.embedded else addresses(events)
        self.events_dir = events.data_dir
        await self._start(postgres=embeds(installation))

    async def start_as_before(self) -> bool:
        """Start the log that was used before; False when there never was one. Whether PostgreSQL
        is embedded stands in the log. Raises EngineError, Failure, SecretError."""
        known = self._data.recall(self._vault)
        if known is None and not (self._data.path / "nats").exists():
            return False
        self._servers = known.servers if known else ()
        self.events_dir = known.events_dir if known else ""
        await self._start(postgres=False)
        return True

    async def _start(self, *, postgres: bool) -> None:
        engines = self._engines = Engines(
            self._data.path, postgres=postgres, nats=not self._servers, fast=self._fast
        )
        if engines.nats is not None and self.events_dir:
            engines.nats = EmbeddedNats(Path(self.events_dir), fast=self._fast)
        await engines.start(self._say)

    def servers(self) -> list[str]:
        """Addresses of NATS as they are now, with passwords."""
        nats = self._engines.nats if self._engines else None
        return list(self._servers) if nats is None else [nats.nats_url()]

    def external(self) -> tuple[str, ...]:
        """Addresses of a NATS that is not ours, with passwords."""
        return self._servers

    # --- PostgreSQL ------------------------------------------------------------------------------

    async def start_postgres(self, installation: Installation) -> None:
        """Start the embedded PostgreSQL if it is wanted and does not run. Raises EngineError."""
        engines = self._engines
        if engines is not None and engines.postgres is None and embeds(installation):
            engines.postgres = EmbeddedPostgres(self._data.path, fast=self._fast)
            await engines.postgres.start(self._say)

    def node(self, installation: Installation) -> Node:
        """The primary with its true address and its password in clear.

        Raises Failure, SecretError.
        """
        node = primary(installation, self.embedded_node())
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
        return node.model_copy(update={"password": password})

    def embedded_node(self) -> dict[str, object] | None:
        """What is true of an embedded node, whatever is configured."""
        engine = self._engines.postgres if self._engines else None
        if engine is None:
            return None
        place = {"host": engine.host, "port": engine.port(), "user": engine.user}
        # It cannot do TLS. A name, because the address changes when its port is taken, and that
        # is no reason to provision every tenant again.
        return {**place, "sslmode": "disable", "name": "embedded"}

    # --- their lives -----------------------------------------------------------------------------

    def watch(self, *, nats_moved: Moved, postgres_moved: Moved) -> None:
        """From now on, start again what dies."""
        engines = self._engines
        assert engines is not None, "start comes first"
        if engines.nats is not None:
            self._keepers.append(EngineKeeper(engines.nats, nats_moved))
        if engines.postgres is not None:
            self._keepers.append(EngineKeeper(engines.postgres, postgres_moved))
        for keeper in self._keepers:
            keeper.watch()

    async def unwatch(self) -> None:
        """Look away: what dies now stays dead."""
        for keeper in self._keepers:
            await keeper.close()
        self._keepers = []

    async def stop(self) -> None:
        """Stop what was started here, unless `tenantry engines up` wants it to stay."""
        await self.unwatch()
        if self._engines is not None:
            await self._engines.stop(self._say)
            self._engines = None
