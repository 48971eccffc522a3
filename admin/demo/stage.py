"""What the demo's steps share: connections through the proxy and past it, commands, checks."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from admin.demo.log import Entry
from admin.demo.screen import Screen, told
from events.commander import Commander
from events.commands import Command
from events.installation import Node
from events.log import ConfigLog
from events.projection import Projection

USER: Final = "appuser"
PASSWORD: Final = "apppass"  # noqa: S105 - the demo's, on loopback, printed anyway
DATABASES: Final = {
    "acme": "shared_db",
    "widgetco": "widgetco_db",
    "trial": "shared_db",
    "gamma": "market_db",
    "epsilon": "market_db",
}
ACTOR: Final = "demo"
# A change reaches open connections within milliseconds; this is for machines under load.
PATIENCE_SECONDS: Final = 20.0

Connection = psycopg.AsyncConnection[Any]


class StepFailed(Exception):
    """What was shown is not as it should be."""


@dataclass
class Stage:
    """What the steps work with. `node` has the true address and password; `started` is when this
    run began, in UTC as the log writes it."""

    screen: Screen
    host: str
    port: int
    node: Node
    log: ConfigLog
    started: str
    projection: Projection = field(default_factory=Projection)

    async def connect(self, tenant: str, *, user: str = USER, **other: str) -> Connection:
        """A connection through the proxy. Raises psycopg.OperationalError."""
        return await psycopg.AsyncConnection[Any].connect(
            host=self.host,
            port=self.port,
            user=f"{tenant}.{user}",
            password=other.get("password", PASSWORD),
            dbname=other.get("dbname", DATABASES.get(tenant, "shared_db")),
            autocommit=True,
            connect_timeout=int(PATIENCE_SECONDS),
        )

    async def admin(self, database: str) -> Connection:
        """A connection past the proxy, as the owner of the PostgreSQL server."""
        return await psycopg.AsyncConnection[Any].connect(
            host=self.node.host,
            port=self.node.port,
            user=self.node.user,
            password=self.node.password,
            dbname=database,
            autocommit=True,
        )

    async def command(self, command: Command) -> None:
        await Commander(self.log, self.projection).execute(command, ACTOR)

    async def catch_up(self) -> None:
        await self.log.read_all(self.projection.position + 1, self.projection.apply)

    async def entries(self) -> list[Entry]:
        """All commits in the log, oldest first."""
        found: list[Entry] = []
        await self.log.read_all(1, lambda *entry: found.append(Entry(*entry)))
        return found


def check(holds: bool, otherwise: str) -> None:
    """Raises StepFailed."""
    if not holds:
        raise StepFailed(otherwise)


async def refusal(connection: Connection, statement: str) -> psycopg.Error:
    """The error that answers `statement`. Raises StepFailed when it is carried out."""
    try:
        cursor = await connection.execute(statement.encode())
        if cursor.description is not None:
            await cursor.fetchall()
    except psycopg.Error as error:
        return error
    raise StepFailed(f"was not refused: {statement}")


async def login_refused(stage: Stage, tenant: str, **how: str) -> str:
    try:
        connection = await stage.connect(tenant, **how)
    except psycopg.OperationalError as error:
        return told(error)
    await connection.close()
    raise StepFailed(f"{tenant} was let in: {how}")


async def until_refused(
    connection: Connection, statement: str, sqlstate: str, *, pause: float = 0.0
) -> psycopg.Error:
    """The error with `sqlstate`, or the end of the connection, that answers `statement` sooner or
    later. Raises StepFailed."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            await connection.execute(statement.encode())
        except psycopg.Error as error:
            # A connection that ended while it was idle may lose its last message to the reset that
            # the next statement causes, as with PostgreSQL itself.
            if error.sqlstate == sqlstate or (connection.closed and error.sqlstate is None):
                return error
        await asyncio.sleep(pause)
    raise StepFailed(f"the change was not felt within {PATIENCE_SECONDS:g} s")


async def until_answered(connection: Connection, statement: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            await connection.execute(statement.encode())
            return
        except psycopg.Error as error:
            check(time.monotonic() < deadline, f"still refused: {told(error)}")


async def until_let_in(stage: Stage, tenant: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            connection = await stage.connect(tenant)
        except psycopg.OperationalError as error:
            check(time.monotonic() < deadline, f"still refused: {told(error)}")
            await asyncio.sleep(0.05)
        else:
            await connection.close()
            return
