"""What becomes of statements, text for text.

The short forms are those of the data file, and {o!} for the predicate that is evaluated first.
"""

from __future__ import annotations

import re

import pytest
from support.rewriting import KINDS, STATEMENTS, catalog, literal, rewritten

from wire.errors import Forbidden, NotSupported, TenantryError
from wire.sql.analyse import parse
from wire.sql.edits import apply
from wire.sql.rewrite import rewrite
from wire.sql.rewrite_check import check
from wire.sql.rewrite_splice import INNER, OPEN, TAIL, Splice

TEXTS_FILE = STATEMENTS.parent / "rewrite_texts.sql"
KIND = KINDS["text"]
VALUE = "('acme'::pg_catalog.text)"
CASE = f"(CASE WHEN (\\1)::pg_catalog.text OPERATOR(pg_catalog.=) {VALUE} THEN {VALUE} END)"


def full(text: str) -> str:
    """The text that a short form stands for."""
    text = text.replace("{V}", VALUE)
    text = re.sub(r"\{if (.*?)\}", CASE, text)
    return re.sub(r"\{([\w.]+)(!?)\}", predicate, text)


def predicate(found: re.Match[str]) -> str:
    name = found[1].replace(".", '"."')
    value = "'acme'::pg_catalog.text"
    if found[2]:
        value = f"ANY (ARRAY[{value}])"
    return f'("{name}"."tenant_id" OPERATOR(pg_catalog.=) {value})'


def texts() -> list[tuple[str, str]]:
    """The statements of the data file with what becomes of them."""
    lines = [each for each in TEXTS_FILE.read_text().splitlines() if each[:2] != "--"]
    pairs = zip(lines[::2], lines[1::2], strict=True)
    found = [(sql, wanted.removeprefix("  => ")) for sql, wanted in pairs]
    return [(sql, sql if wanted == "the same" else wanted) for sql, wanted in found]


TEXTS = texts()

# Where the database does not enforce, and a condition could fail on another tenant's row, the
# predicate has the form that PostgreSQL evaluates first.
ALONE = [
    (
        "SELECT id FROM orders WHERE total > $1 AND note = 'x' AND id IN (1, 2) ORDER BY id",
        "SELECT id FROM orders WHERE {orders} AND (total > $1 AND note = 'x' AND id IN (1, 2))"
        " ORDER BY id",
    ),
    (
        "SELECT count(*), max(upper(note)) FROM orders o LEFT JOIN items i ON o.id = i.order_id",
        "SELECT count(*), max(upper(note)) FROM orders o LEFT JOIN items i ON {i} AND"
        " (o.id = i.order_id) WHERE {o}",
    ),
    (
        "SELECT id FROM orders WHERE note::int = 1",
        "SELECT id FROM orders WHERE {orders!} AND (note::int = 1)",
    ),
    ("SELECT id FROM orders WHERE f(id)", "SELECT id FROM orders WHERE {orders!} AND (f(id))"),
    (
        "SELECT 1 FROM orders o JOIN items i ON 1 / i.qty = 1",
        "SELECT 1 FROM orders o JOIN items i ON {o!} AND {i!} AND (1 / i.qty = 1)",
    ),
    ("UPDATE orders SET note = 'x'", "UPDATE orders SET note = 'x' WHERE {orders!}"),
    ("TABLE big_orders", "SELECT * FROM big_orders WHERE {big_orders!}"),
]

MIGRATIONS = "Migrations of shared tables are run by the operator."

REFUSALS = [
    ("SELECT * INTO x FROM orders", Forbidden, "SELECT INTO"),
    ("CREATE TABLE x AS SELECT * FROM orders", Forbidden, "CREATE TABLE AS"),
    ("EXPLAIN CREATE TABLE x AS SELECT * FROM orders", Forbidden, "CREATE TABLE AS"),
    ("CREATE VIEW x AS SELECT * FROM orders", Forbidden, "CREATE VIEW"),
    ("CREATE TEMP TABLE x (a int)", Forbidden, "CREATE"),
    ("CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN 1", Forbidden, "CREATE"),
    ("ALTER TABLE orders DISABLE ROW LEVEL SECURITY", Forbidden, "ALTER"),
    ("DROP TABLE orders", Forbidden, "DROP"),
    ("GRANT SELECT ON orders TO PUBLIC", Forbidden, "GRANT"),
    ("COMMENT ON TABLE orders IS 'x'", Forbidden, "COMMENT"),
    ("TRUNCATE orders", Forbidden, "TRUNCATE"),
    ("LOCK TABLE orders", Forbidden, "LOCK TABLE"),
    ("ANALYZE orders", Forbidden, "ANALYZE"),
    ("VACUUM", Forbidden, "VACUUM"),
    ("REINDEX TABLE orders", Forbidden, "REINDEX"),
    ("CLUSTER orders", Forbidden, "CLUSTER"),
    ("REFRESH MATERIALIZED VIEW x", Forbidden, "REFRESH MATERIALIZED VIEW"),
    ("DO $$BEGIN DELETE FROM orders; END$$", Forbidden, "DO"),
    ("CHECKPOINT", Forbidden, "CHECKPOINT"),
    ("LOAD 'x'", Forbidden, "LOAD"),
    ("SECURITY LABEL ON TABLE orders IS 'x'", Forbidden, "SECURITY LABEL"),
    ("COPY orders TO '/tmp/x'", Forbidden, "COPY with a file"),
    ("COPY orders FROM '/tmp/x'", Forbidden, "COPY with a file"),
    ("COPY (SELECT 1) TO PROGRAM 'x'", Forbidden, "COPY with PROGRAM"),
    ("COPY items FROM STDIN", NotSupported, "COPY FROM into table items"),
    ("COPY countries FROM STDIN", Forbidden, "table countries"),
    ("COPY big_orders FROM STDIN", Forbidden, "view big_orders"),
    ("COPY BINARY orders TO STDOUT", NotSupported, "COPY BINARY"),
    ("COPY orders TO STDOUT DELIMITERS '|'", NotSupported, "DELIMITERS"),
    ("EXPLAIN ANALYZE SELECT 1", Forbidden, "EXPLAIN (ANALYZE)"),
    ("EXPLAIN ANALYZE VERBOSE SELECT 1", Forbidden, "EXPLAIN (ANALYZE)"),
    ("EXPLAIN (ANALYZE) SELECT 1", Forbidden, "EXPLAIN (ANALYZE)"),
    ("EXPLAIN (ANALYZE 0) SELECT 1", Forbidden, "EXPLAIN (ANALYZE)"),
    ("EXPLAIN (analyze off, analyze on) SELECT 1", Forbidden, "EXPLAIN (ANALYZE)"),
    ("EXPLAIN (BUFFERS) SELECT 1", Forbidden, "EXPLAIN (BUFFERS)"),
    ("EXPLAIN (GENERIC_PLAN) SELECT 1", Forbidden, "EXPLAIN (GENERIC_PLAN)"),
    ("EXPLAIN (SERIALIZE text) SELECT 1", Forbidden, "EXPLAIN (SERIALIZE)"),
    ("EXPLAIN (pg_overexplain) SELECT 1", NotSupported, "EXPLAIN option pg_overexplain"),
    ("SELECT * FROM secrets", Forbidden, "table secrets"),
    ("SELECT (SELECT body FROM secrets)", Forbidden, "table secrets"),
    ("SELECT * FROM other.orders", Forbidden, "table orders"),
    ("SELECT * FROM pg_temp.orders", Forbidden, "table orders"),
    ("SELECT * FROM pg_toast.pg_toast_1234", Forbidden, "table pg_toast_1234"),
    ("INSERT INTO secrets VALUES (1)", Forbidden, "table secrets"),
    ("INSERT INTO countries VALUES ('x')", Forbidden, "table countries"),
    ("WITH secrets AS (SELECT 1) DELETE FROM secrets", Forbidden, "table secrets"),
    ("UPDATE pg_class SET relname = 'x'", Forbidden, "table pg_class"),
    ("DELETE FROM big_orders", Forbidden, "view big_orders"),
    ("MERGE INTO countries USING orders ON true WHEN MATCHED THEN DELETE", Forbidden, "countries"),
    ("SELECT * FROM countries FOR UPDATE", Forbidden, "lock rows of table countries"),
    ("SELECT * FROM orders, countries k FOR SHARE OF k", Forbidden, "lock rows of table countries"),
    ("UPDATE orders SET (id, tenant_id) = (SELECT 1, 'x')", NotSupported, "column tenant_id"),
    ("UPDATE orders SET tenant_id[1] = 'x'", NotSupported, "part of column tenant_id"),
    ("INSERT INTO orders (tenant_id.x) VALUES (1)", NotSupported, "part of column tenant_id"),
    ("INSERT INTO customers VALUES (1, 'a', 'b', 'c', 'd')", NotSupported, "more expressions"),
    ("INSERT INTO customers VALUES ((ROW(1, 'beta')).*)", NotSupported, "list of columns"),
    ("INSERT INTO customers VALUES (1), (1, 'beta')", NotSupported, "list of columns"),
    (
        "INSERT INTO customers (id, tenant_id) VALUES ((ROW(1, 'beta')).*)",
        NotSupported,
        "* gives to column tenant_id",
    ),
    (
        "INSERT INTO customers (id) WITH RECURSIVE x(a) AS (SELECT 1 UNION SELECT 2 FROM x)"
        " CYCLE a SET b USING c SELECT a FROM x",
        NotSupported,
        "SEARCH and CYCLE",
    ),
]


@pytest.mark.parametrize(("sql", "expected"), TEXTS, ids=[sql for sql, _ in TEXTS])
def test_statement_becomes(sql: str, expected: str) -> None:
    known = catalog(KIND, sealed=True)
    assert rewritten(sql, known) == full(expected)
    assert check(full(expected).encode(), known, literal(KIND)) is None


@pytest.mark.parametrize(("sql", "expected"), ALONE, ids=[sql for sql, _ in ALONE])
def test_without_the_databases_own_enforcement(sql: str, expected: str) -> None:
    assert rewritten(sql, catalog(KIND)) == full(expected)
    assert check(full(expected).encode(), catalog(KIND), literal(KIND)) is None


@pytest.mark.parametrize("rewriting", [True, False])
@pytest.mark.parametrize(("sql", "kind", "named"), REFUSALS, ids=[sql for sql, _, _ in REFUSALS])
def test_refused_by_name(sql: str, kind: type[TenantryError], named: str, rewriting: bool) -> None:
    known = catalog(KIND, rewriting=rewriting)
    if kind is NotSupported and not rewriting and not sql.startswith(("COPY items", "EXPLAIN")):
        assert rewritten(sql, known) == sql, "the database alone keeps tenants apart here"
        return
    with pytest.raises(kind) as refusal:
        rewritten(sql, known)
    assert named in refusal.value.message
    assert refusal.value.hint


# Beside row-level security: PostgreSQL evaluates these conditions before it has seen the row, so
# the predicate goes before what the tenant wrote. All other texts stay as they are.
EVALUATED_BEFORE = {
    "INSERT INTO customers (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET name = 'a' "
    "WHERE p OR q": "INSERT INTO customers (id) VALUES (1) ON CONFLICT (id) DO UPDATE "
    "SET name = 'a' WHERE {customers} AND (p OR q)",
    "MERGE INTO orders o USING items i ON a OR b WHEN MATCHED AND CASE WHEN c THEN d END "
    "THEN UPDATE SET note = 'x', tenant_id = 'y' WHEN NOT MATCHED THEN INSERT (id) VALUES (1)": (
        "MERGE INTO orders o USING items i ON {o} AND (a OR b) WHEN MATCHED AND CASE WHEN c "
        "THEN d END THEN UPDATE SET note = 'x', tenant_id = 'y' WHEN NOT MATCHED THEN "
        "INSERT (id) VALUES (1)"
    ),
    "MERGE INTO orders USING (items i JOIN customers c ON p) ON q WHEN NOT MATCHED BY SOURCE "
    "THEN DELETE WHEN NOT MATCHED BY SOURCE AND a OR b THEN DO NOTHING WHEN NOT MATCHED THEN "
    "INSERT DEFAULT VALUES": (
        "MERGE INTO orders USING (items i JOIN customers c ON p) ON {orders} AND (q) "
        "WHEN NOT MATCHED BY SOURCE AND {orders} THEN DELETE WHEN NOT MATCHED BY SOURCE "
        "AND {orders} AND (a OR b) THEN DO NOTHING WHEN NOT MATCHED THEN INSERT DEFAULT VALUES"
    ),
}


def test_where_the_database_alone_enforces_texts_hardly_change() -> None:
    known = catalog(KIND, rewriting=False)
    for sql, _ in TEXTS:
        if "EXPLAIN" not in sql and not sql.startswith("COPY"):
            # The target of ON CONFLICT is the key that there is.
            plain = re.sub(r', "tenant_id"( ?\))', r"\1", rewritten(sql, known))
            assert plain == full(EVALUATED_BEFORE.get(sql, sql)), sql
    assert {sql for sql, _ in TEXTS} >= EVALUATED_BEFORE.keys()
    assert rewritten("EXPLAIN TABLE orders", known) == "EXPLAIN (COSTS OFF) TABLE orders"
    copied = rewritten("COPY customers (id) FROM STDIN", known)
    assert copied == 'COPY "tenantry"."copy_1" (id) FROM STDIN'
    # Of a partitioned table under row-level security PostgreSQL would copy nothing.
    copied = rewritten("COPY items (sku, qty) TO STDOUT", known)
    assert copied == 'COPY (SELECT "sku", "qty" FROM "public"."items") TO STDOUT'
    for sql in ("COPY countries TO STDOUT", "COPY (TABLE orders) TO STDOUT"):
        assert rewritten(sql, known) == sql


def test_edits_hold_for_every_value() -> None:
    sql = "INSERT INTO customers (id) VALUES (1)"
    known = catalog(KIND)
    expected = rewritten(sql, known).replace("'acme'", "'o''gamma'")
    assert rewritten(sql, known, b"'o''gamma'") == expected


def test_long_chains_take_no_recursion() -> None:
    known = catalog(KIND)
    joins = "SELECT 1 FROM orders o0" + "".join(
        f" LEFT JOIN orders o{n} ON o{n}.id = o{n - 1}.id" for n in range(1, 300)
    )
    assert rewritten(joins, known).count("pg_catalog.=") == 300
    arms = " UNION ALL ".join(["SELECT id FROM orders"] * 300)
    assert rewritten(arms, known).count("pg_catalog.=") == 300


def test_changes_that_overlap_are_refused() -> None:
    splice = Splice()
    splice.replace(4, 9, b"x")
    splice.insert(9, INNER, b"after ", 0)
    splice.insert(4, OPEN, b"before ")
    splice.insert(9, TAIL, b"tail")
    assert apply(b"0123456789", splice.edits(), [b"V"]) == b"0123before xafter Vtail9"
    splice.insert(6, INNER, b"within")
    with pytest.raises(NotSupported, match="within another"):
        splice.edits()


def test_a_table_in_an_unknown_place_is_refused() -> None:
    """Should the parser ever name tables where we do not look."""
    text = b"SELECT 1 FROM orders"
    tree = parse(text)[0]["stmt"]
    table = {"relname": "orders", "relpersistence": "p", "location": 14}
    tree["SelectStmt"]["novelty"] = {"Novelty": [{"RangeVar": table}]}
    with pytest.raises(NotSupported, match="orders is named in a place"):
        rewrite(tree, text, 0, len(text), catalog(KIND))
    tree["SelectStmt"]["fromClause"] = [{"RangeVar": {"relpersistence": "p"}}]
    with pytest.raises(NotSupported, match="cannot be kept"):
        rewrite(tree, text, 0, len(text), catalog(KIND))
