"""The one error tree. Each error knows its SQLSTATE, its HTTP status and what to do about it.

    TenantryError                 XX000  500
    ├── AuthenticationFailed      28P01  401   unknown tenant or user, wrong password: one text
    ├── ProtocolViolation         08P01  400   the peer broke the protocol
    ├── NotSupported              0A000  501   a feature the proxy refuses for everybody
    ├── Forbidden                 42501  403   the tenant's permissions do not allow the statement
    ├── SyntaxRefused             42601  400   the statement cannot be read, so it cannot be judged
    ├── RateExceeded              53400  429   queries per second, queries at a time, pins
    ├── TooManyConnections        53300  429   clients, or no server within the wait's limit
    ├── TooLarge                  54000  413   statement or result over its limit
    ├── TimedOut                  57014  504   query duration
    ├── QueryCancelled            57014  499   the client asked for it, before a server had begun
    ├── IdleInTransaction         25P03  504   FATAL, as in PostgreSQL
    ├── TransactionTimedOut       25P04  504   FATAL, as in PostgreSQL
    ├── ShuttingDown              57P01  503   draining, or the tenant was disabled
    ├── ServerUnavailable         57P03  503   no PostgreSQL to talk to
    ├── ServerLost                08006  502   the PostgreSQL connection broke under a statement
    ├── DuplicateStatement        42P05  409   prepared statement exists already
    ├── UnknownStatement          26000  404   prepared statement does not exist
    ├── UnknownDatabase           3D000  404   not the tenant's
    ├── InvalidParameter          22023  400   startup parameter refused
    └── SessionNotRestored        58000  502   what the client had set cannot be set on this server

SQLSTATEs: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

from typing import ClassVar


class TenantryError(Exception):
    """Base of all refusals. `message` goes to the client: it never names another tenant. `limit`
    names the limit that was over, as usage counts it (events.usage_delta); "": it is none."""

    sqlstate: ClassVar[str] = "XX000"
    http_status: ClassVar[int] = 500
    fatal: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "", detail: str = "", limit: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail
        self.limit = limit


class AuthenticationFailed(TenantryError):
    """Whatever was wrong, the client learns the same: no name can be probed."""

    sqlstate = "28P01"
    http_status = 401
    fatal = True

    def __init__(self, user: str) -> None:
        super().__init__(f'password authentication failed for user "{user}"')


class ProtocolViolation(TenantryError):
    sqlstate = "08P01"
    http_status = 400
    fatal = True


class NotSupported(TenantryError):
    sqlstate = "0A000"
    http_status = 501


class Forbidden(TenantryError):
    sqlstate = "42501"
    http_status = 403


class SyntaxRefused(TenantryError):
    """`position` is where the error is: characters from 1 on, as PostgreSQL counts; 0: unknown."""

    sqlstate = "42601"
    http_status = 400

    def __init__(
        self, message: str, *, hint: str = "", detail: str = "", position: int = 0
    ) -> None:
        super().__init__(message, hint=hint, detail=detail)
        self.position = position


class RateExceeded(TenantryError):
    sqlstate = "53400"
    http_status = 429


class TooManyConnections(TenantryError):
    sqlstate = "53300"
    http_status = 429


class TooLarge(TenantryError):
    sqlstate = "54000"
    http_status = 413


class TimedOut(TenantryError):
    sqlstate = "57014"
    http_status = 504


class QueryCancelled(TenantryError):
    """The client cancelled a request that still waited for a server; PostgreSQL's own text."""

    sqlstate = "57014"
    http_status = 499

    def __init__(self) -> None:
        super().__init__("canceling statement due to user request")


class IdleInTransaction(TenantryError):
    sqlstate = "25P03"
    http_status = 504
    fatal = True


class TransactionTimedOut(TenantryError):
    sqlstate = "25P04"
    http_status = 504
    fatal = True


class ShuttingDown(TenantryError):
    sqlstate = "57P01"
    http_status = 503
    fatal = True


class ServerUnavailable(TenantryError):
    sqlstate = "57P03"
    http_status = 503


class ServerLost(TenantryError):
    sqlstate = "08006"
    http_status = 502
    fatal = True


class DuplicateStatement(TenantryError):
    """A client parsed a name that it has already; same text and code as PostgreSQL's own."""

    sqlstate = "42P05"
    http_status = 409

    def __init__(self, name: str) -> None:
        super().__init__(f'prepared statement "{name}" already exists')


class UnknownStatement(TenantryError):
    """A client named a prepared statement that it does not have."""

    sqlstate = "26000"
    http_status = 404

    def __init__(self, name: str) -> None:
        what = f'prepared statement "{name}"' if name else "unnamed prepared statement"
        super().__init__(f"{what} does not exist")


class InvalidParameter(TenantryError):
    """A startup parameter that PostgreSQL would not take."""

    sqlstate = "22023"
    http_status = 400


class UnknownDatabase(TenantryError):
    """A proven client names a database that is not its tenant's."""

    sqlstate = "3D000"
    http_status = 404
    fatal = True

    def __init__(self, name: str) -> None:
        super().__init__(
            f'database "{name}" does not exist',
            hint="Name the tenant's own database, or none.",
        )


class SessionNotRestored(TenantryError):
    """A server would not take what the client had set on another one; PostgreSQL's words follow."""

    sqlstate = "58000"
    http_status = 502

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(f"session state could not be restored: {message}", detail=detail)
