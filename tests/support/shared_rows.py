"""Row tenants that share a database, past the proxy: for tests of protecting and of the audit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
from support.engines import Postgres
from support.provisioning import VAULT, login, make

from admin.find_node import Found
from admin.protect.protect import Looked, Wishes, apply, connected, look
from events.installation import Node
from events.model import Provisioned, Tenant


def row_tenant(id: str, database: str, **isolation: Any) -> Tenant:
    """A row tenant whose servers are its own, so that its role has the seal from login."""
    return Tenant.model_validate(
        {
            "id": id,
            "isolation": {"strategy": "row", "database_name": database, **isolation},
            "pool": {"max_connections": 4, "dedicated_pool": True},
        }
    )


class Shared:
    """A database with tenants; `setup` is SQL that makes its tables."""

    def __init__(
        self,
        server: Postgres,
        setup: str = "",
        tenants: tuple[str, ...] = ("acme", "beta"),
        **isolation: Any,
    ) -> None:
        self.server = server
        self.database = server.create_database("rows")
        self.tenants = {
            id: row_tenant(f"{id}-{self.database[5:]}", self.database, tenant_value=id, **isolation)
            for id in tenants
        }
        self.made: dict[str, Provisioned] = {
            id: make(server, each) for id, each in self.tenants.items()
        }
        if setup:
            self.sql(setup)

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """As superuser."""
        return self.server.execute(statement, self.database)

    def enter(self, id: str) -> psycopg.Connection[Any]:
        """As the tenant's own role."""
        return login(self.server, self.tenants[id], self.made[id])

    @property
    def found(self) -> Found:
        node = Node(
            host=self.server.host,
            port=self.server.port,
            user=self.server.user,
            password=self.server.password,
        )
        given = [
            each.model_copy(update={"provisioned": self.made[id]})
            for id, each in self.tenants.items()
        ]
        return Found(node, given)

    def look(self, **wishes: Any) -> Looked:
        """What `tenantry protect` shows."""
        return asyncio.run(self._run(Wishes(self.database, **wishes), None))

    def protect(self, say: Callable[[str], None] = lambda _: None, **wishes: Any) -> Looked:
        """What `tenantry protect --apply` does."""
        return asyncio.run(self._run(Wishes(self.database, **wishes), say))

    async def _run(self, wishes: Wishes, say: Callable[[str], None] | None) -> Looked:
        async with connected(self.found, self.database) as conn:
            tenants = self.found.tenants
            if say is None:
                return await look(conn, wishes, tenants)
            return (await apply(conn, wishes, tenants, say))[0]


def copy_in(conn: psycopg.Connection[Any], statement: str, data: bytes) -> str:
    """Run a COPY FROM STDIN; what the server says."""
    with conn.cursor() as cursor:
        with cursor.copy(statement) as copy:
            copy.write(data)
        return cursor.statusmessage or ""


__all__ = ["VAULT", "Shared", "copy_in", "row_tenant"]
