"""Prepared statements of one tenant: one shared record per text, under names that no client chose.

In transaction pooling a client's statement must exist on whichever server it gets next. Each
distinct statement is interned here and has a server-side name of its own; a server that lacks it
is sent the Parse again. The key contains the search_path, because the same text may mean other
tables under another one.
"""

from __future__ import annotations

from typing import Final

from wire.sql.verdict import Verdict

# Distinct statements remembered per tenant and worker. Clients keep their own reference to what
# they prepared, so forgetting an entry here costs a second server-side copy, never correctness.
MAX_INTERNED: Final = 5_000
MAX_INTERNED_BYTES: Final = 32 * 1024 * 1024
# Statements one client may hold by name at a time; it bounds a client's memory, not its use:
# drivers keep 100 to 1,000.
MAX_PER_CLIENT: Final = 10_000
# And their texts together.
MAX_CLIENT_BYTES: Final = 8 * 1024 * 1024


class Prepared:
    """One statement text with its parameter types, and what the guard said of it.

    `sql` is the client's text. `tail` is the Parse message after the name, as servers get it: query
    text (rewritten, where that is needed), zero byte, parameter types.
    """

    def __init__(
        self,
        sql: bytes,
        tail: bytes,
        verdict: Verdict,
        judge: object,
        number: int = 0,
        server_name: bytes = b"",
    ) -> None:
        self.sql = sql
        self.tail = tail
        self.verdict = verdict
        # The guard that gave the verdict: another one (the policy changed) must judge again.
        self.judge = judge
        self.number = number
        self.server_name = server_name

    def text_end(self) -> int:
        """Where the query text ends in `tail`."""
        return self.tail.index(b"\0")

    def retail(self, text: bytes) -> bool:
        """Send servers this text from now on; whether that is another one than before."""
        end = self.text_end()
        if self.tail[:end] == text:
            return False
        self.tail = text + self.tail[end:]
        return True


class Statements:
    """The tenant's interned statements."""

    def __init__(self) -> None:
        self._interned: dict[tuple[bytes, bytes], Prepared] = {}
        self._count = 0
        self._bytes = 0

    def intern(
        self, sql: bytes, tail: bytes, search_path: bytes, verdict: Verdict, judge: object
    ) -> Prepared:
        key = (tail, search_path)
        found = self._interned.get(key)
        if found is not None:
            found.verdict = verdict
            found.judge = judge
            return found
        self._bytes += len(tail)
        while self._interned and (
            len(self._interned) >= MAX_INTERNED or self._bytes > MAX_INTERNED_BYTES
        ):
            oldest = self._interned.pop(next(iter(self._interned)))
            self._bytes -= len(oldest.tail)
        self._count += 1
        name = b"tenantry_%d" % self._count
        made = Prepared(sql, tail, verdict, judge, self._count, name)
        self._interned[key] = made
        return made

    def outdate(self) -> None:
        """DDL has run: who prepares a statement from now on gets a new one on every server.

        Servers keep the plans of before, and would answer "cached plan must not change result
        type" to a client that has only just prepared its statement.
        """
        self._interned.clear()
        self._bytes = 0

    def renew(self, prepared: Prepared) -> None:
        """Give the statement a new server-side name, so that every server prepares it again.

        Needed when DDL changed its result type: servers would answer "cached plan must not change
        result type" for ever, because the client's own second Parse would be taken for known.
        """
        self._count += 1
        prepared.number = self._count
        prepared.server_name = b"tenantry_%d" % self._count
