"""What a tenant's actor is told and asked.

`connection` is whatever stands for a client connection (hashable, compared by identity); only the
tenant's actor looks into it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class OpenLease:
    """May this connection use the tenant? Answered with a Lease; refused with a TenantryError.

    Granting it counts the connection, until its ConnectionClosed.
    """

    tenant: str
    connection: object


@dataclass(frozen=True, slots=True, eq=False)
class ConnectionOpened:
    """A connection has a lease that another actor granted: the one that failed before this one.

    It is counted like one that was granted here.
    """

    tenant: str
    connection: object


@dataclass(frozen=True, slots=True, eq=False)
class ConnectionClosed:
    """The connection is gone, or has given up waiting for its lease. May come more than once, and
    for a connection that the actor does not know."""

    tenant: str
    connection: object


@dataclass(frozen=True, slots=True, eq=False)
class StatementsCompleted:
    """A batch of finished statements: numbers since the previous batch of the same sender."""

    tenant: str
    statements: int
    errors: int
    rows: int
    bytes_in: int
    bytes_out: int
    busy_seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class ConfigChanged:
    """The tenant's configuration is another one now; read it."""

    tenant: str


@dataclass(frozen=True, slots=True, eq=False)
class Tick:
    """Time has passed: do what is done now and then. One may be left out when the actor is busy."""
