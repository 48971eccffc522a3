"""What a server still owes: one entry for each request that will get an answer, in order.

The list is what makes pipelines safe. A message from the server is matched to the first entry;
what we injected ourselves is hidden from the client, and what we answer in the server's place is
said when its turn comes, and not at all when an earlier request of the pipeline has failed.
"""

from __future__ import annotations

from typing import Final

from wire.postgres.prepared import Prepared
from wire.postgres.protocol import COMMAND_COMPLETE, message
from wire.sql.guard import Guard
from wire.sql.verdict import Verdict

# What the entry waits for.
QUERY: Final = 0  # everything up to ReadyForQuery
PARSE: Final = 1
BIND: Final = 2
DESCRIBE: Final = 3
EXECUTE: Final = 4
CLOSE: Final = 5
SYNC: Final = 6
LOCAL: Final = 7  # nothing: we answer it ourselves
COPY_END: Final = 8  # nothing: marks where the client ended COPY data sent ahead of time

# Requests a client may have outstanding. A pipeline of 100,000 statements is within it; beyond it
# the client is paused until the server has answered.
MAX_OUTSTANDING: Final = 400_000
# Answered entries that are kept at the front of the list before it is made shorter.
MAX_ANSWERED: Final = 4_096


class Edited:
    """What the client sent where the server got a rewritten text: errors tell positions in it."""

    def __init__(self, sql: bytes, verdict: Verdict, guard: Guard) -> None:
        self.sql = sql
        self.verdict = verdict
        self.guard = guard

    def position(self, position: int) -> int:
        """Where in the client's text a position (from 1 on, in characters) is; 0: nowhere."""
        return self.guard.original_position(self.sql, self.verdict, position)


class Owed:
    """One answer owed."""

    def __init__(
        self,
        what: int,
        *,
        hidden: bool = False,
        local: bytes = b"",
        refusal: bytes = b"",
        verdict: Verdict | None = None,
        prepared: Prepared | None = None,
        name: bytes = b"",
        setup: int = 0,
        number: int = 0,
        before: Prepared | None = None,
        edited: Edited | None = None,
    ) -> None:
        self.what = what
        # The answer is ours, not the client's.
        self.hidden = hidden
        # What to say to the client when this entry's turn comes (LOCAL).
        self.local = local
        # The request was replaced by one that must fail; this goes out in place of its error.
        self.refusal = refusal
        # Effects to record as each statement completes, and how many have.
        self.verdict = verdict
        self.completed = 0
        # Parse: what becomes known to the server, and under which name to the client.
        self.prepared = prepared
        self.name = name
        # One of the SETUP_* kinds below when the proxy itself asked.
        self.setup = setup
        # Close: the interned statement that the server loses.
        self.number = number
        # Parse of the unnamed statement: the client's one of before.
        self.before = before
        # The server got another text than the client sent.
        self.edited = edited


# Requests of the proxy's own.
SETUP_LAST: Final = 1  # the last statement of a hand-over
SETUP_MORE: Final = 2  # an earlier one
HAND_OVER: Final = (SETUP_LAST, SETUP_MORE)
SETUP_PROBE: Final = 3  # does the server still hold what pins its client?

# What a DEALLOCATE of a statement that is known here only is answered with.
DEALLOCATED: Final = message(COMMAND_COMPLETE, b"DEALLOCATE\0")

# Plain requests need no entry of their own.
OWED_QUERY: Final = Owed(QUERY)
OWED_PARSE: Final = Owed(PARSE)
OWED_BIND: Final = Owed(BIND)
OWED_DESCRIBE: Final = Owed(DESCRIBE)
OWED_EXECUTE: Final = Owed(EXECUTE)
OWED_CLOSE: Final = Owed(CLOSE)
OWED_SYNC: Final = Owed(SYNC)
OWED_COPY_END: Final = Owed(COPY_END)
