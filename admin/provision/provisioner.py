"""Watches the configuration and provisions each tenant whose servers do not match it yet.

A tenant is worked on when it appears or changes, at most PARALLEL_MAX at once, each at most
ATTEMPTS_MAX times with growing pauses; then it rests until its configuration changes. One tenant's
failure delays no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import psycopg

from admin.provision.plan import Plan, ProvisioningFailed, plan
from admin.provision.tenant import Sealer, close_to_public, fingerprint, node_name, provision
from events.commands import CommandRefused, RecordProvisioned
from events.facts import KIND_TENANT
from events.installation import Node
from events.model import Provisioned, Tenant
from events.projection import Subscriber
from events.secrets import SecretError, tenant_purpose
from wire.errors import TenantryError
from wire.tasks import end, spawn

log = logging.getLogger("tenantry.provisioner")

# Each holds two connections of the node for tens of milliseconds; most of that is the server's
# work, and tenants of one database wait for each other anyway.
PARALLEL_MAX: Final = 4
# With the pauses below: about four minutes, enough for a PostgreSQL that restarts.
ATTEMPTS_MAX: Final = 8
PAUSE_SECS: Final = 1.0
PAUSE_MAX_SECS: Final = 60.0
# How long a database that was made by hand may stay open to tenants before it is closed.
SWEEP_SECS: Final = 300.0
# Tenants looked at in one go at start-up before other work of the process gets its turn.
LOOK_BATCH: Final = 200

ACTOR: Final = "provisioner"
State = Literal["pending", "active", "failed"]


class Commander(Protocol):
    """What provisioning needs of events.commander."""

    def execute(self, command: RecordProvisioned, actor: str) -> Awaitable[object]: ...


class Configuration(Protocol):
    """What provisioning needs of events.projection."""

    def tenant(self, id: str) -> Tenant | None: ...

    def ids(self) -> Iterator[str]: ...

    def subscribe(self, subscriber: Subscriber) -> Any: ...


@dataclass(slots=True)
class _Places:
    """Who is in one database: a tenant alone, or schema tenants and row tenants together."""

    alone: str | None = None
    schemas: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    """Row tenants by their value in the tenant column."""
    shared: Counter[str] = field(default_factory=Counter)
    """Schemas of shared tables, and how many row tenants have theirs there."""

    def is_empty(self) -> bool:
        return not (self.alone or self.schemas or self.values)


class Claims:
    """Which tenant has which place. The first to claim keeps it: two tenants in one schema or with
    one value, or a database that one has alone and another uses, would see each other's data."""

    def __init__(self) -> None:
        self._places: dict[str, _Places] = defaultdict(_Places)
        # Database, schema (its own or that of shared tables), value of a row tenant.
        self._held: dict[str, tuple[str, str | None, str | None]] = {}

    def take(self, wanted: Plan) -> None:
        """Raises ProvisioningFailed when another tenant has the place."""
        self.release(wanted.tenant)
        there = self._places.get(wanted.database, _Places())
        place = f'database "{wanted.database}"'
        taken = there.alone is not None or (wanted.alone and not there.is_empty())
        if not taken and wanted.schema is not None:
            place = f'schema "{wanted.schema}" in {place}'
            taken = wanted.schema in there.schemas or there.shared[wanted.schema] > 0
        elif not taken and wanted.rows is not None:
            taken = wanted.rows.value in there.values
            if taken:
                place = f'the value "{wanted.rows.value}" in {place}'
            elif wanted.rows.schema in there.schemas:
                taken, place = True, f'schema "{wanted.rows.schema}" in {place}'
        if taken:
            raise ProvisioningFailed(
                f"{place} is another tenant's",
                hint="Set another database_name, schema_name, tenant_value or branch_name.",
            )
        there = self._places[wanted.database]
        held: tuple[str, str | None, str | None] = (wanted.database, wanted.schema, None)
        if wanted.rows is not None:
            there.values[wanted.rows.value] = wanted.tenant
            there.shared[wanted.rows.schema] += 1
            held = (wanted.database, wanted.rows.schema, wanted.rows.value)
        elif wanted.schema is not None:
            there.schemas[wanted.schema] = wanted.tenant
        else:
            there.alone = wanted.tenant
        self._held[wanted.tenant] = held

    def release(self, tenant: str) -> None:
        held = self._held.pop(tenant, None)
        if held is None:
            return
        database, schema, value = held
        there = self._places[database]
        if value is not None:
            assert schema is not None
            del there.values[value]
            there.shared[schema] -= 1
        elif schema is not None:
            del there.schemas[schema]
        else:
            there.alone = None
        if there.is_empty():
            del self._places[database]


class Provisioner:
    """Provisions on `node`, with its user and `node_password`. `states` tells how each tenant
    stands, `reasons` why it failed; the counters only grow."""

    def __init__(self, node: Node, *, node_password: str, parallel: int = PARALLEL_MAX) -> None:
        self.states: dict[str, State] = {}
        self.reasons: dict[str, str] = {}
        self.runs_total = 0
        self.failures_total = 0
        self.retries_total = 0
        self._node = node
        self._password = node_password
        self._parallel = parallel
        self._claims = Claims()
        # At most one entry per tenant each, so the number of tenants bounds all of these.
        self._waiting: dict[str, None] = {}
        self._busy: set[str] = set()
        self._attempts: dict[str, int] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()
        self._looked = 0
        # Tenant → the sealed secret that was given to its role last, by this process.
        self._given: dict[str, str] = {}

    @property
    def waiting(self) -> int:
        """Tenants that wait to be looked at, those being worked on included."""
        return len(self._waiting) + len(self._busy) + len(self._timers)

    @property
    def untried(self) -> int:
        """Those of them that nobody has tried since they appeared, changed or came due again."""
        return len(self._waiting) + len(self._busy)

    async def run(
        self,
        projection: Configuration,
        commander: Commander,
        vault: Sealer,
        stop: asyncio.Event,
    ) -> None:
        """Work until `stop` is set; what is cut short is finished by the next process."""

        def changed(kind: str, id: str) -> None:
            for each in [id] if kind == KIND_TENANT else projection.ids():
                self._attempts.pop(each, None)
                self._enqueue(each)

        unsubscribe = projection.subscribe(changed)
        for id in projection.ids():
            self._enqueue(id)
        workers = [
            spawn(self._work(projection, commander, vault), name=f"provisioner-{number}")
            for number in range(self._parallel)
        ]
        try:
            while not stop.is_set():
                await self._sweep()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), SWEEP_SECS)
        finally:
            unsubscribe()
            for timer in self._timers.values():
                timer.cancel()
            await end(*workers)

    def _enqueue(self, id: str) -> None:
        timer = self._timers.pop(id, None)
        if timer is not None:
            timer.cancel()
        self._waiting[id] = None
        self._wake.set()

    async def _work(self, projection: Configuration, commander: Commander, vault: Sealer) -> None:
        while True:
            id = next((each for each in self._waiting if each not in self._busy), None)
            if id is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            del self._waiting[id]
            self._busy.add(id)
            try:
                await self._settle(id, projection, commander, vault)
            finally:
                self._busy.discard(id)
                # What changed meanwhile waits for this one, and nobody else may be awake.
                self._wake.set()
            self._looked += 1
            if self._looked % LOOK_BATCH == 0:
                await asyncio.sleep(0)

    async def _settle(
        self, id: str, projection: Configuration, commander: Commander, vault: Sealer
    ) -> None:
        """Look at one tenant; provision it if it is not as recorded."""
        tenant = projection.tenant(id)
        if tenant is None:
            self._claims.release(id)
            self._forget(id)
            self._given.pop(id, None)
            return
        try:
            wanted = plan(tenant)
            self._claims.take(wanted)
        except TenantryError as error:
            self._failed(id, error)
            return
        made = tenant.provisioned
        as_recorded = (
            made is not None
            and made.fingerprint == fingerprint(tenant)
            and made.node == node_name(self._node)
            and not self._overruled(made, vault, id)
        )
        if as_recorded:
            self._forget(id)
            self.states[id] = "active"
        elif tenant.enabled:
            await self._provision(tenant, commander, vault)

    def _overruled(self, made: Provisioned, vault: Sealer, id: str) -> bool:
        """Whether another proxy has recorded a secret, and PostgreSQL may have ours: when both
        provision a new tenant at once, nothing orders what they give against what they record.
        What is recorded counts, and is given once more. A secret of a strange key never does: two
        proxies with different keys would go on for ever."""
        if self._given.get(id, made.secret) == made.secret:
            return False
        try:
            vault.open(made.secret, tenant_purpose(id))
        except SecretError:
            return False
        return True

    async def _provision(self, tenant: Tenant, commander: Commander, vault: Sealer) -> None:
        self.states[tenant.id] = "pending"
        self.runs_total += 1
        try:
            made = await provision(
                tenant,
                self._node,
                vault,
                node_password=self._password,
                previous=tenant.provisioned,
            )
            self._given[tenant.id] = made.secret
            await commander.execute(RecordProvisioned(id=tenant.id, **made.model_dump()), ACTOR)
        except CommandRefused as error:
            self._failed(tenant.id, error)
        except Exception as error:
            self._retry(tenant.id, error)
        else:
            self._forget(tenant.id)
            self.states[tenant.id] = "active"
            log.info("tenant %s is provisioned on %s", tenant.id, made.node)

    def _retry(self, id: str, error: Exception) -> None:
        attempts = self._attempts[id] = self._attempts.get(id, 0) + 1
        if attempts >= ATTEMPTS_MAX:
            self._failed(id, error)
            return
        self.retries_total += 1
        self.reasons[id] = str(error)
        pause = min(PAUSE_SECS * 2 ** (attempts - 1), PAUSE_MAX_SECS)
        log.warning("provisioning tenant %s again in %.0f s: %s", id, pause, error)
        loop = asyncio.get_running_loop()
        self._timers[id] = loop.call_later(pause, self._enqueue, id)

    def _failed(self, id: str, error: Exception) -> None:
        self.failures_total += 1
        self.states[id] = "failed"
        self.reasons[id] = str(error)
        hint = error.hint if isinstance(error, TenantryError) else ""
        log.error("tenant %s cannot be provisioned until it is changed: %s %s", id, error, hint)

    def _forget(self, id: str) -> None:
        for known in (self.states, self.reasons, self._attempts):
            known.pop(id, None)

    async def _sweep(self) -> None:
        if "active" not in self.states.values():
            return
        try:
            await close_to_public(self._node, self._password)
        except (psycopg.Error, OSError) as error:
            log.warning("databases made by hand may be open to tenants: %s", error)
