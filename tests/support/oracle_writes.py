"""The oracle's grammar of writes: units of one or more statements, each with one possible outcome.

No unit depends on the order in which rows are met: rows are joined by whole keys, keys that change
move out of the others' way, and what fails does so for one reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from support.oracle import Query
from support.oracle_data import COLUMNS, KEYS, TENANTS, WRITTEN
from support.oracle_merges import COMMENTS, KEYED, Merges

_FILE: Final = Path(__file__).parents[1] / "isolation" / "tpch" / "writes.sql"
ODD_WRITES: Final = [each for each in _FILE.read_text().splitlines() if not each.startswith("--")]
_FIXED: Final = {
    "o_orderstatus": "'P'",
    "l_returnflag": "'R'",
    "l_linestatus": "'O'",
    "l_tax": "0.05",
    "l_discount": "0.1",
    "c_mktsegment": "'BUILDING'",
    "doc": "'{\"a\": 1}'",
    "tags": "'{x}'",
}
_CONFLICTS: Final = {
    "supplier": ("(tenant_id, s_suppkey)", "ON CONSTRAINT supplier_pkey", "(tenant_id, s_name)"),
    "part": ("(tenant_id, p_partkey)",),
    "customer": ("(tenant_id, c_custkey)", "ON CONSTRAINT customer_pkey"),
    "orders": ("(tenant_id, o_orderkey)", "ON CONSTRAINT orders_pkey"),
}


class Writes(Merges):
    """Makes units of statements for a tenant."""

    def unit(self, tenant: str, copies: bool = True) -> list[Query]:
        """The next unit; `copies`: COPY FROM is among them."""
        self.expressions.literals = []
        self.ctes, self.bare, self.number, self.depth = [], set(), 0, 0
        self.tenant = tenant
        form = self.rng.random()
        if form < 0.1:
            return self.transaction()
        if form < 0.15:
            return self.cursor()
        if form < 0.2 and copies:
            return [self.copy_in()]
        if form < 0.24:
            return self.prepared()
        return [self.statement()]

    def statement(self) -> Query:
        makers = (
            *[self.insert] * 4,
            *[self.update] * 3,
            *[self.delete] * 2,
            *[self.merge] * 3,
            self.within,
            self.copy_out,
            *[self.odd_write] * 4,
        )
        return self.rng.choice(makers)()

    def odd_write(self) -> Query:
        return Query(self.rng.choice(ODD_WRITES).format(n=self.rng.randint(1, 40)))

    # --- values -----------------------------------------------------------------------------------

    def value(self, column: str, kind: str) -> str:
        if column == "tenant_id":
            return self.rng.choice(("DEFAULT", f"'{self.tenant}'"))
        if column in _FIXED:
            return _FIXED[column]
        if column in ("o_custkey", "l_orderkey"):
            return str(self.rng.randint(1, 9))
        if column.endswith("key") or column == '"Key"':
            return str(self.rng.choice((self.rng.randint(1, 20), self.rng.randint(50, 2000))))
        if column == "s_name":
            return f"'Supplier of {self.rng.randint(1, 10_000_000)}'"
        return self.rng.choice((self.expressions.literal(kind), "DEFAULT"))

    def fields(self, table: str) -> list[tuple[str, str]]:
        columns = list(COLUMNS[table].items())
        return [each for each in columns if each[0] != "l_net"]

    def returning(self, alias: str, table: str, old: bool = True) -> str:
        rng = self.rng
        if rng.random() < 0.4:
            return ""
        column = COMMENTS[table]
        forms = ["*", f"{alias}.*", f"{alias}.{column} AS x", "tenant_id, 1", f"upper({column})"]
        forms += [alias] if alias != table else []
        if old:
            forms += [f"old.{column}, new.{column}", "old, new.tenant_id"]
        return f" RETURNING {rng.choice(forms)}"

    # --- statements -------------------------------------------------------------------------------

    def insert(self) -> Query:
        rng = self.rng
        table = rng.choice(WRITTEN)
        fields = self.fields(table)
        alias = rng.choice((table, "target")) if rng.random() < 0.5 else table
        named = f"{rng.choice(('', '', 'public.'))}{table}"
        named += f" AS {alias}" if alias != table else ""
        form = rng.randrange(6)
        if form == 0:
            source = " DEFAULT VALUES"
        elif form == 1:
            source = self.selected(table)
        else:
            if form <= 3:
                fields = [each for each in fields if each[0] != "tenant_id"]
                rng.shuffle(fields)
            listed = f" ({', '.join(name for name, _ in fields)})" if form <= 4 else ""
            source = f"{listed} VALUES {self.rows(fields)}"
        conflict = self.conflict(table, alias)
        text = f"INSERT INTO {named}{source}{conflict}{self.returning(alias, table)}"
        return self.finish(text)

    def rows(self, fields: list[tuple[str, str]]) -> str:
        made = (
            ", ".join(self.value(name, kind) for name, kind in fields)
            for _ in range(self.rng.choice((1, 1, 2, 3)))
        )
        return ", ".join(f"({row})" for row in made)

    def selected(self, table: str) -> str:
        """A query that gives new rows: copies of others under keys of their own."""
        rng = self.rng
        columns = [name for name, _ in self.fields(table)]
        if table not in KEYED:
            forms = ["", f" SELECT * FROM {table}", f" TABLE {table}"]
            forms[0] = f" ({', '.join(columns)}) SELECT {', '.join(columns)} FROM {table}"
            if table == "lineitem":
                return forms[0]
            return f"{rng.choice(forms)}"
        key = KEYS[table][0]
        moved = {key: f"{key} + {rng.choice((0, 100, 500))}", "s_name": "s_name || ' again'"}
        if rng.random() < 0.5:
            columns.remove("tenant_id")
        items = ", ".join(moved.get(name, name) for name in columns)
        test = self.expressions.condition([(n, k) for n, k in COLUMNS[table].items()], 1)
        sql = f"SELECT {items} FROM {table} WHERE {test}"
        if rng.random() < 0.3:
            least = rng.randint(1, 5)
            sql += f" UNION ALL SELECT {items.replace(' + ', ' + 3000 + ')} FROM {table}"
            sql += f" WHERE {key} < {least}"
        elif rng.random() < 0.3:
            sql = f"WITH {table} AS ({sql}) SELECT * FROM {table}"
        return f" ({', '.join(columns)}) {sql}"

    def conflict(self, table: str, alias: str) -> str:
        rng = self.rng
        if table not in _CONFLICTS or rng.random() < 0.35:
            return ""
        target = rng.choice(_CONFLICTS[table])
        if rng.random() < 0.3:
            return f" ON CONFLICT{rng.choice(('', ' ' + target))} DO NOTHING"
        column = COMMENTS[table]
        given = rng.choice(
            (f"excluded.{column}", f"{alias}.{column} || ' twice'", "'new'", "DEFAULT")
        )
        test = ""
        if rng.random() < 0.4:
            # A sub-query here would see names that sqlglot and PostgreSQL resolve alike.
            test = f" WHERE {alias}.{column} IS DISTINCT FROM {self.expressions.literal('text')}"
        more = ", tenant_id = excluded.tenant_id" if rng.random() < 0.3 else ""
        return f" ON CONFLICT {target} DO UPDATE SET {column} = {given}{more}{test}"

    def update(self) -> Query:
        rng = self.rng
        table = rng.choice(WRITTEN)
        alias = rng.choice((table, "u"))
        column = COMMENTS[table]
        only = "ONLY " if rng.random() < 0.1 and table != "lineitem" else ""
        named = f"{only}{table}" + (f" {rng.choice(('AS ', ''))}{alias}" if alias != table else "")
        columns = self.own(table, alias)
        text = self.expressions.make("text", columns, 1)
        sets = rng.choice(
            (
                f"{column} = {text}",
                f"{column} = DEFAULT, tenant_id = {alias}.tenant_id",
                f"({column}, tenant_id) = ({text}, DEFAULT)",
                f"({column}) = ROW (left({text}, 3))",
                f"({column}) = (SELECT max(n_name) FROM nation)",
                f"{column} = (SELECT min(c_name) FROM customer WHERE c_custkey > 3)",
                f"tenant_id = '{self.tenant}', {column} = 'changed'",
            )
        )
        source = ""
        if table in KEYED and rng.random() < 0.4:
            # The other one's key is whole, so that each row meets one at most.
            key = KEYS[table][0]
            other = rng.choice(KEYED)
            name = self.name("f")
            source = f" FROM {other} AS {name}"
            test = f"{name}.{KEYS[other][0]} = {alias}.{key}"
            sets = f"{column} = {name}.{COMMENTS[other]}"
            columns = [*columns, *self.own(other, name)]
            test += f" AND {self.expressions.condition(columns, 1)}"
        else:
            test = self.expressions.condition(columns)
        where = f" WHERE {test}" if source or rng.random() < 0.8 else ""
        text = f"UPDATE {named} SET {sets}{source}{where}{self.returning(alias, table)}"
        return self.finish(text.replace("RETURNING tenant_id", f"RETURNING {alias}.tenant_id"))

    def delete(self) -> Query:
        rng = self.rng
        table = rng.choice(WRITTEN)
        alias = rng.choice((table, "d"))
        named = table + (f" AS {alias}" if alias != table else "")
        columns = self.own(table, alias)
        using = ""
        if rng.random() < 0.4:
            other = self.table(rng.choice(("customer", "part", "nation")))
            if other.name != alias:
                using = f" USING {other.sql}"
                columns = [*columns, *other.columns]
        test = self.expressions.condition(columns)
        returning = rng.choice(("", f" RETURNING {alias}.*", f" RETURNING {alias}"))
        if using:
            # Which of several partners comes with a row is not determined.
            returning = rng.choice(("", f" RETURNING {alias}.*"))
        return self.finish(f"DELETE FROM {named}{using} WHERE {test}{returning}")

    # --- COPY, cursors, transactions --------------------------------------------------------------

    def copy_out(self) -> Query:
        table = self.rng.choice(("supplier", "part", "partsupp", "customer", "orders", '"Notes"'))
        fields = [name for name, _ in self.fields(table)]
        some = self.rng.sample(fields, 3)
        test = self.expressions.condition(self.own(table), 0)
        forms = (
            f"COPY {table} TO STDOUT",
            f"COPY public.{table} ({', '.join(some)}) TO STDOUT WITH (FORMAT csv, HEADER)",
            "COPY (DELETE FROM partsupp RETURNING *) TO STDOUT (DELIMITER '|', NULL 'nil')",
            f"COPY (SELECT * FROM {table} WHERE {test}) TO STDOUT WITH CSV",
        )
        return self.finish(self.rng.choice(forms), copied=True)

    def copy_in(self) -> Query:
        rng = self.rng
        first = rng.randint(10, 300)
        keys = range(first, first + rng.randint(1, 5))
        forms = (
            ("COPY part (p_partkey, p_name) FROM STDIN", "\t", "copied"),
            ("COPY partsupp (ps_partkey, ps_comment) FROM STDIN WITH (FORMAT csv)", ",", '"a,""b"'),
            ("COPY customer (c_custkey, c_comment, c_acctbal) FROM STDIN", "\t", "c\t7.25"),
            ('COPY public."Notes" ("Key", doc) FROM STDIN', "\t", '{"a": [1, 2]}'),
            ("COPY orders (o_orderkey, o_custkey) FROM STDIN (DELIMITER ';')", ";", "1"),
            ("COPY orders (o_orderkey, o_totalprice) FROM STDIN", "\t", "-1"),
            ("COPY part (p_partkey, p_size) FROM STDIN", "\t", "no number"),
        )
        text, delimiter, rest = rng.choice(forms)
        data = "".join(f"{key}{delimiter}{rest}\n" for key in keys)
        return Query(text, data=data.encode())

    def transaction(self) -> list[Query]:
        rng = self.rng
        inside = [self.statement() for _ in range(rng.randint(2, 4))]
        if rng.random() < 0.5:
            place = rng.randint(0, len(inside) - 1)
            inside[place:place] = [Query("SAVEPOINT one")]
            inside += [Query("ROLLBACK TO one"), self.update()]
        level = rng.choice(
            ("", " ISOLATION LEVEL REPEATABLE READ", " ISOLATION LEVEL SERIALIZABLE")
        )
        return [
            Query(f"BEGIN{level}"),
            *inside,
            Query(rng.choice(("COMMIT", "COMMIT", "ROLLBACK"))),
        ]

    def cursor(self) -> list[Query]:
        table = self.rng.choice(KEYED)
        test = self.expressions.condition([(n, k) for n, k in COLUMNS[table].items()], 1)
        sql = f"SELECT * FROM {table} WHERE {test} ORDER BY {KEYS[table][0]} FOR UPDATE"
        declared = self.finish(f"DECLARE c CURSOR FOR {sql}")
        # DECLARE takes no parameters worth having here.
        what = self.rng.choice(
            (f"UPDATE {table} SET {COMMENTS[table]} = 'at c' WHERE CURRENT OF c", "FETCH 3 FROM c")
        )
        return [
            Query("BEGIN"),
            Query(declared.inline()),
            Query("FETCH 2 FROM c"),
            Query(what),
            Query("CLOSE c"),
            Query("COMMIT"),
        ]

    def prepared(self) -> list[Query]:
        table = self.rng.choice(KEYED)
        key, comment = KEYS[table][0], COMMENTS[table]
        forms = (
            f"UPDATE {table} SET {comment} = $2 WHERE {key} < $1 RETURNING {key}, $2",
            f"SELECT {key}, {comment} FROM {table} WHERE {key} < $1 OR {comment} = $2",
            "DELETE FROM partsupp WHERE ps_partkey = $1 OR ps_comment = $2 RETURNING *",
        )
        number = self.rng.randint(1, 9)
        return [
            Query(f"PREPARE p (int, text) AS {self.rng.choice(forms)}"),
            Query(f"EXECUTE p ({number}, 'it''s {number}')"),
            Query("EXECUTE p (2, NULL)"),
            Query("DEALLOCATE p"),
        ]


def units(seed: int, count: int, *, copies: bool = True) -> Iterator[tuple[str, list[Query]]]:
    """(tenant, statements), the same for the same seed; tenants take turns."""
    grammar = Writes(seed)
    for number in range(count):
        tenant = TENANTS[number % len(TENANTS)]
        yield tenant, grammar.unit(tenant, copies)
