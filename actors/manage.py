"""What operators do with one tenant on one worker: look, pause, resume, end, replace servers.

A pause is known to the worker (`Pauses`), because it also holds for tenants whose actor starts
later. It is not stored: it is for minutes, and what is to last is disabling.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal

from wire import errors as e
from wire.postgres import protocol as p
from wire.postgres.client import ClientConnection
from wire.postgres.server import ServerConnection

if TYPE_CHECKING:
    from actors.tenant import TenantActor

Row = dict[str, Any]
Act = Literal["pause", "resume", "kill", "reconnect", "look"]

KILLED: Final = "terminating connection due to administrator command"
_MICRO: Final = 1_000_000


class Pauses:
    """What is paused on this worker. Whole databases (ids with "@") are operators', never paused
    with all."""

    def __init__(self) -> None:
        self.everyone = False
        self.tenants: set[str] = set()

    def holds(self, tenant: str) -> bool:
        return tenant in self.tenants or (self.everyone and not tenant.startswith("@"))

    def pause(self, tenant: str) -> None:
        """One tenant; "": all."""
        if tenant:
            self.tenants.add(tenant)
        else:
            self.everyone = True

    def resume(self, tenant: str) -> bool:
        """Whether that changed something. All: also those that were paused by name."""
        if tenant:
            known = tenant in self.tenants
            self.tenants.discard(tenant)
            return known
        known = self.everyone or bool(self.tenants)
        self.everyone = False
        self.tenants.clear()
        return known


@dataclass(frozen=True, slots=True, eq=False)
class Manage:
    """Answered with a Look. The worker's Pauses say what a pause or its end comes to."""

    act: Act
    sockets: bool = False
    """Tell of each client and server, too."""


@dataclass(slots=True)
class Look:
    """A tenant as it is on this worker. Rows have the names of the console's columns."""

    pool: Row = field(default_factory=dict)
    clients: list[Row] = field(default_factory=list)
    servers: list[Row] = field(default_factory=list)


def manage(actor: TenantActor, message: Manage) -> Look:
    """Do what the message says, and look at what came of it."""
    pool = actor.pool
    act = message.act
    if pool is not None and act in ("pause", "kill"):
        pool.hold()
    if act == "kill":
        for client in list(actor.clients):
            client.end(e.ShuttingDown(KILLED))
        if pool is not None:
            for server in list(pool.lent):
                pool.discard(server)
    elif act == "resume":
        actor.resume()
    elif act == "reconnect" and pool is not None:
        pool.reconnect()
    return look(actor, sockets=message.sockets)


def look(actor: TenantActor, *, sockets: bool) -> Look:
    pool = actor.pool
    if pool is None:
        return Look()
    now = monotonic()
    waited = max((now - since for since in pool.waiters.values()), default=0.0)
    lease = actor.lease
    cancelled = sum(server.cancels > 0 for server in pool.lent)
    idle = pool.idle
    found = Look(
        {
            "tenant": actor.id,
            "user": pool.target.user,
            "clients": len(actor.clients),
            "cl_waiting": len(pool.waiters),
            "sv_active": len(pool.lent),
            "sv_being_canceled": cancelled,
            "sv_idle": len(idle),
            "sv_login": pool.opening,
            "sv_closing": sum(server.created < pool.valid_since for server in pool.lent),
            "wait_us": int(waited * _MICRO),
            "pool_mode": "session" if lease is not None and lease.session_mode else "transaction",
            "paused": int(pool.held),
        }
    )
    if sockets:
        clock = time.time() - now
        for client in actor.clients:
            if client.tenant == actor.id:
                found.clients.append(_client(client, pool.waiters.get(client), now, clock))
        for server in pool.lent:
            found.servers.append(_server(server, actor.id, "active", clock, pool.target.user))
        for server in idle:
            found.servers.append(_server(server, actor.id, "idle", clock, pool.target.user))
    return found


def _client(client: ClientConnection, since: float | None, now: float, clock: float) -> Row:
    state = "waiting" if since is not None else "active" if client.server is not None else "idle"
    waited = 0 if since is None else int((now - since) * _MICRO)
    server = client.server
    extended = client.extended
    return {
        **_ends(client.transport),
        "type": "C",
        "user": client.user,
        "tenant": client.tenant,
        "state": state,
        "addr": client.address,
        "connected": client.opened_at,
        "request_time": 0.0 if server is None else clock + server.query_since,
        "wait": waited // _MICRO,
        "wait_us": waited % _MICRO,
        "link": "" if server is None else str(server.target.process_id),
        "remote_pid": 0,
        "tls": "" if client.tls is None else "TLS",
        "application_name": client.parameters.get("application_name", ""),
        "prepared_statements": 0 if extended is None else len(extended.statements),
        "serial": client.serial,
    }


def _server(server: ServerConnection, tenant: str, state: str, clock: float, user: str) -> Row:
    client = server.client
    if state == "active" and server.outstanding() == 0 and server.status == p.IDLE:
        # Kept by its client (session pooling, pins) with nothing under way.
        state = "used"
    ends = _ends(server.transport)
    return {
        **ends,
        "type": "S",
        "user": user,
        "tenant": tenant,
        "state": state,
        "addr": server.target.host,
        "port": server.target.port,
        "connected": clock + server.created,
        "request_time": clock + server.query_since if server.query_since else 0.0,
        "link": "" if client is None else str(client.serial),
        "remote_pid": server.target.process_id,
        "tls": "" if server.tls is None else "TLS",
        "application_name": server.parameters.get("application_name", ""),
        "prepared_statements": len(server.prepared),
        "serial": 0,
    }


def _ends(transport: Any) -> Row:
    """Both ends of a TCP connection."""
    peer = transport.get_extra_info("peername")
    here = transport.get_extra_info("sockname")
    found: Row = {"port": 0, "local_addr": "", "local_port": 0, "connected": 0.0}
    if isinstance(peer, tuple):
        found["port"] = peer[1]
    if isinstance(here, tuple):
        found["local_addr"], found["local_port"] = here[0], here[1]
    return found
