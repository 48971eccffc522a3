"""Rewritten statements on the rows of three tenants do what they do on the rows of one alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg
import pytest
from support.engines import Postgres
from support.rewriting import KINDS, TABLES, Kind, catalog, literal, rewritten, setup, statements

from wire.errors import TenantryError
from wire.sql.catalog import Catalog
from wire.sql.rewrite_check import check

FIRST_USER_OID = 16384
# Types of the tenant column; with and without the database's own enforcement the predicate differs.
PARAMS = [("text", False), ("text", True), ("varchar", False), ("int4", True), ("uuid", False)]


class Sides(NamedTuple):
    """Both databases: of all tenants, and of one."""

    kind: Kind
    known: Catalog
    shared: psycopg.Connection[Any]
    alone: psycopg.Connection[Any]


@pytest.fixture(scope="module", params=PARAMS, ids=str)
def sides(request: pytest.FixtureRequest, postgres: Postgres) -> Iterator[Sides]:
    name, sealed = request.param
    kind = KINDS[name]
    connections = []
    for alone in (False, True):
        database = postgres.create_database("rewrite")
        postgres.execute(setup(kind, alone=alone), database)
        connections.append(psycopg.connect(postgres.dsn(database)))
    yield Sides(kind, catalog(kind, sealed=sealed), *connections)
    for connection in connections:
        connection.close()


def outcome(connection: psycopg.Connection[Any], sql: str) -> Any:
    """All that a client sees of a text: rows, names and types, tags; or the error's class."""
    out: list[Any] = []
    cursor = connection.cursor()
    try:
        if sql.startswith("COPY"):
            with cursor.copy(sql.encode()) as copy:
                return sorted(bytes(row) for row in copy)
        cursor.execute(sql.encode())
        while True:
            columns = [
                (each.name, min(each.type_code, FIRST_USER_OID))
                for each in cursor.description or ()
            ]
            rows = sorted(map(repr, cursor)) if cursor.description else []
            out.append((cursor.statusmessage, columns, rows))
            if not cursor.nextset():
                return out
    except psycopg.Error as error:
        return error.sqlstate


def rows(connection: psycopg.Connection[Any], test: str) -> dict[str, list[Any]]:
    """The rows of all tables that pass a test on the tenant column."""
    out = {}
    for table in TABLES:
        # The numbers of notes come from a sequence, which no rollback sets back.
        columns = "ROW(body, tenant_id)" if table == "notes" else "t"
        where = f"WHERE tenant_id {test}" if table != "countries" else ""
        query = f"SELECT {columns}::text FROM {table} t {where} ORDER BY 1"
        out[table] = connection.execute(query).fetchall()
    return out


def differences(sides: Sides, sql: str) -> str:
    """What is not as it should be with a statement, in words; "" for nothing."""
    try:
        text = rewritten(sql, sides.known, literal(sides.kind))
    except TenantryError as error:
        return f"refused: {error}"
    if reason := check(text.encode(), sides.known, literal(sides.kind)):
        return f"not proven: {reason}"
    mine, others = f"= {sides.kind.mine}", f"<> {sides.kind.mine}"
    try:
        before = rows(sides.shared, others)
        got, wanted = outcome(sides.shared, text), outcome(sides.alone, sql)
        if got != wanted:
            return f"got {got}\nwanted {wanted}"
        if isinstance(got, str):
            return "" if got == "23505" else f"error {got}"
        if rows(sides.shared, mine) != rows(sides.alone, mine):
            return "the tenant's rows differ"
        if rows(sides.shared, others) != before:
            return "other tenants' rows changed"
    finally:
        sides.shared.rollback()
        sides.alone.rollback()
    return ""


def test_every_statement_does_the_same_among_others_rows_as_alone(sides: Sides) -> None:
    wrong = []
    for sql in statements(sides.kind):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if found := differences(sides, sql):
                wrong.append(f"{sql}\n  {found}")
    assert not wrong, "\n\n".join(wrong)
