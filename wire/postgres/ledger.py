"""What a server owes, and since when it works: the list behind every pipeline.

`push` notes a request, `pop` an answer; both sides of the proxy look here to know whether the
server is free.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from mypy_extensions import i64

from wire.ports import Lease, Tracing
from wire.postgres import owed as o
from wire.postgres import protocol as p
from wire.postgres.owed import Owed

# What becomes of a message that was looked at: bits.
KEEP: Final = 0
DROP: Final = 1
ADD: Final = 2  # self.addition goes out after it, or in its place

# In the place of a text: several different ones run, or it was prepared or declared in SQL.
SEVERAL: Final = b"\0"


class Ledger:
    """The requests that one server has not answered yet."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.status = p.IDLE
        self.owed: list[Owed] = []
        self.head: i64 = 0
        # Entries that we answer ourselves.
        self.locals: i64 = 0
        # The last request ends an implicit transaction; false between Parse and Sync.
        self.synced = True
        # A pipeline has failed, and its Sync has not come yet: the server ignores all else.
        self.skipping = False
        # It owes something, and counts as a running query of its tenant.
        self.working = False
        # The statement was refused while its result streamed: say nothing more until it has ended.
        self.muted = False
        self.hiding = False
        # What is ours to say after a message of the server's, or in its place.
        self.addition = b""
        # --- times, and the limits of the current statement
        self.idle_since = monotonic()
        self.busy_since = 0.0
        self.query_since = 0.0
        self.transaction_since = 0.0
        self.row_limit: i64 = 0
        self.byte_limit: i64 = 0
        # What the client has it run now, for the audit and for telemetry; b"": nothing.
        self.sql = b""

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

    def runs(self, sql: bytes) -> None:
        """What was just pushed runs the client's `sql`."""
        if not self.sql:
            self.sql = sql
        elif self.sql is not sql:
            self.sql = SEVERAL

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

    def outstanding(self) -> i64:
        return len(self.owed) - self.head

    def owes_results(self) -> bool:
        """Whether a statement before the one at hand has no answer yet."""
        for at in range(self.head, len(self.owed)):
            what = self.owed[at].what
            if what == o.QUERY or what == o.EXECUTE:
                return True
        return False

    def at_rest(self) -> bool:
        """Outside a transaction, explicit or implicit, and owing nothing."""
        return self.head == len(self.owed) and self.status == p.IDLE and self.synced

    def serves_client(self) -> bool:
        """What runs now is the client's, not the proxy's own."""
        return self.head < len(self.owed) and not self.owed[self.head].setup

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
            meter = lease.meter
            meter.running -= 1
            if not self.sql:
                meter.busy_seconds += self.idle_since - self.busy_since
                return
            meter.worked(self.idle_since - self.busy_since)
            if meter.tracing is not None:
                self.trace(meter.tracing)
            self.sql = b""

    def trace(self, tracing: Tracing) -> None:
        """What was run has been answered."""
        raise NotImplementedError
