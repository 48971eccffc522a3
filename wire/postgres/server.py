"""One connection to a PostgreSQL server, after login: read what it says, pass it on, know when it
is free again.

Only headers are read; rows are counted and never looked into. Each chunk that the socket gives is
scanned to its end without waiting for anything, and goes to the client in one write. What the
messages mean is in answers.py.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final

from mypy_extensions import i64

from wire.errors import ProtocolViolation, TenantryError
from wire.ports import Pool, Tracing
from wire.postgres import owed as o
from wire.postgres import protocol as p
from wire.postgres.answers import Answers
from wire.postgres.cancel import CancelTarget, send_cancel
from wire.postgres.ledger import ADD, DROP, KEEP
from wire.postgres.owed import Owed
from wire.postgres.protocol import HEADER, int32
from wire.postgres.tls import TlsEndpoint
from wire.tasks import spawn

# A row description that has to be read whole: 1,664 columns, PostgreSQL's most, take 140 kB.
MAX_DESCRIPTION_BYTES: Final[i64] = 1024 * 1024
# Cancel requests under way to one server: one is enough, a few more follow later statements.
MAX_CANCELS: Final = 4
# A process that was given up is cancelled once more after this: by then it has read what it was
# sent, and runs it or has ended.
CANCEL_AGAIN_SECONDS: Final = 1.0

# The sealing of a server, as messages: one parameter of type text (OID 25), in text format.
ENTER_PARSE: Final = p.message(
    p.PARSE, b"\0SELECT tenantry.enter($1)\0\0\x01" + (25).to_bytes(4, "big")
)
BIND_START: Final = b"\0\0" + b"\0\0" + b"\0\x01"
# See hand_over.
CONFORMING: Final = p.query(b"SET standard_conforming_strings TO on")
ENTER_EXECUTE: Final = p.message(p.EXECUTE, b"\0" + bytes(4)) + p.SYNC_MESSAGE


class ServerConnection(Answers):
    """An asyncio protocol; `pool` owns it, `client` borrows it."""

    def __init__(
        self,
        pool: Pool,
        transport: asyncio.Transport,
        target: CancelTarget,
        parameters: dict[str, str],
        tls: TlsEndpoint | None,
    ) -> None:
        super().__init__(parameters)
        self.pool = pool
        self.transport = transport
        self.target = target
        self.tls = tls
        self.startup: dict[str, str] = {}
        # What names its process in a token; "" unless tenants share it.
        self.backend = ""
        self.created = monotonic()
        self.closed = False
        self.paused = False
        # --- reading
        self.partial = b""
        self.body: i64 = 0
        self.body_hidden = False
        # As the client sees it: what is scanned but not delivered does not count.
        self.halfway = False
        # --- cancel requests under way
        self.cancels = 0
        self.release_after_cancel = False

    # --- asyncio protocol -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            if self.tls is not None:
                data, answer = self.tls.received(data)
                if answer:
                    self.transport.write(answer)
            if data:
                self.scan(data)
        except TenantryError as error:
            self.fail(error)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed:
            self.fail(None)

    def pause_writing(self) -> None:
        if self.client is not None:
            self.client.hold(True)

    def resume_writing(self) -> None:
        if self.client is not None:
            self.client.hold(False)

    def pause(self, paused: bool) -> None:
        """Stop reading (or go on): its client does not take what it says."""
        if paused != self.paused:
            self.paused = paused
            if paused:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    # --- reading ----------------------------------------------------------------------------------

    def scan(self, data: bytes) -> None:
        """Read headers up to the end of `data`; pass on what the client should see."""
        if self.partial:
            data = self.partial + data
            self.partial = b""
        size: i64 = len(data)
        pos: i64 = 0
        sent: i64 = 0
        pieces: list[bytes] | None = None
        if self.body > 0:
            pos = self.body if self.body < size else size
            self.body -= pos
            if self.body_hidden:
                sent = pos
        while size - pos >= HEADER:
            kind = data[pos]
            length = int32(data, pos + 1)
            if length < 4 or length > p.MAX_MESSAGE_BYTES:
                raise ProtocolViolation("invalid message length from server")
            end = pos + 1 + length
            if kind == p.DATA_ROW or kind == p.COPY_DATA:
                action = self.row(length) if not self.hiding else self.hidden_row()
            elif end > size and self.must_be_whole(kind, length):
                break
            else:
                action = self.step(kind, data, pos, end if end <= size else size)
            if action != KEEP:
                if pieces is None:
                    pieces = []
                if action & DROP:
                    if pos > sent:
                        pieces.append(data[sent:pos])
                    sent = end
                elif end <= size:
                    pieces.append(data[sent:end])
                    sent = end
                if action & ADD:
                    pieces.append(self.addition)
                    self.addition = b""
            if end > size:
                self.body = end - size
                self.body_hidden = (action & DROP) != 0
                pos = size
                if sent > size:
                    sent = size
                break
            pos = end
        if pos < size:
            self.partial = data[pos:]
        if pieces is not None:
            if pos > sent:
                pieces.append(data[sent:pos])
            data = b"".join(pieces)
        elif pos < size or sent > 0:
            data = data[sent:pos]
        self.halfway = self.body > 0 and not self.body_hidden
        self.deliver(data)

    def must_be_whole(self, kind: i64, length: i64) -> bool:
        """Messages whose body is read, and a description that we have to say something after."""
        if kind == p.ROW_DESCRIPTION and self.locals > 0:
            if length > MAX_DESCRIPTION_BYTES:
                raise ProtocolViolation("row description from server is too long")
            return True
        return length <= p.MAX_INSPECTED_BYTES and (
            kind == p.COMMAND_COMPLETE
            or kind == p.ERROR
            or kind == p.PARAMETER_STATUS
            or kind == p.NOTIFICATION
            or kind == p.READY
        )

    def deliver(self, data: bytes) -> None:
        client = self.client
        if client is None:
            return
        if data:
            client.deliver(data)
        if self.closed or self.client is not client:
            return
        if client.crowded and self.outstanding() <= o.MAX_OUTSTANDING // 2:
            client.crowd(False)
        if self.head == len(self.owed) and self.working:
            self.end_work()
            client.server_idle(self)

    def mid_message(self) -> bool:
        """The client has the start of a message, and not its end."""
        return self.halfway

    def trace(self, tracing: Tracing) -> None:
        tracing.worked(self, self.busy_since, self.idle_since)

    # --- writing ----------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        self.transport.write(data if self.tls is None else self.tls.send(data))

    # --- requests of the proxy's own --------------------------------------------------------------

    def ask(self, statements: list[bytes], last: int) -> None:
        """Run statements of our own, each a Query by itself; the client sees none of it."""
        self.begin_asking()
        out: list[bytes] = []
        for index, sql in enumerate(statements):
            setup = last if index == len(statements) - 1 else o.SETUP_MORE
            self.push(Owed(o.QUERY, hidden=True, setup=setup))
            out.append(p.query(sql))
        self.write(b"".join(out))

    def hand_over(self, reset: bytes, token: bytes, change: bytes) -> None:
        """In one round trip: reset the session, seal it for a tenant, set its state.

        Empty parts are left out. A text is read whole before any of it runs, with the setting that
        the last client has left: what has a backslash in it could end its literals elsewhere than
        the guard has seen. So that setting comes first, by itself.

        The token is a bound parameter, so that the server shows it to nobody (pg_stat_activity
        tells texts only).
        """
        self.begin_asking()
        out: list[bytes] = []
        if reset:
            setup = o.SETUP_MORE if token or change else o.SETUP_LAST
            self.push(Owed(o.QUERY, hidden=True, setup=setup))
            out.append(p.query(reset))
        if token:
            for what in (o.PARSE, o.BIND, o.EXECUTE):
                self.push(Owed(what, hidden=True, setup=o.SETUP_MORE))
            self.push(Owed(o.SYNC, hidden=True, setup=o.SETUP_MORE if change else o.SETUP_LAST))
            out.append(ENTER_PARSE)
            out.append(
                p.message(p.BIND, BIND_START + len(token).to_bytes(4, "big") + token + b"\0\0")
            )
            out.append(ENTER_EXECUTE)
            self.unnamed = None
        if change:
            if b"\\" in change:
                self.push(Owed(o.QUERY, hidden=True, setup=o.SETUP_MORE))
                out.append(CONFORMING)
            self.push(Owed(o.QUERY, hidden=True, setup=o.SETUP_LAST))
            out.append(p.query(change))
        self.write(b"".join(out))

    def begin_asking(self) -> None:
        self.setup_failure = b""
        self.probe_rows = 0
        self.probe_failed = False

    def setup_step(self, entry: Owed) -> None:
        client = self.client
        if client is None or entry.setup == o.SETUP_MORE:
            return
        if entry.setup == o.SETUP_PROBE:
            client.probed(self, self.probe_failed or self.probe_rows > 0)
        else:
            client.prepared_server(self, self.setup_failure)

    def notified(self, data: bytes, pos: i64, end: i64) -> int:
        """A NOTIFY. It comes between requests, so also while one of the proxy's own is under way.

        Whom it is from is told by the process id that the sender was given at its login: clients
        compare that with their own.
        """
        if self.client is None or self.muted or end - pos < HEADER + 4:
            return DROP
        if self.head < len(self.owed) and self.owed[self.head].setup in o.HAND_OVER:
            # The server's last client has listened for it.
            return DROP
        prefix = self.lease.channel_prefix if self.lease is not None else b""
        named = pos + HEADER + 4
        if prefix:
            if data[named : named + len(prefix)] != prefix:
                # Another tenant's: this client could not have asked for it.
                return DROP
            named += len(prefix)
        sender = int32(data, pos + HEADER)
        told = self.told_id if sender == self.target.process_id else self.pool.told_id(sender)
        if told == 0:
            told = sender
        if told == sender and not prefix:
            return KEEP
        self.addition += p.message(p.NOTIFICATION, told.to_bytes(4, "big") + data[named:end])
        return DROP | ADD

    # --- cancel and end ---------------------------------------------------------------------------

    def cancel(self, reason: TenantryError | None = None) -> None:
        """Ask PostgreSQL to stop the current statement; `reason` replaces its error text."""
        if reason is not None:
            self.override = p.error_response(reason)
        if self.cancels >= MAX_CANCELS:
            return
        self.cancels += 1
        spawn(self.run_cancel(), name="cancel")

    async def run_cancel(self) -> None:
        done = False
        try:
            done = await send_cancel(self.target)
            if done and self.closed:
                # Given up while it runs something, which may have come to it after the cancel.
                # Nobody reads its answer, so only this ends it.
                await asyncio.sleep(CANCEL_AGAIN_SECONDS)
                await send_cancel(self.target)
        finally:
            self.cancels -= 1
            if not done:
                self.spoiled = True
            if self.cancels == 0 and self.release_after_cancel:
                self.release_after_cancel = False
                if self.spoiled:
                    self.pool.discard(self)
                elif not self.closed:
                    self.pool.release(self)

    def fail(self, error: TenantryError | None) -> None:
        """The connection is of no more use: the peer went away or broke the protocol."""
        client = self.client
        self.client = None
        self.end_work()
        self.pool.discard(self)
        if client is not None:
            client.server_lost(self, error)

    def close(self) -> None:
        """Called by the pool only."""
        if self.closed:
            return
        self.closed = True
        if not self.transport.is_closing():
            if self.status == p.IDLE and self.head == len(self.owed):
                self.write(p.TERMINATE_MESSAGE)
                self.transport.close()
            else:
                self.transport.abort()
