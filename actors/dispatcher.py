"""Brings each event to its tenant's actor: wakes actors up, puts them to sleep, supervises them.

    absent ──first use──▶ active ──idle for a while──▶ stopping ──▶ absent
      ▲                     │ fails
      │                     ├── at most RESTARTS in RESTART_WINDOW ──▶ active again, fresh state
      └── after COOL_DOWN ──┴── once more ──▶ closed: every connection is refused

A plain class, not an actor: it never waits between looking at a tenant's entry and changing it, so
a mailbox in front of it would only cost every connection another round.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from pykka import ActorDeadError

from actors.mailbox import CONTROL, DEAD, FULL, OWED, MailboxFull, Verdict
from actors.messages import ConfigChanged, ConnectionClosed, ConnectionOpened, OpenLease, Tick
from actors.reference import AsyncioActorRef
from wire.errors import ServerUnavailable, ShuttingDown, TenantryError, TooManyConnections

log = logging.getLogger("tenantry.dispatcher")

Ref: TypeAlias = AsyncioActorRef[Any]

# A tenant's actor that nobody is connected to is kept this long, because the next connection often
# comes soon and finds warm servers. Seconds.
IDLE_SECONDS: Final = 300.0
# How often actors are told that time has passed, so a time limit is exceeded by at most this much;
# 1,000 active tenants cost about 1 % of a core. Idle ones are found then, too. Seconds.
TICK_SECONDS: Final = 0.25
# A fault that comes back this often at once is not cured by starting again.
RESTARTS: Final = 5
RESTART_WINDOW: Final = 60.0
# Long enough for what broke to be mended by a retry elsewhere, short enough not to need anybody.
COOL_DOWN: Final = 30.0
# An actor that has been told to stop and has not after this is not going to. Seconds.
STOP_SECONDS: Final = 5.0
# Actors met on their way out by one connection before it is refused; more than RESTARTS, which
# closes the tenant first.
OPEN_ATTEMPTS: Final = 8
# Actors of one worker. At 1.5 kB for an idle one this is 150 MB; beyond it, add workers.
ACTIVE_TENANTS: Final = 100_000

NOT_AVAILABLE: Final = "the tenant is not available at the moment"


class _Entry:
    """What is known of one tenant that is, or lately was, in use."""

    __slots__ = ("closed_until", "connections", "failures", "ref", "stale", "tenant", "used")

    def __init__(self, tenant: str, now: float) -> None:
        self.tenant = tenant
        self.ref: Ref | None = None
        # Each connection; True once it has its lease.
        self.connections: dict[object, bool] = {}
        self.used = now
        # When it failed, within the window; None is the usual case.
        self.failures: deque[float] | None = None
        self.closed_until = 0.0
        # A change of configuration that its control lane had no room for.
        self.stale = False


class Dispatcher:
    """All tenants' actors of one worker. `start_actor` makes and starts a tenant's actor, with its
    state as it is now; it may raise a TenantryError, and so may the actor's on_start."""

    def __init__(
        self,
        start_actor: Callable[[str], Ref],
        *,
        idle_seconds: float = IDLE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start_actor = start_actor
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False

    def active(self) -> list[str]:
        """The tenants that have an actor now."""
        return [entry.tenant for entry in self._entries.values() if entry.ref is not None]

    def connections(self, tenant_id: str) -> int:
        """The tenant's connections here, those that wait for their lease included."""
        entry = self._entries.get(tenant_id)
        return 0 if entry is None else len(entry.connections)

    # --- events ---------------------------------------------------------------------------------

    async def open_lease(self, tenant_id: str, connection: object) -> object:
        """The lease that the tenant's actor grants; it is woken up if need be. When this is
        cancelled, the actor learns that the connection is gone.

        Raises what the actor refuses with; TooManyConnections when it cannot keep up;
        ServerUnavailable when it keeps failing; ShuttingDown when the worker stops.
        """
        entry = self._entry(tenant_id)
        entry.connections[connection] = False
        granted = False
        try:
            lease = await self._ask_lease(entry, connection)
            if connection not in entry.connections:
                raise ShuttingDown("the connection was closed while it was being opened")
            entry.connections[connection] = granted = True
            return lease
        finally:
            if not granted:
                # Cancelled, perhaps when the answer was on its way. In order, so that it comes
                # after the OpenLease it takes back.
                self.connection_closed(tenant_id, connection)

    async def _ask_lease(self, entry: _Entry, connection: object) -> object:
        for _ in range(OPEN_ATTEMPTS):
            ref = self._awake(entry)
            if ref.is_stopping():
                await self._gone(ref)
                continue
            try:
                return await ref.ask(OpenLease(entry.tenant, connection))
            except ActorDeadError as error:
                # It was not handled, so it can be asked of the next actor, unless this one died
                # of a refusal.
                if error.__cause__ is not None and _refused(ref, error.__cause__):
                    raise error.__cause__ from None
            except MailboxFull:
                raise TooManyConnections(
                    "too many connections are being opened", hint="Try again in a moment."
                ) from None
            except TenantryError:
                raise
            except Exception as error:
                log.error("tenant %s: no lease because of %r", entry.tenant, error)
                raise ServerUnavailable(NOT_AVAILABLE) from error
        raise ServerUnavailable(NOT_AVAILABLE)

    def connection_closed(self, tenant_id: str, connection: object) -> None:
        """The connection is gone. Saying so twice does no harm."""
        entry = self._entries.get(tenant_id)
        if entry is None:
            return
        entry.connections.pop(connection, None)
        entry.used = self._clock()
        if entry.ref is not None:
            entry.ref.try_tell(ConnectionClosed(tenant_id, connection), lane=OWED)
        self._forget_if_unused(entry)

    def send(self, tenant_id: str, event: object) -> Verdict:
        """Any other event for the tenant's actor, which is woken up if need be. False (as a
        verdict) means that it was not taken: the sender still has it."""
        try:
            ref = self._awake(self._entry(tenant_id))
        except TenantryError as error:
            log.debug("tenant %s: event not taken: %s", tenant_id, error)
            return DEAD
        return ref.try_tell(event)

    async def ask_active(self, tenant_id: str, message: object) -> object:
        """The answer of the tenant's actor, with the precedence of control; None when it has none.

        Nobody is woken up. Raises MailboxFull, and what the actor raises.
        """
        entry = self._entries.get(tenant_id)
        if entry is None or entry.ref is None:
            return None
        try:
            return await entry.ref.ask(message, lane=CONTROL)
        except ActorDeadError:
            return None

    def config_changed(self, tenant_id: str) -> None:
        """Tell the tenant's actor if it has one; one that starts later reads the new anyway."""
        entry = self._entries.get(tenant_id)
        if entry is not None and entry.ref is not None:
            verdict = entry.ref.try_tell(ConfigChanged(tenant_id), lane=CONTROL)
            entry.stale = verdict is FULL

    # --- time -----------------------------------------------------------------------------------

    def tick(self) -> None:
        """What is done every TICK_SECONDS: actors are told, idle ones stopped."""
        now = self._clock()
        for entry in list(self._entries.values()):
            ref = entry.ref
            if ref is None:
                self._forget_if_unused(entry)
            elif not entry.connections and now - entry.used >= self._idle_seconds:
                ref.stop()
            else:
                if entry.stale:
                    self.config_changed(entry.tenant)
                # Refused by a full mailbox: it is busy, and the next tick will do as well.
                ref.try_tell(Tick())

    def _on_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._on_timer)
        self.tick()

    async def close(self) -> None:
        """Stop all actors, each after what it has got; those that will not stop are killed after
        STOP_SECONDS. New connections are refused with ShuttingDown."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        refs = [entry.ref for entry in self._entries.values() if entry.ref is not None]
        try:
            async with asyncio.timeout(STOP_SECONDS):
                for stopped in [ref.stop() for ref in refs]:
                    await stopped
        except TimeoutError:
            for ref in refs:
                self._kill(ref)
        self._entries.clear()

    # --- supervision ----------------------------------------------------------------------------

    def _entry(self, tenant_id: str) -> _Entry:
        """Raises TooManyConnections."""
        entry = self._entries.get(tenant_id)
        if entry is None:
            if len(self._entries) >= ACTIVE_TENANTS:
                raise TooManyConnections("too many tenants are active")
            entry = self._entries[tenant_id] = _Entry(tenant_id, self._clock())
        return entry

    def _awake(self, entry: _Entry) -> Ref:
        """The tenant's actor, started if there is none. Raises what start_actor raises,
        ServerUnavailable while the tenant is closed, ShuttingDown."""
        if self._closing:
            raise ShuttingDown("the proxy is shutting down")
        now = entry.used = self._clock()
        if entry.ref is not None:
            return entry.ref
        if now < entry.closed_until:
            wait = math.ceil(entry.closed_until - now)
            raise ServerUnavailable(NOT_AVAILABLE, hint=f"Try again in {wait} s.")
        try:
            ref = self._start_actor(entry.tenant)
        except TenantryError:
            self._forget_if_unused(entry)
            raise
        except Exception as error:
            log.error("tenant %s: its actor could not be made", entry.tenant, exc_info=error)
            self._failed(entry, error)
            raise ServerUnavailable(NOT_AVAILABLE) from error
        entry.ref = ref
        entry.stale = False
        ref.watch(lambda cause: self._died(entry, ref, cause))
        for connection, granted in entry.connections.items():
            if granted:
                # It outlived the actor that granted its lease.
                ref.try_tell(ConnectionOpened(entry.tenant, connection), lane=OWED)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._on_timer)
        return ref

    def _died(self, entry: _Entry, ref: Ref, cause: BaseException | None) -> None:
        entry.ref = None
        if cause is None or _refused(ref, cause) or self._closing:
            # Stopped, or refused to start: nothing is broken.
            self._forget_if_unused(entry)
            return
        self._failed(entry, cause)
        if any(entry.connections.values()) and self._clock() >= entry.closed_until:
            # Its connections need an actor now; without any, the next one to come starts it.
            self._restart(entry)

    def _failed(self, entry: _Entry, cause: BaseException) -> None:
        now = self._clock()
        failures = entry.failures
        if failures is None:
            failures = entry.failures = deque()
        while failures and now - failures[0] >= RESTART_WINDOW:
            failures.popleft()
        failures.append(now)
        if len(failures) > RESTARTS:
            entry.failures = None
            entry.closed_until = now + COOL_DOWN
            log.critical(
                "ALERT: tenant %s is closed for %g s: "
                "its actor failed %d times within %g s, last with %r",
                entry.tenant,
                COOL_DOWN,
                RESTARTS + 1,
                RESTART_WINDOW,
                cause,
            )

    def _restart(self, entry: _Entry) -> None:
        try:
            self._awake(entry)
        except TenantryError as error:
            log.warning("tenant %s was not restarted: %s", entry.tenant, error)
            return
        log.warning("tenant %s: its actor was restarted", entry.tenant)

    def _forget_if_unused(self, entry: _Entry) -> None:
        """Drop an entry that says nothing: no actor, no connection, no failure to remember."""
        if entry.ref is not None or entry.connections:
            return
        now = self._clock()
        failures = entry.failures
        if failures and now - failures[-1] < RESTART_WINDOW:
            return
        if now >= entry.closed_until and self._entries.get(entry.tenant) is entry:
            del self._entries[entry.tenant]

    async def _gone(self, ref: Ref) -> None:
        """Wait for an actor that stops, for no two may have one tenant at a time."""
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await ref.stop()
        except TimeoutError:
            self._kill(ref)

    @staticmethod
    def _kill(ref: Ref) -> None:
        if ref._actor_weakref() is not None:
            log.error("%s did not stop within %g s and was killed", ref, STOP_SECONDS)
            ref.kill()


def _refused(ref: Ref, cause: BaseException) -> bool:
    """Whether the actor's on_start refused, as it may: nothing is broken then."""
    return isinstance(cause, TenantryError) and not ref.has_started()
