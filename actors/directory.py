"""Who may log in on this worker: answers from the folded configuration, leases from the actors."""

from __future__ import annotations

import functools
import ipaddress
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from actors.dispatcher import Dispatcher
from events.audit_sink import LOGIN_FAILED, REFUSED, AuditSink
from events.model import Settings, Tenant
from wire import errors as e
from wire.ports import NO_AUDIT, Lease, OperatorLogin, Tenants
from wire.postgres.client import ClientConnection
from wire.postgres.console import CONSOLE, CONSOLE_NAMES

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
        operator: Callable[[str], Settings | None] = lambda name: None,
        fresh: Callable[[], bool] = lambda: True,
        audit: AuditSink = NO_AUDIT,
    ) -> None:
        self._tenant = tenant
        self._dispatcher = dispatcher
        self._suffix = database_suffix
        # What must be known before the tenant's actor can work (actors/commons.py).
        self._prepare = prepare
        # What the log says of an operator who is not shut out (events/named.py).
        self._operator = operator
        # False when the configuration is older than the operator accepts: nobody logs in.
        self._fresh = fresh
        self._audit = audit

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

    def operator(self, user: str, database: str, address: str) -> OperatorLogin | None:
        """Operators name the tenant that they begin in as their database, or the console."""
        settings = self._operator(user)
        if settings is None or not settings.get("scram"):
            return None
        names = settings.get("tenants", [])
        tenants = None if "*" in names else frozenset(names)
        role = str(settings.get("role", ""))
        if database in CONSOLE_NAMES and (database == CONSOLE or self._tenant(database) is None):
            return OperatorLogin(user, settings["scram"], tenants, "", console=True, role=role)
        if not self._fresh() or role != "operator":
            # A viewer may look at the installation, and at nobody's data.
            return None
        id = database
        if self._tenant(id) is None and database.endswith(self._suffix):
            id = database[: len(database) - len(self._suffix)]
        found = self._tenant(id)
        if found is None or (tenants is not None and id not in tenants):
            # Whole databases ("@shared_db") are no tenants, so only "*" spans them.
            return None
        return OperatorLogin(user, settings["scram"], tenants, id)

    async def open(self, client: ClientConnection, tenant: str, database: str) -> Lease:
        found = self._tenant(tenant)
        if found is None:
            raise e.ShuttingDown("the tenant is not available")
        names = (found.database, found.id, found.id + self._suffix)
        if database and client.operator is None and database not in names:
            raise e.UnknownDatabase(database)
        await self._prepare(found)
        lease = await self._dispatcher.open_lease(tenant, client)
        assert isinstance(lease, Lease)
        return lease

    def closed(self, client: ClientConnection) -> None:
        self._dispatcher.connection_closed(client.tenant, client)

    def refused(self, tenant: str, user: str, address: str) -> None:
        # The audit tells equal ones once with a count; a line for each would be a flood.
        log.debug("login refused: tenant %r, user %r, from %s", tenant, user, address)
        self._audit.note(
            LOGIN_FAILED,
            tenant,
            actor=user,
            address=address,
            outcome=REFUSED,
            reason="wrong name or password",
            sqlstate=e.AuthenticationFailed.sqlstate,
        )


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
