"""What a server's messages mean: which request each answers, and what the client sees of it.

`owed` lists what the server still owes, in order; `step` matches one message to its head. Nothing
here reads or writes a socket: server.py does, and tells this half of itself.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from wire.errors import ProtocolViolation, TenantryError, TooLarge
from wire.ports import Seal
from wire.postgres import owed as o
from wire.postgres import protocol as p
from wire.postgres.ledger import ADD, DROP, KEEP, Ledger
from wire.postgres.owed import Owed
from wire.postgres.protocol import changes_types
from wire.postgres.reported import accept
from wire.postgres.retold import retold
from wire.postgres.session import EMPTY, PREPARE_PREFIX
from wire.sql.verdict import (
    DEALLOCATE,
    DEALLOCATE_ALL,
    DISCARD_ALL,
    NONE,
    RESET,
    RESET_ALL,
    SET,
)

if TYPE_CHECKING:
    from wire.postgres.borrower import Borrower

STALE_PLAN: Final = b"cached plan must not change result type"
# A statement's name on the server, where an error's text cites it.
OWN: Final = b'"tenantry_'

# Fails in the grammar, so it fails whatever state the transaction is in.
REFUSED_SQL: Final = b"tenantry refused this statement"
# Fails in place of a refused step of the extended protocol. It is named, because parsing an unnamed
# statement would drop the client's own.
REFUSED_PARSE: Final = p.message(p.PARSE, b"tenantry_refused\0" + REFUSED_SQL + b"\0\0\0")
FAIL_AND_SYNC: Final = REFUSED_PARSE + p.SYNC_MESSAGE

ROWS_LIMIT: Final = "rate_limits.max_rows_per_query"


class Answers(Ledger):
    """The state of one server connection, as its messages tell it."""

    def __init__(self, parameters: dict[str, str]) -> None:
        super().__init__()
        self.parameters = parameters
        self.client: Borrower | None = None
        self.copying = False
        # Syncs that came before the end of COPY data: nothing to a server that reads COPY data.
        self.early_syncs = 0
        self.override = b""
        # When a query that took too long was cancelled first, and last.
        self.cancelled_since = 0.0
        self.cancelled_at = 0.0
        self.fatal = False
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
        # A statement may have made up others, for its transaction only, say.
        self.named = False
        self.unsure = False
        self.stale = False
        self.prepared: dict[int, None] = {}
        self.unnamed: object | None = None
        # What its session holds, or what may still reach it, is not known: never lend it again.
        self.spoiled = False
        # Whose it is, where tenants share servers; None: nobody's.
        self.seal: Seal | None = None
        # What it will be sealed with once the hand-over under way is answered.
        self.sealing: Seal | None = None
        # A statement that breaks the seal is under way: nothing may run behind it.
        self.unsealing = False
        # --- the current statement
        self.rows: i64 = 0
        self.result_bytes: i64 = 0
        # Statements completed, and how many when the pool looked last.
        self.progress: i64 = 0
        # Its transaction, still open, has changed what statements give.
        self.types_changed = False
        self.progress_seen: i64 = 0

    # --- what server.py does for this half --------------------------------------------------------

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def cancel(self, reason: TenantryError | None = None) -> None:
        raise NotImplementedError

    def setup_step(self, entry: Owed) -> None:
        raise NotImplementedError

    def notified(self, data: bytes, pos: i64, end: i64) -> int:
        raise NotImplementedError

    # --- messages ---------------------------------------------------------------------------------

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
            veiled = self.lease is not None and self.lease.veiled
            return DROP if self.hiding or self.client is None or veiled else KEEP
        if kind == p.NOTIFICATION:
            return self.notified(data, pos, end)
        p.legal(p.BACKEND, p.ACTIVE, kind)
        if self.head == len(self.owed):
            raise ProtocolViolation("server speaks out of turn")
        if kind == p.COPY_IN:
            self.copy_in()
        return DROP if self.hiding else KEEP

    def row(self, length: i64) -> int:
        if self.head == len(self.owed):
            raise ProtocolViolation("server speaks out of turn")
        self.rows += 1
        self.result_bytes += length + 1
        if self.row_limit and self.rows > self.row_limit:
            return self.overflow(f"result has more than {self.row_limit} rows", ROWS_LIMIT)
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
        error = TooLarge(
            message,
            hint=f"Fetch less at a time, or have {limit} raised.",
            limit="result_rows" if limit == ROWS_LIMIT else "result_bytes",
        )
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
        if kind == p.COMMAND_COMPLETE and not hidden:
            self.written(data, pos + p.HEADER, end)
        if kind == p.COMMAND_COMPLETE and changes_types(data, pos + p.HEADER, end):
            self.types_changed = True
            if self.lease is not None:
                self.lease.statements.outdate()
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

    def written(self, data: bytes, tag: i64, end: i64) -> None:
        """Count the rows that a command tag says were written.

        COPY has one tag for both directions; its rows come by here when it goes out.
        """
        if self.lease is None or end - tag < 7:
            return
        first, second = data[tag], data[tag + 1]
        if first == 83:  # SELECT n
            return
        if first == 67:  # C: COPY n
            if second != 79 or data[tag + 2] != 80 or self.rows > 0:
                return
        elif first == 77:  # M: MERGE n, not MOVE n
            if second != 69:
                return
        elif first != 73 and first != 85 and first != 68:  # INSERT 0 n, UPDATE n, DELETE n
            return
        at = end - 2
        count: i64 = 0
        unit: i64 = 1
        while at > tag and 48 <= data[at] <= 57:
            count += (data[at] - 48) * unit
            unit *= 10
            at -= 1
        self.lease.meter.rows_written += count

    def rows_done(self) -> None:
        if self.lease is not None and not self.hiding:
            self.lease.meter.rows_out += self.rows
        self.rows = 0
        self.result_bytes = 0

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
        self.unsealing = False
        self.status = status
        if status == p.IDLE and self.head + 1 < len(self.owed):
            self.transaction_since = monotonic()
        if self.types_changed and status == p.IDLE:
            self.types_changed = False
            if self.lease is not None:
                self.lease.statements.outdate()
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
            # The client may have sent something meanwhile that we answer ourselves.
            return DROP | self.speak() if self.locals else DROP
        if client is not None:
            session = client.session
            session.settle(status == p.IDLE)
            self.state = session.state
            if session.lost:
                self.stale = True
        if self.locals:
            return KEEP | self.speak()
        return KEEP

    def parameter(self, body: bytes) -> int:
        parts = body.split(b"\0")
        if len(parts) != 3:
            raise ProtocolViolation("invalid ParameterStatus from server")
        name = parts[0].decode("utf-8", "replace")
        value = parts[1].decode("utf-8", "replace")
        self.parameters = parameters = accept(
            self.parameters,
            name,
            value,
            escapes=self.client is not None and self.client.escapes,
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

    # --- session state ----------------------------------------------------------------------------

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
        elif kind == DEALLOCATE and client.session_mode:
            client.forget_statement(effect.key[len(PREPARE_PREFIX) :].encode())
        if kind in (RESET_ALL, DISCARD_ALL):
            self.seal = None
        if kind == SET and "." in effect.key:
            self.names.add(effect.key)
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

    def forget_session(self) -> None:
        """A reset is about to run."""
        self.seal = None
        self.state = EMPTY
        self.prepared.clear()
        self.unnamed = None

    # --- errors -----------------------------------------------------------------------------------

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
            if entry.what != o.QUERY:
                self.skip_to_sync()
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
        veiled = self.lease is not None and self.lease.veiled
        if veiled or entry.edited is not None:
            self.addition = retold(data[pos + p.HEADER : end], veiled, entry.edited)
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
                self.undo(entry, at == self.head)
        self.head = stop
        self.hiding = self.muted
        if stop == len(self.owed):
            self.skipping = True
            self.synced = False

    def undo(self, entry: Owed, failed: bool) -> None:
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
                if client is not None and client.extended is not None and not entry.hidden:
                    # A Parse that fails drops it, one that is skipped does not.
                    client.extended.unnamed = None if failed else entry.before

    def client_statements_stale(self) -> None:
        """DDL changed a result type: new names make servers parse the statements anew."""
        if self.client is not None and self.client.extended is not None and self.lease is not None:
            for prepared in self.client.extended.statements.values():
                self.lease.statements.renew(prepared)
