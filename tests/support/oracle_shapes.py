"""The oracle's grammar, second part: what queries are made of once there is something to select."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from support.oracle_data import COLUMNS, KEYS
from support.oracle_expressions import Columns, Expressions

if TYPE_CHECKING:
    from support.oracle_queries import Item

MOST_DEEP: Final = 3
_SETS: Final = ("UNION", "UNION ALL", "INTERSECT", "EXCEPT", "INTERSECT ALL", "EXCEPT ALL")
_LABELS: Final = ("x", "total", '"Some label"', "tenant_id", '"order"', "value")


class Shapes:
    """Bodies of queries; Queries gives what they select from."""

    rng: random.Random
    expressions: Expressions
    depth: int
    ctes: list[tuple[str, Columns]]
    bare: set[str]
    name: Callable[..., str]
    kind: Callable[[], str]
    table: Callable[..., Item]
    sources: Callable[..., list[Item]]
    any_query: Callable[[], str]

    def body(self, kinds: Sequence[str], outer: Columns = ()) -> str:
        """A query that gives columns of these kinds."""
        self.depth += 1
        kept = self.bare
        if not outer and self.rng.random() < 0.3:
            # What no outer name is meant by may use the same names again.
            self.bare = set()
        form = self.rng.random()
        if self.depth > MOST_DEEP or form < 0.5:
            made = self.plain(kinds, outer)
        elif form < 0.66:
            made = self.grouped(kinds, outer)
        elif form < 0.78:
            made = self.windowed(kinds)
        elif form < 0.9:
            made = self.united(kinds, outer)
        elif form < 0.94:
            made = self.values(kinds, outer)
        else:
            made = self.with_ctes(lambda: self.plain(kinds, outer))
        self.depth -= 1
        self.bare = kept
        return made

    def labelled(self, made: Sequence[str]) -> str:
        out = []
        for text in made:
            form = self.rng.random()
            if form < 0.2:
                text += f" AS {self.rng.choice(_LABELS)}"
            elif form < 0.25:
                text += f" {self.rng.choice(('label', chr(34) + 'q l' + chr(34)))}"
            out.append(text)
        return ", ".join(out)

    def where(self, columns: Columns) -> str:
        if self.rng.random() < 0.35:
            return ""
        return f" WHERE {self.expressions.condition(columns)}"

    def plain(self, kinds: Sequence[str], outer: Columns = ()) -> str:
        *_, last = self.sources(outer)
        columns = [*last.columns, *outer]
        made = [self.expressions.make(kind, columns) for kind in kinds]
        head = self.rng.choice(("SELECT", "SELECT", "SELECT", "SELECT DISTINCT", "SELECT ALL"))
        return f"{head} {self.labelled(made)} FROM {last.sql}{self.where(columns)}"

    # --- groups -----------------------------------------------------------------------------------

    def grouped(self, kinds: Sequence[str], outer: Columns = ()) -> str:
        rng = self.rng
        *_, last = self.sources(outer)
        groups = rng.sample(last.columns, min(rng.randint(0, 2), len(last.columns)))
        made = []
        for kind in kinds:
            fitting = [name for name, of in groups if of == kind]
            aggregated = self.aggregate(kind, last.columns)
            made.append(rng.choice(fitting) if fitting and rng.random() < 0.6 else aggregated)
        sql = f"SELECT {self.labelled(made)} FROM {last.sql}{self.where(last.columns)}"
        names = [name for name, _ in groups]
        if names:
            sql += f" GROUP BY {self.grouping(names)}"
        if rng.random() < 0.3:
            least = self.expressions.literal("int")
            sql += f" HAVING {self.aggregate('int', last.columns)} > {least}"
        return sql

    def grouping(self, names: list[str]) -> str:
        listed = ", ".join(names)
        form = self.rng.random()
        if form < 0.6:
            return self.rng.choice(("", "", "DISTINCT ")) + listed
        if form < 0.7:
            return f"ROLLUP ({listed})"
        if form < 0.8:
            return f"CUBE ({listed})"
        return f"GROUPING SETS (({listed}), ({names[0]}), ())"

    def aggregate(self, kind: str, columns: Columns) -> str:
        rng = self.rng
        one = self.expressions.make(kind, columns, 1) if kind != "json" else ""
        some = self.expressions.make("int", columns, 0)
        text = self.expressions.make("text", columns, 0)
        distinct = rng.choice(("", "", "DISTINCT "))
        forms = {
            "int": ("count(*)", f"count({distinct}{text})", f"sum({distinct}{one})::int"),
            "num": (f"sum({distinct}{one})", f"round(avg({one}), 4)", f"min({one})"),
            "text": (f"string_agg({distinct}{text}, ',' ORDER BY {text})", f"max({one})"),
            "date": (f"min({one})", f"max({one})"),
            "bool": (f"bool_and({one})", f"bool_or({one})", f"every({one})"),
            "arr": (f"array_agg(({text})::text ORDER BY ({text})::text)",),
            "json": (f"jsonb_agg({some} ORDER BY {some})", f"to_jsonb(count({some}))"),
        }
        made = rng.choice(forms[kind])
        if rng.random() < 0.2 and not made.startswith(("round", "to_jsonb", "sum")):
            made += f" FILTER (WHERE {self.expressions.condition(columns, 0)})"
        return made

    # --- windows ----------------------------------------------------------------------------------

    def windowed(self, kinds: Sequence[str]) -> str:
        """Over one table that has a key, so that the order within the windows is total."""
        rng = self.rng
        item = self.table(rng.choice([name for name in KEYS if name not in ("region", "nation")]))
        keys = [f"{item.name}.{key}" for key in KEYS[item.table]]
        if not all(any(key == name for name, _ in item.columns) for key in keys):
            return self.plain(kinds)
        order = ", ".join(f"{key}{rng.choice(('', ' DESC', ' ASC NULLS FIRST'))}" for key in keys)
        part = self.expressions.column("text", item.columns) or keys[0]
        window = rng.choice((f"ORDER BY {order}", f"PARTITION BY {part} ORDER BY {order}"))
        named = rng.random() < 0.3
        over = "w" if named else f"({window}{self.frame()})"
        made = [self.over(kind, item.columns, over) for kind in kinds]
        tail = f" WINDOW w AS ({window})" if named else ""
        return f"SELECT {self.labelled(made)} FROM {item.sql}{self.where(item.columns)}{tail}"

    def frame(self) -> str:
        frames = (
            "",
            " ROWS BETWEEN 2 PRECEDING AND CURRENT ROW",
            " ROWS UNBOUNDED PRECEDING EXCLUDE CURRENT ROW",
            " GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING",
            " RANGE BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING",
        )
        return self.rng.choice(frames)

    def over(self, kind: str, columns: Columns, over: str) -> str:
        one = self.expressions.make(kind, columns, 0)
        forms = [f"first_value({one})", f"lag({one})", f"lead({one}, 2)", f"nth_value({one}, 2)"]
        if kind == "int":
            forms += ["row_number()", "rank()", "dense_rank()", "ntile(3)", "count(*)"]
            return f"({self.rng.choice(forms)} OVER {over})::int"
        if kind == "num":
            forms += [f"sum({one})", f"max({one})"]
        return f"{self.rng.choice(forms)} OVER {over}"

    # --- sets, values, WITH -----------------------------------------------------------------------

    def united(self, kinds: Sequence[str], outer: Columns = ()) -> str:
        rng = self.rng
        sql = self.arm(kinds, outer)
        for _ in range(rng.choice((1, 1, 2))):
            sql = f"{sql} {rng.choice(_SETS)} {self.arm(kinds, outer)}"
        return sql

    def arm(self, kinds: Sequence[str], outer: Columns) -> str:
        made = self.body(kinds, outer) if self.rng.random() < 0.3 else self.plain(kinds, outer)
        return f"({made})" if self.rng.random() < 0.4 or "WITH " in made else made

    def values(self, kinds: Sequence[str], outer: Columns = ()) -> str:
        rows = (
            ", ".join(self.expressions.make(kind, outer, 1) for kind in kinds)
            for _ in range(self.rng.randint(1, 3))
        )
        return "VALUES " + ", ".join(f"({row})" for row in rows)

    def with_ctes(self, main: Callable[[], str]) -> str:
        rng = self.rng
        if rng.random() > 0.35:
            return main()
        before = list(self.ctes)
        made = []
        recursive = rng.random() < 0.25
        if recursive:
            made.append(self.recursion())
        for _ in range(rng.randint(0 if recursive else 1, 2)):
            made.append(self.cte(recursive))
        body = main()
        self.ctes = before
        return f"WITH {'RECURSIVE ' if recursive else ''}{', '.join(made)} {body}"

    def cte(self, recursive: bool) -> str:
        rng = self.rng
        how = rng.choice(("", "", "MATERIALIZED ", "NOT MATERIALIZED "))
        free = [name for name in ("orders", "part", "supplier") if not self.taken(name)]
        if free and rng.random() < 0.3 and not recursive:
            # It hides the table of its name, which it reads itself.
            table = rng.choice(free)
            columns = list(COLUMNS[table].items())
            test = self.expressions.condition([(name, kind) for name, kind in columns], 0)
            self.ctes.append((table, columns))
            return f"{table} AS {how}(SELECT * FROM {table} WHERE {test})"
        kinds = [self.kind() for _ in range(rng.randint(1, 3))]
        body = self.body(kinds)
        name = self.name("c")
        columns = [(f"k{number}", kind) for number, kind in enumerate(kinds)]
        self.ctes.append((name, columns))
        return f"{name} ({', '.join(column for column, _ in columns)}) AS {how}({body})"

    def taken(self, name: str) -> bool:
        return name in self.bare or any(name == cte for cte, _ in self.ctes)

    def recursion(self) -> str:
        """A bounded walk from some rows to others."""
        name = self.name("r")
        start = self.expressions.condition([("c_custkey", "int"), ("c_name", "text")], 0)
        limit = self.rng.randint(2, 4)
        hidden = "public." if self.taken("orders") else ""
        union = self.rng.choice(("UNION", "UNION ALL"))
        self.ctes.append((name, [("n", "int"), ("k", "int")]))
        return (
            f"{name} (n, k) AS (SELECT 1, c_custkey FROM customer WHERE {start} {union}"
            f" SELECT n + 1, o_orderkey % 7 FROM {name} JOIN {hidden}orders ON o_custkey = k"
            f" WHERE n < {limit})"
        )

    # --- sub-queries in expressions ---------------------------------------------------------------

    def scalar(self, kind: str, outer: Columns) -> str:
        """A query in parentheses that gives one row at most."""
        if self.depth >= MOST_DEEP:
            return self.expressions.literal(kind)
        self.depth += 1
        form = self.rng.random()
        if form < 0.7:
            *_, last = self.sources((), 1)
            columns = [*last.columns, *outer]
            test = f" WHERE {self.expressions.condition(columns, 1)}"
            made = f"SELECT {self.aggregate(kind, last.columns)} FROM {last.sql}{test}"
        else:
            made = self.first(kind, outer)
        self.depth -= 1
        return f"({made})"

    def first(self, kind: str, outer: Columns) -> str:
        table = self.rng.choice(("orders", "customer", "part", "supplier"))
        item = self.table(table)
        columns = [*item.columns, *outer]
        key = f"{item.name}.{KEYS[table][0]}"
        if not any(name == key for name, _ in item.columns):
            key = f"{item.name}::text"
        made = self.expressions.make(kind, item.columns, 1)
        test = f" WHERE {self.expressions.condition(columns, 0)}"
        return f"SELECT {made} FROM {item.sql}{test} ORDER BY {key} LIMIT 1"

    def array(self, outer: Columns) -> str:
        if self.depth >= MOST_DEEP:
            return "ARRAY['none'::text]"
        self.depth += 1
        item = self.table()
        text = self.expressions.make("text", item.columns, 0)
        test = self.expressions.condition([*item.columns, *outer], 0)
        self.depth -= 1
        return f"ARRAY(SELECT ({text})::text FROM {item.sql} WHERE {test} ORDER BY 1)"

    def test(self, outer: Columns) -> str:
        """A condition with a sub-query."""
        rng = self.rng
        if self.depth >= MOST_DEEP:
            return "true"
        self.depth += 1
        kind = rng.choice(("int", "text", "num", "date"))
        one = self.expressions.make(kind, outer, 0)
        inner = self.plain([kind], outer)
        no = rng.choice(("", "NOT "))
        form = rng.randrange(6)
        if form <= 1:
            made = f"{no}EXISTS ({inner})"
        elif form <= 3:
            made = f"{one} {no}IN ({inner})"
        elif form == 4:
            made = f"{one} {rng.choice(('=', '<', '>'))} {rng.choice(('ANY', 'ALL'))} ({inner})"
        else:
            other = self.expressions.make("int", outer, 0)
            made = f"({one}, {other}) {no}IN ({self.plain([kind, 'int'], outer)})"
        self.depth -= 1
        return made
