"""How the texts of a tenant are read: alone in a database, beside others, or among their rows."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

import orjson

from wire.sql import catalog as catalogs
from wire.sql.catalog import Catalog


class Frame:
    """What all tenants of one database have in common for the reading of their statements.

    catalog  what is known of the shared tables (row tenants), or None
    shared   other tenants use the database too: channels and lock keys get namespaces
    version  differs between frames of one database that read differently
    """

    __slots__ = ("_digest", "catalog", "shared", "version")

    def __init__(self, catalog: Catalog | None, shared: bool) -> None:
        self._digest = b""
        self.catalog = catalog
        self.shared = shared or catalog is not None
        if catalog is not None:
            self.version = f"row {catalog.version}"
        else:
            self.version = "shared" if shared else "database"

    def dump(self) -> bytes:
        """For the way between processes."""
        catalog = None if self.catalog is None else self.catalog.dump()
        return orjson.dumps({"catalog": catalog, "shared": self.shared})

    def digest(self) -> bytes:
        """What tells frames apart, of whatever databases they are; computed once."""
        if not self._digest:
            self._digest = sha256(self.dump()).digest()
        return self._digest


def load(dumped: bytes) -> Frame:
    """The inverse of Frame.dump."""
    plain = orjson.loads(dumped)
    catalog = plain["catalog"]
    return Frame(None if catalog is None else catalogs.load(catalog), plain["shared"])


DATABASE: Final = Frame(None, shared=False)
SHARED: Final = Frame(None, shared=True)
