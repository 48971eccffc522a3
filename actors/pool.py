"""The server connections of one tenant, and the budget that tenants share.

A server logs in as its tenant, so it never passes to another one; what is shared is the number of
them. (The one exception: tenants of shared tables may have a Shelf of idle servers in common, each
sealed anew when it changes hands.) When the budget is used up, the tenant that has used its idle
server least recently loses it; when nobody has an idle one, tenants that wait take turns, and one
that has more than another gives way.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Final

from actors.budget import Budget
from actors.durations import check_duration
from actors.shelf import HAND_OVERS, Shelf
from wire import errors as e
from wire.ports import Pool
from wire.postgres.connect import Target, connect
from wire.tasks import spawn

if TYPE_CHECKING:
    from wire.postgres.borrower import Borrower
    from wire.postgres.server import ServerConnection

log = logging.getLogger("tenantry.pool")

# Clients that may wait for a server at a time, per tenant; the wait itself has a limit in time.
MAX_WAITING: Final = 10_000
# Idle servers looked at for one that has this client's session state already.
MAX_AFFINITY_SCAN: Final = 8
# Later than anything on the monotonic clock.
NEVER: Final = 1e18
# Connections opened at a time, per tenant: PostgreSQL forks for each.
MAX_OPENING: Final = 8


class TenantPool(Pool):
    """Servers of one tenant on one node."""

    def __init__(self, target: Target, budget: Budget, shelf: Shelf | None = None) -> None:
        self.target = target
        self.budget = budget
        self.shelf = shelf
        if shelf is not None:
            shelf.pools.add(self)
        budget.pools.add(self)
        self.limit = 1
        self.min_idle = 0
        self.idle_seconds = 0.0
        self.lifetime_seconds = 0.0
        self.acquire_seconds = 0.0
        # Of its own: empty where tenants share a shelf.
        self.idle: list[ServerConnection] = []
        self.lent: set[ServerConnection] = set()
        self.opening = 0
        # Who waits for a server, and since when.
        self.waiters: dict[Borrower, float] = {}
        self.last_used = monotonic()
        self.closed = False
        # Servers opened before this are closed when they come back (credentials changed).
        self.valid_since = 0.0
        # Paused: nothing is lent, and what comes back is closed.
        self.held = False
        self.valid_before = 0.0

    def size(self) -> int:
        return len(self.idle) + len(self.lent) + self.opening

    def has_idle(self) -> bool:
        return bool(self.idle) if self.shelf is None else bool(self.shelf.idle)

    def all_idle(self) -> list[ServerConnection]:
        """Its idle servers, and those it shares, the one longest idle first."""
        return self.idle if self.shelf is None else list(self.shelf.idle)

    # --- lending --------------------------------------------------------------------------------

    def departed(self, serial: int) -> None:
        for server in list(self.all_idle()):
            if server.owner == serial and server.unsure:
                self.discard(server)

    def waiting(self) -> int:
        return len(self.waiters)

    def acquire(self, client: Borrower) -> ServerConnection | None:
        if self.shelf is not None:
            if self.shelf.idle and len(self.lent) + self.opening < self.limit and not self.closed:
                server = self.shelf.take(client)
                server.pool = self
                self.lent.add(server)
                if self.shelf.hand_overs >= HAND_OVERS:
                    self.stock()
                return server
        elif self.idle and not client.session_mode:
            server = self.pick(client)
            self.lent.add(server)
            return server
        if client.session_mode:
            found = self.pick_like(client)
            if found is not None:
                self.lent.add(found)
                return found
        if self.closed:
            client.acquire_failed(e.ServerUnavailable("the pool is being changed; try again"))
            return None
        if len(self.waiters) >= MAX_WAITING:
            client.acquire_failed(
                e.TooManyConnections("too many clients wait for a server", limit="pool")
            )
            return None
        self.waiters[client] = monotonic()
        self.grow()
        return None

    def pick(self, client: Borrower) -> ServerConnection:
        """The idle server that needs least preparation, most recently used first."""
        idle = self.idle
        last = len(idle) - 1
        server = idle[last]
        state = client.session.state
        if server.owner == client.serial or (server.state is state and not server.unsure):
            idle.pop()
            return server
        at = last - 1
        stop = last - MAX_AFFINITY_SCAN
        while at >= 0 and at > stop:
            server = idle[at]
            if server.owner == client.serial or (server.state is state and not server.unsure):
                del idle[at]
                return server
            at -= 1
        return idle.pop()

    def pick_like(self, client: Borrower) -> ServerConnection | None:
        """Session pooling: an idle server that was opened with the same startup settings."""
        for at in range(len(self.idle) - 1, -1, -1):
            server = self.idle[at]
            if server.startup == client.startup_settings:
                del self.idle[at]
                return server
        return None

    def forget(self, client: Borrower) -> None:
        self.waiters.pop(client, None)

    def release(self, server: ServerConnection) -> None:
        self.last_used = server.idle_since
        if self.waiters:
            if not self.spent(server) and not self.budget.wants(self):
                client = next(iter(self.waiters))
                if not client.session_mode or server.startup == client.startup_settings:
                    del self.waiters[client]
                    client.acquired(server)
                    return
            self.lent.discard(server)
            if self.spent(server):
                self.drop(server)
            else:
                self.give_way(server)
            return
        self.lent.discard(server)
        if self.spent(server):
            self.drop(server)
        elif self.budget.wants(self):
            self.give_way(server)
        elif self.shelf is not None:
            self.shelf.put(server)
        else:
            self.idle.append(server)

    def give_way(self, server: ServerConnection) -> None:
        """Somebody with fewer servers waits for room: the server itself will do if they share."""
        shelf = self.shelf
        other = next(iter(self.budget.waiting), None)
        if shelf is None or other is None or other.shelf is not shelf or not other.waiters:
            self.drop(server)
            return
        del self.budget.waiting[other]
        client = next(iter(other.waiters))
        del other.waiters[client]
        server.pool = other
        other.lent.add(server)
        other.last_used = server.idle_since
        client.acquired(server)
        if other.waiters:
            other.grow()

    def spent(self, server: ServerConnection) -> bool:
        """Whether the server must not be lent again."""
        if self.closed or server.closed or server.created < self.valid_since:
            return True
        lifetime = self.lifetime_seconds
        return lifetime > 0.0 and self.last_used - server.created > lifetime

    def discard(self, server: ServerConnection) -> None:
        self.lent.discard(server)
        shelf = self.shelf
        if shelf is not None and server in shelf.idle:
            shelf.remove(server)
        elif server in self.idle:
            self.idle.remove(server)
        self.drop(server)

    def drop(self, server: ServerConnection) -> None:
        if server.closed:
            return
        server.close()
        self.budget.give()
        if self.waiters:
            self.grow()

    def evict(self) -> None:
        """Close the server that has been idle longest."""
        if self.shelf is not None:
            server = self.shelf.oldest()
            self.shelf.remove(server)
        else:
            server = self.idle[0]
            del self.idle[0]
        server.close()
        self.budget.used -= 1

    def told_id(self, process_id: int) -> int:
        for server in self.lent:
            if server.target.process_id == process_id:
                return server.told_id
        for server in self.all_idle():
            if server.target.process_id == process_id:
                return server.told_id
        return 0

    # --- opening --------------------------------------------------------------------------------

    def grow(self) -> None:
        """Open servers for those who wait, within the tenant's limit and the budget."""
        if self.shelf is not None:
            self.take_from_shelf()
        while self.opening < min(len(self.waiters), MAX_OPENING) and not self.closed:
            if self.size() >= self.limit:
                if not self.idle:
                    return
                # Idle, yet somebody waits: opened with other startup settings than wanted.
                self.evict()
            if not self.budget.take(self):
                return
            self.open_one()

    def take_from_shelf(self) -> None:
        shelf = self.shelf
        assert shelf is not None
        while self.waiters and shelf.idle and self.size() < self.limit and not self.closed:
            client = next(iter(self.waiters))
            del self.waiters[client]
            server = shelf.take(client)
            server.pool = self
            self.lent.add(server)
            client.acquired(server)

    def open_one(self) -> None:
        self.opening += 1
        waiting = list(self.waiters)
        settings: dict[str, str] = {}
        if self.opening <= len(waiting):
            settings = waiting[self.opening - 1].startup_settings
        spawn(self.open_server(settings), name="open server")

    async def open_server(self, settings: dict[str, str]) -> None:
        try:
            server = await connect(self, self.target, settings)
        except e.TenantryError as error:
            self.opening -= 1
            self.fail_one(settings, error)
            self.budget.give()
            self.grow()
        except BaseException:
            self.opening -= 1
            self.budget.give()
            raise
        else:
            self.opening -= 1
            self.lent.add(server)
            self.serve_opened(server)

    def stock(self) -> None:
        """Open a server for the shelf in advance if that will pay and takes nobody's room."""
        shelf = self.shelf
        if shelf is None or not shelf.wants_more() or self.budget.used >= self.budget.limit:
            return
        shelf.growing = True
        self.budget.used += 1
        spawn(self.open_for_shelf(shelf), name="open server for the shelf")

    async def open_for_shelf(self, shelf: Shelf) -> None:
        try:
            server = await connect(self, self.target, {})
        except BaseException as error:
            self.budget.give()
            if not isinstance(error, e.TenantryError):
                raise
            log.debug("no server in advance: %s", error)
        else:
            self.lent.add(server)
            self.serve_opened(server)
        finally:
            shelf.growing = False

    def serve_opened(self, server: ServerConnection) -> None:
        """Hand a new server to the first who waits for one like it."""
        if not self.closed and not self.held:
            for client in self.waiters:
                if client.startup_settings == server.startup:
                    del self.waiters[client]
                    client.acquired(server)
                    return
        self.release(server)

    def fail_one(self, settings: dict[str, str], error: e.TenantryError) -> None:
        for client in self.waiters:
            if client.startup_settings == settings:
                del self.waiters[client]
                client.acquire_failed(error)
                return

    # --- time -----------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Called often: end what has taken too long, close what has idled too long."""
        for server in list(self.lent):
            check_duration(server, now)
        if self.waiters and self.acquire_seconds:
            for client, since in list(self.waiters.items()):
                if now - since < self.acquire_seconds:
                    break
                self.waiters.pop(client, None)
                if self.held:
                    client.acquire_failed(
                        e.ServerUnavailable("the tenant is paused", hint="Try again later.")
                    )
                    continue
                client.acquire_failed(
                    e.TooManyConnections(
                        f"no server was free within {self.acquire_seconds:g} seconds",
                        hint="Use fewer connections or shorter transactions.",
                        limit="pool",
                    )
                )
        while self.has_idle() and self.overdue(now):
            self.evict()
            self.budget.used += 1
            self.budget.give()

    def overdue(self, now: float) -> bool:
        """Whether the server that has been idle longest has been so for too long."""
        shelf = self.shelf
        server = self.idle[0] if shelf is None else shelf.oldest()
        if self.lifetime_seconds and now - server.created > self.lifetime_seconds:
            return True
        if server.created < self.valid_since:
            # While we hold, what is idle is not ours alone.
            return not self.held
        count = len(self.idle) if shelf is None else len(shelf.idle)
        if not self.idle_seconds or count <= self.min_idle:
            return False
        return now - server.idle_since > self.idle_seconds

    def keep_warm(self) -> None:
        """Open servers up to `min_idle`, if the budget has room without taking from others."""
        while (
            self.shelf is None
            and self.size() < min(self.min_idle, self.limit)
            and self.budget.used < self.budget.limit
            and self.opening < MAX_OPENING
        ):
            self.budget.used += 1
            self.opening += 1
            spawn(self.open_server({}), name="open server")

    def retarget(self, target: Target) -> None:
        """New credentials or place: servers opened before are not lent again."""
        self.target = target
        if self.held:
            self.valid_before = monotonic()
        else:
            self.valid_since = monotonic()

    def hold(self) -> None:
        """Lend nothing until `let_go`: who comes waits, what is lent is closed as it comes back.

        It is done with what lending looks at anyway, so that others pay nothing for it. Whoever
        sets another limit meanwhile calls this again.
        """
        if not self.held:
            self.held = True
            self.valid_before = self.valid_since
        self.limit = 0
        self.valid_since = NEVER
        self.budget.waiting.pop(self, None)
        while self.idle:
            self.drop(self.idle.pop())

    def let_go(self) -> None:
        """No longer hold. The limit is the caller's to set, and then to `grow`."""
        if self.held:
            self.held = False
            self.valid_since = self.valid_before

    def reconnect(self) -> None:
        """Replace all servers: idle ones now, lent ones as they come back."""
        if self.held:
            return
        self.valid_since = monotonic()
        while self.idle:
            self.drop(self.idle.pop())

    def close_when_idle(self) -> None:
        """Take no new client; servers end as they come back."""
        self.closed = True
        self.budget.waiting.pop(self, None)
        for client in list(self.waiters):
            client.acquire_failed(e.ServerUnavailable("the pool is being changed; try again"))
        self.waiters.clear()
        while self.idle:
            self.drop(self.idle.pop())
        if not self.lent:
            self.leave()

    def close(self) -> None:
        """End everything; clients have been told already."""
        self.closed = True
        self.budget.waiting.pop(self, None)
        for client in list(self.waiters):
            client.acquire_failed(e.ShuttingDown("the tenant is not available"))
        self.waiters.clear()
        for server in [*self.idle, *self.lent]:
            self.discard(server)
        self.leave()

    def leave(self) -> None:
        """Nothing is lent: no part of the budget and of the shelf any more."""
        self.budget.pools.discard(self)
        shelf = self.shelf
        if shelf is None:
            return
        shelf.pools.discard(self)
        while shelf.idle and not shelf.pools:
            server = shelf.oldest()
            shelf.remove(server)
            self.drop(server)
