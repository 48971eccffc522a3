"""How the texts of a tenant are read: alone in a database, beside others, or among their rows."""

from __future__ import annotations

from typing import Any, Final

from wire.sql import catalog as catalogs
from wire.sql.catalog import Catalog


class Frame:
    """What all tenants of one database have in common for the reading of their statements.

    catalog  what is known of the shared tables (row tenants), or None
    shared   other tenants use the database too: channels and lock keys get namespaces
    version  differs between frames that read differently
    """

    __slots__ = ("catalog", "shared", "version")

    def __init__(self, catalog: Catalog | None, shared: bool) -> None:
        self.catalog = catalog
        self.shared = shared or catalog is not None
        if catalog is not None:
            self.version = f"row {catalog.version}"
        else:
            self.version = "shared" if shared else "database"

    def dump(self) -> dict[str, Any]:
        """As plain values, for the way between processes."""
        catalog = None if self.catalog is None else self.catalog.dump()
        return {"catalog": catalog, "shared": self.shared}


def load(plain: dict[str, Any]) -> Frame:
    """The inverse of Frame.dump."""
    catalog = plain["catalog"]
    return Frame(None if catalog is None else catalogs.load(catalog), plain["shared"])


DATABASE: Final = Frame(None, shared=False)
SHARED: Final = Frame(None, shared=True)
