"""One worker's part in the operators' console: what it can tell of itself, and do with itself.

It answers calls of other processes (admin.console.calls) and of its own console alike.
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable
from typing import Any, Final

from actors.dispatcher import Dispatcher
from actors.manage import Act, Look, Manage, Pauses
from admin.console.calls import Call, Place, Row
from admin.console.stats import Counters
from events.dumped import copy
from events.log import ConfigLog
from events.operators import Principal
from events.projection import Projection
from wire import errors as e
from wire.postgres.client import ClientConnection
from wire.postgres.listener import Listener

# A client's number is its worker's own; these bits above it make it one of all workers and nodes.
_WORKER_SHIFT: Final = 32
_NODE_SHIFT: Final = 40
_ACTS: Final[dict[str, Act]] = {
    "pause": "pause",
    "resume": "resume",
    "kill": "kill",
    "reconnect": "reconnect",
}


class NodeConsole:
    """Of one worker."""

    def __init__(
        self,
        place: Place,
        projection: Projection,
        dispatcher: Dispatcher,
        listener: Listener,
        log: ConfigLog,
        pauses: Pauses,
        counters: Counters,
        budget: Callable[[], tuple[int, int]],
    ) -> None:
        self.place = place
        self._projection = projection
        self._dispatcher = dispatcher
        self._listener = listener
        self._log = log
        self._pauses = pauses
        self._counters = counters
        # Servers that there are, and that there may be.
        self._budget = budget
        self._hashing = asyncio.Lock()
        self._base = (int(place.node[:4], 16) << _NODE_SHIFT) | (place.number << _WORKER_SHIFT)

    async def handle(self, call: Call, principal: Principal) -> list[Row]:
        """Raises TenantryError."""
        return await self.do(call)

    async def do(self, call: Call) -> list[Row]:
        """The rows that answer `call`. Raises TenantryError."""
        if call.do == "look":
            return await self._look(call)
        if call.do == "stats":
            return self._stats(call.tenant)
        if call.do in ("state", "paused"):
            return [self._state()]
        if call.do == "digest":
            return [await self._digest()]
        if call.do == "kill_client":
            return self._kill_client(call.id)
        act = _ACTS.get(call.do)
        if act is None:
            raise e.NotSupported(f"{call.do} is not known here: is this node of another version?")
        return await self._act(act, call.tenant)

    # --- looking ---------------------------------------------------------------------------------

    async def _look(self, call: Call) -> list[Row]:
        found = []
        for tenant in [call.tenant] if call.tenant else self._dispatcher.active():
            seen = await self._ask(tenant, Manage("look", call.sockets))
            if seen is None or not seen.pool:
                continue
            row: Row = seen.pool
            if call.sockets:
                row["client_rows"] = [self._numbered(each) for each in seen.clients]
                row["server_rows"] = [self._numbered(each) for each in seen.servers]
            found.append(row)
        return found

    def _numbered(self, row: Row) -> Row:
        row["worker"] = f"{self.place.node}/{self.place.number}"
        row["id"] = self._base | row["serial"] if row["serial"] else 0
        return row

    async def _ask(self, tenant: str, message: Manage) -> Look | None:
        seen = await self._dispatcher.ask_active(tenant, message)
        assert seen is None or isinstance(seen, Look)
        return seen

    def _stats(self, tenant: str) -> list[Row]:
        return [row for row in self._counters.rows() if not tenant or row["tenant"] == tenant]

    def _state(self) -> Row:
        clients = self._listener.clients
        used, most = self._budget()
        staleness = self._log.staleness()
        return {
            "node": self.place.node,
            "worker": self.place.number,
            "of": self.place.of,
            "pid": os.getpid(),
            "clients": sum(bool(client.tenant) for client in clients),
            "login_clients": sum(not client.tenant for client in clients),
            "tenants": len(self._dispatcher.active()),
            "servers": used,
            "servers_max": most,
            "staleness": round(staleness, 3) if staleness < 1e9 else None,
            "log_connected": self._log.connected,
            "position": self._projection.position,
            "draining": self._listener.draining,
            "paused_all": self._pauses.everyone,
            "paused": sorted(self._pauses.tenants),
            "memory": _memory(),
        }

    async def _digest(self) -> Row:
        """A hash of the configuration as it is folded here, and where: `tenantry events replay`
        has the same of the log. Made in a thread, one at a time: 100,000 tenants take a moment."""
        async with self._hashing:
            state = copy(self._projection)
            digest = await asyncio.to_thread(state.digest)
        return {
            "node": self.place.node,
            "worker": self.place.number,
            "pid": os.getpid(),
            "position": state.position,
            "digest": digest,
        }

    # --- acting ----------------------------------------------------------------------------------

    async def _act(self, act: Act, tenant: str) -> list[Row]:
        changed = True
        if act in ("pause", "kill"):
            self._pauses.pause(tenant)
        elif act == "resume":
            changed = self._pauses.resume(tenant)
        lent = clients = 0
        for id in [tenant] if tenant else self._dispatcher.active():
            if not tenant and id.startswith("@"):
                continue
            seen = await self._ask(id, Manage(act))
            if seen is not None and seen.pool:
                lent += seen.pool["sv_active"] + seen.pool["sv_login"]
                clients += seen.pool["clients"]
        return [{"lent": lent, "clients": clients, "changed": changed}]

    def _kill_client(self, id: int) -> list[Row]:
        client = self._find(id)
        if client is None:
            return []
        row = {"tenant": client.tenant, "user": client.user}
        client.end(e.ShuttingDown("terminating connection due to administrator command"))
        return [row]

    def tenant_of(self, id: int) -> str | None:
        client = self._find(id)
        return None if client is None else client.tenant

    def _find(self, id: int) -> ClientConnection | None:
        if id >> _WORKER_SHIFT != self._base >> _WORKER_SHIFT:
            return None
        serial = id & (2**_WORKER_SHIFT - 1)
        for client in self._listener.clients:
            # One that was ended lingers until its peer has read why.
            if client.serial == serial and client.tenant and not client.closed:
                return client
        return None


def _memory() -> int:
    """Bytes of this process now; what the kernel tells of Linux, else its most ever."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - read at each question
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def summed(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pools of one tenant on several workers as one: counts are added, waits compared."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        known = found.get(row["tenant"])
        if known is None:
            found[row["tenant"]] = {**row, "client_rows": None, "server_rows": None}
            continue
        for name in ("clients", "cl_waiting", "sv_active", "sv_being_canceled", "sv_idle"):
            known[name] += row[name]
        known["sv_login"] += row["sv_login"]
        known["sv_closing"] = known.get("sv_closing", 0) + row.get("sv_closing", 0)
        known["wait_us"] = max(known["wait_us"], row["wait_us"])
        known["paused"] = max(known["paused"], row["paused"])
    return found
