"""The one error tree. Each error knows its SQLSTATE, its HTTP status and what to do about it.

    TenantryError                 XX000  500
    ├── AuthenticationFailed      28P01  401   unknown tenant, user, database, wrong password: one text
    ├── ProtocolViolation         08P01  400   the peer broke the protocol
    ├── NotSupported              0A000  501   a feature the proxy refuses for everybody
    ├── Forbidden                 42501  403   the tenant's permissions do not allow the statement
    ├── SyntaxRefused             42601  400   the statement cannot be read, so it cannot be judged
    ├── RateExceeded              53400  429   queries per second, concurrent queries, pinned servers
    ├── TooManyConnections        53300  429   client connections, or no server within the waiting limit
    ├── TooLarge                  54000  413   statement or result over its limit
    ├── TimedOut                  57014  504   query duration
    ├── IdleInTransaction         25P03  504   FATAL, as in PostgreSQL
    ├── TransactionTimedOut       25P04  504   FATAL, as in PostgreSQL
    ├── ShuttingDown              57P01  503   draining, or the tenant was disabled
    ├── ServerUnavailable         57P03  503   no PostgreSQL to talk to
    └── ServerLost                08006  502   the PostgreSQL connection broke under a statement

SQLSTATEs: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

from typing import ClassVar


class TenantryError(Exception):
    """Base of all refusals. `message` goes to the client: it never names another tenant."""

    sqlstate: ClassVar[str] = "XX000"
    http_status: ClassVar[int] = 500
    fatal: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail


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
    sqlstate = "42601"
    http_status = 400


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
