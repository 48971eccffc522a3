"""The oracle's grammar of MERGE, and of writes within WITH."""

from __future__ import annotations

from typing import Final

from support.oracle import Query
from support.oracle_data import COLUMNS, KEYS
from support.oracle_expressions import Columns
from support.oracle_queries import Queries

KEYED: Final = ("supplier", "part", "customer", "orders")
# A column of each table that anything may be written to.
COMMENTS: Final = {
    "supplier": "s_comment",
    "part": "p_comment",
    "partsupp": "ps_comment",
    "customer": "c_comment",
    "orders": "o_comment",
    "lineitem": "l_comment",
    '"Notes"': '"Body ""x"" text"',
}


class Merges(Queries):
    """What both have in common with other writes: the target's columns."""

    def own(self, table: str, alias: str = "") -> Columns:
        """The target's columns, as SQL of the statement names them."""
        return [(f"{alias or table}.{name}", kind) for name, kind in COLUMNS[table].items()]

    def merge(self) -> Query:
        rng = self.rng
        table = rng.choice(KEYED)
        other = rng.choice(KEYED)
        key, comment = KEYS[table][0], COMMENTS[table]
        step = rng.choice((0, 3, 100))
        source = rng.choice(
            (
                f"{other} AS s (a, k)" if KEYS[other][0] == list(COLUMNS[other])[1] else "",
                f"(SELECT {COMMENTS[other]}, {KEYS[other][0]} + {step} FROM {other}) AS s (a, k)",
                f"(VALUES ('v', {rng.randint(1, 30)}), ('w', {rng.randint(31, 60)})) AS s (a, k)",
            )
        )
        source = source or f"(SELECT {COMMENTS[other]}, {KEYS[other][0]} FROM {other}) AS s (a, k)"
        whens = self.whens(table, key, comment)
        returning = rng.choice(
            ("", " RETURNING merge_action(), t.*", " RETURNING s.k, t.tenant_id")
        )
        named = rng.choice((f"{table} AS t", f"{table} t", f"public.{table} AS t"))
        return self.finish(f"MERGE INTO {named} USING {source} ON t.{key} = s.k {whens}{returning}")

    def whens(self, table: str, key: str, comment: str) -> str:
        rng = self.rng
        name = ", s_name" if table == "supplier" else ""
        named = ", 'merged ' || s.k" if name else ""
        out = []
        if rng.random() < 0.3:
            out.append(f"WHEN MATCHED AND s.k % {rng.randint(2, 4)} = 0 THEN DO NOTHING")
        if rng.random() < 0.7:
            given = rng.choice(("s.a", "t.tenant_id || s.k", "DEFAULT"))
            out.append(f"WHEN MATCHED THEN UPDATE SET {comment} = {given}")
        if rng.random() < 0.4:
            test = rng.choice(("", f" AND t.{key} > 500"))
            what = rng.choice((f"UPDATE SET {comment} = 'left'", "DO NOTHING"))
            out.append(f"WHEN NOT MATCHED BY SOURCE{test} THEN {what}")
        test = rng.choice(("", f" AND s.k < {rng.randint(5, 200)}"))
        insert = rng.choice(
            (
                f"INSERT ({key}, {comment}{name}) VALUES (s.k, s.a{named})",
                f"INSERT ({comment}, tenant_id, {key}{name}) VALUES (s.a, DEFAULT, s.k{named})",
            )
        )
        by = rng.choice(("", " BY TARGET"))
        out.append(f"WHEN NOT MATCHED{by}{test} THEN {rng.choice((insert, insert, 'DO NOTHING'))}")
        return " ".join(out)

    def within(self) -> Query:
        """Writes within WITH: all see the rows as they were."""
        rng = self.rng
        test = self.expressions.condition(self.own("partsupp"), 1)
        key = rng.randint(1, 30)
        forms = (
            f"WITH gone AS (DELETE FROM partsupp WHERE {test} RETURNING *)"
            f" INSERT INTO partsupp SELECT * FROM gone WHERE ps_partkey > 3 RETURNING *",
            f"WITH gone AS (DELETE FROM partsupp WHERE {test} RETURNING ps_partkey AS k)"
            f" SELECT count(*), min(k), (SELECT count(*) FROM partsupp) FROM gone",
            f"WITH new AS (INSERT INTO part (p_partkey, p_name) VALUES ({key} + 700, 'cte')"
            f" ON CONFLICT DO NOTHING RETURNING *) SELECT new.*, c_name FROM new"
            f" LEFT JOIN customer ON c_custkey = {key}",
            f"WITH u AS (UPDATE customer SET c_comment = 'cte' WHERE c_custkey < {key}"
            f" RETURNING c_custkey, c_name), d AS (DELETE FROM partsupp WHERE ps_suppkey = {key}"
            f" RETURNING 1) SELECT * FROM u UNION ALL SELECT count(*), 'd' FROM d",
        )
        return self.finish(rng.choice(forms))
