"""What clients of the wire leave in the audit: logins, refusals, limits, what operators do.

None of it is on the path of a statement that is let through. A statement is told by the fingerprint
of its template; no literal of it gets into a note, by way of an error's text neither.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Final

from events.audit_sink import (
    FAILED,
    LIMIT,
    LOGIN,
    LOGIN_FAILED,
    OK,
    OPERATOR_STATEMENT,
    OVERRIDE,
    REFUSAL,
    REFUSED,
    fingerprint,
)
from wire import errors as e
from wire.sql.template import template

if TYPE_CHECKING:
    from wire.postgres.borrower import Borrower
    from wire.postgres.client import ClientConnection

# Longer texts have no fingerprint: the template of 32 KiB takes a millisecond (see wire.sql.guard).
TEXT_MAX: Final = 32 * 1024
# Of short texts the last ones are kept, because a client that is refused tries again.
SHORT_MAX: Final = 1024
SHORT_KEPT: Final = 512

# Over a limit, whether the error names it or not.
_LIMITS: Final = (e.RateExceeded, e.TooManyConnections, e.TooLarge, e.TimedOut)
# The proxy's "no". Everything else that `refuse` answers is the client's own mistake (a prepared
# statement that it does not have), its own wish (a cancel), or an outage.
_REFUSALS: Final = (
    *(e.Forbidden, e.NotSupported, e.SyntaxRefused, e.ProtocolViolation, e.InvalidParameter),
)
# These tell what the client wrote, or what PostgreSQL said of it.
_TELLING: Final = (e.SyntaxRefused, e.InvalidParameter, e.SessionNotRestored, e.ProtocolViolation)
_KINDS: Final = frozenset(
    b"SELECT INSERT UPDATE DELETE MERGE WITH VALUES TABLE COPY CALL DO EXPLAIN SET RESET SHOW BEGIN"
    b" START COMMIT ROLLBACK SAVEPOINT RELEASE PREPARE EXECUTE DEALLOCATE DECLARE FETCH MOVE CLOSE"
    b" LISTEN NOTIFY UNLISTEN LOCK TRUNCATE CREATE ALTER DROP GRANT REVOKE COMMENT VACUUM ANALYZE"
    b" DISCARD REFRESH REINDEX CLUSTER IMPORT LOAD REASSIGN SECURITY CHECKPOINT".split()
)
_WORD: Final = re.compile(rb"[A-Za-z_0-9\x80-\xff$]+")


class Told:
    """What may be told of a text: fingerprint ("" when it has none), kind, the words that are not
    parts of literals (None when they are not known)."""

    __slots__ = ("fingerprint", "kind", "words")

    def __init__(self, sql: bytes) -> None:
        key = template(sql) if 1 < len(sql) <= TEXT_MAX else None
        self.fingerprint = ""
        self.kind = ""
        self.words: frozenset[bytes] | None = None
        if key is not None:
            self.fingerprint = fingerprint(key)
            words = _WORD.findall(key.upper())
            self.words = frozenset(words)
            if words and words[0] in _KINDS:
                self.kind = words[0].decode()


@functools.lru_cache(maxsize=SHORT_KEPT)
def _short(sql: bytes) -> Told:
    return Told(sql)


def told(sql: bytes) -> Told:
    return _short(sql) if len(sql) <= SHORT_MAX else Told(sql)


def reason(error: e.TenantryError, sql: bytes, about: Told) -> str:
    """The error's text where it is the same for equal causes and holds nothing of a literal; else
    the name of its class."""
    if error.limit:
        return error.message
    if isinstance(error, _TELLING):
        return type(error).__name__
    if sql:
        # A setting or a schema may be named by a literal: set_config('…').
        for word in _WORD.findall(error.message.encode().upper()):
            if (about.words is None or word not in about.words) and word in sql.upper():
                return type(error).__name__
    return error.message


def refused(client: Borrower, error: e.TenantryError, sql: bytes) -> None:
    """A proven client was told `error` in place of what it asked for; `sql` as far as known."""
    meter = client.meter
    meter.refused += 1
    if error.limit:
        meter.limited(error.limit)
        kind = LIMIT
    elif isinstance(error, _LIMITS):
        kind = LIMIT
    elif isinstance(error, _REFUSALS):
        kind = REFUSAL
    else:
        return
    about = told(sql)
    trace, span = meter.tracing.ids(client, sql) if meter.tracing is not None else ("", "")
    meter.audit.note(
        kind,
        client.tenant,
        actor=client.user,
        address=client.address,
        fingerprint=about.fingerprint,
        statement_kind=about.kind,
        outcome=REFUSED,
        reason=reason(error, sql, about),
        sqlstate=error.sqlstate,
        trace_id=trace,
        span_id=span,
    )


def logged_in(client: ClientConnection) -> None:
    """The client has proven who it is, and its tenant has room for it."""
    meter = client.meter
    trace, span = meter.tracing.ids(client, b"") if meter.tracing is not None else ("", "")
    meter.audit.note(
        LOGIN,
        client.tenant,
        actor=client.user,
        address=client.address,
        outcome=OK,
        reason="operator" if client.operator is not None else "",
        trace_id=trace,
        span_id=span,
    )


def login_refused(client: ClientConnection, error: e.TenantryError) -> None:
    """A login ended with `error`. That the proof failed is told by Tenants.refused."""
    if isinstance(error, e.AuthenticationFailed):
        return
    if error.limit or isinstance(error, _LIMITS):
        kind = LIMIT
        if error.limit and error.limit != "connections":
            # Those are counted by the tenant's actor, which knows them first.
            client.meter.refused += 1
            client.meter.limited(error.limit)
    elif client.user:
        kind = LOGIN_FAILED
    else:
        # Whoever that was has not even said a name: scanners, health checks, broken clients.
        return
    client.meter.audit.note(
        kind,
        client.tenant,
        actor=client.user,
        address=client.address,
        outcome=REFUSED,
        reason=error.message if error.limit else type(error).__name__,
        sqlstate=error.sqlstate,
    )


def changed_tenant(client: ClientConnection, tenant: str, error: e.TenantryError | None) -> None:
    """An operator's client goes on in `tenant`, or may not."""
    client.meter.audit.note(
        OVERRIDE,
        tenant,
        actor=client.user,
        address=client.address,
        outcome=OK if error is None else FAILED,
        reason="" if error is None else error.message,
        sqlstate="" if error is None else error.sqlstate,
        detail=f"from {client.tenant} to {tenant}",
    )


def operator_statement(client: ClientConnection, sql: bytes) -> None:
    """An operator's text runs as the client's tenant, or in a whole database ("@…")."""
    about = told(sql)
    meter = client.meter
    trace, span = meter.tracing.ids(client, sql) if meter.tracing is not None else ("", "")
    meter.audit.note(
        OPERATOR_STATEMENT,
        client.tenant,
        actor=client.user,
        address=client.address,
        fingerprint=about.fingerprint,
        statement_kind=about.kind,
        outcome=OK,
        trace_id=trace,
        span_id=span,
        detail=client.tenant,
    )
