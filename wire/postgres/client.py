"""One client connection: read its requests, have them judged, see that a server answers them.

The main path of the proxy: `process` (client_stream.py) reads a chunk, `request` here handles one
message, `attach` (borrower.py) borrows a server, `scan` (server.py) reads the answer, and `deliver`
writes it. Nothing on that path awaits.
"""

from __future__ import annotations

import asyncio
from time import time
from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from wire import errors as e
from wire.ports import Lease
from wire.postgres import owed as o
from wire.postgres import protocol as p
from wire.postgres.borrower import NO_SETTINGS, Borrower
from wire.postgres.client_stream import FORWARD, TAKEN, WAIT
from wire.postgres.extended import Extended, ambiguous, backslash
from wire.postgres.ledger import SEVERAL
from wire.postgres.operate import Operator, inside_transaction
from wire.postgres.owed import Edited, Owed
from wire.postgres.protocol import HEADER, int32
from wire.postgres.server import ServerConnection
from wire.postgres.session import EMPTY, Session
from wire.sql.lexer import plain_backslash
from wire.sql.verdict import Verdict

if TYPE_CHECKING:
    from wire.postgres.listener import Listener

# Large-object functions of libpq by OID: the only FunctionCall that is let through.
# https://www.postgresql.org/docs/current/lo-interfaces.html, OIDs from pg_proc.dat.
LARGE_OBJECT_READS: Final = frozenset((952, 953, 954, 956, 958, 3170, 3171))
LARGE_OBJECT_WRITES: Final = frozenset((955, 957, 715, 964, 1004, 3172))


class ClientConnection(Borrower):
    """An asyncio protocol: one client, from its first packet to its last."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener.meter)
        self.listener = listener
        # Unix seconds.
        self.opened_at = time()
        # Known after login.
        self.key = b""
        # Set for those who may go from tenant to tenant.
        self.operator: Operator | None = None
        # A text that comes back from the helper.
        self.learning = False
        # It has turned standard_conforming_strings off once, so its server may read a backslash
        # otherwise than the guard.
        self.escapes = False

    # --- asyncio protocol -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.listener.opened(self)

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        try:
            if self.startup is not None:
                self.startup.received(data)
                return
            if self.tls is not None:
                data, answer = self.tls.received(data)
                if answer:
                    self.transport.write(answer)
                if not data:
                    return
            self.meter.bytes_in += len(data)
            self.process(data)
        except e.TenantryError as error:
            self.end(error)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if self.startup is not None:
            self.startup.lost()
        self.closed = True
        self.leave_server()
        self.listener.gone(self)

    # --- requests ---------------------------------------------------------------------------------

    def request(self, kind: int, data: bytes, pos: i64, end: i64, size: i64) -> int:
        phase = self.phase
        if phase == p.SKIPPING:
            return self.skip(kind)
        server = self.server
        if server is not None and server.skipping and kind != p.SYNC and kind != p.TERMINATE:
            p.legal(p.FRONTEND, p.SKIPPING, kind)
            return TAKEN
        if kind == p.QUERY:
            return self.query(data, pos, end, size)
        if kind == p.SYNC:
            return self.sync()
        if kind == p.BIND or kind == p.EXECUTE or kind == p.PARSE:
            return self.extended_messages().request(kind, data, pos, end, size)
        if kind == p.DESCRIBE or kind == p.CLOSE:
            return self.extended_messages().request(kind, data, pos, end, size)
        if kind == p.COPY_DATA or kind == p.FLUSH:
            return TAKEN if server is None else FORWARD
        if kind == p.COPY_DONE or kind == p.COPY_FAIL:
            if server is None:
                return TAKEN
            if server.copying:
                server.copying = False
            elif server.outstanding() > 0:
                server.push(o.OWED_COPY_END)
            return FORWARD
        if kind == p.TERMINATE:
            self.end(None)
            return TAKEN
        if kind == p.FUNCTION_CALL:
            return self.function_call(data, pos, end, size)
        p.legal(p.FRONTEND, p.ACTIVE, kind)
        return FORWARD

    def skip(self, kind: int) -> int:
        self.phase = p.legal(p.FRONTEND, p.SKIPPING, kind)
        if self.phase == p.ACTIVE:
            self.paid = False
            self.deliver(p.READY_IDLE)
            if self.server is not None:
                self.server_idle(self.server)
        elif self.phase == p.CLOSED:
            self.end(None)
        return TAKEN

    def extended_messages(self) -> Extended:
        if self.extended is None:
            self.extended = Extended(self)
        return self.extended

    def query(self, data: bytes, pos: i64, end: i64, size: i64) -> int:
        """A simple Query: judged, admitted, forwarded as it is."""
        if end > size:
            return self.refuse_oversized(o.QUERY)
        if p.cstring_end(data, pos + HEADER, end) != end - 1:
            raise e.ProtocolViolation("invalid message format")
        sql = data[pos + HEADER : end - 1]
        if self.operator is not None:
            steered = self.steer(sql)
            if steered is None:
                return WAIT if self.blocked else self.refuse_pending(o.QUERY, sql)
            if steered is not sql:
                return self.query_in_place(steered)
        verdict = self.lease.guard.judge(sql)
        if verdict is None:
            verdict = self.learn(sql)
            if verdict is None:
                return self.come_again()
        if verdict.refusal is not None:
            return self.refuse(verdict.refusal, o.QUERY, sql)
        if self.escapes and self.misread(sql):
            return self.refuse(backslash(), o.QUERY, sql)
        server = self.server
        if server is None:
            server = self.attach()
            if server is None:
                return self.come_again() if self.blocked else self.refuse_pending(o.QUERY, sql)
        else:
            refusal = self.charge()
            if refusal is None and server.unsure:
                refusal = ambiguous(server, sql)
            if refusal is not None:
                return self.refuse(refusal, o.QUERY, sql)
            if server.unsealing:
                return self.refuse_unsealed(o.QUERY, sql)
        self.paid = False
        self.meter.queries += 1
        if verdict.statements > 1:
            self.meter.queries += verdict.statements - 1
            self.lease.also(verdict.statements - 1)
        if verdict.plain and not verdict.edited:
            server.push(o.OWED_QUERY)
            server.runs(sql)
            return FORWARD
        return self.special_query(server, sql, verdict)

    def query_in_place(self, sql: bytes) -> int:
        """Run another text than came."""
        message = p.query(sql)
        action = self.query(message, 0, len(message), len(message))
        if action == FORWARD:
            self.send(message)
            return TAKEN
        return action

    def steer(self, sql: bytes) -> bytes | None:
        """See to it that the client works in the tenant that an operator's text is for.

        The text to run; None: blocked until the tenant has been changed, or refused (see
        `pending`).
        """
        operator = self.operator
        assert operator is not None
        if operator.failure is not None:
            self.pending, operator.failure = operator.failure, None
            return None
        try:
            tenant, text = operator.wanted(sql)
        except e.TenantryError as error:
            self.pending = error
            return None
        if tenant == self.tenant:
            operator.settled(tenant, text)
            if not operator.again:
                self.listener.note_operator(self, text)
            operator.again = False
            return text
        if self.server is not None and not (self.session_mode and self.server.at_rest()):
            self.pending = inside_transaction()
            return None
        self.block()
        self.listener.change_tenant(self, tenant)
        return None

    def come_again(self) -> int:
        """The text waits, and is handled from its start once more."""
        if self.operator is not None:
            self.operator.again = True
        return WAIT

    def enter(self, tenant: str, lease: Lease) -> None:
        """From now on the client works in another tenant."""
        self.leave_server()
        self.tenant = tenant
        self.lease = lease
        self.meter = lease.meter
        self.session_mode = lease.session_mode
        self.session = Session(lease.settings or EMPTY)
        self.extended = None
        self.startup_settings = NO_SETTINGS

    def special_query(self, server: ServerConnection, sql: bytes, verdict: Verdict) -> int:
        """A statement that does something to the session besides its work, or is rewritten."""
        if not verdict.plain:
            refusal = self.tie(server, verdict)
            if refusal is not None:
                return self.refuse(refusal, o.QUERY, sql)
            if self.extended is not None and self.extended.deallocated(server, verdict):
                return TAKEN
        effects = verdict if verdict.effects else None
        if not verdict.edited:
            server.push(o.OWED_QUERY if effects is None else Owed(o.QUERY, verdict=effects))
            server.runs(sql)
            return FORWARD
        guard = self.lease.guard
        server.push(Owed(o.QUERY, verdict=effects, edited=Edited(sql, verdict, guard)))
        server.runs(sql)
        self.send(p.query(guard.rewritten(sql, verdict)))
        return TAKEN

    def sync(self) -> int:
        self.paid = False
        server = self.server
        if server is None:
            self.deliver(p.READY_IDLE)
            return TAKEN
        if not server.copying:
            server.push(o.OWED_SYNC)
        return FORWARD

    def function_call(self, data: bytes, pos: i64, end: i64, size: i64) -> int:
        """libpq's large-object calls go through; nothing else can be judged without a statement."""
        if size - pos < HEADER + 4 or end - pos < HEADER + 4:
            raise e.ProtocolViolation("invalid message format")
        oid = int32(data, pos + HEADER)
        sql = b"UPDATE pg_largeobject SET x=1" if oid in LARGE_OBJECT_WRITES else b"SELECT 1"
        if oid not in LARGE_OBJECT_READS and oid not in LARGE_OBJECT_WRITES:
            return self.refuse(
                e.NotSupported(
                    "function calls are not supported", hint="Use SELECT function(...)."
                ),
                o.QUERY,
            )
        verdict = self.lease.guard.judge(sql) or self.lease.guard.learn(sql)
        if verdict.refusal is not None:
            return self.refuse(verdict.refusal, o.QUERY)
        server = self.server
        if server is None:
            server = self.attach()
            if server is None:
                return WAIT if self.blocked else self.refuse_pending(o.QUERY)
        else:
            refusal = self.charge()
            if refusal is not None:
                return self.refuse(refusal, o.QUERY)
        self.paid = False
        self.meter.queries += 1
        server.push(o.OWED_QUERY)
        server.runs(SEVERAL)
        return FORWARD

    # --- judging ----------------------------------------------------------------------------------

    def learn(self, sql: bytes) -> Verdict | None:
        """Have an unknown statement read; None when that happens elsewhere and takes a moment."""
        guard = self.lease.guard
        if self.learning:
            self.learning = False
        else:
            refusal = self.charge_reading()
            if refusal is not None:
                return Verdict(refusal)
        if not guard.must_offload(sql):
            return guard.learn(sql)
        self.learning = True
        self.block()
        self.listener.offload(self, guard, sql)
        return None

    def charge_reading(self) -> e.TenantryError | None:
        """A new text costs time to read, whatever becomes of it: one query of the rate pays for
        one new text and for running it."""
        refusal: e.TenantryError | None = None
        if not self.paid or self.read:
            server = self.server
            refusal = self.lease.admit(server is not None and server.working)
        if refusal is None:
            self.paid = self.read = True
        return refusal

    def misread(self, sql: bytes) -> bool:
        """Whether the server may read the text otherwise than the guard did: see `escapes`."""
        if b"\\" not in sql:
            return False
        server = self.server
        settled = server is None or (server.synced and server.outstanding() == 0)
        if settled and self.parameters.get("standard_conforming_strings") == "on":
            return False
        return plain_backslash(sql)

    # --- asked from outside -----------------------------------------------------------------------

    def cancel(self) -> None:
        """The client asks, on another connection, to stop what it runs."""
        if self.startup is not None:
            self.startup.cancelled = True
        elif self.waiting:
            self.lease.pool.forget(self)
            self.acquire_failed(e.QueryCancelled())
        elif self.server is not None and self.server.serves_client():
            self.server.cancel()

    def at_rest(self) -> bool:
        """Nothing is under way: the connection may be closed without breaking a transaction."""
        server = self.server
        if self.startup is not None:
            return self.startup.at_rest()
        if self.blocked or self.rest is not None:
            return False
        return server is None or server.at_rest()
