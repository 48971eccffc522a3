"""The oracle's grammar, third part: total orders, whole rows, locks, and statements that fail."""

from __future__ import annotations

from support.oracle_data import COLUMNS, KEYS
from support.oracle_odd import Odd


class Special(Odd):
    """Forms of whole statements."""

    def total(self) -> str:
        """A query whose order is total, so that LIMIT and DISTINCT ON are determined."""
        rng = self.rng
        form = rng.randrange(5)
        if form == 0:
            return self.keyed()
        kinds = [self.kind() for _ in range(rng.randint(1, 3))]
        inner = self.with_ctes(lambda: self.body(kinds))
        named = ", ".join(f"v{number}" for number in range(len(kinds)))
        made = f"FROM ({inner}) AS w ({named})"
        if form == 1:
            return f"SELECT DISTINCT ON (v0) * {made} ORDER BY v0, w::text{self.limit()}"
        shown = rng.choice(("*", "w", "w.*, w IS NULL", "row_to_json(w)", "v0", "w::text"))
        return f"SELECT {shown} {made} ORDER BY w::text{self.limit()}"

    def limit(self) -> str:
        rng = self.rng
        number = self.expressions.parameter(str(n := rng.randint(0, 6)), n, "bigint")
        forms = (
            "",
            f" LIMIT {number}",
            f" OFFSET 1 LIMIT {number}",
            f" LIMIT ALL OFFSET {rng.randint(0, 3)}",
            f" OFFSET {rng.randint(0, 3)} ROWS FETCH NEXT {rng.randint(1, 4)} ROWS ONLY",
            f" FETCH FIRST {rng.randint(1, 4)} ROWS WITH TIES",
        )
        return rng.choice(forms)

    def keyed(self) -> str:
        """Rows of one table in the order of its key."""
        rng = self.rng
        table = rng.choice(list(KEYS))
        columns = list(COLUMNS[table].items())
        made = [self.expressions.make(self.kind(), columns, 1) for _ in range(rng.randint(1, 3))]
        order = ", ".join(f"{key}{rng.choice(('', ' DESC'))}" for key in KEYS[table])
        hidden = rng.choice(("", "public."))
        return (
            f"SELECT {self.labelled(made)} FROM {hidden}{table}{self.where(columns)}"
            f" ORDER BY {order}{self.limit()}"
        )

    def free(self) -> str:
        """Stars, whole rows and TABLE: as many columns as there are."""
        rng = self.rng
        *names, last = self.sources((), 2)
        if rng.random() < 0.15:
            return rng.choice(("TABLE orders", 'TABLE public."Notes"', "TABLE ONLY part"))
        shown = ["*"]
        shown += [f"{each.name}.*" for each in names if each.name]
        shown += [each.name for each in names if each.name]
        shown += [f"({each.name}).*" for each in names if each.table]
        # A row whose columns the query names anew is told by those names: see the limits.
        shown += [f"to_jsonb({each.name})" for each in names if each.table and not each.renamed]
        shown += [f"{each.name} IS NULL" for each in names if each.table]
        shown += [f"count({each.name})" for each in names if each.table]
        return f"SELECT {rng.choice(shown)} FROM {last.sql}{self.where(last.columns)}"

    def locking(self) -> str:
        """FOR UPDATE and its kin, of tables that are the tenant's."""
        rng = self.rng
        tables = [name for name in COLUMNS if name not in ("region", "nation", "open_orders")]
        item = self.table(rng.choice(tables))
        columns, sql, of = item.columns, item.sql, ""
        if rng.random() < 0.4:
            other = self.table(rng.choice(("customer", "nation", "supplier")))
            test = self.expressions.condition(columns + other.columns, 0)
            kind = rng.choice(("JOIN", "LEFT JOIN"))
            sql, of = f"{sql} {kind} {other.sql} ON {test}", f" OF {item.name}"
            columns = columns + other.columns
        elif rng.random() < 0.3:
            of = f" OF {item.name}"
        made = [self.expressions.make(self.kind(), columns, 1) for _ in range(2)]
        strength = rng.choice(("UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE"))
        wait = rng.choice(("", " NOWAIT", " SKIP LOCKED"))
        return (
            f"SELECT {self.labelled(made)} FROM {sql}{self.where(columns)} FOR {strength}{of}{wait}"
        )

    def failing(self) -> str:
        """What fails in the same way, or for those alone whose rows it fails on."""
        number = self.rng.randint(1, 10_000)
        forms = (
            f"SELECT nothing, {number} FROM orders",
            f"SELECT o.o_orderkey FROM orders o WHERE o.nothing = {number}",
            f"SELECT customer.c_name FROM orders WHERE o_orderkey = {number}",
            f"SELECT tenant_id FROM orders JOIN customer ON o_custkey = c_custkey + {number}",
            f"SELECT o_orderkey + {number}, count(*) FROM orders",
            f"SELECT o_orderdate + o_comment, {number} FROM orders",
            f"SELECT {number} FROM orders WHERE o_orderkey = 'x{number}'",
            f"SELECT c_name::int + {number} FROM customer",
            f"SELECT {number} / 0 FROM orders",
            f"SELECT (SELECT o_orderkey + {number} FROM orders) FROM customer",
            f"SELECT {number} FROM orders o, customer o",
            f"SELECT o_orderkey FROM orders UNION SELECT o_orderkey, {number} FROM orders",
            f"SELECT o_orderkey + {number} FROM orders UNION SELECT o_orderdate FROM orders",
            f"SELECT {number} FROM orders WHERE FROM",
            f"SELECT o_orderkey FROM orders LIMIT -{number}",
            f"SELECT upper(o_comment, {number}) FROM orders",
            f"SELECT {number} FROM orders FULL JOIN customer ON o_custkey < c_custkey",
            f"SELECT sum(count(*)) + {number} FROM orders",
            f"SELECT {number} FROM orders WHERE count(*) > 1",
            f"SELECT o_comment ~ '(' FROM orders WHERE o_orderkey < {number} + 100",
            # Only other tenants than acme have parts of size 0, and parts that are no number.
            f"SELECT count(*) FROM part WHERE {number} / p_size > 1",
            f"SELECT p_partkey FROM part WHERE {number} % p_size = 0",
            f"SELECT count(*), {number} FROM part WHERE ln(p_size + 0.0) > 0",
            # These cost no more than the predicate, so the planner may put them before it.
            f"SELECT count(*) FROM part WHERE ({number} / p_size) IS NOT NULL",
            f"SELECT p_name FROM part WHERE ({number} % p_size) IS NULL OR p_size > {number}",
            f"SELECT {number} FROM part p JOIN partsupp ON ({number} / p.p_size) IS NOT NULL",
            f"SELECT max({number} / p_size) FROM part",
            f"SELECT count(*), {number} FROM part WHERE substr(p_brand, 7)::int > 0",
            f"SELECT c_name FROM customer LEFT JOIN part ON {number} / p_size > 1",
            f"SELECT p_name FROM part JOIN partsupp ON ps_partkey = p_partkey"
            f" WHERE {number} / p_size > 3",
            f"SELECT s_name FROM supplier"
            f" WHERE EXISTS (SELECT FROM part WHERE {number} / p_size = 9)",
        )
        return self.rng.choice(forms)
