"""The SQL console's side of the protocol: simple and extended queries answered without a server.

An operator who names the console's database gets a `ConsoleSession` in place of a client's life
with servers. It takes the place of the login (`client.startup`), so clients that are none pay
nothing for it. What there is to say comes from a `ConsolePort`.

https://www.postgresql.org/docs/current/protocol-flow.html
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from wire import errors as e
from wire.ports import OperatorLogin
from wire.postgres import protocol as p
from wire.postgres.console_rows import (
    Value,
    data_row,
    notice,
    parameter_description,
    row_description,
)
from wire.postgres.console_tables import INT4, TEXT, Column, columns_of
from wire.postgres.console_words import FAKE_SETTINGS, Statement, statements
from wire.postgres.startup import Startup

if TYPE_CHECKING:
    from wire.postgres.client import ClientConnection

log = logging.getLogger("tenantry.console")

# The names of the database; exporters of PgBouncer ask for the second by default.
CONSOLE: Final = "tenantry"
CONSOLE_NAMES: Final = (CONSOLE, "pgbouncer")
# One message. A command has a few words, and no parameters.
MESSAGE_MAX: Final = 64 * 1024
# Statements and portals that one client may keep; drivers cache some 100 statements.
KEPT_MAX: Final = 500
# Rows written before others get a turn, and the client the time to read.
ROWS_AT_A_TIME: Final = 500
# Bytes that wait for a client that does not read before more are made.
UNREAD_MAX: Final = 1024 * 1024
UNREAD_POLL_SECONDS: Final = 0.02


class Answer:
    """What a command comes to. `rows` has a value for each column."""

    def __init__(
        self,
        tag: str,
        columns: Sequence[Column] | None = None,
        rows: Sequence[Sequence[Value]] = (),
        notices: Sequence[str] = (),
    ) -> None:
        self.tag = tag
        self.columns = columns
        self.rows = rows
        self.notices = notices


class ConsolePort:
    """Who knows what there is to show, and can do what there is to do."""

    def version(self) -> str:
        raise NotImplementedError

    async def answer(
        self, who: OperatorLogin, statement: Statement, client: ClientConnection
    ) -> Answer:
        """`client.startup` is its ConsoleSession. Raises TenantryError."""
        raise NotImplementedError


class _Portal:
    def __init__(self, statement: Statement | None, formats: list[int]) -> None:
        self.statement = statement
        self.formats = formats
        # None: it has not run yet.
        self.answer: Answer | None = None
        self.at = 0


class _Message(NamedTuple):
    kind: int
    body: bytes


class ConsoleSession(Startup):
    """One operator at the console, from the login on."""

    def __init__(self, login: Startup, who: OperatorLogin, port: ConsolePort) -> None:
        super().__init__(login.client)
        self.buffer = login.buffer
        self.minor = login.minor
        self.who = who
        self.port = port
        self.busy = False
        self.failed = False
        self.status = p.IDLE
        self.prepared: dict[bytes, Statement | None] = {}
        self.portals: dict[bytes, _Portal] = {}

    def at_rest(self) -> bool:
        return not self.busy and not self.buffer

    def tell(self, text: str) -> None:
        """Say how far a command is that takes its time."""
        self.send(notice(text))

    async def run(self) -> None:
        """Answer until the client goes."""
        client = self.client
        client.startup = self
        try:
            self.greet()
            while not client.closed:
                message = await self.message()
                self.busy = True
                await self.handle(message)
                self.busy = False
        except ConnectionResetError:
            return
        except e.TenantryError as error:
            client.end(error)
        except Exception:
            log.exception("the console failed")
            client.end(e.TenantryError("internal error in the console"))

    def greet(self) -> None:
        client = self.client
        client.process_id, client.key = self.listener.keys.issue(client, long=self.minor >= 2)
        told = {
            "server_version": f"{self.port.version()}/tenantry",
            "server_encoding": "UTF8",
            "client_encoding": "UTF8",
            "DateStyle": "ISO, MDY",
            "TimeZone": "GMT",
            "integer_datetimes": "on",
            "standard_conforming_strings": "on",
            "is_superuser": "off",
            "session_authorization": self.who.name,
        }
        said = [p.AUTHENTICATION_OK]
        said += [p.parameter_status(name, value) for name, value in told.items()]
        key = client.process_id.to_bytes(4, "big") + client.key
        said += [p.message(p.BACKEND_KEY, key), p.READY_IDLE]
        self.send(b"".join(said))
        client.phase = p.ACTIVE
        client.transport.resume_reading()
        self.listener.logged_in(client)

    async def message(self) -> _Message:
        if len(self.buffer) < p.HEADER:
            self.client.transport.resume_reading()
        head = await self.read(int(p.HEADER))
        length = int.from_bytes(head[1:5], "big")
        if not 4 <= length <= MESSAGE_MAX:
            raise e.ProtocolViolation("invalid message length")
        self.client.transport.resume_reading()
        return _Message(head[0], await self.read(length - 4))

    # --- messages --------------------------------------------------------------------------------

    async def handle(self, message: _Message) -> None:
        kind = message.kind
        if kind == p.TERMINATE:
            self.client.end(None)
        elif kind == p.SYNC:
            self.failed = False
            self.portals.clear()
            self.send(p.ready(self.status))
        elif kind == p.QUERY:
            self.failed = False
            await self.query(message.body)
        elif self.failed or kind in (p.FLUSH, p.COPY_DATA, p.COPY_DONE, p.COPY_FAIL):
            return
        else:
            try:
                await self.extended(kind, message.body)
            except e.TenantryError as error:
                self.fail(error)
                self.failed = True

    async def query(self, body: bytes) -> None:
        """A simple Query: all its commands up to the first that fails."""
        try:
            found = statements(text_of(body.removesuffix(b"\0")))
            if not found:
                self.send(p.message(p.EMPTY_QUERY, b""))
            for each in found:
                answer = await self.answer(each)
                if answer.columns is not None:
                    self.send(row_description(answer.columns, []))
                await self.rows(answer, [], 0, len(answer.rows))
                self.complete(answer)
        except e.TenantryError as error:
            self.fail(error)
        self.send(p.ready(self.status))

    async def extended(self, kind: int, body: bytes) -> None:
        if kind == p.PARSE:
            self.parse(body)
        elif kind == p.BIND:
            self.bind(body)
        elif kind == p.DESCRIBE:
            self.describe(body)
        elif kind == p.EXECUTE:
            await self.execute(body)
        elif kind == p.CLOSE:
            kept: dict[bytes, Statement | None] | dict[bytes, _Portal] = self.prepared
            if body[:1] == b"P":
                kept = self.portals
            kept.pop(body[1:].removesuffix(b"\0"), None)
            self.send(p.CLOSE_DONE)
        elif kind == p.FUNCTION_CALL:
            raise e.NotSupported("the console has no functions")
        else:
            p.legal(p.FRONTEND, p.ACTIVE, kind)

    def parse(self, body: bytes) -> None:
        name, text, _ = parts(body, 2)
        found = statements(text_of(text))
        if len(found) > 1:
            raise e.SyntaxRefused("cannot insert multiple commands into a prepared statement")
        if len(self.prepared) >= KEPT_MAX:
            raise e.TooLarge("too many prepared statements")
        self.prepared[name] = found[0] if found else None
        self.send(p.PARSE_DONE)

    def bind(self, body: bytes) -> None:
        portal, name, rest = parts(body, 2)
        if name not in self.prepared:
            raise e.UnknownStatement(text_of(name))
        _, at = int16s(rest, 0)
        if int.from_bytes(rest[at : at + 2], "big"):
            raise e.NotSupported("commands of the console have no parameters")
        wanted, _ = int16s(rest, at + 2)
        if len(self.portals) >= KEPT_MAX:
            raise e.TooLarge("too many portals")
        self.portals[portal] = _Portal(self.prepared[name], wanted)
        self.send(p.message(p.BIND_COMPLETE, b""))

    def describe(self, body: bytes) -> None:
        name = body[1:].removesuffix(b"\0")
        formats: list[int] = []
        if body[:1] == b"S":
            if name not in self.prepared:
                raise e.UnknownStatement(text_of(name))
            statement = self.prepared[name]
            self.send(parameter_description())
        else:
            portal = self.portal(name)
            statement, formats = portal.statement, portal.formats
        columns = None if statement is None else columns_for(statement)
        if columns is None:
            self.send(p.message(p.NO_DATA, b""))
        else:
            self.send(row_description(columns, formats))

    async def execute(self, body: bytes) -> None:
        name, rest = parts(body, 1)
        portal = self.portal(name)
        if portal.statement is None:
            self.send(p.message(p.EMPTY_QUERY, b""))
            return
        if portal.answer is None:
            portal.answer = await self.answer(portal.statement)
        answer = portal.answer
        most = int.from_bytes(rest[:4], "big")
        stop = len(answer.rows) if not most else min(len(answer.rows), portal.at + most)
        await self.rows(answer, portal.formats, portal.at, stop)
        portal.at = stop
        if most and stop < len(answer.rows):
            self.send(p.message(p.PORTAL_SUSPENDED, b""))
        else:
            self.complete(answer)

    def portal(self, name: bytes) -> _Portal:
        found = self.portals.get(name)
        if found is None:
            raise e.UnknownStatement(text_of(name))
        return found

    # --- answers ---------------------------------------------------------------------------------

    async def answer(self, statement: Statement) -> Answer:
        if self.status == p.FAILED and statement.tag not in ("ROLLBACK", "COMMIT"):
            raise InFailedBlock()
        if statement.verb == "nothing":
            return self.nothing(statement)
        self.cancelled = False
        columns = columns_for(statement)
        if statement.verb == "select":
            return Answer("SELECT 1", columns, [[self.selected(statement)]])
        if statement.verb == "show" and statement.thing in FAKE_SETTINGS:
            return Answer("SHOW", columns, [[FAKE_SETTINGS[statement.thing]]])
        if statement.verb == "show" and statement.thing == "server_version":
            return Answer("SHOW", columns, [[f"{self.port.version()}/tenantry"]])
        answer = await self.port.answer(self.who, statement, self.client)
        for text in answer.notices:
            self.send(notice(text))
        return answer

    def nothing(self, statement: Statement) -> Answer:
        """BEGIN and its like: nothing here is undone, but drivers look at the status."""
        tag = statement.tag
        if tag in ("BEGIN", "START TRANSACTION"):
            self.status = p.IN_TRANSACTION
        elif tag in ("COMMIT", "ROLLBACK"):
            tag = "ROLLBACK" if self.status == p.FAILED else tag
            self.status = p.IDLE
        return Answer(tag)

    def selected(self, statement: Statement) -> Value:
        if statement.thing == "number":
            return statement.number
        if statement.thing == "version()":
            return f"Tenantry {self.port.version()}"
        if statement.thing == "current_user":
            return self.who.name
        return CONSOLE if statement.thing == "current_database()" else ""

    async def rows(self, answer: Answer, formats: list[int], start: int, stop: int) -> None:
        columns = answer.columns
        if columns is None:
            return
        transport = self.client.transport
        for at in range(start, stop, ROWS_AT_A_TIME):
            piece = answer.rows[at : min(stop, at + ROWS_AT_A_TIME)]
            self.send(b"".join([data_row(columns, row, formats) for row in piece]))
            # The protocol's own flow control only stops reading; this is all that writes.
            while transport.get_write_buffer_size() > UNREAD_MAX and not self.gone:  # noqa: ASYNC110
                await asyncio.sleep(UNREAD_POLL_SECONDS)
            if self.gone:
                raise ConnectionResetError

    def complete(self, answer: Answer) -> None:
        self.send(p.message(p.COMMAND_COMPLETE, answer.tag.encode() + b"\0"))

    def fail(self, error: e.TenantryError) -> None:
        if error.fatal:
            raise error
        if self.status == p.IN_TRANSACTION:
            self.status = p.FAILED
        self.send(p.error_response(error))


class InFailedBlock(e.TenantryError):
    """PostgreSQL's own text; the driver's ROLLBACK ends it."""

    sqlstate = "25P02"

    def __init__(self) -> None:
        super().__init__(
            "current transaction is aborted, commands ignored until end of transaction block"
        )


def columns_for(statement: Statement) -> tuple[Column, ...] | None:
    """The columns that the answer will have; None when it has no rows."""
    if statement.verb == "select":
        return (Column("?column?", INT4 if statement.thing == "number" else TEXT),)
    if statement.verb != "show" or statement.thing == "help":
        return None
    if statement.thing in FAKE_SETTINGS or statement.thing == "server_version":
        return (Column(statement.thing, TEXT),)
    found = columns_of(statement.thing)
    if found is None:
        raise e.SyntaxRefused(f"invalid command 'SHOW {statement.thing[:40]}', use SHOW HELP;")
    return found


def text_of(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise e.SyntaxRefused("the command is not UTF-8 text") from None


def parts(body: bytes, count: int) -> list[bytes]:
    """`count` zero-terminated strings and what follows them."""
    found = body.split(b"\0", count)
    if len(found) != count + 1:
        raise e.ProtocolViolation("invalid message format")
    return found


def int16s(body: bytes, at: int) -> tuple[list[int], int]:
    """A counted list of 16-bit numbers, and where it ends."""
    count = int.from_bytes(body[at : at + 2], "big")
    end = at + 2 + 2 * count
    if end > len(body):
        raise e.ProtocolViolation("invalid message format")
    return [int.from_bytes(body[at + 2 + 2 * n : at + 4 + 2 * n], "big") for n in range(count)], end
