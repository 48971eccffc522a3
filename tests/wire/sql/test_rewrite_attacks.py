"""What a hostile tenant sends: rewriting alone keeps it from all rows of others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from support.engines import Postgres
from support.rewriting import (
    KINDS,
    MARK,
    STATEMENTS,
    TABLES,
    catalog,
    literal,
    rewritten,
    setup,
)

from wire.errors import TenantryError
from wire.sql.rewrite_check import check

KIND = KINDS["text"]
KNOWN = catalog(KIND)
LINES = (STATEMENTS.parent / "rewrite_attacks.sql").read_text().splitlines()
ATTACKS = [line for line in LINES if line and line[:2] != "--"]


@pytest.fixture(scope="module")
def shared(postgres: Postgres) -> Iterator[psycopg.Connection[Any]]:
    """The rows of three tenants, seen by a superuser: nothing but the rewriting protects them."""
    database = postgres.create_database("attacks")
    postgres.execute(setup(KIND, alone=False), database)
    with psycopg.connect(postgres.dsn(database)) as connection:
        yield connection


def others(connection: psycopg.Connection[Any]) -> list[Any]:
    return [
        connection.execute(
            f"SELECT t::text FROM {table} t WHERE tenant_id IS DISTINCT FROM 'acme' ORDER BY 1"
        ).fetchall()
        for table in TABLES
        if table != "countries"
    ]


def seen(connection: psycopg.Connection[Any], text: str) -> str:
    """All that comes back from a text: rows, tags, errors."""
    out: list[str] = []
    cursor = connection.cursor()
    try:
        if text.startswith("COPY"):
            with cursor.copy(text.encode()) as copy:
                return repr([bytes(row) for row in copy])
        cursor.execute(text.encode())
        while True:
            out.append(str(cursor.statusmessage))
            if cursor.description:
                out.append(repr(cursor.fetchall()))
            if not cursor.nextset():
                break
    except psycopg.Error as error:
        out.append(f"{error} {error.diag.message_detail}")
    return "\n".join(out)


@pytest.mark.parametrize("sql", ATTACKS)
def test_attack(shared: psycopg.Connection[Any], sql: str) -> None:
    sql = sql.replace(":me", KIND.mine).replace(":other", KIND.others[0])
    try:
        text = rewritten(sql, KNOWN)
    except TenantryError:
        return
    assert check(text.encode(), KNOWN, literal(KIND)) is None
    try:
        before = others(shared)
        found = seen(shared, text)
        assert MARK.lower() not in found.lower()
        if shared.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
            assert others(shared) == before
    finally:
        shared.rollback()


def test_the_attacks_would_succeed_otherwise(shared: psycopg.Connection[Any]) -> None:
    """Most of them: the rest cannot be run at all, or fails with words of its own."""
    succeeded = 0
    for sql in ATTACKS:
        sql = sql.replace(":me", KIND.mine).replace(":other", KIND.others[0])
        try:
            before = others(shared)
            found = seen(shared, sql)
            broken = shared.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
            if MARK.lower() in found.lower() or (not broken and others(shared) != before):
                succeeded += 1
        except psycopg.Error:  # tables are gone
            succeeded += 1
        finally:
            shared.rollback()
    assert succeeded > len(ATTACKS) * 0.65
