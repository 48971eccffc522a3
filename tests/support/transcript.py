"""Protocol tests as transcripts: `who >> message` says something, `who << message` heard just that.

    @acted
    def test_a_query(stage):
        stage.client >> Query("select 1")
        stage.server << Query("select 1")
        stage.server >> Complete("SELECT 1") + Ready()
        stage.client << Complete("SELECT 1") + Ready()

The client and the servers are bytes without sockets; all between them is the real thing: a
ClientConnection, its lease and pool, ServerConnections. For real sockets see support.raw.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

from actors.budget import Budget
from actors.lease import TenantLease
from actors.limits import TokenBucket
from actors.pool import TenantPool
from events.installation import Installation
from events.model import Tenant
from wire.ports import Meter, Tenants
from wire.postgres import protocol as p
from wire.postgres.cancel import CancelTarget
from wire.postgres.client import ClientConnection
from wire.postgres.connect import Target
from wire.postgres.listener import Listener
from wire.postgres.prepared import Statements
from wire.postgres.server import ServerConnection
from wire.postgres.session import EMPTY, Session
from wire.sql.guard import Guard


def packet(kind: str, body: bytes = b"") -> bytes:
    return kind.encode() + struct.pack("!i", len(body) + 4) + body


def zeroed(*parts: str | bytes) -> bytes:
    """Each part with a zero byte after it."""
    return b"".join((x.encode() if isinstance(x, str) else x) + b"\0" for x in parts)


# --- what clients say -----------------------------------------------------------------------------


def Query(sql: str) -> bytes:
    return packet("Q", zeroed(sql))


def Parse(name: str, sql: str, types: tuple[int, ...] = ()) -> bytes:
    return packet("P", zeroed(name, sql) + struct.pack(f"!h{len(types)}i", len(types), *types))


def Bind(portal: str = "", name: str = "", values: tuple[bytes | None, ...] = ()) -> bytes:
    body = zeroed(portal, name) + struct.pack("!hh", 0, len(values))
    for value in values:
        body += struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
    return packet("B", body + struct.pack("!h", 0))


def Describe(what: str, name: str = "") -> bytes:
    return packet("D", what.encode() + zeroed(name))


def Execute(portal: str = "", rows: int = 0) -> bytes:
    return packet("E", zeroed(portal) + struct.pack("!i", rows))


def Close(what: str, name: str = "") -> bytes:
    return packet("C", what.encode() + zeroed(name))


def CopyData(data: bytes) -> bytes:
    return packet("d", data)


def CopyFail(why: str) -> bytes:
    return packet("f", zeroed(why))


Sync = packet("S")
Flush = packet("H")
Terminate = packet("X")
CopyDone = packet("c")


def one(sql: str) -> bytes:
    """Parse, Bind and Execute of one unnamed statement."""
    return Parse("", sql) + Bind() + Execute()


# --- what servers say -----------------------------------------------------------------------------

ParseComplete = packet("1")
BindComplete = packet("2")
CloseComplete = packet("3")
NoData = packet("n")
CopyIn = packet("G", b"\0\0\0")
CopyOut = packet("H", b"\0\0\0")
PortalSuspended = packet("s")


def Row(*values: str) -> bytes:
    body = b"".join(struct.pack("!i", len(v)) + v.encode() for v in values)
    return packet("D", struct.pack("!h", len(values)) + body)


def Columns(*names: str) -> bytes:
    each = b"".join(zeroed(n) + struct.pack("!ihihih", 0, 0, 25, -1, -1, 0) for n in names)
    return packet("T", struct.pack("!h", len(names)) + each)


def Complete(tag: str) -> bytes:
    return packet("C", zeroed(tag))


def Ready(status: str = "I") -> bytes:
    return packet("Z", status.encode())


def Error(code: str, text: str = "no", severity: str = "ERROR") -> bytes:
    return packet("E", zeroed(f"S{severity}", f"V{severity}", f"C{code}", f"M{text}", b""))


def Notice(text: str) -> bytes:
    return packet("N", zeroed("SNOTICE", "VNOTICE", "C00000", f"M{text}", b""))


def Parameter(name: str, value: str) -> bytes:
    return packet("S", zeroed(name, value))


def messages(data: bytes) -> list[tuple[str, bytes]]:
    """(type, body) of each message; fails on a message that is cut short."""
    found = []
    while data:
        size = int.from_bytes(data[1:5], "big") + 1
        assert len(data) >= size >= 5, f"cut short: {data[:60]!r}"
        found.append((chr(data[0]), data[5:size]))
        data = data[size:]
    return found


def readable(data: bytes) -> list[str]:
    """One line a message, for comparing and for reading when a comparison fails."""
    return [f"{kind} {body!r}" for kind, body in messages(data)]


def codes(data: bytes) -> list[str]:
    """The SQLSTATEs of the errors in `data`."""
    return [p.error_fields(body)["C"] for kind, body in messages(data) if kind == "E"]


# --- the stage ------------------------------------------------------------------------------------


class FakeTransport:
    """What asyncio would give a connection; `limit` bytes unread make it ask for a pause."""

    def __init__(self) -> None:
        self.written = b""
        self.reading = True
        self.closed = False
        self.aborted = False

    def write(self, data: bytes) -> None:
        assert not self.closed, "written after the end"
        self.written += data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def write_eof(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default


class Actor:
    """One end: `>>` says bytes to the proxy, `<<` compares what has come since the last time."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.transport = FakeTransport()

    def __rshift__(self, data: bytes) -> Actor:
        if not self.transport.closed:
            self.connection.data_received(data)
        return self

    def __lshift__(self, expected: bytes) -> Actor:
        assert readable(self.heard()) == readable(expected)
        return self

    def heard(self) -> bytes:
        """All that has come since the last time, and forget it."""
        heard, self.transport.written = self.transport.written, b""
        return heard

    def says(self, data: bytes, *sizes: int) -> None:
        """Say `data` in pieces of these sizes, over and over; 1 is byte by byte."""
        at = turn = 0
        while at < len(data):
            size = sizes[turn % len(sizes)]
            _ = self >> data[at : at + size]
            at += size
            turn += 1


class Nobody(Tenants):
    """Tenants for clients that are logged in already."""

    def closed(self, client: ClientConnection) -> None: ...


class Stage:
    """Clients of one tenant and its servers; the limits are those of `Tenant.rate_limits`."""

    def __init__(
        self,
        servers: int = 1,
        *,
        mode: str = "transaction",
        rate: float = 0.0,
        max_prepared: int = 200,
        permissions: dict[str, Any] | None = None,
        **limits: Any,
    ) -> None:
        known: dict[str, Any] = {"max_query_duration": None, "max_rows_per_query": None}
        known |= {"max_result_size": None, "max_connections": None, "qps_limit": None}
        tenant = Tenant.model_validate(
            {
                "id": "acme",
                "rate_limits": known | limits,
                "permissions": {"allow_ddl": True, "max_tables_per_query": None}
                | (permissions or {}),
            }
        )
        self.budget = Budget(100)
        # Nothing listens at port 1: cancel requests fail at once.
        self.pool = TenantPool(Target("127.0.0.1", 1, "d", "u", "p", None), self.budget)
        self.pool.limit = servers
        self.meter = Meter()
        self.bucket = TokenBucket(rate, 1.0)
        self.lease = TenantLease(
            tenant,
            Guard(tenant.permissions, tenant.rate_limits),
            self.pool,
            self.meter,
            Statements(),
            self.bucket,
            session_mode=mode == "session",
            workers=1,
        )
        self.listener = Listener(Installation(), Nobody(), mock_secret=b"x" * 32)
        self.listener.max_prepared = max_prepared
        self.servers = [self._server() for _ in range(servers)]
        self.clients: list[Actor] = []
        self.client = self.new_client()

    @property
    def server(self) -> Actor:
        return self.servers[0]

    def _server(self) -> Actor:
        transport = FakeTransport()
        target = CancelTarget("127.0.0.1", 1, 7, b"key!", None)
        connection = ServerConnection(self.pool, transport, target, {}, None)  # type: ignore[arg-type]
        actor = Actor(connection)
        actor.transport = transport
        self.pool.idle.append(connection)
        self.budget.used += 1
        return actor

    def new_client(self) -> Actor:
        """One more client that is logged in already."""
        connection = ClientConnection(self.listener)
        actor = Actor(connection)
        self.listener._serial += 1
        connection.serial = self.listener._serial
        connection.transport = actor.transport  # type: ignore[assignment]
        connection.lease = self.lease
        connection.meter = self.meter
        connection.session = Session(EMPTY)
        connection.session_mode = self.lease.session_mode
        connection.phase = p.ACTIVE
        self.listener.clients.add(connection)
        self.clients.append(actor)
        return actor

    def at_rest(self) -> None:
        """Nothing is lent, nothing runs, nothing is pinned, nobody waits."""
        assert not self.pool.lent, "a server is still lent"
        assert not self.pool.waiters, "somebody still waits"
        assert self.meter.running == 0, f"{self.meter.running} queries still run"
        assert self.meter.pinned == 0, f"{self.meter.pinned} servers are still pinned"
        assert self.budget.used == self.pool.size()


def acted(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test inside an event loop, with a Stage of one server (`acted_on` for another)."""
    return acted_on()(test)


def acted_on(*given: Any, **options: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test inside an event loop, with a Stage made from these arguments."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        async def play() -> None:
            test(Stage(*given, **options))
            # Let cancel requests find that nobody listens.
            others = asyncio.all_tasks() - {asyncio.current_task()}
            if others:
                await asyncio.wait(others, timeout=10)

        def run() -> None:
            asyncio.run(play())

        run.__name__ = test.__name__
        run.__doc__ = test.__doc__
        return run

    return decorate
