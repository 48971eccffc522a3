"""The oracle: what a row tenant gets through the proxy, and what a database of its own would give.

    with world(server, "both") as made:
        found = made.compare("acme", Query("SELECT …"), "simple")

Three tenants lie in shared tables behind a real wire path; each has a twin, a database of the same
tables with that tenant's rows alone. A statement runs on both, and whatever a client sees must be
the same: rows, names and types of columns, the command tag, SQLSTATE.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from support.engines import Postgres
from support.estate import Estate, estate, protect, tenant
from support.oracle_data import (
    COLUMNS,
    SCHEMA,
    SHARED,
    TENANTS,
    WRITTEN,
    insert_rows,
    reference,
    rows,
)

from admin.provision.names import group_role

ENFORCEMENTS: Final = ("both", "rewrite", "seal")
DRIVES: Final = ("simple", "extended", "prepared", "binary")
ROWS: Final = frozenset(name.strip('"') for name in COLUMNS)
# SQLSTATEs with which the proxy refuses what it cannot keep to the tenant's rows.
REFUSALS: Final = frozenset(["0A000", "42501"])
SETTINGS: Final = "-c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres"
_MARK: Final = "\x01"


@dataclass(frozen=True)
class Query:
    """SQL with places for literals, \\x01: as SQL text (`inline`) or as typed parameters."""

    text: str
    literals: tuple[tuple[str, Any, str], ...] = ()  # SQL text, value, type
    ordered: bool = False  # the order of the rows is part of the answer
    copied: bool = False  # COPY … TO STDOUT
    data: bytes | None = None  # of COPY … FROM STDIN

    @property
    def tells_oids(self) -> bool:
        """Whether its answer has OIDs of our own types in its binary form."""
        return "pg_typeof(" in self.text or "array_agg(o " in self.text

    def inline(self) -> str:
        pieces = self.text.split(_MARK)
        rest = (
            piece
            for (text, _, _), piece in zip(self.literals, pieces[1:], strict=True)
            for piece in (text, piece)
        )
        return pieces[0] + "".join(rest)

    def template(self) -> str:
        pieces = self.text.replace("%", "%%").split(_MARK)
        rest = (
            piece
            for (_, _, type), piece in zip(self.literals, pieces[1:], strict=True)
            for piece in (f"%s::{type}", piece)
        )
        return pieces[0] + "".join(rest)


@dataclass
class Answer:
    """All that a client sees of a statement; `error` is a SQLSTATE."""

    tag: str = ""
    columns: list[tuple[str, str, int]] = field(default_factory=list)
    rows: list[Any] = field(default_factory=list)
    error: str = ""
    message: str = ""

    def same(self, other: Answer, ordered: bool) -> bool:
        if self.error or other.error:
            return self.error == other.error
        mine, theirs = self.rows, other.rows
        if not ordered:
            mine, theirs = sorted(mine, key=repr), sorted(theirs, key=repr)
        return (self.tag, self.columns, mine) == (other.tag, other.columns, theirs)

    def __str__(self) -> str:
        if self.error:
            return f"{self.error} {self.message}"
        return f"{self.tag} {self.columns} {self.rows[:6]}"


class Side:
    """One connection, and the names of the types that its database has."""

    def __init__(self, connection: psycopg.Connection[Any], types: dict[int, str]) -> None:
        self.connection = connection
        self.types = types

    def run(self, query: Query, drive: str) -> Answer:
        connection = self.connection
        if drive == "binary" and query.tells_oids:
            drive = "prepared"
        try:
            if query.data is not None:
                with connection.cursor() as cursor:
                    with cursor.copy(query.inline().encode()) as copy:
                        copy.write(query.data)
                    return Answer(cursor.statusmessage or "")
            if query.copied:
                with connection.cursor().copy(query.inline().encode()) as copy:
                    return Answer("COPY", rows=[bytes(row) for row in copy])
            if drive == "simple" or (drive == "extended" and not query.literals):
                cursor: Any = psycopg.ClientCursor(connection)
                cursor.execute(query.inline().encode())
            else:
                cursor = connection.cursor(binary=drive == "binary")
                values = [value for _, value, _ in query.literals]
                prepare = True if drive == "prepared" else None
                cursor.execute(query.template().encode(), values, prepare=prepare)
        except psycopg.Error as error:
            return Answer(error=error.sqlstate or "?", message=str(error))
        return self.answer(cursor.pgresult)

    def answer(self, result: Any) -> Answer:
        columns = range(result.nfields)
        described = [
            (result.fname(n).decode(), self.name(result.ftype(n)), result.fmod(n)) for n in columns
        ]
        values = [tuple(result.get_value(row, n) for n in columns) for row in range(result.ntuples)]
        return Answer((result.command_status or b"").decode(), described, values)

    def name(self, oid: int) -> str:
        """What is known of a type in every database."""
        found = self.types.get(oid, str(oid))
        # A whole row of a table in FULL JOIN has the type record: see test_oracle_limits.py.
        return re.sub("^(_?)(.*)$", _plain_row, found)


def _plain_row(name: re.Match[str]) -> str:
    return f"{name[1]}record" if name[2] in ROWS else name[0]


@dataclass
class Tally:
    """What a run of statements has come to."""

    seen: int = 0
    equal: int = 0
    errors: Counter[str] = field(default_factory=Counter)  # the same on both sides
    refused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    filled: int = 0  # answers that have rows

    def add(self, other: Tally) -> None:
        self.seen += other.seen
        self.equal += other.equal
        self.filled += other.filled
        self.errors += other.errors
        self.refused += other.refused
        self.examples = other.examples | self.examples
        self.wrong += other.wrong

    def count(self, name: str, query: Query, got: Answer, wanted: Answer) -> None:
        self.seen += 1
        if got.same(wanted, query.ordered):
            self.equal += 1
            self.filled += bool(got.rows)
            if got.error:
                self.errors[got.error] += 1
        elif got.error in REFUSALS and got.error != wanted.error:
            reason = got.message.splitlines()[0]
            self.refused[reason] += 1
            self.examples.setdefault(reason, query.inline())
        else:
            self.wrong.append(f"{name}: {query.inline()}\n  got    {got}\n  wanted {wanted}")

    def __str__(self) -> str:
        lines = [
            f"{self.seen} statements: {self.equal} equal ({self.filled} with rows, "
            f"{self.errors.total()} errors: {dict(self.errors)}), {self.refused.total()} refused, "
            f"{len(self.wrong)} wrong"
        ]
        for reason, count in self.refused.most_common():
            lines.append(f"  {count} × {reason}\n      {self.examples[reason]}")
        return "\n".join(lines + self.wrong[:10])


class World:
    """The shared database with its proxy, and the tenants' twins."""

    def __init__(self, made: Estate, enforcement: str, stack: contextlib.ExitStack) -> None:
        self.made = made
        self.enforcement = enforcement
        self.database = _database(enforcement)
        self.stack = stack
        self.admin = stack.enter_context(_admin(made.server, self.database))
        self.twin_admin: dict[str, psycopg.Connection[Any]] = {}
        self.proxied: dict[str, Side] = {}
        self.alone: dict[str, Side] = {}
        for name in TENANTS:
            twin = stack.enter_context(_admin(made.server, twin_name(enforcement, name)))
            client = made.connect(f"{name}-{enforcement}", options=SETTINGS)
            self.proxied[name] = Side(stack.enter_context(client), _types(self.admin))
            self.alone[name] = Side(twin, _types(twin))

    def pairs(self, tenant: str) -> tuple[Side, Side]:
        return self.proxied[tenant], self.alone[tenant]

    def compare(self, tenant: str, query: Query, drive: str, tally: Tally) -> None:
        got, wanted = (side.run(query, drive) for side in self.pairs(tenant))
        tally.count(f"{self.enforcement}, {tenant}, {drive}", query, got, wanted)

    def contents(self, tenant: str) -> str:
        """A digest of all rows of a tenant's in the shared tables."""
        return _digest(self.admin, tenant)

    def contents_alone(self, tenant: str) -> str:
        """The same of its twin; of whatever tenant the rows are."""
        return _digest(self.alone[tenant].connection, "")

    def refill(self) -> None:
        """All tables as they were in the beginning."""
        for connection, names in [
            (self.admin, TENANTS),
            *((self.alone[name].connection, (name,)) for name in TENANTS),
        ]:
            with connection.transaction():
                connection.execute(f"TRUNCATE {', '.join(WRITTEN)}".encode())
                for name in names:
                    insert_rows(connection, rows(name))


def _database(enforcement: str) -> str:
    return f"oracle_{enforcement}"


def twin_name(enforcement: str, tenant: str) -> str:
    return f"twin_{enforcement}_{tenant}"


def _admin(server: Postgres, database: str) -> psycopg.Connection[Any]:
    return server.connect(database, options=SETTINGS)


def _types(connection: psycopg.Connection[Any]) -> dict[int, str]:
    query = "SELECT oid, typname FROM pg_type"
    return dict(connection.execute(query).fetchall())


def _digest(connection: psycopg.Connection[Any], tenant: str) -> str:
    one = (
        "SELECT {name} || ' ' || md5(coalesce(string_agg(t::text, chr(10) ORDER BY t::text"
        " COLLATE \"C\"), '')) || ' ' || count(*) FROM {table} t WHERE tenant_id = {tenant}"
        " OR {tenant} = ''"
    )
    query = sql.SQL(" UNION ALL ").join(
        sql.SQL(one).format(name=sql.Literal(table), table=sql.SQL(table), tenant=tenant)
        for table in WRITTEN
    )
    return "\n".join(row[0] for row in connection.execute(query))


def _prepare(made: Estate, enforcement: str) -> None:
    database = _database(enforcement)
    with made.server.connect(database) as admin:
        admin.execute(SCHEMA.format(tenant="tenant_id text NOT NULL").encode())
        insert_rows(admin, reference())
        for name in TENANTS:
            insert_rows(admin, rows(name))
        # Tables known to be small are read from end to end, others' rows and all.
        admin.execute("ANALYZE")
        if enforcement == "rewrite":
            # Nothing of the database's own: the tables are granted, no row is protected.
            for operation in ("select", "insert", "update", "delete"):
                role = sql.Identifier(group_role(operation, database))
                admin.execute(
                    sql.SQL(f"GRANT {operation} ON ALL TABLES IN SCHEMA public TO {{}}").format(
                        role
                    )
                )
    if enforcement != "rewrite":
        protect(made, database, share=SHARED)


def _make_twin(server: Postgres, enforcement: str, tenant: str) -> None:
    name = twin_name(enforcement, tenant)
    server.execute(f"CREATE DATABASE {name}")
    with server.connect(name) as admin:
        column = f"tenant_id text NOT NULL DEFAULT '{tenant}'"
        admin.execute(SCHEMA.format(tenant=column).encode())
        insert_rows(admin, reference())
        insert_rows(admin, rows(tenant))


@contextlib.contextmanager
def world(server: Postgres, enforcement: str, budget: int = 3) -> Iterator[World]:
    """`server` must be the test's own. So few servers that tenants take turns on them."""
    tenants = [
        tenant(
            f"{name}-{enforcement}",
            database_name=_database(enforcement),
            tenant_value=name,
            enforcement=enforcement,
            shared_tables=list(SHARED),
        )
        for name in TENANTS
    ]
    for name in TENANTS:
        _make_twin(server, enforcement, name)
    with (
        estate(
            server, tenants, prepare=lambda made: _prepare(made, enforcement), budget=budget
        ) as made,
        contextlib.ExitStack() as stack,
    ):
        yield World(made, enforcement, stack)


def run(made: World, queries: Iterable[Query], tally: Tally) -> None:
    """All queries, each as another tenant and in another way than the one before."""
    for number, query in enumerate(queries):
        name = TENANTS[number % len(TENANTS)]
        made.compare(name, query, DRIVES[number // len(TENANTS) % len(DRIVES)], tally)


def run_writes(
    made: World, units: Iterable[tuple[str, list[Query]]], tally: Tally, refill: int = 30
) -> None:
    """All units; after each the tenant's rows are its twin's, and nobody else's have changed."""
    made.refill()
    before = {name: made.contents(name) for name in TENANTS}
    for number, (name, unit) in enumerate(units):
        if number % refill == refill - 1:
            made.refill()
            before = {each: made.contents(each) for each in TENANTS}
        for query in unit:
            made.compare(name, query, DRIVES[number // len(TENANTS) % len(DRIVES)], tally)
        for side in made.pairs(name):
            if side.connection.info.transaction_status != TransactionStatus.IDLE:
                side.connection.rollback()
        text = "; ".join(query.inline() for query in unit)
        before[name], alone = made.contents(name), made.contents_alone(name)
        if before[name] != alone:
            tally.wrong.append(f"{name}: {text}\n  has    {before[name]}\n  wanted {alone}")
            made.refill()
            before = {each: made.contents(each) for each in TENANTS}
        for other in TENANTS:
            if made.contents(other) != before[other]:
                tally.wrong.append(f"{name} has changed rows of {other}: {text}")
