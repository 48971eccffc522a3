"""What the demo's steps share: connections through the proxy and past it, commands, checks."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from admin.demo.log import Entry
from admin.demo.screen import Screen, told
from admin.demo.traces import Traces
from events.bus import TOKEN_HEADER, TRACE_HEADER
from events.commander import Commander
from events.commands import Command
from events.installation import Node
from events.log import ConfigLog
from events.projection import Projection
from events.verbs import REQUEST_PREFIX

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


@dataclass(frozen=True)
class Change:
    """What one step changed, for those that look at it. `span_id` is the asker's own; `sequences`
    are those of the changes over NATS and over HTTP; `before` is what the limit was."""

    trace_id: str
    span_id: str
    sequences: tuple[int, ...]
    before: Any


@dataclass
class Stage:
    """What the steps work with. `node` has the true address and password; `started` is when this
    run began, in UTC as the log writes it; `api` gives the admin API's address once it listens, and
    `token` is an operator's."""

    screen: Screen
    host: str
    port: int
    node: Node
    log: ConfigLog
    started: str
    api: Callable[[], str]
    token: str = field(repr=False)
    traces: Traces
    projection: Projection = field(default_factory=Projection)
    change: Change | None = None

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

    def new_trace(self) -> tuple[str, str, str]:
        """Trace id, span id and the traceparent of both, sampled (W3C Trace Context)."""
        trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
        return trace_id, span_id, f"00-{trace_id}-{span_id}-01"

    async def request(self, what: str, body: dict[str, Any], traceparent: str) -> dict[str, Any]:
        """A command as any client of NATS sends it; the answer to it. Raises StepFailed, and what
        nats-py raises."""
        subject = f"{REQUEST_PREFIX}{what}"
        self.screen.sql(f"nats request {subject} '{json.dumps(body)}'")
        headers = {TOKEN_HEADER: self.token, TRACE_HEADER: traceparent}
        message = await self.log.nats.request(
            subject, json.dumps(body).encode(), timeout=PATIENCE_SECONDS, headers=headers
        )
        answer: dict[str, Any] = json.loads(message.data)
        check(answer["accepted"], f"{subject}: {message.data.decode()}")
        self.screen.say(f"accepted as event {answer['sequence']}")
        return answer

    async def http(
        self, method: str, path: str, body: dict[str, Any], *, quiet: bool = False
    ) -> dict[str, Any]:
        """A request to the admin API, with the token; its answer. Raises StepFailed, OSError."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.api():
            check(time.monotonic() < deadline, "the admin API does not listen")
            await asyncio.sleep(0.02)
        url = self.api() + path
        if not quiet:
            self.screen.sql(f"curl -X {method} {url} -d '{json.dumps(body)}'")
        request = urllib.request.Request(  # noqa: S310 - our own address
            url,
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
            method=method,
        )
        status, answer = await asyncio.to_thread(_send, request)
        check(status == 200, f"{method} {path}: {status} {answer}")
        if not quiet:
            self.screen.say(f"answered with {status} and the tenant as it is now")
        found: dict[str, Any] = json.loads(answer)
        return found

    async def catch_up(self) -> None:
        await self.log.read_all(self.projection.position + 1, self.projection.apply)

    async def entries(self) -> list[Entry]:
        """All commits in the log, oldest first."""
        found: list[Entry] = []
        await self.log.read_all(1, lambda *entry: found.append(Entry(*entry)))
        return found


def _send(request: urllib.request.Request) -> tuple[int, str]:
    """Status and body. Raises OSError."""
    # Whatever proxy this machine has for HTTP, our own address is here.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=PATIENCE_SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


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
    connection: Connection, statement: str, sqlstate: str, *, saying: str = "", pause: float = 0.0
) -> psycopg.Error:
    """The error with `sqlstate` whose text has `saying` in it, or the end of the connection, that
    answers `statement` sooner or later. Raises StepFailed."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            await connection.execute(statement.encode())
        except psycopg.Error as error:
            # A connection that ended while it was idle may lose its last message to the reset that
            # the next statement causes, as with PostgreSQL itself.
            if error.sqlstate == sqlstate and saying in told(error):
                return error
            if connection.closed and error.sqlstate is None:
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
