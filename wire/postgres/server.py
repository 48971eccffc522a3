"""One connection to a PostgreSQL server, after login: scan what it says, pass it on, know when it
is free again.

Only headers are read; rows are counted and never looked into. Each chunk that the socket gives is
scanned to its end without waiting for anything, and goes to the client in one write.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from wire.errors import NotSupported, ProtocolViolation, TenantryError, TooLarge
from wire.ports import Lease, Pool
from wire.postgres import owed as o
from wire.postgres import protocol as p
from wire.postgres.cancel import CancelTarget, send_cancel
from wire.postgres.owed import Owed
from wire.postgres.protocol import HEADER, int32
from wire.postgres.session import EMPTY, PREPARE_PREFIX
from wire.postgres.tls import TlsEndpoint
from wire.sql.verdict import (
    DEALLOCATE,
    DEALLOCATE_ALL,
    DISCARD_ALL,
    NONE,
    RESET,
    RESET_ALL,
    SET,
)
from wire.tasks import spawn

if TYPE_CHECKING:
    from wire.postgres.client import ClientConnection

log = logging.getLogger("tenantry.server")

# What becomes of a message that was looked at: bits.
KEEP: Final = 0
DROP: Final = 1
ADD: Final = 2  # self.addition goes out after it, or in its place

# Encodings in which a byte of a character may look like a quote or backslash: what the guard reads
# and what the server executes could differ, so such sessions are ended.
UNSAFE_ENCODINGS: Final = frozenset(
    ("BIG5", "GB18030", "GBK", "JOHAB", "SHIFT_JIS_2004", "SJIS", "UHC")
)
# Distinct sets of reported settings kept as one object each; the servers of a pool report alike.
MAX_SHARED_PARAMETERS: Final = 1_000
# Settings one server may report (PostgreSQL 18: 15), and bytes of a set that is worth sharing.
MAX_PARAMETERS: Final = 100
MAX_SHARED_BYTES: Final = 4_096
# A row description that has to be read whole: 1,664 columns, PostgreSQL's most, take 140 kB.
MAX_DESCRIPTION_BYTES: Final[i64] = 1024 * 1024
# Cancel requests under way to one server: one is enough, a few more follow later statements.
MAX_CANCELS: Final = 4
# A statement's name on the server, where an error's text cites it.
OWN: Final = b'"tenantry_'
STALE_PLAN: Final = b"cached plan must not change result type"

# Fails in the grammar, so it fails whatever state the transaction is in.
REFUSED_SQL: Final = b"tenantry refused this statement"


class ServerConnection:
    """An asyncio protocol; `pool` owns it, `client` borrows it."""

    def __init__(
        self,
        pool: Pool,
        transport: asyncio.Transport,
        target: CancelTarget,
        parameters: dict[str, str],
        tls: TlsEndpoint | None,
    ) -> None:
        self.pool = pool
        self.transport = transport
        self.target = target
        self.parameters = parameters
        self.tls = tls
        self.startup: dict[str, str] = {}
        self.client: ClientConnection | None = None
        self.lease: Lease | None = None
        # The last request ends an implicit transaction; false between Parse and Sync.
        self.synced = True
        # It owes something, and counts as a running query of its tenant.
        self.working = False
        self.closed = False
        # A pipeline has failed, and its Sync has not come yet: the server ignores all else.
        self.skipping = False
        # --- reading
        self.partial = b""
        self.body: i64 = 0
        self.body_hidden = False
        # As the client sees it: what is scanned but not delivered does not count.
        self.halfway = False
        self.addition = b""
        # --- what is owed
        self.owed: list[Owed] = []
        self.head: i64 = 0
        self.locals: i64 = 0
        self.status = p.IDLE
        self.copying = False
        # Syncs that came before the end of COPY data: nothing to a server that reads COPY data.
        self.early_syncs = 0
        # The statement was refused while its result streamed: say nothing more until it has ended.
        self.muted = False
        self.hiding = False
        self.override = b""
        self.fatal = False
        self.paused = False
        self.setup_failure = b""
        self.probe_rows = 0
        self.probe_failed = False
        # --- session state that this server holds
        self.state: dict[str, bytes] = EMPTY
        self.owner = 0
        # The process id that the client it serves now, or served last, was told at its login.
        self.told_id = 0
        # Made-up settings ("app.user"): whatever undoes their values, their names stay.
        self.names: set[str] = set()
        self.unsure = False
        self.stale = False
        self.prepared: dict[int, None] = {}
        self.unnamed: object | None = None
        # --- limits and meters of the current statement
        self.rows: i64 = 0
        self.result_bytes: i64 = 0
        self.row_limit: i64 = 0
        self.byte_limit: i64 = 0
        self.created = monotonic()
        self.idle_since = self.created
        self.busy_since = 0.0
        self.transaction_since = 0.0
        # Statements completed, and how many when the pool looked last.
        self.progress: i64 = 0
        self.progress_seen: i64 = 0
        self.query_since = 0.0
        self.cancels = 0
        self.release_after_cancel = False
        # What its session holds, or what may still reach it, is not known: never lend it again.
        self.spoiled = False

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

    def pause(self, paused: bool) -> None:
        """Stop reading (or go on): its client does not take what it says."""
        if paused != self.paused:
            self.paused = paused
            if paused:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def pause_writing(self) -> None:
        if self.client is not None:
            self.client.hold(True)

    def resume_writing(self) -> None:
        if self.client is not None:
            self.client.hold(False)

    # --- writing ----------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        self.transport.write(data if self.tls is None else self.tls.send(data))

    def push(self, entry: Owed) -> None:
        """Note that `entry` is owed; the request itself is written by the caller."""
        what = entry.what
        if self.head == len(self.owed):
            self.owed.clear()
            self.head = 0
            self.begin_work()
            self.hiding = entry.hidden
        elif self.head > o.MAX_ANSWERED and 2 * self.head > len(self.owed):
            del self.owed[: self.head]
            self.head = 0
        self.owed.append(entry)
        if what >= o.LOCAL:
            self.locals += 1
        else:
            self.synced = what == o.QUERY or what == o.SYNC
            if what == o.SYNC:
                self.skipping = False

    def begin_work(self) -> None:
        now = monotonic()
        self.query_since = now
        if self.status == p.IDLE and self.synced:
            self.transaction_since = now
        lease = self.lease
        # After a hand-over it works already.
        if lease is not None and not self.working:
            self.busy_since = now
            self.working = True
            lease.meter.running += 1
            self.row_limit = lease.max_result_rows
            self.byte_limit = lease.max_result_bytes

    def end_work(self) -> None:
        self.idle_since = monotonic()
        lease = self.lease
        if lease is not None and self.working:
            self.working = False
            lease.meter.running -= 1
            lease.meter.busy_seconds += self.idle_since - self.busy_since

    def at_rest(self) -> bool:
        """Outside a transaction, explicit or implicit, and owing nothing."""
        return self.head == len(self.owed) and self.status == p.IDLE and self.synced

    def mid_message(self) -> bool:
        """The client has the start of a message, and not its end."""
        return self.halfway

    def serves_client(self) -> bool:
        """What runs now is the client's, not the proxy's own."""
        return self.head < len(self.owed) and not self.owed[self.head].setup

    def outstanding(self) -> i64:
        return len(self.owed) - self.head

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

    def row(self, length: i64) -> int:
        if self.head == len(self.owed):
            raise ProtocolViolation("server speaks out of turn")
        self.rows += 1
        self.result_bytes += length + 1
        if self.row_limit and self.rows > self.row_limit:
            return self.overflow(
                f"result has more than {self.row_limit} rows", "rate_limits.max_rows_per_query"
            )
        if self.byte_limit and self.result_bytes > self.byte_limit:
            return self.overflow(
                f"result is larger than {self.byte_limit} bytes", "rate_limits.max_result_size"
            )
        return KEEP

    def hidden_row(self) -> int:
        self.probe_rows += 1
        return DROP

    def overflow(self, message: str, limit: str) -> int:
        """End a result over its limit: our error now, silence until the server has ended."""
        error = TooLarge(message, hint=f"Fetch less at a time, or have {limit} raised.")
        self.addition = p.error_response(error)
        self.muted = True
        self.hiding = True
        if self.client is not None:
            self.client.statement_failed(error)
        # If the cancel comes too late, what follows has run unheard.
        for at in range(self.head, len(self.owed)):
            if self.owed[at].verdict is not None:
                self.spoiled = True
        self.cancel()
        return DROP | ADD

    def step(self, kind: int, data: bytes, pos: i64, end: i64) -> int:
        """Account for one message that is not a row; says what becomes of it."""
        if kind == p.COMMAND_COMPLETE or kind == p.PORTAL_SUSPENDED or kind == p.EMPTY_QUERY:
            return self.completed(kind, data, pos, end)
        if kind == p.READY:
            return self.ready(data[pos + 5] if end - pos == 6 else 0)
        if kind == p.BIND_COMPLETE:
            return self.answered(o.BIND)
        if kind == p.ROW_DESCRIPTION or kind == p.NO_DATA:
            if self.head < len(self.owed) and self.owed[self.head].what == o.DESCRIBE:
                return self.answered(o.DESCRIBE)
            if kind == p.NO_DATA or self.head == len(self.owed):
                raise ProtocolViolation("server described what was not asked for")
            return DROP if self.hiding else KEEP
        if kind == p.PARSE_COMPLETE:
            return self.answered(o.PARSE)
        if kind == p.ERROR:
            return self.error(data, pos, end)
        if kind == p.CLOSE_COMPLETE:
            return self.answered(o.CLOSE)
        if kind == p.PARAMETER_STATUS:
            return self.parameter(data[pos + 5 : end])
        if kind == p.NOTICE:
            return DROP if self.hiding or self.client is None else KEEP
        if kind == p.NOTIFICATION:
            return self.notified(data, pos, end)
        p.legal(p.BACKEND, p.ACTIVE, kind)
        if self.head == len(self.owed):
            raise ProtocolViolation("server speaks out of turn")
        if kind == p.COPY_IN:
            self.copy_in()
        return DROP if self.hiding else KEEP

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
        sender = int32(data, pos + HEADER)
        told = self.told_id if sender == self.target.process_id else self.pool.told_id(sender)
        if told == 0 or told == sender:
            return KEEP
        self.addition += p.message(p.NOTIFICATION, told.to_bytes(4, "big") + data[pos + 9 : end])
        return DROP | ADD

    def answered(self, what: int) -> int:
        """The server has answered one step of the extended protocol."""
        if self.head == len(self.owed) or self.owed[self.head].what != what:
            raise ProtocolViolation("server answers what was not asked")
        hidden = self.hiding
        self.pop()
        action = DROP if hidden else KEEP
        if self.locals:
            action |= self.speak()
        return action

    def completed(self, kind: int, data: bytes, pos: i64, end: i64) -> int:
        if self.head == len(self.owed):
            raise ProtocolViolation("server completes what was not asked")
        entry = self.owed[self.head]
        hidden = self.hiding
        self.progress += 1
        if entry.verdict is not None and kind == p.COMMAND_COMPLETE and not self.muted:
            self.effect(entry, data[pos + 5 : end - 1])
        self.rows_done()
        self.copying = False
        self.early_syncs = 0
        if entry.what == o.EXECUTE:
            self.pop()
            action = DROP if hidden else KEEP
            if self.locals:
                action |= self.speak()
            return action
        if entry.what != o.QUERY:
            raise ProtocolViolation("server completes what was not asked")
        return DROP if hidden else KEEP

    def rows_done(self) -> None:
        if self.lease is not None and not self.hiding:
            self.lease.meter.rows_out += self.rows
        self.rows = 0
        self.result_bytes = 0

    def effect(self, entry: Owed, tag: bytes) -> None:
        """A statement that changes session state has succeeded."""
        verdict = entry.verdict
        client = self.client
        if verdict is None or client is None or entry.completed >= len(verdict.effects):
            return
        effect = verdict.effects[entry.completed]
        entry.completed += 1
        if effect.kind == NONE:
            return
        session = client.session
        session.completed(effect, tag)
        kind = effect.kind
        if kind in (DEALLOCATE_ALL, DISCARD_ALL):
            self.prepared.clear()
            client.forget_statements()
            self.still_prepared()
        elif kind == SET and "." in effect.key:
            self.names.add(effect.key)
        elif kind == DEALLOCATE and client.session_mode:
            client.forget_statement(effect.key[len(PREPARE_PREFIX) :].encode())
        if session.initial and (kind in (RESET, RESET_ALL, DISCARD_ALL)):
            # The server went to its own defaults, the client's startup packet says otherwise.
            self.stale = True
        self.state = session.state

    def still_prepared(self) -> None:
        """Parse that stands behind DEALLOCATE ALL in a pipeline is not meant by it."""
        client = self.client
        if client is None or client.extended is None:
            return
        for at in range(self.head + 1, len(self.owed)):
            entry = self.owed[at]
            parse = entry.what == o.PARSE or entry.local == p.PARSE_DONE
            if parse and entry.name and entry.prepared is not None:
                client.extended.statements[entry.name] = entry.prepared
                if entry.what == o.PARSE:
                    self.prepared[entry.prepared.number] = None

    def ready(self, status: int) -> int:
        """ReadyForQuery: one Query or Sync is settled."""
        if self.early_syncs and self.head == len(self.owed):
            # COPY failed before the server had seen the Sync that came too early: it counts.
            self.early_syncs = 0
            self.push(o.OWED_SYNC)
        if self.head == len(self.owed) or status not in (p.IDLE, p.IN_TRANSACTION, p.FAILED):
            raise ProtocolViolation("unexpected ReadyForQuery from server")
        entry = self.owed[self.head]
        if entry.what != o.QUERY and entry.what != o.SYNC:
            raise ProtocolViolation("ReadyForQuery before what was asked is answered")
        self.rows_done()
        muted = self.muted
        self.muted = False
        self.override = b""
        self.copying = False
        self.status = status
        if status == p.IDLE and self.head + 1 < len(self.owed):
            self.transaction_since = monotonic()
        if muted and status == p.IN_TRANSACTION:
            # The statement had ended before our cancel came, yet its client was told that it
            # failed: fail the block too, and let that answer's ReadyForQuery be the client's.
            if len(self.owed) - self.head > 1:
                raise TooLarge(
                    "result over its limit inside a pipeline; the transaction is aborted"
                )
            self.hiding = True
            self.muted = True
            self.write(p.query(REFUSED_SQL) if entry.what == o.QUERY else FAIL_AND_SYNC)
            return DROP
        self.pop()
        client = self.client
        if entry.setup:
            self.setup_step(entry)
            return DROP
        if client is not None:
            session = client.session
            session.settle(status == p.IDLE)
            self.state = session.state
            if session.lost:
                self.stale = True
        if self.locals:
            return KEEP | self.speak()
        return KEEP

    def error(self, data: bytes, pos: i64, end: i64) -> int:
        code = data.find(b"\0C", pos + 5, end)
        sqlstate = data[code + 2 : code + 7] if code >= 0 else b""
        if data.find(b"\0VFATAL", pos, end) >= 0 or data.find(b"\0VPANIC", pos, end) >= 0:
            # Unless it is hidden, this is the server's and the client's last word.
            self.fatal = not self.hiding
        self.rows_done()
        self.copying = False
        if self.head == len(self.owed):
            return KEEP
        entry = self.owed[self.head]
        client = self.client
        if entry.setup:
            if entry.setup == o.SETUP_PROBE:
                self.probe_failed = True
            elif not self.setup_failure:
                self.setup_failure = data[pos:end]
            return DROP
        if client is not None:
            client.session.failure()
        if sqlstate == b"0A000" and data.find(STALE_PLAN, pos, end) >= 0:
            self.client_statements_stale()
        if entry.what != o.QUERY:
            self.skip_to_sync()
        if self.muted:
            return DROP
        if self.lease is not None:
            self.lease.meter.errors += 1
        if entry.refusal:
            self.addition = entry.refusal
            return DROP | ADD
        if client is not None and client.extended is not None and data.find(OWN, pos, end) >= 0:
            self.addition = client.extended.renamed(data[pos:end])
            return DROP | ADD
        if self.override and sqlstate == b"57014":
            self.addition = self.override
            self.override = b""
            return DROP | ADD
        return KEEP

    def skip_to_sync(self) -> None:
        """The server ignores everything up to the next Sync, and so does the list."""
        at = self.head
        while at < len(self.owed) and self.owed[at].what != o.SYNC:
            at += 1
        stop = at
        # Undone from the last to the first: a name may have been closed and given again.
        while at > self.head:
            at -= 1
            entry = self.owed[at]
            if entry.what >= o.LOCAL:
                self.locals -= 1
            if entry.what == o.PARSE or entry.what == o.CLOSE or entry.what == o.LOCAL:
                self.undo(entry)
        self.head = stop
        self.hiding = self.muted
        if stop == len(self.owed):
            self.skipping = True
            self.synced = False

    def undo(self, entry: Owed) -> None:
        """A Parse or Close failed or was skipped: both sides have what they had before it."""
        client = self.client
        if entry.what == o.CLOSE:
            if entry.number:
                self.prepared[entry.number] = None
        elif entry.local == p.CLOSE_DONE or entry.local == o.DEALLOCATED:
            if client is not None and client.extended is not None and entry.prepared is not None:
                client.extended.statements[entry.name] = entry.prepared
        elif entry.prepared is not None:
            if entry.what == o.PARSE:
                self.prepared.pop(entry.prepared.number, None)
            if entry.name and client is not None:
                client.forget_statement(entry.name)
        elif entry.what == o.PARSE and not entry.refusal:
            if entry.name and client is not None:
                client.forget_statement(entry.name)
            else:
                self.unnamed = None

    def client_statements_stale(self) -> None:
        """DDL changed a result type: new names make servers parse the statements anew."""
        if self.client is not None and self.client.extended is not None and self.lease is not None:
            for prepared in self.client.extended.statements.values():
                self.lease.statements.renew(prepared)

    def parameter(self, body: bytes) -> int:
        parts = body.split(b"\0")
        if len(parts) != 3:
            raise ProtocolViolation("invalid ParameterStatus from server")
        name = parts[0].decode("utf-8", "replace")
        value = parts[1].decode("utf-8", "replace")
        parameters = dict(self.parameters)
        parameters[name] = value
        if len(parameters) > MAX_PARAMETERS:
            raise ProtocolViolation("server reports too many settings")
        self.parameters = parameters = share(parameters)
        # A client that has turned it off in sight of the guard is dealt with there.
        off = name == "standard_conforming_strings" and value != "on"
        if off and (self.client is None or not self.client.escapes):
            raise NotSupported("standard_conforming_strings must stay on", hint="Use E'' strings.")
        if name == "client_encoding" and value in UNSAFE_ENCODINGS:
            raise NotSupported(
                f"client_encoding {value} is not supported",
                hint="Use UTF8 and convert in the client.",
            )
        if self.hiding or self.client is None:
            return DROP
        self.client.parameters = parameters
        return KEEP

    def copy_in(self) -> None:
        """The server reads COPY data now. Syncs that came before its end mean nothing to it."""
        self.copying = True
        entry = self.owed[self.head]
        if entry.what != o.EXECUTE:
            return
        kept = [entry]
        at = self.head + 1
        while at < len(self.owed):
            what = self.owed[at].what
            at += 1
            if what == o.COPY_END:
                self.locals -= 1
                self.copying = False
                break
            if what == o.SYNC:
                self.early_syncs += 1
            else:
                kept.append(self.owed[at - 1])
        self.owed[self.head :] = kept + self.owed[at:]

    # --- the list of what is owed -----------------------------------------------------------------

    def pop(self) -> None:
        self.head += 1
        if self.head < len(self.owed):
            self.hiding = self.muted or self.owed[self.head].hidden
        else:
            self.hiding = self.muted

    def speak(self) -> int:
        """Say what is ours to say before the server's next answer."""
        said: list[bytes] = []
        while self.head < len(self.owed) and self.owed[self.head].what >= o.LOCAL:
            entry = self.owed[self.head]
            if entry.local and not self.muted:
                said.append(entry.local)
            self.locals -= 1
            self.pop()
        if not said:
            return KEEP
        self.addition += b"".join(said)
        return ADD

    # --- requests of the proxy's own --------------------------------------------------------------

    def ask(self, statements: list[bytes], last: int) -> None:
        """Run statements of our own, each a Query by itself; the client sees none of it."""
        self.setup_failure = b""
        self.probe_rows = 0
        self.probe_failed = False
        out: list[bytes] = []
        for index, sql in enumerate(statements):
            setup = last if index == len(statements) - 1 else o.SETUP_MORE
            self.push(Owed(o.QUERY, hidden=True, setup=setup))
            out.append(p.query(sql))
        self.write(b"".join(out))

    def setup_step(self, entry: Owed) -> None:
        client = self.client
        if client is None or entry.setup == o.SETUP_MORE:
            return
        if entry.setup == o.SETUP_PROBE:
            client.probed(self, self.probe_failed or self.probe_rows > 0)
        else:
            client.prepared_server(self, self.setup_failure)

    def forget_session(self) -> None:
        """DISCARD ALL is about to run."""
        self.state = EMPTY
        self.prepared.clear()
        self.unnamed = None

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


# Fails in place of a refused step of the extended protocol. It is named, because parsing an unnamed
# statement would drop the client's own.
REFUSED_PARSE: Final = p.message(p.PARSE, b"tenantry_refused\0" + REFUSED_SQL + b"\0\0\0")
FAIL_AND_SYNC: Final = REFUSED_PARSE + p.SYNC_MESSAGE


_shared_parameters: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}


def share(parameters: dict[str, str]) -> dict[str, str]:
    """One object for equal sets of reported settings, so that equality is seen at a glance."""
    key = tuple(sorted(parameters.items()))
    if sum([len(name) + len(value) for name, value in key]) > MAX_SHARED_BYTES:
        return parameters
    if len(_shared_parameters) >= MAX_SHARED_PARAMETERS:
        _shared_parameters.clear()
    return _shared_parameters.setdefault(key, parameters)
