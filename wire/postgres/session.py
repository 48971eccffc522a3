"""What one client has set, so that it finds it again on whichever server it gets next.

State is a dictionary from a key ("guc:search_path", "prepare:q1") to the statement that makes it
so. It is never changed in place: every change makes a new dictionary, so that a snapshot is a
reference and "the server is already like that" is usually one identity test. The same dictionary
is shared by all clients that started alike.

Transactions: what a failed or rolled-back block has set is undone by PostgreSQL, and here.
"""

from __future__ import annotations

from typing import Final

from wire.sql.verdict import (
    COMMIT,
    DEALLOCATE,
    DEALLOCATE_ALL,
    DISCARD_ALL,
    PREPARE,
    RELEASE,
    RESET,
    RESET_ALL,
    ROLLBACK,
    ROLLBACK_TO,
    SAVEPOINT,
    SET,
    Effect,
    Verdict,
    undo_sql,
)

EMPTY: Final[dict[str, bytes]] = {}
# Keys a client may have set at a time; each costs a statement at hand-over. PostgreSQL itself has
# fewer than 400 settings.
MAX_STATE_KEYS: Final = 1_000
# Their texts together: kept for each client, and sent again at each hand-over.
MAX_STATE_BYTES: Final = 1024 * 1024
# Savepoints remembered. Beyond it they are not followed, and the server is reset at release.
MAX_SAVEPOINTS: Final = 1_000

# The pin of set_config(), which only RESET ALL and DISCARD ALL undo.
SETTING_PIN: Final = "set_config"
# The pin of CREATE TEMPORARY and its like (analyse.py).
TEMPORARY_PIN: Final = "temporary objects"
# The pin of session-level advisory locks.
LOCK_PIN: Final = "an advisory lock"
GUC_PREFIX: Final = "guc:"
CONFORMING_KEY: Final = "guc:standard_conforming_strings"
PREPARE_PREFIX: Final = "prepare:"
SEARCH_PATH: Final = "guc:search_path"


class Session:
    """The tracked state of one client."""

    def __init__(self, initial: dict[str, bytes]) -> None:
        # What the startup packet asked for: RESET goes back to this.
        self.initial = initial
        self.state = initial
        # State at the start of the current transaction, explicit or implicit.
        self.base = initial
        self.savepoints: list[tuple[str, dict[str, bytes]]] | None = None
        # Why the client keeps its server; empty when it does not.
        self.pins: frozenset[str] = frozenset()
        # Statements may have removed what pinned: ask the server.
        self.probe = False
        # A statement that pins has gone to the server after the probe, which says nothing of it.
        self.pinned_again = False
        # An error has come since the last ReadyForQuery.
        self.failed = False
        # The tracking was overrun: what the server holds is not known any more.
        self.lost = False

    def search_path(self) -> bytes:
        return self.state.get(SEARCH_PATH, b"")

    def completed(self, effect: Effect, tag: bytes) -> None:
        """A statement with an effect has succeeded; `tag` is its command tag."""
        kind = effect.kind
        if kind in (COMMIT, ROLLBACK):
            # COMMIT of a failed block answers ROLLBACK, and is one.
            if tag.startswith(b"ROLLBACK"):
                self.undo_to(self.base)
            self.base = self.state
            self.savepoints = None
        elif kind in (SET, PREPARE):
            self.put(effect.key, effect.sql)
        elif kind in (RESET, DEALLOCATE):
            self.drop(effect.key)
        elif kind == SAVEPOINT:
            if self.savepoints is None:
                self.savepoints = []
            if len(self.savepoints) < MAX_SAVEPOINTS:
                self.savepoints.append((effect.key, self.state))
            else:
                self.lost = True
        elif kind == ROLLBACK_TO:
            at = self.find_savepoint(effect.key)
            if at >= 0 and self.savepoints is not None:
                self.undo_to(self.savepoints[at][1])
                del self.savepoints[at + 1 :]
        elif kind == RELEASE:
            at = self.find_savepoint(effect.key)
            if at >= 0 and self.savepoints is not None:
                del self.savepoints[at:]
        elif kind in (RESET_ALL, DEALLOCATE_ALL, DISCARD_ALL):
            self.forget(kind)

    def forget(self, kind: int) -> None:
        """RESET ALL, DEALLOCATE ALL, DISCARD ALL."""
        state = self.state
        if kind == RESET_ALL:
            self.state = {k: v for k, v in state.items() if k.startswith(PREPARE_PREFIX)}
            self.state.update(self.initial)
        elif kind == DEALLOCATE_ALL:
            self.state = {k: v for k, v in state.items() if not k.startswith(PREPARE_PREFIX)}
        elif kind == DISCARD_ALL:
            self.state = self.initial
            self.base = self.initial
        if kind != DEALLOCATE_ALL:
            self.pins = self.pins - {SETTING_PIN}
        if self.state == self.initial:
            self.state = self.initial

    def put(self, key: str, sql: bytes) -> None:
        if self.state.get(key) == sql:
            return
        state = dict(self.state)
        # Last set comes last: what is replayed keeps the client's order.
        state.pop(key, None)
        state[key] = sql
        if len(state) > MAX_STATE_KEYS or sum(map(len, state.values())) > MAX_STATE_BYTES:
            self.lost = True
            return
        self.state = self.initial if state == self.initial else state

    def drop(self, key: str) -> None:
        if key not in self.state:
            return
        state = dict(self.state)
        del state[key]
        if key in self.initial:
            state[key] = self.initial[key]
        self.state = self.initial if state == self.initial else state

    def undo_to(self, before: dict[str, bytes]) -> None:
        """A rollback: settings are as `before`; PREPARE and DEALLOCATE are not undone."""
        now = self.state
        if now is before:
            return
        state = {k: v for k, v in before.items() if not k.startswith(PREPARE_PREFIX)}
        state.update((k, v) for k, v in now.items() if k.startswith(PREPARE_PREFIX))
        self.state = before if state == before else state

    def find_savepoint(self, name: str) -> int:
        if self.savepoints is not None:
            for at in range(len(self.savepoints) - 1, -1, -1):
                if self.savepoints[at][0] == name:
                    return at
        return -1

    def settle(self, idle: bool) -> None:
        """ReadyForQuery: an implicit transaction that failed has undone what it had set."""
        if idle:
            if self.failed:
                self.undo_to(self.base)
            self.base = self.state
            self.savepoints = None
        self.failed = False

    def note(self, verdict: Verdict) -> None:
        """A judged statement goes to the server; remember whether it ties the client to it."""
        if verdict.pin:
            self.pins = self.pins | {verdict.pin}
            self.pinned_again = True
        if verdict.unpin and self.pins:
            self.probe = True

    def probing(self) -> None:
        """PROBE_SQL goes to the server."""
        self.probe = False
        self.pinned_again = False

    def probed(self, found: bool) -> None:
        """The server has answered PROBE_SQL; settings are the one thing it does not see."""
        if not found and not self.pinned_again:
            self.pins = self.pins & {SETTING_PIN}

    def failure(self) -> None:
        """The server has answered with an error; what was to pin may not exist."""
        self.failed = True
        if self.pins:
            self.probe = True


def difference(have: dict[str, bytes], want: dict[str, bytes]) -> bytes:
    """SQL that turns a server with state `have` into one with `want`; empty when they are equal.

    With a backslash in it, it has to be read with standard_conforming_strings on: each statement in
    it has been judged so, whatever the server has been set to since.
    """
    statements = [undo_sql(key) for key in have if key not in want]
    for key, sql in want.items():
        old = have.get(key)
        if old == sql:
            continue
        if old is not None and key.startswith(PREPARE_PREFIX):
            statements.append(undo_sql(key))
        statements.append(sql)
    if CONFORMING_KEY in want and any(b"\\" in each for each in statements):
        # See ServerConnection.hand_over.
        statements.append(want[CONFORMING_KEY])
    return b";".join(statements)


# One row when the session still holds what ties a client to its server.
PROBE_SQL: Final = (
    b"SELECT 1 WHERE EXISTS (SELECT FROM pg_catalog.pg_class"
    b" WHERE relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())"
    b" OR EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)"
    b" OR EXISTS (SELECT FROM pg_catalog.pg_listening_channels())"
)
# The same where locks are among it. Beside other tenants this fails, for there pg_locks is closed
# (admin/provision/functions.py); who has taken a lock then keeps its server.
PROBE_LOCKS_SQL: Final = (
    PROBE_SQL + b" OR EXISTS (SELECT FROM pg_catalog.pg_locks"
    b" WHERE locktype OPERATOR(pg_catalog.=) 'advisory'"
    b" AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())"
)
