"""The oracle's odd corner: constructs of SELECT that a random tree meets too seldom, one each."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from support.oracle_shapes import Shapes

_FILE: Final = Path(__file__).parents[1] / "isolation" / "tpch" / "odd.sql"
ODD: Final = [line for line in _FILE.read_text().splitlines() if not line.startswith("--")]


class Odd(Shapes):
    """One of ODD, with another condition each time."""

    def odd(self) -> str:
        table = self.rng.choice(ODD)
        columns = [
            *(("o_orderkey", "int"), ("o_custkey", "int"), ("o_clerk", "text")),
            *(("o_orderdate", "date"), ("o_totalprice", "num"), ("o.o_comment", "text")),
        ]
        if "SELECT n + 1, tenant_id FROM orders" in table or "(o_orderkey, o_cust" in table:
            columns = columns[:2]
        elif "JOIN (SELECT o_orderkey" in table or "SELECT k % 7" in table:
            columns = [("o.o_custkey", "int")]
        self.bare = {"o", "orders", "a"}
        test = f" ({self.expressions.condition(columns, 1)}) "
        if self.rng.random() < 0.6:
            test = f" NOT coalesce({test}, false) "
        return table.format(n=self.rng.randint(1, 40), t=test)
