"""Idle servers that the tenants of one database with shared tables have in common.

A server is sealed for the tenant that uses it, and passing it to another one (the hand-over) costs
a reset and a new seal. So a tenant gets back a server that is sealed for it still, if there is one,
else the one longest unused; and where servers keep changing hands although the budget has room, one
more is opened, until each busy tenant finds its own. Like all idle servers those go in time.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from wire.ports import Pool, Seal
    from wire.postgres.borrower import Borrower
    from wire.postgres.connect import Target
    from wire.postgres.server import ServerConnection

# Servers of a tenant's own looked at for one that has this client's session state already.
MAX_OWN_SCAN: Final = 16
# Opening a server costs as much as this many hand-overs (3 to 5 ms against some 0.1), so it is
# opened when as many have happened within a few seconds.
HAND_OVERS: Final = 32
HAND_OVER_SECONDS: Final = 10.0


class Shelf:
    """See the module. Only the shelf itself changes what it holds."""

    def __init__(self, target: Target) -> None:
        self.target = target
        # In the order of their coming; a dict, because any one of a thousand may go.
        self.idle: dict[ServerConnection, None] = {}
        # Those that are nobody's yet.
        self.unsealed: list[ServerConnection] = []
        # All others by whom they are sealed for.
        self.sealed: dict[Seal, list[ServerConnection]] = {}
        # Who uses it: with the last one the servers go.
        self.pools: set[Pool] = set()
        self.hand_overs = 0
        self.counted_since = 0.0
        # A server is being opened in advance.
        self.growing = False

    def put(self, server: ServerConnection) -> None:
        """It is idle from now on."""
        self.idle[server] = None
        seal = server.seal
        if seal is None:
            self.unsealed.append(server)
            return
        own = self.sealed.get(seal)
        if own is None:
            self.sealed[seal] = [server]
        else:
            own.append(server)

    def oldest(self) -> ServerConnection:
        """The one longest idle. There must be one."""
        return next(iter(self.idle))

    def take(self, client: Borrower) -> ServerConnection:
        """The idle server that needs least preparation. There must be one."""
        own = self.sealed.get(client.lease.seal) if client.lease.seal is not None else None
        if own is not None:
            server = nearest(own, client)
        elif self.unsealed:
            server = self.unsealed[-1]
        else:
            server = self.oldest()
            self.hand_overs += 1
        self.remove(server)
        return server

    def remove(self, server: ServerConnection) -> None:
        """It is lent, or closed. Raises KeyError when it is not here."""
        del self.idle[server]
        seal = server.seal
        if seal is None:
            self.unsealed.remove(server)
            return
        own = self.sealed[seal]
        own.remove(server)
        if not own:
            del self.sealed[seal]

    def wants_more(self) -> bool:
        """Whether so many have changed hands lately that one more server would have paid."""
        if self.hand_overs < HAND_OVERS or self.growing:
            return False
        now = monotonic()
        lately = now - self.counted_since < HAND_OVER_SECONDS
        self.hand_overs = 0
        self.counted_since = now
        return lately


def nearest(own: list[ServerConnection], client: Borrower) -> ServerConnection:
    """The latest that has the client's session state, else the latest."""
    state = client.session.state
    at = len(own) - 1
    stop = at - MAX_OWN_SCAN
    while at >= 0 and at > stop:
        server = own[at]
        if server.owner == client.serial or (server.state is state and not server.unsure):
            return server
        at -= 1
    return own[-1]
