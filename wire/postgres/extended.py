"""The extended protocol of one client: its prepared statements and portals.

In transaction pooling a statement name of the client's is a name in this dictionary only; on the
server the statement has the name of its interned record, and is parsed there when it is missing.
In session pooling names go through unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from wire import errors as e
from wire.postgres import owed as o
from wire.postgres import protocol as p
from wire.postgres.ledger import SEVERAL
from wire.postgres.owed import Edited, Owed
from wire.postgres.prepared import MAX_CLIENT_BYTES, MAX_PER_CLIENT, Prepared
from wire.postgres.protocol import HEADER
from wire.postgres.server import ServerConnection
from wire.postgres.session import PREPARE_PREFIX
from wire.sql.verdict import COMMIT, DEALLOCATE, ROLLBACK, ROLLBACK_TO, Verdict

if TYPE_CHECKING:
    from wire.postgres.client import ClientConnection

FORWARD: Final = 0
TAKEN: Final = 1
WAIT: Final = 2

# Named portals followed at a time; they end with their transaction.
MAX_PORTALS: Final = 10_000


class Extended:
    """Parse, Bind, Describe, Execute and Close of one client."""

    def __init__(self, client: ClientConnection) -> None:
        self.client = client
        self.statements: dict[bytes, Prepared] = {}
        # Bytes of texts prepared by name since they were last counted.
        self.volume = 0
        self.unnamed: Prepared | None = None
        self.portal: Prepared | None = None
        self.portal_ran = False
        self.portals: dict[bytes, Prepared] = {}

    def request(self, kind: int, data: bytes, pos: i64, end: i64, size: i64) -> int:
        if kind == p.BIND:
            return self.bind(data, pos, end, size)
        if end > size:
            return self.client.refuse_oversized(o.PARSE)
        if kind == p.EXECUTE:
            return self.execute(data, pos, end)
        if kind == p.PARSE:
            return self.parse(data, pos, end)
        if kind == p.DESCRIBE:
            return self.describe(data, pos, end)
        return self.close(data, pos, end)

    def server(self) -> ServerConnection | None:
        server = self.client.server
        return server if server is not None else self.client.attach()

    def no_server(self, sql: bytes) -> int:
        return WAIT if self.client.blocked else self.client.refuse_pending(o.PARSE, sql)

    # --- Parse ------------------------------------------------------------------------------------

    def parse(self, data: bytes, pos: i64, end: i64) -> int:
        client = self.client
        name_end = p.cstring_end(data, pos + HEADER, end)
        sql_end = p.cstring_end(data, name_end + 1, end) if name_end >= 0 else -1
        if sql_end < 0:
            raise e.ProtocolViolation("invalid message format")
        sql = data[name_end + 1 : sql_end]
        if client.operator is not None:
            steered = client.steer(sql)
            if steered is None:
                return self.no_server(sql)
            if steered is not sql:
                return self.parse_in_place(data[pos + HEADER : name_end], steered)
        guard = client.lease.guard
        verdict = guard.judge(sql)
        if verdict is None:
            verdict = client.learn(sql)
            if verdict is None:
                return client.come_again()
        if verdict.refusal is not None:
            return client.refuse(verdict.refusal, o.PARSE, sql)
        if client.escapes and client.misread(sql):
            return client.refuse(backslash(), o.PARSE, sql)
        server = self.server()
        if server is None:
            return client.come_again() if client.blocked else self.no_server(sql)
        if server.unsure:
            refusal = ambiguous(server, sql)
            if refusal is not None:
                return client.refuse(refusal, o.PARSE, sql)
        tail = data[name_end + 1 : end]
        edited: Edited | None = None
        if verdict.edited:
            tail = guard.rewritten(sql, verdict) + data[sql_end:end]
            edited = Edited(sql, verdict, guard)
        if name_end == pos + HEADER:
            before = self.unnamed
            if before is None or before.tail != tail or before.judge is not guard:
                self.unnamed = Prepared(sql, tail, verdict, guard)
            server.unnamed = self.unnamed
            # Behind other requests it may be skipped, and then the one of before is still there.
            if before is None or server.outstanding() == 0:
                before = None
            if edited is None:
                server.push(o.OWED_PARSE if before is None else Owed(o.PARSE, before=before))
                return FORWARD
            server.push(Owed(o.PARSE, before=before, edited=edited))
            client.send(p.message(p.PARSE, b"\0" + tail))
            return TAKEN
        return self.parse_named(server, data[pos + HEADER : name_end], sql, tail, verdict)

    def parse_in_place(self, name: bytes, sql: bytes) -> int:
        """Prepare another text than came."""
        message = p.message(p.PARSE, name + b"\0" + sql + b"\0\0\0")
        action = self.parse(message, 0, len(message))
        if action == FORWARD:
            self.client.send(message)
            return TAKEN
        return action

    def parse_named(
        self, server: ServerConnection, name: bytes, sql: bytes, tail: bytes, verdict: Verdict
    ) -> int:
        client = self.client
        if name in self.statements:
            aborted = server.status == p.FAILED and server.outstanding() == 0
            if aborted and verdict.statements and not leaves_block(verdict):
                # It fails for another reason first, which the server tells.
                server.push(o.OWED_PARSE)
                client.send(p.message(p.PARSE, b"tenantry_refused\0" + tail))
                return TAKEN
            return client.refuse(e.DuplicateStatement(text(name)), o.PARSE)
        if len(self.statements) >= MAX_PER_CLIENT:
            return client.refuse(
                e.RateExceeded(
                    f"more than {MAX_PER_CLIENT} prepared statements",
                    hint="Close statements that are no longer used.",
                    limit="prepared_statements",
                ),
                o.PARSE,
                sql,
            )
        self.volume += len(tail)
        if self.volume > MAX_CLIENT_BYTES:
            # Closed ones were not taken off: count anew.
            self.volume = len(tail) + sum(len(one.tail) for one in self.statements.values())
            if self.volume > MAX_CLIENT_BYTES:
                return client.refuse(
                    e.TooLarge(
                        f"prepared statements are larger than {MAX_CLIENT_BYTES} bytes together",
                        hint="Close statements that are no longer used.",
                        limit="prepared_statements",
                    ),
                    o.PARSE,
                    sql,
                )
        guard = client.lease.guard
        if client.session_mode:
            prepared = Prepared(sql, tail, verdict, guard)
            self.statements[name] = prepared
            server.push(Owed(o.PARSE, prepared=prepared, name=name, edited=self.edited(prepared)))
            if not verdict.edited:
                return FORWARD
            client.send(p.message(p.PARSE, name + b"\0" + tail))
            return TAKEN
        prepared = client.lease.statements.intern(
            sql, tail, client.session.search_path(), verdict, guard
        )
        self.statements[name] = prepared
        if prepared.number in server.prepared:
            if server.status == p.FAILED and verdict.statements and not leaves_block(verdict):
                # Bound to fail, and must not be taken for unknown after that: under another name.
                server.push(Owed(o.PARSE, name=name))
                self.client.send(p.message(p.PARSE, b"tenantry_refused\0" + prepared.tail))
            else:
                self.say(server, p.PARSE_DONE, name, prepared)
        else:
            self.parse_on(server, prepared, hidden=False, name=name)
        return TAKEN

    def say(
        self, server: ServerConnection, answer: bytes, name: bytes, prepared: Prepared | None
    ) -> None:
        """Answer in the server's place, after what it owes."""
        if server.outstanding() == 0:
            self.client.deliver(answer)
        else:
            server.push(Owed(o.LOCAL, local=answer, name=name, prepared=prepared))

    def parse_on(
        self, server: ServerConnection, prepared: Prepared, *, hidden: bool, name: bytes
    ) -> None:
        """Have the server prepare the statement under its interned name."""
        known = server.prepared
        if len(known) >= self.client.listener.max_prepared:
            oldest = next(iter(known))
            del known[oldest]
            server.push(Owed(o.CLOSE, hidden=True, number=oldest))
            self.client.send(p.message(p.CLOSE, b"Stenantry_%d\0" % oldest))
        known[prepared.number] = None
        edited = self.edited(prepared)
        server.push(Owed(o.PARSE, hidden=hidden, prepared=prepared, name=name, edited=edited))
        self.client.send(p.message(p.PARSE, prepared.server_name + b"\0" + prepared.tail))

    # --- Bind -------------------------------------------------------------------------------------

    def bind(self, data: bytes, pos: i64, end: i64, size: i64) -> int:
        client = self.client
        limit = end if end < size else size
        portal_end = p.cstring_end(data, pos + HEADER, limit)
        name_end = p.cstring_end(data, portal_end + 1, limit) if portal_end >= 0 else -1
        if name_end < 0:
            raise e.ProtocolViolation("invalid message format")
        name = data[portal_end + 1 : name_end]
        prepared = self.unnamed if not name else self.statements.get(name)
        if prepared is None and not self.prepared_in_sql(name):
            return client.refuse(e.UnknownStatement(text(name)), o.BIND)
        if prepared is not None:
            refusal = self.judge_again(prepared)
            if refusal is not None:
                return client.refuse(refusal, o.BIND, prepared.sql)
            if not name:
                prepared = self.unnamed
        server = self.server()
        if server is None:
            return self.no_server(b"" if prepared is None else prepared.sql)
        self.open_portal(server, data[pos + HEADER : portal_end], prepared)
        if prepared is not None and prepared.verdict.unsure:
            # Planning may run functions already.
            server.unsure = True
        if prepared is None or client.session_mode:
            server.push(o.OWED_BIND)
            return FORWARD
        if not name:
            self.need_unnamed(server, prepared)
            server.push(o.OWED_BIND)
            return FORWARD
        if prepared.number not in server.prepared:
            self.parse_on(server, prepared, hidden=True, name=b"")
        server.push(o.OWED_BIND)
        start = data[pos + HEADER : portal_end + 1] + prepared.server_name
        length: int = end - pos - 1 + len(prepared.server_name) - len(name)
        client.send(b"B" + length.to_bytes(4, "big") + start + data[name_end:limit])
        client.drop_rest = False
        return TAKEN

    def judge_again(self, prepared: Prepared) -> e.TenantryError | None:
        """The policy may have changed since Parse."""
        client = self.client
        guard = client.lease.guard
        if prepared.judge is not guard:
            prepared.verdict = guard.judge(prepared.sql) or guard.learn(prepared.sql)
            prepared.judge = guard
            self.rewrite_again(prepared)
        if client.escapes and self.parses_again(prepared) and client.misread(prepared.sql):
            return backslash()
        return prepared.verdict.refusal

    def rewrite_again(self, prepared: Prepared) -> None:
        """Another guard may rewrite otherwise: servers must prepare the new text."""
        verdict = prepared.verdict
        if verdict.refusal is not None or self.client.session_mode:
            # Session pooling has servers of the tenant's own: the database alone must do there.
            return
        lease = self.client.lease
        text = lease.guard.rewritten(prepared.sql, verdict) if verdict.edited else prepared.sql
        if not prepared.retail(text):
            return
        if prepared is self.unnamed:
            # Servers know the unnamed statement they hold by this object.
            self.unnamed = Prepared(prepared.sql, prepared.tail, verdict, prepared.judge)
        else:
            lease.statements.renew(prepared)

    def edited(self, prepared: Prepared) -> Edited | None:
        """What errors about the statement must be told by, if servers get another text."""
        verdict = prepared.verdict
        if not verdict.edited:
            return None
        return Edited(prepared.sql, verdict, self.client.lease.guard)

    def parses_again(self, prepared: Prepared) -> bool:
        """Whether the server that the client has, or will get, lacks the statement."""
        server = self.client.server
        if server is None:
            return True
        if self.client.session_mode:
            return False
        if prepared.number:
            return prepared.number not in server.prepared
        return server.unnamed is not prepared

    def prepared_in_sql(self, name: bytes) -> bool:
        """PREPARE in SQL and Parse share their names."""
        return PREPARE_PREFIX + text(name) in self.client.session.state

    def need_unnamed(self, server: ServerConnection, prepared: Prepared) -> None:
        """The unnamed statement is the client's, but on another server than the one it has now."""
        if server.unnamed is not prepared:
            server.unnamed = prepared
            server.push(Owed(o.PARSE, hidden=True))
            self.client.send(p.message(p.PARSE, b"\0" + prepared.tail))

    def open_portal(self, server: ServerConnection, name: bytes, prepared: Prepared | None) -> None:
        if self.portals and server.status == p.IDLE and server.synced:
            self.portals.clear()
        if not name:
            before, self.portal = None if self.portal_ran else self.portal, prepared
            self.portal_ran = False
        else:
            before = self.portals.pop(name, None)
            if prepared is not None and len(self.portals) < MAX_PORTALS:
                self.portals[name] = prepared
        if before is not None and not before.verdict.plain and server.status != p.IDLE:
            # If this Bind fails and is rolled back to a savepoint, the portal of before is there
            # again, and would be taken for the new one.
            server.unsure = True

    # --- Describe, Execute, Close -----------------------------------------------------------------

    def execute(self, data: bytes, pos: i64, end: i64) -> int:
        client = self.client
        portal_end = p.cstring_end(data, pos + HEADER, end)
        if portal_end < 0:
            raise e.ProtocolViolation("invalid message format")
        unnamed = portal_end == pos + HEADER
        prepared = self.portal if unnamed else self.portals.get(data[pos + HEADER : portal_end])
        server = self.server()
        if server is None:
            return self.no_server(b"" if prepared is None else prepared.sql)
        refusal = client.charge()
        if refusal is not None:
            return client.refuse(refusal, o.EXECUTE, b"" if prepared is None else prepared.sql)
        if server.unsealing:
            return client.refuse_unsealed(o.EXECUTE, b"" if prepared is None else prepared.sql)
        if unnamed:
            self.portal_ran = True
        client.meter.queries += 1
        if prepared is None:
            # Prepared or declared in SQL: what it does is remembered nowhere.
            server.unsure = True
            server.push(o.OWED_EXECUTE)
            server.runs(SEVERAL)
            return FORWARD
        if prepared.verdict.plain:
            server.push(o.OWED_EXECUTE)
            server.runs(prepared.sql)
            return FORWARD
        verdict = prepared.verdict
        name = self.deallocates(verdict)
        if name:
            self.say(server, o.DEALLOCATED, name, self.statements.pop(name))
            return TAKEN
        refusal = client.tie(server, verdict)
        if refusal is not None:
            return client.refuse(refusal, o.EXECUTE, prepared.sql)
        server.push(Owed(o.EXECUTE, verdict=verdict) if verdict.effects else o.OWED_EXECUTE)
        server.runs(prepared.sql)
        return FORWARD

    def describe(self, data: bytes, pos: i64, end: i64) -> int:
        client = self.client
        what, name = target(data, pos, end)
        prepared: Prepared | None = None
        if what == b"S":
            prepared = self.statements.get(name) if name else self.unnamed
            if prepared is None and not self.prepared_in_sql(name):
                return client.refuse(e.UnknownStatement(text(name)), o.DESCRIBE)
            refusal = None if prepared is None else self.judge_again(prepared)
            if refusal is not None:
                return client.refuse(refusal, o.DESCRIBE, b"" if prepared is None else prepared.sql)
            if not name:
                prepared = self.unnamed
        server = self.server()
        if server is None:
            return self.no_server(b"" if prepared is None else prepared.sql)
        if prepared is None or client.session_mode or not name:
            if prepared is not None and not client.session_mode:
                self.need_unnamed(server, prepared)
            server.push(o.OWED_DESCRIBE)
            return FORWARD
        if prepared.number not in server.prepared:
            self.parse_on(server, prepared, hidden=True, name=b"")
        server.push(o.OWED_DESCRIBE)
        client.send(p.message(p.DESCRIBE, b"S" + prepared.server_name + b"\0"))
        return TAKEN

    def close(self, data: bytes, pos: i64, end: i64) -> int:
        client = self.client
        what, name = target(data, pos, end)
        server = client.server
        if what == b"P":
            self.portals.pop(name, None)
            if server is None:
                client.deliver(p.CLOSE_DONE)
                return TAKEN
            server.push(o.OWED_CLOSE)
            return FORWARD
        known = self.statements.pop(name, None)
        if not name:
            self.unnamed = None
        in_sql = known is None and self.prepared_in_sql(name)
        if in_sql:
            client.session.drop(PREPARE_PREFIX + text(name))
        if server is None:
            if in_sql:
                client.session.base = client.session.state
            client.deliver(p.CLOSE_DONE)
            return TAKEN
        if known is not None and not client.session_mode:
            self.say(server, p.CLOSE_DONE, name, known)
            return TAKEN
        if not name:
            server.unnamed = None
        elif in_sql:
            server.state = client.session.state
        server.push(o.OWED_CLOSE)
        return FORWARD

    def renamed(self, error: bytes) -> bytes:
        """An ErrorResponse with the client's own names of statements in place of the server's."""
        body = error[HEADER:]
        for name, prepared in self.statements.items():
            known = b'"' + prepared.server_name + b'"'
            if prepared.server_name and known in body:
                body = body.replace(known, b'"' + name + b'"')
        return p.message(p.ERROR, body)

    def deallocated(self, server: ServerConnection, verdict: Verdict) -> bool:
        """DEALLOCATE in SQL of a statement that came by Parse: its name is known here only."""
        name = self.deallocates(verdict)
        if not name or server.status == p.FAILED:
            return False
        del self.statements[name]
        alone = server.outstanding() == 0
        self.say(server, o.DEALLOCATED + p.ready(server.status), b"", None)
        if alone:
            self.client.server_idle(server)
        return True

    def deallocates(self, verdict: Verdict) -> bytes:
        """The statement of the client's own, by Parse, that this SQL deallocates; b"" for none."""
        if self.client.session_mode or verdict.statements != 1 or not verdict.effects:
            return b""
        effect = verdict.effects[0]
        if effect.kind != DEALLOCATE:
            return b""
        name = effect.key[len(PREPARE_PREFIX) :].encode()
        return name if name in self.statements else b""


def target(data: bytes, pos: i64, end: i64) -> tuple[bytes, bytes]:
    """What a Describe or Close is about: b"S" or b"P", and the name."""
    what = data[pos + HEADER : pos + HEADER + 1]
    if (what != b"S" and what != b"P") or p.cstring_end(data, pos + HEADER + 1, end) != end - 1:
        raise e.ProtocolViolation("invalid message format")
    return what, data[pos + HEADER + 1 : end - 1]


def leaves_block(verdict: Verdict) -> bool:
    """Whether PostgreSQL lets the statement through in a block that has failed."""
    effects = verdict.effects
    return bool(effects) and effects[0].kind in (COMMIT, ROLLBACK, ROLLBACK_TO)


def ambiguous(server: ServerConnection, sql: bytes) -> e.TenantryError | None:
    """An error for a text that the server may read otherwise than the guard did.

    A function of the tenant's may set standard_conforming_strings or client_encoding unseen. The
    server tells when it has answered; what stands behind it in a pipeline would be read by then.
    Only a backslash before a quote makes a difference to where a literal ends.
    """
    if b"\\'" not in sql or (server.synced and server.outstanding() == 0):
        return None
    return e.NotSupported(
        "a backslash before a quote cannot follow a function call in one pipeline",
        hint="Wait for the answer first, or send the value as a parameter.",
    )


def backslash() -> e.TenantryError:
    return e.NotSupported(
        "a backslash in a plain literal cannot be judged while standard_conforming_strings is off",
        hint="Write E'…', or send the value as a parameter.",
    )


def text(name: bytes) -> str:
    return name.decode("utf-8", "replace")
