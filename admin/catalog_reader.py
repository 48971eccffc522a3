"""Keeps a worker's catalogs of shared tables up to date, for as long as tenants there use them.

For each grounds (actors/commons.py) one connection as the role that tenants share, which may read
what PostgreSQL lets everybody read: names and definitions, no rows. It reads when `protect`'s event
trigger tells of a change and otherwise every second, so that a change is known within it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable
from typing import Any, Final

import psycopg
from psycopg.rows import tuple_row

from actors.commons import Commons, Grounds
from admin.protect.queries import CALLS_QUERY, CATALOG_QUERY
from admin.restarts import Restarts
from events.model import Tenant
from wire.errors import ServerUnavailable
from wire.postgres.connect import Target
from wire.sql.builtins import BUILTINS
from wire.sql.catalog import GUARDED, SHARED, TYPES, Catalog, Relation
from wire.sql.fields import sensitive
from wire.sql.policy import parse_name
from wire.tasks import end, spawn

log = logging.getLogger("tenantry.catalog")

# Where the event trigger of `protect` tells that definitions have changed.
CATALOG_CHANNEL: Final = "tenantry/catalog"
# How old a worker's knowledge of the shared tables may be: docs/security.md states it.
POLL_SECONDS: Final = 1.0
# Between readings that notifications ask for: at least this, and so much that reading takes no more
# than this share of the time.
READ_PAUSE_SECONDS: Final = 0.05
READ_SHARE: Final = 0.1
# The first version of PostgreSQL whose functions builtins.py does not have.
NEXT_VERSION: Final = 190_000
# How long a client's login waits for the first reading.
FIRST_SECONDS: Final = 15.0
# Without tenants that use them, catalogs are kept for this long.
UNUSED_SECONDS: Final = 60.0
CONNECT_SECONDS: Final = 10
# Relations of one database that are followed: 10,000 take some 20 MB and a second to read.
MAX_RELATIONS: Final = 10_000

TABLES: Final = "rpf"
"""Kinds of relations (relkind) that rows are written to: tables, partitioned, foreign."""


def pause(taken: float, since: float) -> float:
    """How long to wait with the next reading, in seconds; the last one took `taken` and ended
    `since` ago. Whoever may use a database can notify: that must not keep the worker busy."""
    return max(0.0, min(POLL_SECONDS, max(READ_PAUSE_SECONDS, taken / READ_SHARE)) - since)


class CatalogReader:
    """What Commons learns from; `in_use` asks the actors, `changed` tells them."""

    def __init__(
        self,
        target: Callable[[Tenant], Target],
        in_use: Callable[[Grounds], bool],
        changed: Callable[[Grounds], None],
    ) -> None:
        self.commons: Commons | None = None
        self._target = target
        self._in_use = in_use
        self._changed = changed
        self._watching: dict[Grounds, asyncio.Task[None]] = {}
        self._first: dict[Grounds, asyncio.Future[None]] = {}

    async def learn(self, grounds: Grounds, tenant: Tenant) -> None:
        """Follow the catalog from now on; returns when it is known. Raises ServerUnavailable."""
        first = self._first.get(grounds)
        if first is None:
            first = asyncio.get_running_loop().create_future()
            self._first[grounds] = first
            self._watching[grounds] = spawn(
                self._watch(grounds, self._target(tenant)), name=f"catalog of {grounds.database}"
            )
        try:
            async with asyncio.timeout(FIRST_SECONDS):
                await asyncio.shield(first)
        except TimeoutError:
            raise ServerUnavailable("the shared tables cannot be read yet; try again") from None

    async def _watch(self, grounds: Grounds, target: Target) -> None:
        restarts = Restarts()
        used = time.monotonic()
        try:
            while True:
                with contextlib.suppress(psycopg.Error, OSError):
                    async with await _connect(target) as conn:
                        await conn.execute(f'LISTEN "{CATALOG_CHANNEL}"')
                        while True:
                            started = time.monotonic()
                            self._learned(grounds, await read(conn, grounds))
                            taken = time.monotonic() - started
                            if self._in_use(grounds):
                                used = time.monotonic()
                            elif time.monotonic() - used > UNUSED_SECONDS:
                                return
                            async for _ in conn.notifies(timeout=POLL_SECONDS, stop_after=1):
                                await asyncio.sleep(
                                    pause(taken, time.monotonic() - started - taken)
                                )
                            # One reading answers all that have come meanwhile.
                            async for _ in conn.notifies(timeout=0):
                                pass
                log.warning("the shared tables of %s cannot be read", grounds.database)
                await asyncio.sleep(restarts.pause(time.monotonic()))
        finally:
            self._watching.pop(grounds, None)
            self._first.pop(grounds, None)
            if self.commons is not None:
                self.commons.forget(grounds)

    def _learned(self, grounds: Grounds, catalog: Catalog) -> None:
        assert self.commons is not None
        if self.commons.learned(grounds, catalog):
            log.info("%s: %d shared relations", grounds.database, len(catalog.relations))
            self._changed(grounds)
        first = self._first.get(grounds)
        if first is not None and not first.done():
            first.set_result(None)

    async def close(self) -> None:
        await end(*self._watching.values())


async def _connect(target: Target) -> psycopg.AsyncConnection[Any]:
    tls = "require" if target.tls is not None else "prefer"
    return await psycopg.AsyncConnection[Any].connect(
        host=target.host,
        port=target.port,
        user=target.user,
        password=target.password,
        dbname=target.database,
        sslmode=tls,
        gssencmode="disable",
        connect_timeout=CONNECT_SECONDS,
        application_name="tenantry catalog",
        options="-c search_path=pg_catalog,pg_temp",
        autocommit=True,
        row_factory=tuple_row,
    )


async def read(conn: psycopg.AsyncConnection[Any], grounds: Grounds) -> Catalog:
    """The catalog as it is now. Raises psycopg.Error."""
    trusted = grounds.enforcement == "rewrite"
    shared = {
        (schema or grounds.schema, name) for schema, name in map(parse_name, grounds.shared_tables)
    }
    relations: list[Relation] = []
    found = await (await conn.execute(CATALOG_QUERY, {"column": grounds.column})).fetchall()
    for row in found:
        schema, name, kind, columns, generated, type_name, protected, granted, staging, keys = row
        # What nobody has protected is not there, unless the proxy alone protects.
        if type_name in TYPES and (protected or trusted):
            relations.append(
                Relation(
                    schema,
                    name,
                    GUARDED,
                    tuple(columns),
                    column=grounds.column,
                    type=type_name,
                    generated=frozenset(generated),
                    is_table=kind in TABLES,
                    staging=("tenantry", staging) if staging and not trusted else None,
                    keys=frozenset(tuple(sorted(key)) for key in keys),
                )
            )
        elif not type_name and (granted or (schema, name) in shared):
            relations.append(Relation(schema, name, SHARED, tuple(columns)))
        if len(relations) == MAX_RELATIONS:
            log.warning(
                "%s: only the first %d relations are known", grounds.database, MAX_RELATIONS
            )
            break
    functions = [parse_name(text) for text in grounds.functions]
    called = await _calls(conn, grounds)
    return Catalog(
        _version(relations, grounds, called),
        relations,
        path=(grounds.schema,),
        functions=frozenset((schema or grounds.schema, name) for schema, name in functions),
        rewrite=grounds.enforcement != "seal",
        sealed=grounds.enforcement != "rewrite",
        settings=frozenset(grounds.settings),
        **called,
    )


async def _calls(conn: psycopg.AsyncConnection[Any], grounds: Grounds) -> dict[str, frozenset[str]]:
    """What Catalog wants to know of functions."""
    # What PostgreSQL brings by itself, builtins.py knows up to this version.
    newer = ["pg_catalog"] if conn.info.server_version >= NEXT_VERSION else []
    asked = {"schemas": [grounds.schema, *newer], "trusted": grounds.enforcement == "rewrite"}
    found = await (await conn.execute(CALLS_QUERY, asked)).fetchall()
    fields = [each for each in found if each[3] or not (each[0] in BUILTINS or sensitive(each[0]))]
    return {
        "calls": frozenset(name for name, one, *_ in fields if one),
        "row_calls": frozenset(name for name, _, row, *_ in fields if row),
        "overloads": frozenset(name for name, _, _, crosses, _ in found if crosses),
        "operators": frozenset(each for row in found for each in row[4] or () if each),
    }


def _version(relations: list[Relation], grounds: Grounds, calls: dict[str, frozenset[str]]) -> str:
    digest = hashlib.sha256(repr(grounds).encode())
    digest.update(repr([sorted(each) for each in calls.values()]).encode())
    for each in relations:
        facts = (each.schema, each.name, each.use, each.columns, sorted(each.generated))
        digest.update(repr((facts, each.type, each.is_table, each.staging)).encode())
        digest.update(repr(sorted(each.keys)).encode())
    return digest.hexdigest()[:32]
