"""Who may log in on this worker: answers from the folded configuration, leases from the actors."""

from __future__ import annotations

import functools
import ipaddress
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from actors.dispatcher import Dispatcher
from events.model import Tenant
from wire import errors as e
from wire.ports import Lease, Tenants
from wire.postgres.client import ClientConnection

log = logging.getLogger("tenantry.directory")

# Parsed address ranges kept; tenants have a handful each.
MAX_NETWORKS: Final = 10_000


class Directory(Tenants):
    """The worker's view of all tenants."""

    def __init__(
        self,
        tenant: Callable[[str], Tenant | None],
        dispatcher: Dispatcher,
        *,
        database_suffix: str,
        prepare: Callable[[Tenant], Awaitable[None]],
        fresh: Callable[[], bool] = lambda: True,
    ) -> None:
        self._tenant = tenant
        self._dispatcher = dispatcher
        self._suffix = database_suffix
        # What must be known before the tenant's actor can work (actors/commons.py).
        self._prepare = prepare
        # False when the configuration is older than the operator accepts: nobody logs in.
        self._fresh = fresh

    def verifier(self, tenant: str, user: str, address: str) -> str | None:
        found = self._tenant(tenant)
        if found is None or not found.enabled or not self._fresh():
            return None
        if not allowed(found.permissions.allowed_addresses, address):
            return None
        for known in found.users:
            if known.name == user:
                return known.scram
        return None

    async def open(self, client: ClientConnection, tenant: str, database: str) -> Lease:
        found = self._tenant(tenant)
        if found is None:
            raise e.ShuttingDown("the tenant is not available")
        if database and database not in (found.database, found.id, found.id + self._suffix):
            raise e.UnknownDatabase(database)
        await self._prepare(found)
        lease = await self._dispatcher.open_lease(tenant, client)
        assert isinstance(lease, Lease)
        return lease

    def closed(self, client: ClientConnection) -> None:
        self._dispatcher.connection_closed(client.tenant, client)

    def refused(self, tenant: str, user: str) -> None:
        log.info("login refused: tenant %r, user %r", tenant, user)


def allowed(ranges: tuple[str, ...], address: str) -> bool:
    """Whether `address` lies in one of the ranges; no ranges allow everybody."""
    if not ranges:
        return True
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return any(ip in network(text) for text in ranges)


@functools.lru_cache(maxsize=MAX_NETWORKS)
def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text, strict=False)
