"""What tenants of one shared database have in common on this worker.

For tenants of shared tables: the catalog that their statements are rewritten by, and the servers
that pass between them. For those and for tenants with a schema of their own: names of channels and
keys of advisory locks, which PostgreSQL shares among all sessions of a database.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import time
from typing import Final

from actors.shelf import Shelf
from events.model import Tenant
from wire.ports import Seal
from wire.postgres.connect import Target
from wire.sql import framed
from wire.sql.catalog import Catalog
from wire.sql.frame import DATABASE, SHARED, Frame
from wire.sql.guard import Analyser
from wire.sql.seal import token

log = logging.getLogger("tenantry.commons")

# Bytes of a channel's prefix; 63 is PostgreSQL's most for the whole name.
PREFIX_BYTES: Final = 24
SEED_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Grounds:
    """What decides how statements of a tenant of shared tables are read: equal for most tenants
    of one database."""

    database: str
    schema: str
    column: str
    enforcement: str
    shared_tables: tuple[str, ...]
    functions: tuple[str, ...]
    settings: tuple[str, ...]

    @classmethod
    def of(cls, tenant: Tenant) -> Grounds:
        isolation = tenant.isolation
        return cls(
            tenant.database,
            tenant.row_schema,
            isolation.tenant_column,
            isolation.enforcement,
            isolation.shared_tables,
            isolation.allowed_functions,
            isolation.setting_names,
        )


class TokenSeal(Seal):
    """Seals servers with tokens that only holders of the database's key can make."""

    def __init__(self, tenant: str, value: str, key: bytes, *, enters: bool) -> None:
        super().__init__(tenant, enters=enters)
        self.value = value
        self.key = key

    def token(self, backend: str) -> bytes:
        return token(self.key, self.value, backend, time())


async def load_rules() -> None:
    """Have loaded what statements among shared tables are read with; the loop goes on meanwhile."""
    if not framed.is_loaded():
        await asyncio.to_thread(framed.load)


class Commons:
    """One worker's shared databases.

    derive  secrets that only holders of the installation's key can compute (events.secrets.Vault)
    target  where the servers of a tenant of shared tables are, if it has none of its own
    learn   begins to keep the catalog of some grounds up to date, by calling `learned`, and
            returns when it was called first; raises ServerUnavailable
    """

    def __init__(
        self,
        derive: Callable[[str], bytes],
        target: Callable[[Tenant], Target],
        learn: Callable[[Grounds, Tenant], Awaitable[None]],
    ) -> None:
        self._derive = derive
        self._target = target
        self._learn = learn
        self._shelves: dict[Target, Shelf] = {}
        self._analysers: dict[Grounds, Analyser] = {}
        self._database = Analyser(DATABASE)
        self._shared = Analyser(SHARED)

    async def prepare(self, tenant: Tenant) -> None:
        """Have at hand what the tenant's actor will ask for. Raises ServerUnavailable."""
        if tenant.isolation.strategy != "row":
            return
        await load_rules()
        if Grounds.of(tenant) not in self._analysers:
            await self._learn(Grounds.of(tenant), tenant)

    def learned(self, grounds: Grounds, catalog: Catalog) -> bool:
        """A catalog was read; whether it is another one than before."""
        known = self._analysers.get(grounds)
        if known is not None:
            before = known.frame.catalog
            if before is not None and before.version == catalog.version:
                return False
        self._analysers[grounds] = Analyser(Frame(catalog, shared=True))
        return True

    def forget(self, grounds: Grounds) -> None:
        """Nobody keeps the catalog up to date any more."""
        self._analysers.pop(grounds, None)

    def analyser(self, tenant: Tenant) -> Analyser | None:
        """Who reads the tenant's statements; None while the catalog is not known."""
        strategy = tenant.isolation.strategy
        if strategy == "row":
            return self._analysers.get(Grounds.of(tenant))
        return self._shared if strategy == "schema" else self._database

    def shelf(self, tenant: Tenant) -> Shelf:
        """The servers that the tenants of the tenant's database share. Raises ServerUnavailable."""
        target = self._target(tenant)
        for known, shelf in self._shelves.items():
            if known.same(target):
                return shelf
        made = Shelf(target)
        self._shelves[target] = made
        return made

    def seal(self, tenant: Tenant) -> TokenSeal:
        key = self._derive(f"seal key {tenant.database}")
        enters = tenant.isolation.enforcement != "rewrite"
        return TokenSeal(tenant.id, tenant.row_value, key, enters=enters)

    def values(self, tenant: Tenant) -> tuple[bytes, bytes, bytes]:
        """What fills the holes of the tenant's edits: see wire.sql.edits."""
        if tenant.isolation.strategy not in ("row", "schema"):
            return b"", b"", b""
        return (
            quoted(tenant.row_value),
            channel_prefix(self._derive("channels"), tenant.id),
            b"%d" % lock_seed(self._derive("advisory locks"), tenant.id),
        )


def quoted(value: str) -> bytes:
    """A literal, whatever standard_conforming_strings says."""
    text = value.replace("'", "''")
    if "\\" in text:
        return b"E'" + text.replace("\\", "\\\\").encode() + b"'"
    return b"'" + text.encode() + b"'"


def channel_prefix(secret: bytes, tenant: str) -> bytes:
    """What the tenant's channels begin with, which others cannot guess: what functions of a tenant
    notify is seen by nobody (wire/sql/namespaces.py). All are equally long."""
    digest = hmac.digest(secret, tenant.encode(), "sha256").hex()
    return digest[: PREFIX_BYTES - 1].encode() + b"/"


def lock_seed(secret: bytes, tenant: str) -> int:
    """A 64-bit number that tenants cannot guess, so that none can aim at another's lock keys."""
    digest = hmac.digest(secret, tenant.encode(), "sha256")
    return int.from_bytes(digest[:SEED_BYTES], "big", signed=True)
