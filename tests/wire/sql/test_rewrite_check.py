"""The proof of rewritten texts: it finds every hole that one could be made to have."""

from __future__ import annotations

import re

import pytest
from support.rewriting import KINDS, catalog, literal, rewritten, statements

from wire.errors import TenantryError
from wire.sql.analyse import parse
from wire.sql.rewrite_check import _Check, check
from wire.sql.rewrite_proof import Uncovered

KIND = KINDS["text"]
KNOWN = catalog(KIND, sealed=True)
ALONE = catalog(KIND)

PREDICATE = re.compile(
    r'\((?:"[^"]+"\.)+"tenant_id" OPERATOR\(pg_catalog\.=\) [^()]*?(\([^()]*\))?\)'
)
# In CASE WHEN (…) = stamp THEN stamp END only the second one matters.
STAMP = re.compile(r"(?<!OPERATOR\(pg_catalog\.=\) )\('acme'::pg_catalog\.text\)")


def proven(text: str) -> str | None:
    return check(text.encode(), KNOWN, literal(KIND))


def p(name: str, value: str = "'acme'::pg_catalog.text") -> str:
    return f"({name}.tenant_id OPERATOR(pg_catalog.=) {value})"


UNPROVEN = [
    "SELECT * FROM orders",
    "SELECT * FROM orders WHERE tenant_id = 'acme'",
    "SELECT * FROM orders WHERE orders.tenant_id = 'acme'::pg_catalog.text",
    f"SELECT * FROM orders WHERE {p('orders')} OR true",
    f"SELECT * FROM orders WHERE NOT {p('orders')}",
    f"SELECT * FROM orders WHERE ({p('orders')} AND true) IS NOT NULL",
    f"SELECT * FROM orders WHERE (SELECT {p('orders')})",
    f"SELECT * FROM orders GROUP BY id HAVING {p('orders')}",
    f"SELECT * FROM orders WHERE {p('o')}",
    f"SELECT * FROM orders o WHERE {p('orders')}",
    f"SELECT * FROM orders WHERE {p('customers')}",
    f"SELECT * FROM public.orders WHERE {p('shop.orders')}",
    "SELECT * FROM orders WHERE (tenant_id OPERATOR(pg_catalog.=) 'acme'::pg_catalog.text)",
    "SELECT * FROM orders WHERE (orders.id OPERATOR(pg_catalog.=) 'acme'::pg_catalog.text)",
    "SELECT * FROM orders WHERE (orders.tenant_id OPERATOR(public.=) 'acme'::pg_catalog.text)",
    "SELECT * FROM orders WHERE (orders.tenant_id OPERATOR(pg_catalog.<>) 'acme'::pg_catalog.text)",
    f"SELECT * FROM orders WHERE {p('orders', 'orders.tenant_id')}",
    *(
        f"SELECT * FROM orders WHERE {p('orders', value)}"
        for value in [
            *("'beta'::pg_catalog.text", "'acme'::text", "'acme'", "'acme'::public.text", "$1"),
            *("'acme'::pg_catalog.varchar", "'acme'::pg_catalog.text[]", "NULL::pg_catalog.text"),
            *("'acme '::pg_catalog.text", "''::pg_catalog.text", "'ACME'::pg_catalog.text"),
            "ALL (ARRAY['acme'::pg_catalog.text])",
            "ANY (ARRAY['acme'::pg_catalog.text, 'beta'::pg_catalog.text])",
            "ANY (ARRAY[]::pg_catalog.text[])",
        ]
    ),
    f"SELECT * FROM orders AS o (a, tenant_id) WHERE {p('o')}",
    f"SELECT * FROM orders, customers WHERE {p('orders')}",
    f"SELECT * FROM orders o LEFT JOIN items i ON {p('o')} WHERE {p('i')}",
    f"SELECT * FROM orders o FULL JOIN items i ON {p('o')} AND {p('i')}",
    f"SELECT * FROM orders o RIGHT JOIN items i ON {p('i')} WHERE {p('o')}",
    f"SELECT * FROM orders o LEFT JOIN (items i JOIN customers c ON {p('c')}) ON {p('i')} OR true"
    f" WHERE {p('o')}",
    f"SELECT * FROM (orders o CROSS JOIN countries) AS o WHERE {p('o')}",
    f"SELECT * FROM (orders x CROSS JOIN countries) AS j, customers x WHERE {p('x')}",
    f"SELECT * FROM (SELECT * FROM orders) AS orders WHERE {p('orders')}",
    f"SELECT (SELECT 1 FROM items) FROM orders WHERE {p('orders')} AND {p('items')}",
    f"SELECT 1 FROM orders WHERE {p('orders')} UNION SELECT 1 FROM orders",
    f"SELECT 1 FROM orders WHERE {p('orders')} ORDER BY (SELECT 1 FROM items)",
    "WITH x AS (SELECT * FROM orders) SELECT * FROM x",
    f"WITH x AS (SELECT * FROM orders) SELECT * FROM x, orders WHERE {p('orders')}",
    "WITH x AS (SELECT * FROM orders), orders AS (SELECT 1) SELECT * FROM x",
    "SELECT * FROM (WITH orders AS (SELECT 1) SELECT 1) x, orders",
    "SELECT * FROM secrets",
    "SELECT * FROM other.orders",
    f"SELECT * INTO x FROM orders WHERE {p('orders')}",
    "TABLE orders",
    "DELETE FROM orders",
    f"DELETE FROM orders USING items WHERE {p('items')}",
    f"WITH orders AS (SELECT 1) DELETE FROM orders USING countries orders WHERE {p('o')}",
    "UPDATE orders SET note = 'x'",
    f"UPDATE orders SET note = 'x' FROM items WHERE {p('orders')}",
    f"UPDATE orders SET tenant_id = 'acme' WHERE {p('orders')}",
    f"UPDATE orders SET tenant_id = 'beta'::pg_catalog.text WHERE {p('orders')}",
    f"UPDATE orders SET tenant_id = CASE WHEN true THEN 'acme'::pg_catalog.text ELSE 'b' END"
    f" WHERE {p('orders')}",
    f"UPDATE orders SET tenant_id = CASE WHEN true THEN 'acme'::pg_catalog.text WHEN true THEN 'b'"
    f" END WHERE {p('orders')}",
    f"UPDATE orders SET (note, tenant_id) = ('acme'::pg_catalog.text, 'b') WHERE {p('orders')}",
    f"UPDATE orders SET (note, tenant_id) = (SELECT 'x', 'b') WHERE {p('orders')}",
    "UPDATE orders SET note = x.name FROM customers x WHERE CURRENT OF c",
    "INSERT INTO orders DEFAULT VALUES",
    "INSERT INTO orders VALUES ('acme'::pg_catalog.text)",
    "INSERT INTO orders (id) VALUES (1)",
    "INSERT INTO orders (id, tenant_id) VALUES (1, 'acme')",
    "INSERT INTO orders (tenant_id, id) VALUES (1, 'acme'::pg_catalog.text)",
    "INSERT INTO orders (tenant_id) VALUES ('acme'::pg_catalog.text), ('beta')",
    "INSERT INTO orders (tenant_id) VALUES ('acme'::pg_catalog.text), (DEFAULT)",
    "INSERT INTO orders (tenant_id, tenant_id) VALUES ('acme'::pg_catalog.text, 'b')",
    "INSERT INTO orders (tenant_id) SELECT 'acme'::pg_catalog.text UNION SELECT 'b'",
    "INSERT INTO orders (tenant_id, id) SELECT x.*, 'acme'::pg_catalog.text FROM (SELECT 'b') x",
    "INSERT INTO orders (id, tenant_id, note) SELECT x.*, 'acme'::pg_catalog.text, y.*"
    " FROM (SELECT 1) x, (SELECT 1) y",
    "INSERT INTO secrets (tenant_id) VALUES ('acme'::pg_catalog.text)",
    "INSERT INTO countries VALUES ('x')",
    "INSERT INTO big_orders (tenant_id) VALUES ('acme'::pg_catalog.text)",
    "INSERT INTO orders (tenant_id) VALUES ('acme'::pg_catalog.text) ON CONFLICT (id) DO UPDATE"
    " SET note = 'x'",
    "INSERT INTO orders (tenant_id) VALUES ('acme'::pg_catalog.text) ON CONFLICT (id)"
    f" WHERE {p('orders')} DO UPDATE SET note = 'x'",
    "INSERT INTO orders (tenant_id) VALUES ('acme'::pg_catalog.text) ON CONFLICT (id) DO UPDATE"
    f" SET tenant_id = 'x' WHERE {p('orders')}",
    f"MERGE INTO orders o USING countries c ON {p('c')} WHEN MATCHED THEN DELETE",
    f"MERGE INTO orders o USING items i ON {p('o')} AND {p('i')} WHEN MATCHED THEN DELETE",
    f"MERGE INTO orders o USING countries c ON {p('o')} WHEN NOT MATCHED BY SOURCE THEN DELETE",
    f"MERGE INTO orders o USING countries c ON {p('o')} WHEN NOT MATCHED THEN INSERT"
    " DEFAULT VALUES",
    f"MERGE INTO orders o USING countries c ON {p('o')} WHEN NOT MATCHED THEN INSERT (tenant_id)"
    " VALUES ('b')",
    f"MERGE INTO orders o USING countries c ON {p('o')} WHEN MATCHED THEN UPDATE"
    " SET tenant_id = 'b'",
    "COPY orders TO STDOUT",
    "COPY (TABLE orders) TO STDOUT",
    "COPY orders FROM STDIN",
    "COPY customers FROM STDIN",
    "COPY (SELECT 1) TO '/tmp/x'",
    "COPY tenantry.copy_1 FROM PROGRAM 'x'",
    "EXPLAIN SELECT 1",
    "EXPLAIN (COSTS OFF, COSTS) SELECT 1",
    "EXPLAIN (COSTS OFF, ANALYZE) SELECT 1",
    "PREPARE p AS SELECT * FROM orders",
    "DECLARE c CURSOR FOR SELECT * FROM orders",
    "TRUNCATE orders",
    "CREATE TABLE x AS SELECT 1",
    "LOCK TABLE orders",
    "DO 'x'",
    "CALL x((SELECT 1 FROM orders))",
    "SELECT 1; TABLE orders",
    "SELECT (",
]


@pytest.mark.parametrize("sql", UNPROVEN)
def test_unproven(sql: str) -> None:
    assert proven(sql) is not None


PROVEN = [
    f"SELECT * FROM orders WHERE {p('orders')}",
    f"SELECT * FROM orders WHERE a AND (b AND {p('orders')})",
    f"SELECT * FROM public.orders WHERE {p('public.orders')}",
    f"SELECT * FROM orders o JOIN items i ON {p('o')} AND {p('i')}",
    f"SELECT * FROM orders o LEFT JOIN items i ON {p('i')} WHERE {p('o')}",
    f"SELECT * FROM (orders o JOIN items i ON {p('o')} AND {p('i')}) AS j",
    "SELECT * FROM orders WHERE " + p("orders", "ANY (ARRAY['acme'::pg_catalog.text])"),
    "INSERT INTO orders (id, tenant_id) SELECT x.*, 'acme'::pg_catalog.text FROM countries x",
    "INSERT INTO orders (tenant_id) VALUES (CASE WHEN $1 = 'x' THEN 'acme'::pg_catalog.text END)",
    "DELETE FROM orders WHERE CURRENT OF c",
    "SELECT 1",
    "BEGIN",
]


@pytest.mark.parametrize("sql", PROVEN)
def test_proven(sql: str) -> None:
    assert proven(sql) is None


def test_of_whatever_is_rewritten_no_predicate_and_no_stamp_can_be_missing() -> None:
    unnoticed = []
    for sql in statements(KIND):
        for known in (KNOWN, ALONE):
            text = rewritten(sql, known)
            for found in [*PREDICATE.finditer(text), *STAMP.finditer(text)]:
                for other in ("(true)", found[0].replace("acme", "beta"), f"({found[0]} OR true)"):
                    broken = text[: found.start()] + other + text[found.end() :]
                    if check(broken.encode(), known, literal(KIND)) is None:
                        unnoticed.append(broken)
    assert unnoticed == []


def test_what_may_fail_needs_the_predicate_that_is_evaluated_first() -> None:
    first = p("orders", "ANY (ARRAY['acme'::pg_catalog.text])")
    for condition in (
        "note::int = 1",
        "f(note)",
        "note ~ 'x'",
        "1 / id = 1",
        "note COLLATE c = 'x'",
    ):
        plain = f"SELECT 1 FROM orders WHERE {p('orders')} AND {condition}".encode()
        careful = f"SELECT 1 FROM orders WHERE {first} AND {condition}".encode()
        assert check(plain, KNOWN, literal(KIND)) is None
        assert check(plain, ALONE, literal(KIND)) is not None
        assert check(careful, ALONE, literal(KIND)) is None
    for condition in ("note = 'x'", "id IN (1, 2)", "total BETWEEN $1 AND 5", "lower(note) = 'x'"):
        plain = f"SELECT 1 FROM orders WHERE {p('orders')} AND {condition}".encode()
        assert check(plain, ALONE, literal(KIND)) is None


def test_where_the_database_alone_enforces_names_and_statements_are_still_checked() -> None:
    known = catalog(KIND, rewriting=False)
    for sql in ("TABLE orders", "DELETE FROM orders", "INSERT INTO orders DEFAULT VALUES"):
        assert check(sql.encode(), known, literal(KIND)) is None
    for sql in (
        "TABLE secrets",
        "DELETE FROM countries",
        "COPY orders FROM STDIN",
        "TRUNCATE orders",
    ):
        assert check(sql.encode(), known, literal(KIND)) is not None


def test_a_table_in_an_unknown_place_is_unproven() -> None:
    """Should the parser ever name tables where we do not look."""
    tree = parse(b"SELECT 1")[0]["stmt"]
    tree["SelectStmt"]["novelty"] = {"usingClause": [{"RangeVar": {"relpersistence": "p"}}]}
    with pytest.raises(Uncovered, match="where none is expected"):
        _Check(KNOWN, "acme").run(tree)


def test_refusals_of_the_parser_are_told() -> None:
    with pytest.raises(TenantryError):
        rewritten("SELECT (", KNOWN)
    assert "cannot be read" in str(proven("SELECT ("))
