"""The oracle's grammar of queries: one seed, one list of queries, each with a determined answer.

The order of rows is part of the answer only where ORDER BY is total; LIMIT and what depends on an
order come with such an order only. Tables are small, so that a cross join does no harm.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Final

from support.oracle import Query
from support.oracle_data import COLUMNS, KEYS
from support.oracle_expressions import Columns, Expressions
from support.oracle_special import Special

MARK: Final = re.compile("\x01([0-9]+)\x02")
DEPTH: Final = 3  # of queries within queries
_WEIGHTS: Final = {
    "orders": 5,
    "customer": 5,
    "lineitem": 4,
    "supplier": 3,
    "part": 3,
    "partsupp": 2,
    '"Notes"': 2,
    "open_orders": 1,
    "nation": 2,
    "region": 1,
}
_NAMES: Final = list(_WEIGHTS)
_SHARES: Final = list(_WEIGHTS.values())
_ALIASES: Final = ('"A b"', '"select"', '"Ünï"', "tenant", "t", "lineitem", "orders", '"Orders"')
# Pairs of columns that mean the same key.
_FOREIGN: Final = (
    *(("orders", "o_custkey", "customer", "c_custkey"),),
    *(("lineitem", "l_orderkey", "orders", "o_orderkey"),),
    *(("lineitem", "l_partkey", "part", "p_partkey"),),
    *(("lineitem", "l_suppkey", "supplier", "s_suppkey"),),
    *(("partsupp", "ps_partkey", "part", "p_partkey"),),
    *(("partsupp", "ps_suppkey", "supplier", "s_suppkey"),),
    *(("customer", "c_nationkey", "nation", "n_nationkey"),),
    *(("supplier", "s_nationkey", "nation", "n_nationkey"),),
    *(("nation", "n_regionkey", "region", "r_regionkey"),),
    *(("open_orders", "o_custkey", "customer", "c_custkey"),),
    *(("orders", "o_orderkey", '"Notes"', '"Key"'),),
)


class Item:
    """Something in FROM: its SQL, its columns, and the name that whole rows have."""

    def __init__(self, sql: str, columns: Columns, name: str = "", table: str = "") -> None:
        self.sql = sql
        self.columns = list(columns)
        self.name = name
        self.table = table
        self.renamed = f"{name}.c1" in dict(self.columns)


class Queries(Special):
    """Makes queries. Names are numbered, so that sub-queries may look out at any of them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.expressions = Expressions(self.rng)
        self.expressions.queries = self
        self.number = 0
        self.depth = 0
        self.ctes: list[tuple[str, Columns]] = []
        self.bare: set[str] = set()  # names in use without a number

    # --- whole queries ----------------------------------------------------------------------------

    def query(self) -> Query:
        """The next query."""
        self.expressions.literals = []
        self.ctes, self.bare, self.number, self.depth = [], set(), 0, 0
        ordered = copied = False
        form = self.rng.random()
        if form < 0.2:
            text, ordered = self.total(), True
        elif form < 0.25:
            text = self.locking()
        elif form < 0.28:
            text, copied = f"COPY ({self.any_query()}) TO STDOUT", True
        elif form < 0.31:
            text = self.failing()
        elif form < 0.4:
            text = self.free()
        elif form < 0.52:
            text = self.odd()
        else:
            text = self.any_query()
        if not copied and self.rng.random() < 0.05:
            text += " ;"
        if self.rng.random() < 0.1:
            text = "/* it's; a comment */ " + text.replace(" WHERE ", " -- where?\n WHERE ", 1)
        return self.finish(text, ordered, copied)

    def finish(self, text: str, ordered: bool = False, copied: bool = False) -> Query:
        made = self.expressions.literals
        used = tuple(made[int(found[1])] for found in MARK.finditer(text))
        return Query(MARK.sub("\x01", text), used, ordered, copied)

    def any_query(self) -> str:
        kinds = [self.kind() for _ in range(self.rng.randint(1, 4))]
        return self.with_ctes(lambda: self.body(kinds))

    def kind(self) -> str:
        return self.rng.choice(("int", "num", "text", "date", "bool", "int", "text", "arr", "json"))

    def name(self, prefix: str = "t") -> str:
        self.number += 1
        if prefix == "t" and self.rng.random() < 0.12:
            found = self.rng.choice(_ALIASES)
            if found not in self.bare:
                self.bare.add(found)
                return found
        return f"{prefix}{self.number}"

    # --- FROM -------------------------------------------------------------------------------------

    def table(self, name: str = "") -> Item:
        """One table, with or without schema and alias, in all spellings."""
        rng = self.rng
        name = name or rng.choices(_NAMES, _SHARES)[0]
        columns = COLUMNS[name]
        written = f"public.{name}" if rng.random() < 0.1 or self.hidden(name) else name
        if rng.random() < 0.06:
            written = rng.choice((f"{written} *", f"ONLY {written}", f"ONLY ({written})"))
            if name == "lineitem" and "ONLY" in written:
                written = name  # a partitioned table has no rows of its own
        alias = bare = name
        if rng.random() < 0.25 and bare not in self.bare:
            self.bare.add(bare)
            named = list(columns.items())
        else:
            alias = self.name()
            written += rng.choice((" ", " AS ")) + alias
            named = list(columns.items())
            if rng.random() < 0.07:
                named = [(f"c{number}", kind) for number, kind in enumerate(columns.values(), 1)]
                named = named[: rng.randint(2, len(named))]
                written += f" ({', '.join(column for column, _ in named)})"
        if rng.random() < 0.03 and name != "open_orders":
            method = rng.choice(
                ("BERNOULLI (100)", "system(100)", "BERNOULLI (100) REPEATABLE (3)")
            )
            written += f" TABLESAMPLE {method}"
        return Item(written, [(f"{alias}.{column}", kind) for column, kind in named], alias, name)

    def hidden(self, name: str) -> bool:
        return any(name == cte for cte, _ in self.ctes)

    def item(self, outer: Columns = ()) -> Item:
        """Anything that may stand in FROM."""
        form = self.rng.random()
        if self.ctes and form < 0.35:
            name, columns = self.rng.choice(self.ctes)
            alias = self.name()
            named = [(f"{alias}.{column}", kind) for column, kind in columns]
            return Item(f"{name} AS {alias}", named, alias)
        if form < 0.8 or self.depth >= DEPTH:
            return self.table()
        return self.derived(outer)

    def derived(self, outer: Columns = ()) -> Item:
        rng = self.rng
        form = rng.randrange(6)
        alias = self.name("d")
        if form <= 2:
            kinds = [self.kind() for _ in range(rng.randint(1, 3))]
            lateral = "LATERAL " if outer and rng.random() < 0.6 else ""
            inner = self.body(kinds, outer if lateral else ())
            named = [(f"x{number}", kind) for number, kind in enumerate(kinds)]
            listed = ", ".join(name for name, _ in named)
            sql = f"{lateral}({inner}) AS {alias} ({listed})"
        elif form == 3:
            rows = ", ".join(
                f"({self.expressions.literal('int')}, {self.expressions.literal('text')})"
                for _ in range(rng.randint(1, 3))
            )
            sql, named = f"(VALUES {rows}) AS {alias} (x0, x1)", [("x0", "int"), ("x1", "text")]
        elif form == 4:
            sql = f"generate_series(1, {rng.randint(2, 4)}) AS {alias} (x0)"
            named = [("x0", "int")]
        else:
            array = self.expressions.make("arr", outer, 1)
            sql = f"unnest({array}) WITH ORDINALITY AS {alias} (x0, x1)"
            named = [("x0", "text")]
        return Item(sql, [(f"{alias}.{column}", kind) for column, kind in named], alias)

    def sources(self, outer: Columns = (), most: int = 3) -> list[Item]:
        """The items of a FROM clause, joined in one way or another: the last has all columns."""
        rng = self.rng
        first = self.item(outer)
        columns = list(first.columns)
        sql, names = first.sql, [first]
        for _ in range(rng.choice((0, 0, 1, 1, 1, 2))):
            if len(names) >= most:
                break
            other = self.partner(names) if rng.random() < 0.6 else self.item(columns)
            sql = self.joined(sql, names, other)
            names.append(other)
            columns += other.columns
        if len(names) == 1 and rng.random() < 0.1:
            other = self.table(rng.choice(("region", "supplier", "part")))
            sql, columns = f"{sql}, {other.sql}", columns + other.columns
            names.append(other)
        return [*names, Item(sql, columns)]

    def partner(self, names: list[Item]) -> Item:
        """A table that has a key in common with one that is there."""
        tables = {each.table for each in names}
        fitting = [a for a, _, b, _ in _FOREIGN if b in tables]
        fitting += [b for a, _, b, _ in _FOREIGN if a in tables]
        return self.table(self.rng.choice(fitting)) if fitting else self.table()

    def joined(self, sql: str, names: list[Item], other: Item) -> str:
        rng = self.rng
        columns = [column for each in names for column in each.columns]
        lateral = "LATERAL" in other.sql or "unnest" in other.sql
        form = rng.random()
        if form < 0.08 and len(names) == 1:
            return f"{sql} CROSS JOIN {other.sql}"
        if form < 0.16 and len(names) == 1 and not lateral:
            kind = rng.choice(("NATURAL JOIN", "NATURAL LEFT JOIN", "NATURAL FULL JOIN"))
            return f"{sql} {kind} {other.sql}"
        if form < 0.26 and len(names) == 1 and self.tenanted(names[0]) and self.tenanted(other):
            kind = rng.choice(("JOIN", "LEFT JOIN", "RIGHT OUTER JOIN", "FULL JOIN"))
            alias = " AS u" if rng.random() < 0.2 else ""
            return f"{sql} {kind} {other.sql} USING (tenant_id){alias}"
        kinds = ["JOIN", "INNER JOIN", "LEFT JOIN", "LEFT OUTER JOIN", "RIGHT JOIN", "FULL JOIN"]
        kind = rng.choice(kinds[:4] if lateral else kinds)
        on = self.key(names, other)
        if rng.random() < 0.3 and kind != "FULL JOIN":
            on = f"{on} AND {self.expressions.condition(columns + other.columns, 1)}"
        if rng.random() < 0.12 and not lateral and len(names) == 1:
            return f"({sql} {kind} {other.sql} ON {on})"
        return f"{sql} {kind} {other.sql} ON {on}"

    def tenanted(self, item: Item) -> bool:
        return any(name.endswith(".tenant_id") for name, _ in item.columns)

    def key(self, names: list[Item], other: Item) -> str:
        """A condition that joins on equality."""
        for each in names:
            for a, x, b, y in _FOREIGN:
                for one, two, left, right in ((each, other, x, y), (each, other, y, x)):
                    if {one.table, two.table} == {a, b}:
                        pair = self.at(one, left), self.at(two, right)
                        if all(pair):
                            return f"{pair[0]} = {pair[1]}"
        columns = [column for each in names for column in each.columns]
        for kind in self.rng.sample(("int", "text", "date", "num"), 4):
            mine = self.expressions.column(kind, columns)
            theirs = self.expressions.column(kind, other.columns)
            if mine and theirs:
                return f"{mine} = {theirs}"
        return "1 = 1"

    def at(self, item: Item, column: str) -> str:
        name = f"{item.name}.{column}"
        return name if any(name == each for each, _ in item.columns) else ""


def queries(seed: int, count: int) -> Iterator[Query]:
    """`count` distinct queries; the same for the same seed."""
    grammar = Queries(seed)
    seen: set[str] = set()
    while len(seen) < count:
        made = grammar.query()
        text = made.inline()
        if text not in seen:
            seen.add(text)
            yield made


__all__ = ["KEYS", "Item", "Queries", "queries"]
