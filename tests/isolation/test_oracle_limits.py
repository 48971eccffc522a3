"""Where a row tenant's answer is not that of a database of its own: told here, so that it is known.

All that the oracle's grammars leave out, but for what security asks for (docs/security.md): where a
predicate can stand in no condition, a sub-select takes the table's place, and that is no table.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.engines import Postgres
from support.oracle import Answer, Query, World, world
from support.provisioning import lone_postgres

__all__ = ["lone_postgres"]

FULL = "FROM orders o FULL JOIN customer ON o_custkey = c_custkey"
NAMED = "FROM orders AS o (key)"

# What a database of the tenant's own does, and what is different: a SQLSTATE, or "rows".
LIMITS = [
    (f"SELECT o.ctid {FULL}", "42703"),
    (f"SELECT o.tableoid {NAMED}", "42703"),
    (f"SELECT o.o_clerk {FULL} GROUP BY o.tenant_id, o.o_orderkey", "42803"),
    (f"SELECT to_jsonb(o) {NAMED}", "rows"),
    ("SELECT nothing FROM unknown", "42501"),
    ("SELECT unknown(1)", "42501"),
    ("SELECT upper(o_clerk, 1) FROM orders", "0A000"),
    ("INSERT INTO orders VALUES (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)", "0A000"),
    ("UPDATE orders SET (o_clerk, tenant_id) = (SELECT 'x', tenant_id) WHERE false", "0A000"),
    ("INSERT INTO part (p_partkey, tenant_id) VALUES (77, NULL)", "42501"),
    ('INSERT INTO "Notes" ("Key", tags[1]) VALUES (1, NULL)', "0A000"),
    ("UPDATE region SET r_comment = NULL", "42501"),
    ("SELECT * FROM region FOR UPDATE", "42501"),
    ("COPY lineitem TO STDOUT", "rows"),
    ("COPY open_orders TO STDOUT", "rows"),
]


@pytest.fixture(scope="module")
def both(lone_postgres: Postgres) -> Iterator[World]:
    with world(lone_postgres, "both") as made:
        yield made


def answers(made: World, sql: str) -> list[Answer]:
    query = Query(sql, copied=sql.startswith("COPY"))
    return [side.run(query, "simple") for side in made.pairs("acme")]


@pytest.mark.parametrize(("sql", "difference"), LIMITS, ids=[sql for sql, _ in LIMITS])
def test_what_is_different(both: World, sql: str, difference: str) -> None:
    got, alone = answers(both, sql)
    assert not got.same(alone, ordered=False)
    assert (got.error or "rows") == difference


def test_a_whole_row_in_a_full_join_is_a_record_of_the_same_values(both: World) -> None:
    query = f"SELECT o, pg_typeof(o) {FULL} WHERE o IS NOT NULL"
    got, alone = answers(both, query)
    assert {row[1] for row in got.rows} == {b"record"}
    assert {row[1] for row in alone.rows} == {b"orders"}
    assert sorted(row[0] for row in got.rows) == sorted(row[0] for row in alone.rows)
