"""Functions that are called as if they were fields are judged like any other call."""

from __future__ import annotations

import psycopg
import pytest
from support.engines import Postgres
from support.shared_tables import ask, catalog, forwarded, row_guard

from events.model import Permissions, RateLimits
from wire.sql.frame import DATABASE, SHARED, Frame, load
from wire.sql.guard import Analyser, Guard

# The operator's functions: tax(text), full_name(users), mark(anyelement), discount(orders).
CATALOG = catalog(
    calls=frozenset({"tax", "full_name", "mark", "discount", "total"}),
    row_calls=frozenset({"full_name", "mark", "discount", "total"}),
    functions=frozenset({("public", "discount")}),
)


@pytest.mark.parametrize(
    ("sql", "function"),
    [
        ("SELECT ('select 1'::text).ts_stat", "ts_stat"),
        ("SELECT ((x.s).ts_stat).word FROM (SELECT 'select 1'::text AS s) x", "ts_stat"),
        ("SELECT y.ts_stat FROM upper('select 1') y", "ts_stat"),
        ("SELECT upper.ts_stat FROM upper('select 1')", "ts_stat"),
        ("SELECT y.ts_stat FROM CAST('select 1' AS text) AS y", "ts_stat"),
        ("SELECT text.ts_stat FROM CAST('select 1' AS text)", "ts_stat"),
        # The name means a table elsewhere in the statement.
        ("SELECT upper.ts_stat FROM upper('a'), (SELECT 1 FROM orders AS upper) AS z", "ts_stat"),
        ("SELECT (c.oid).pg_relation_size FROM pg_class c", "pg_relation_size"),
        ("SELECT (1).pg_stat_get_live_tuples", "pg_stat_get_live_tuples"),
        # These get namespaces, so they must be seen.
        ("SELECT (7::bigint).pg_advisory_lock", "pg_advisory_lock"),
        ("SELECT y.pg_try_advisory_lock FROM int8(7) y", "pg_try_advisory_lock"),
        ("SELECT (0.5).setseed", "setseed"),
        ("SELECT ('x'::text).tax", "tax"),
        ("SELECT y.tax FROM upper('x') y", "tax"),
        ("SELECT o.full_name FROM orders o", "full_name"),
        ("SELECT (o).full_name FROM orders o", "full_name"),
        ("SELECT s.mark FROM (SELECT 1) s", "mark"),
        ("SELECT j.mark FROM (orders o CROSS JOIN items) AS j", "mark"),
        ("SELECT i.total FROM items i", "total"),
        ("WITH orders AS (SELECT 1) SELECT orders.total FROM orders", "total"),
        ("SELECT o.total FROM orders AS o (a, b)", "total"),
        ("UPDATE orders SET total = ('x'::text).tax::int", "tax"),
        ("INSERT INTO items (id) VALUES (1) RETURNING new.total", "total"),
    ],
)
def test_row_tenants_call_no_function_so_that_they_may_not_call(sql: str, function: str) -> None:
    guard = row_guard(Analyser(Frame(CATALOG, shared=True)))
    refusal = ask(guard, sql).refusal
    assert refusal is not None
    assert refusal.message.startswith((f"permission denied for function {function}", "function "))
    assert function in refusal.message


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT ('abc'::text).upper",
        "SELECT (o.p).a, (p).b.c FROM orders o",
        "SELECT o.total, orders.total FROM orders o, orders",
        "SELECT public.orders.total FROM public.orders",
        "SELECT o.discount FROM orders o",
        "SELECT s.tax FROM (SELECT 1 AS tax) s",
        "WITH s AS (SELECT pg_try_advisory_lock(1)) SELECT s.pg_try_advisory_lock FROM s",
        "SELECT e.key, e.value FROM jsonb_each('{}') e",
        "INSERT INTO orders (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET total = excluded.total"
        " RETURNING old.total, new.total",
        "UPDATE orders SET total = i.id FROM items i WHERE i.order_id = orders.id",
    ],
)
def test_fields_stay_fields(sql: str) -> None:
    guard = row_guard(Analyser(Frame(CATALOG, shared=True)))
    assert not forwarded(guard, sql).startswith(b"refused"), forwarded(guard, sql)


@pytest.mark.parametrize("frame", [DATABASE, SHARED], ids=["database", "schema"])
def test_nobody_calls_so_what_has_to_be_seen(frame: Frame) -> None:
    guard = Guard(Permissions(max_tables_per_query=None), RateLimits(), Analyser(frame))
    for sql in (
        "SELECT (7::bigint).pg_advisory_lock",
        "SELECT y.pg_advisory_lock FROM int8(7) y",
        "SELECT ('a'::text).pg_read_file",
        "SELECT (0.5).setseed",
        "SELECT ('select 1'::text).ts_stat",
    ):
        refusal = ask(guard, sql).refusal
        assert refusal is not None, sql
        assert "can be called as" in refusal.message
    for sql in (
        "SELECT (p).a, t.status, t.upper FROM t",
        "SELECT s.pg_try_advisory_lock FROM (SELECT pg_try_advisory_lock(1)) s",
    ):
        assert ask(guard, sql).refusal is None, sql


def test_operators_of_others_are_told_by_their_names() -> None:
    catalog_with = catalog(operators=frozenset({"==="}))
    guard = row_guard(Analyser(Frame(catalog_with, shared=True)))
    for sql in ("SELECT 1 === 2", "SELECT id FROM orders ORDER BY id USING ==="):
        refusal = ask(guard, sql).refusal
        assert refusal is not None, sql
        assert "operators that are not PostgreSQL's own" in refusal.message
    assert ask(guard, "SELECT 1 = 2, 3 !== 4").refusal is None


def test_a_catalog_keeps_the_names_on_its_way_to_the_helper() -> None:
    catalog = load(Frame(CATALOG, shared=True).dump()).catalog
    assert catalog is not None
    assert (catalog.calls, catalog.row_calls) == (CATALOG.calls, CATALOG.row_calls)


def test_postgresql_calls_functions_so(postgres: Postgres) -> None:
    """What all of this is about: should it change, this module can go."""
    with postgres.connect() as client:
        told = client.execute("SELECT ('abc'::text).upper, y.upper FROM lower('X') y").fetchone()
        assert told == ("ABC", "X")
        # The row of a sub-select is a row, even of one column.
        with pytest.raises(psycopg.errors.UndefinedColumn):
            client.execute("SELECT y.upper FROM (SELECT 'x'::text) y")
