"""One client connection: read its requests, have them judged, see that a server answers them.

The main path of the proxy is here and in server.py: `process` reads a chunk, `request` handles one
message, `attach` borrows a server, and the answer comes back through `deliver`. Nothing on that
path awaits; when a server or a verdict is not at hand, reading stops (`block`) and goes on where
it stopped (`unblock`).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from wire import errors as e
from wire.ports import Lease
from wire.postgres import owed as o
from wire.postgres import protocol as p
from wire.postgres.extended import Extended, ambiguous, backslash
from wire.postgres.owed import Owed
from wire.postgres.protocol import HEADER, int32
from wire.postgres.server import REFUSED_PARSE, REFUSED_SQL, ServerConnection
from wire.postgres.session import (
    EMPTY,
    PROBE_SQL,
    TEMPORARY_PIN,
    Session,
    difference,
)
from wire.postgres.tls import TlsEndpoint
from wire.sql.lexer import plain_backslash
from wire.sql.verdict import Verdict

if TYPE_CHECKING:
    from wire.postgres.listener import Listener
    from wire.postgres.startup import Startup

log = logging.getLogger("tenantry.client")

# What `request` did with a message.
FORWARD: Final = 0  # goes to the server as it came
TAKEN: Final = 1  # answered here, or put into self.out in another form
WAIT: Final = 2  # not handled yet: call again when unblocked

RESET: Final = b"DISCARD ALL"
# How long a connection that we have ended may take to read our last words.
LINGER_SECONDS: Final = 5.0
NO_SETTINGS: Final[dict[str, str]] = {}

# Large-object functions of libpq by OID: the only FunctionCall that is let through.
# https://www.postgresql.org/docs/current/lo-interfaces.html, OIDs from pg_proc.dat.
LARGE_OBJECT_READS: Final = frozenset((952, 953, 954, 956, 958, 3170, 3171))
LARGE_OBJECT_WRITES: Final = frozenset((955, 957, 715, 964, 1004, 3172))


class ClientConnection:
    """An asyncio protocol: one client, from its first packet to its last."""

    # Set by connection_made and by login; nothing reads them before.
    transport: asyncio.Transport
    lease: Lease

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.meter = listener.meter
        self.tls: TlsEndpoint | None = None
        self.startup: Startup | None = None
        self.serial = 0
        self.closed = False
        # --- who it is, known after login
        self.tenant = ""
        self.parameters: dict[str, str] = {}
        self.process_id = 0
        self.key = b""
        self.session = Session(EMPTY)
        self.session_mode = False
        # Settings for a server of its own (session pooling); else they are session state.
        self.startup_settings: dict[str, str] = NO_SETTINGS
        # --- reading
        self.phase = p.LOGIN
        # What has come and is not handled yet, and how many more bytes it takes to go on.
        self.rest: list[bytes] | None = None
        self.missing: i64 = 0
        # The rest of a message whose start was handled: its size, and whether it is dropped.
        self.body: i64 = 0
        self.body_dropped = False
        self.drop_rest = True
        # The read at hand, and how far it was passed on and is being handled.
        self.chunk = b""
        self.chunk_sent: i64 = 0
        self.chunk_pos: i64 = 0
        # Why reading is paused: a request waits, the server takes no more, the client takes no
        # more, too many requests have no answer.
        self.blocked = False
        self.held = False
        self.full = False
        self.crowded = False
        self.out: list[bytes] | None = None
        # --- its server, and what is asked of it
        self.server: ServerConnection | None = None
        self.extended: Extended | None = None
        # The request that waits for a server has been charged already.
        self.paid = False
        # With that, a new text has been read already.
        self.read = False
        # A text that comes back from the helper.
        self.learning = False
        # Why the waiting request gets no server.
        self.pending: e.TenantryError | None = None
        self.waiting = False
        # Its server is being brought to its session state; nothing of its own is sent yet.
        self.handing_over = False
        self.pinned = False
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

    def process_safely(self, data: bytes) -> None:
        try:
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

    def pause_writing(self) -> None:
        """The client does not take its answers: get no more, and take no more requests."""
        self.full = True
        self.update_reading()
        if self.server is not None:
            self.server.pause(True)

    def resume_writing(self) -> None:
        self.full = False
        self.update_reading()
        if self.server is not None:
            self.server.pause(False)

    def update_reading(self) -> None:
        if not self.closed:
            if self.blocked or self.held or self.full or self.crowded:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    # --- writing ----------------------------------------------------------------------------------

    def deliver(self, data: bytes) -> None:
        if not self.closed:
            self.meter.bytes_out += len(data)
            self.transport.write(data if self.tls is None else self.tls.send(data))

    def end(self, error: e.TenantryError | None) -> None:
        """Close the connection, saying why."""
        if self.closed:
            return
        if self.server is not None and self.server.mid_message():
            # The client would take our words for the rest of a row.
            error = None
        if error is not None:
            self.deliver(p.error_response(error, fatal=True))
        self.closed = True
        self.leave_server()
        if self.tls is not None and not self.transport.is_closing():
            # Without close_notify the peer could not tell the end from a cut (RFC 8446, 6.1).
            self.transport.write(self.tls.close())
        self.hang_up(error is None)

    def hang_up(self, at_once: bool) -> None:
        """Close; after last words, only when the peer has had the time to read them.

        Closing a socket on which the peer's next request arrives resets it, and a reset takes what
        the peer has not read yet. A peer that does not go away by itself is cut off.
        """
        if at_once or self.transport.is_closing():
            self.transport.close()
        else:
            self.transport.write_eof()
            self.transport.resume_reading()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self.transport.abort)

    # --- reading requests -------------------------------------------------------------------------

    def process(self, data: bytes) -> None:
        """Handle every whole message of `data`; keep the rest for the next call."""
        if self.blocked or self.rest is not None:
            data = self.gather(data)
            if not data:
                return
        size: i64 = len(data)
        pos: i64 = 0
        self.chunk = data
        self.chunk_sent = 0
        if self.body > 0:
            pos = self.body if self.body < size else size
            self.body -= pos
            if self.body_dropped:
                self.chunk_sent = pos
            elif self.body == 0:
                self.body_sent(pos)
        while size - pos >= HEADER:
            kind = data[pos]
            length = int32(data, pos + 1)
            if length < 4 or length > p.MAX_MESSAGE_BYTES:
                raise e.ProtocolViolation("invalid message length")
            end = pos + 1 + length
            if end > size and not self.may_start(kind, pos, size, length):
                break
            self.chunk_pos = pos
            self.drop_rest = True
            action = self.request(kind, data, pos, end, size)
            if action != FORWARD:
                self.flush()
                if action == WAIT or self.closed:
                    break
                self.chunk_sent = end if end < size else size
            if end > size:
                self.body = end - size
                self.body_dropped = action == TAKEN and self.drop_rest
                pos = size
                break
            pos = end
        if self.closed:
            return
        self.chunk_pos = pos
        self.flush()
        self.chunk = b""
        if self.out is not None:
            self.send_out()
        if self.server is not None and self.server.outstanding() > o.MAX_OUTSTANDING:
            self.crowd(True)
        if pos < size:
            self.rest = [data[pos:]] if self.rest is None else [data[pos:], *self.rest]

    def body_sent(self, end: i64) -> None:
        """The last of a message that was passed on in pieces is here."""
        self.chunk_pos = end
        self.flush()
        server = self.server
        if server is not None and server.at_rest():
            # COPY had failed before its data ended; the server was kept for the rest of it.
            self.server_idle(server)

    def gather(self, data: bytes) -> bytes:
        """Put `data` to what has come before; empty while that cannot be handled yet."""
        rest = self.rest
        if rest is None:
            rest = self.rest = []
        if data:
            rest.append(data)
            self.missing -= len(data)
        if self.blocked or self.missing > 0:
            return b""
        self.rest = None
        self.missing = 0
        return b"".join(rest)

    def may_start(self, kind: int, pos: i64, size: i64, length: i64) -> bool:
        """Whether a message that has not come whole can be handled already.

        COPY data and large parameter values are passed on as they come; statements are read whole
        because they are judged, if they are not too large for that anyway.
        """
        if self.phase == p.SKIPPING or kind == p.COPY_DATA:
            return True
        if kind == p.QUERY or kind == p.PARSE:
            limit = self.lease.max_statement_bytes
            if limit and length > limit + p.MAX_NAME_BYTES + 4 * 65536:
                return True
        elif kind == p.BIND or kind == p.FUNCTION_CALL:
            start = HEADER + 2 * p.MAX_NAME_BYTES - (size - pos)
            if start < 0:
                return True
            # Wait for the names only: the whole may be a gigabyte.
            whole = pos + 1 + length - size
            self.missing = whole if whole <= start else start + 1
            return False
        elif length > p.MAX_LOGIN_MESSAGE_BYTES:
            raise e.ProtocolViolation(f"message of type 0x{kind:02x} is too long")
        self.missing = pos + 1 + length - size
        return False

    def flush(self) -> None:
        """Pass on what is to be forwarded as it came, up to the message at hand."""
        sent = self.chunk_sent
        pos = self.chunk_pos
        if pos > sent:
            self.chunk_sent = pos
            if self.server is not None:
                chunk = self.chunk
                piece = chunk if sent == 0 and pos == len(chunk) else chunk[sent:pos]
                if self.out is None:
                    self.server.write(piece)
                else:
                    self.out.append(piece)

    def send(self, piece: bytes) -> None:
        """Queue for the server something else than what came, after what came before it."""
        self.flush()
        if self.out is None:
            self.out = []
        self.out.append(piece)

    def send_out(self) -> None:
        if self.out is not None and self.server is not None:
            self.server.write(b"".join(self.out))
        self.out = None

    # --- one request ------------------------------------------------------------------------------

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
        verdict = self.lease.guard.judge(sql)
        if verdict is None:
            verdict = self.learn(sql)
            if verdict is None:
                return WAIT
        if verdict.refusal is not None:
            return self.refuse(verdict.refusal, o.QUERY)
        if self.escapes and self.misread(sql):
            return self.refuse(backslash(), o.QUERY)
        server = self.server
        if server is None:
            server = self.attach()
            if server is None:
                return WAIT if self.blocked else self.refuse_pending(o.QUERY)
        else:
            refusal = self.charge()
            if refusal is None and server.unsure:
                refusal = ambiguous(server, sql)
            if refusal is not None:
                return self.refuse(refusal, o.QUERY)
        self.paid = False
        self.meter.queries += 1
        if verdict.plain:
            server.push(o.OWED_QUERY)
            return FORWARD
        return self.special_query(server, verdict)

    def special_query(self, server: ServerConnection, verdict: Verdict) -> int:
        """A statement that does something to the session besides its work."""
        refusal = self.tie(server, verdict)
        if refusal is not None:
            return self.refuse(refusal, o.QUERY)
        if self.extended is not None and self.extended.deallocated(server, verdict):
            return TAKEN
        server.push(Owed(o.QUERY, verdict=verdict) if verdict.effects else o.OWED_QUERY)
        return FORWARD

    def tie(self, server: ServerConnection, verdict: Verdict) -> e.TenantryError | None:
        """Note what the statement does to the server's session; an error when it may not pin it."""
        if verdict.unsure:
            server.unsure = True
        if verdict.escapes:
            self.escapes = True
        if verdict.pin and not self.pinned and not self.session_mode:
            refusal = self.lease.pin()
            if refusal is not None:
                return refusal
            self.pinned = True
        self.session.note(verdict)
        return None

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
        return FORWARD

    # --- judging and admission --------------------------------------------------------------------

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

    def charge(self) -> e.TenantryError | None:
        """Take the query from the rate, unless that was done before the wait for a server."""
        if self.paid:
            self.paid = False
            return None
        server = self.server
        return self.lease.admit(server is not None and server.working)

    def attach(self) -> ServerConnection | None:
        """Borrow a server. None: blocked until there is one, or refused (see `pending`)."""
        if self.pending is not None:
            return None
        lease = self.lease
        if not self.paid:
            self.pending = lease.admit()
            if self.pending is not None:
                return None
            self.paid = True
            self.read = False
        server = lease.pool.acquire(self)
        if server is not None:
            return self.adopt(server)
        if self.pending is None:
            self.waiting = True
            self.block()
        return None

    def adopt(self, server: ServerConnection) -> ServerConnection | None:
        """Take a server over; None when its session state must be changed first."""
        server.client = self
        server.lease = self.lease
        server.told_id = self.process_id
        self.server = server
        if self.full:
            server.pause(True)
        if (
            server.state is self.session.state
            and not server.stale
            and (server.owner == self.serial or not (server.unsure or server.names))
        ):
            server.owner = self.serial
            if server.parameters is not self.parameters:
                self.tell_parameters(server)
            return server
        return self.set_up(server)

    def set_up(self, server: ServerConnection) -> ServerConnection | None:
        """Bring the server's session to this client's state; None while that takes a round trip."""
        want = self.session.state
        foreign = server.owner != self.serial
        if foreign and server.names and leaves_name(server, want):
            self.detach(server)
            server.pool.discard(server)
            return self.attach()
        statements: list[bytes] = []
        if server.stale or (server.unsure and foreign):
            statements.append(RESET)
            server.forget_session()
        change = difference(server.state, want)
        if change:
            statements.append(change)
        server.owner = self.serial
        self.handing_over = bool(statements)
        if not statements:
            # Equal but not the same object: share one from now on.
            server.state = want
            self.tell_parameters(server)
            return server
        self.block()
        server.ask(statements, o.SETUP_LAST)
        return None

    def prepared_server(self, server: ServerConnection, failure: bytes) -> None:
        """The hand-over is answered."""
        self.handing_over = False
        if failure:
            fields = p.error_fields(failure[5:])
            self.server = None
            server.client = None
            server.end_work()
            server.pool.discard(server)
            self.pending = e.SessionNotRestored(fields.get("M", ""), detail=fields.get("D", ""))
        else:
            server.state = self.session.state
            server.stale = False
            server.unsure = False
            self.tell_parameters(server)
        self.unblock()

    def acquired(self, server: ServerConnection) -> None:
        """The pool has a server for this client, which has waited for it."""
        self.waiting = False
        if self.adopt(server) is not None:
            self.unblock()

    def acquire_failed(self, error: e.TenantryError) -> None:
        self.waiting = False
        self.pending = error
        self.unblock()

    def tell_parameters(self, server: ServerConnection) -> None:
        """Report settings that differ on this server from what the client was told last."""
        old = self.parameters
        new = server.parameters
        if new != old and self.startup is None:
            changed = [p.parameter_status(k, v) for k, v in new.items() if old.get(k) != v]
            self.deliver(b"".join(changed))
        self.parameters = new

    # --- refusing ---------------------------------------------------------------------------------

    def refuse_pending(self, what: int) -> int:
        error = self.pending
        self.pending = None
        self.paid = False
        assert error is not None
        return self.refuse(error, what)

    def refuse(self, error: e.TenantryError, what: int) -> int:
        """Answer with an error, in the right place and true to the transaction.

        With nothing open it is said here. Otherwise the server is sent something that must fail in
        place of the request, so that the block is aborted and the rest of a pipeline is skipped.
        """
        self.meter.refused += 1
        self.paid = False
        if error.fatal:
            raise error
        said = p.error_response(error)
        server = self.server
        if server is None or server.at_rest():
            if what == o.QUERY:
                self.deliver(said + p.READY_IDLE)
                if server is not None:
                    self.server_idle(server)
            else:
                self.deliver(said)
                self.phase = p.SKIPPING
        elif what == o.QUERY:
            server.push(Owed(o.QUERY, refusal=said))
            self.send(p.query(REFUSED_SQL))
        else:
            server.push(Owed(o.PARSE, refusal=said))
            self.send(REFUSED_PARSE)
        return TAKEN

    # --- letting a server go ----------------------------------------------------------------------

    def server_idle(self, server: ServerConnection) -> None:
        """Nothing is owed. Outside a transaction the server goes back, if nothing ties it here."""
        if server.status != p.IDLE or not server.synced:
            return
        if self.body > 0 and not self.body_dropped:
            # The rest of a message is still to come, and must go where its start went.
            return
        session = self.session
        if session.pins and not self.session_mode:
            if session.probe:
                session.probing()
                server.ask([PROBE_SQL], o.SETUP_PROBE)
            return
        if self.pinned:
            self.pinned = False
            self.lease.unpin()
        self.meter.transactions += 1
        if self.session_mode:
            return
        self.detach(server)
        if server.early_syncs or server.spoiled:
            # A ReadyForQuery or a cancel that nobody waits for may still come, for example.
            server.pool.discard(server)
        elif server.cancels:
            server.release_after_cancel = True
        else:
            server.pool.release(server)

    def detach(self, server: ServerConnection) -> None:
        """The two have nothing to do with each other any more, nor does one wait for the other."""
        self.server = None
        server.client = None
        server.lease = None
        # All that it said is in our buffer already; the next client must not wait for this one.
        server.pause(False)
        if self.held:
            self.hold(False)

    def probed(self, server: ServerConnection, found: bool) -> None:
        if not found and TEMPORARY_PIN in self.session.pins:
            # Functions and types may be left in the temporary schema; DISCARD ALL removes them.
            server.unsure = True
        self.session.probed(found)

    def leave_server(self) -> None:
        """The client is gone; its server is reused only if nothing of it can be left there."""
        if self.waiting:
            self.waiting = False
            self.lease.pool.forget(self)
        if self.pinned:
            self.pinned = False
            self.lease.unpin()
        server = self.server
        if server is None:
            return
        busy = server.outstanding() > 0
        server.end_work()
        self.detach(server)
        clean = server.at_rest() and not self.session.pins and not server.early_syncs
        if self.session_mode and server.unsure:
            clean = False
        if self.body > 0 and not self.body_dropped:
            clean = False
        if clean and not server.cancels and not server.spoiled:
            if self.session_mode:
                server.stale = True
            server.pool.release(server)
            return
        if busy:
            server.cancel()
        server.pool.discard(server)

    def cancel(self) -> None:
        """The client asks, on another connection, to stop what it runs."""
        if self.waiting:
            self.lease.pool.forget(self)
            self.acquire_failed(e.QueryCancelled())
        elif self.server is not None and self.server.serves_client():
            self.server.cancel()

    def at_rest(self) -> bool:
        """Nothing is under way: the connection may be closed without breaking a transaction."""
        server = self.server
        if self.startup is not None or self.blocked or self.rest is not None:
            return False
        return server is None or server.at_rest()

    def server_lost(self, server: ServerConnection, error: e.TenantryError | None) -> None:
        """The server's connection has ended under this client."""
        self.server = None
        if self.pinned:
            self.pinned = False
            self.lease.unpin()
        handing_over = self.handing_over
        self.handing_over = False
        if handing_over and self.phase == p.ACTIVE:
            # It was lost while it was being set up: nothing of the client's was sent to it.
            self.pending = error or e.ServerUnavailable("the server connection was lost")
            self.unblock()
            return
        lost = error or e.ServerLost("the server closed the connection unexpectedly")
        self.end(None if server.fatal or server.mid_message() else lost)

    def refuse_oversized(self, what: int) -> int:
        return self.refuse(too_large(self.lease), what)

    def statement_failed(self, error: e.TenantryError) -> None:
        self.meter.refused += 1
        self.session.failed = True

    def crowd(self, crowded: bool) -> None:
        """Too many requests have no answer yet (or no longer)."""
        if crowded != self.crowded:
            self.crowded = crowded
            self.update_reading()

    def forget_statements(self) -> None:
        if self.extended is not None:
            self.extended.statements.clear()

    def forget_statement(self, name: bytes) -> None:
        if self.extended is not None:
            self.extended.statements.pop(name, None)

    # --- blocking ---------------------------------------------------------------------------------

    def block(self) -> None:
        if not self.blocked:
            self.blocked = True
            self.update_reading()

    def unblock(self) -> None:
        if not self.blocked or self.closed:
            return
        self.blocked = False
        if self.startup is not None:
            self.startup.wake()
            return
        self.update_reading()
        self.process_safely(b"")

    def hold(self, held: bool) -> None:
        """The server does not take what we write (or does again)."""
        self.held = held
        self.update_reading()


def leaves_name(server: ServerConnection, want: dict[str, bytes]) -> bool:
    """Whether a made-up setting ("app.user") of another client would leave its name behind.

    RESET and DISCARD ALL empty such a setting but do not remove it.
    """
    return any(key not in want for key in server.names)


def too_large(lease: Lease) -> e.TenantryError:
    return e.TooLarge(
        f"statement is larger than {lease.max_statement_bytes} bytes",
        hint="Send data as parameters or by COPY, or have rate_limits.max_statement_size raised.",
    )
