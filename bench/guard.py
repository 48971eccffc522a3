"""What judging costs, in microseconds: of known texts, known templates and unknown texts.

Once for tenants with databases of their own, once for tenants whose rows lie in shared tables:
there the rewriting is in it, and for unknown texts the second parser and the proof.

    python bench/guard.py

Figures of one run on one machine compare with each other only. `compiled` says what was measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from events.model import Permissions, RateLimits
from wire.sql import template as template_module
from wire.sql.catalog import GUARDED, SHARED, Catalog, Relation
from wire.sql.frame import Frame
from wire.sql.guard import Analyser, Guard
from wire.sql.template import template

POINT = b"SELECT abalance FROM pgbench_accounts WHERE aid = %d"
# The shapes of TPC-H queries 1, 3, 5, 18 and 21: aggregates, joins, subqueries.
ANALYTIC = [
    b"""SELECT flag, status, sum(quantity) AS q, avg(price * (1 - discount) * (1 + tax)), count(*)
    FROM lineitem WHERE shipdate <= DATE '1998-12-01' - INTERVAL '%d' DAY
    GROUP BY flag, status ORDER BY flag, status""",
    b"""SELECT l.orderkey, sum(l.price * (1 - l.discount)) AS revenue, o.orderdate
    FROM customer c, orders o, lineitem l WHERE c.segment = 'BUILDING' AND c.custkey = o.custkey
    AND l.orderkey = o.orderkey AND o.orderdate < DATE '1995-03-15' AND l.shipdate > '1995-03-15'
    GROUP BY l.orderkey, o.orderdate ORDER BY revenue DESC, o.orderdate LIMIT %d""",
    b"""SELECT n.name, sum(l.price * (1 - l.discount)) AS revenue FROM customer c
    JOIN orders o USING (custkey) JOIN lineitem l USING (orderkey) JOIN supplier s USING (suppkey)
    JOIN nation n ON s.nationkey = n.nationkey JOIN region r ON n.regionkey = r.regionkey
    WHERE r.name = 'ASIA' AND o.orderdate >= DATE '1994-01-01' AND c.nationkey <> %d
    GROUP BY n.name ORDER BY revenue DESC""",
    b"""SELECT c.name, o.orderkey, sum(l.quantity) FROM customer c, orders o, lineitem l
    WHERE o.orderkey IN (SELECT orderkey FROM lineitem GROUP BY orderkey HAVING sum(quantity) > %d)
    AND c.custkey = o.custkey AND o.orderkey = l.orderkey
    GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 100""",
    b"""SELECT s.name, count(*) AS waits FROM supplier s, lineitem l1, orders o, nation n
    WHERE s.suppkey = l1.suppkey AND o.orderkey = l1.orderkey AND o.status = 'F'
    AND l1.receipt > l1.committed AND EXISTS (SELECT * FROM lineitem l2 WHERE
    l2.orderkey = l1.orderkey AND l2.suppkey <> l1.suppkey) AND NOT EXISTS (SELECT * FROM
    lineitem l3 WHERE l3.orderkey = l1.orderkey AND l3.suppkey <> l1.suppkey
    AND l3.receipt > l3.committed) AND s.nationkey = n.nationkey AND n.nationkey = %d
    GROUP BY s.name ORDER BY waits DESC, s.name LIMIT 100""",
]
TABLES = {
    "customer": "custkey name segment nationkey",
    "orders": "orderkey custkey orderdate status",
    "lineitem": "orderkey suppkey quantity price discount tax flag status shipdate receipt "
    "committed",
    "supplier": "suppkey name nationkey",
    "pgbench_accounts": "aid abalance",
    "t": "a b",
}
REFERENCES = {"nation": "nationkey name regionkey", "region": "regionkey name"}
VALUES = (b"'acme'", b"acme_", b"424242")
ROUNDS = 20_000
COLD_ROUNDS = 400


def measure(name: str, texts: list[bytes], act: Callable[[bytes], object]) -> None:
    """Time each call alone, less what reading the clock costs."""
    clock = time.perf_counter_ns
    empty = min(-clock() + clock() for _ in range(1000))
    taken = []
    for text in texts:
        start = clock()
        act(text)
        taken.append((clock() - start - empty) / 1000)
    median = statistics.median(taken)
    p99 = statistics.quantiles(taken, n=100)[98]
    print(f"{name:<42} median {median:8.2f}   p99 {p99:8.2f}   ({len(texts)} texts)")


def row_frame() -> Frame:
    """A database in which all tables but the references have a tenant column."""
    own = [
        Relation(
            "public",
            name,
            GUARDED,
            (*columns.split(), "tenant_id"),
            column="tenant_id",
            type="text",
        )
        for name, columns in TABLES.items()
    ]
    shared = [
        Relation("public", name, SHARED, tuple(columns.split()))
        for name, columns in REFERENCES.items()
    ]
    return Frame(Catalog("bench", [*own, *shared]), shared=True)


def measure_all(guard: Guard) -> None:
    def forward(text: bytes) -> bytes:
        verdict = guard.judge(text)
        assert verdict is not None
        assert verdict.refusal is None
        return guard.rewritten(text, verdict) if verdict.edited else text

    def learn(text: bytes) -> bytes:
        verdict = guard.learn(text)
        assert verdict.refusal is None, verdict.refusal
        return guard.rewritten(text, verdict) if verdict.edited else text

    points = [POINT % number for number in range(ROUNDS)]
    analytic = [text % number for text in ANALYTIC for number in range(ROUNDS // 10)]
    learn(points[0])
    for text in ANALYTIC:
        learn(text % 0)
    prepared = b"SELECT abalance FROM pgbench_accounts WHERE aid = $1"
    learn(prepared)
    measure("exact text, point query", [prepared] * ROUNDS, forward)
    measure("template alone, point query", points, template)
    measure("template, point query", points, forward)
    measure("template, analytic queries", analytic, forward)
    # Another alias in each: no template is known.
    cold = [b"%s /* */ -- %d" % (text % 0, n) for text in ANALYTIC for n in range(COLD_ROUNDS)]
    cold = [text.replace(b"AS ", b"AS x%d_" % number) for number, text in enumerate(cold)]
    fresh = [b"SELECT a%d FROM t WHERE b = 1" % number for number in range(COLD_ROUNDS * 5)]
    measure("unknown, point query", fresh, learn)
    measure("unknown, analytic queries", cold, learn)
    rows = b",".join(b"(%d, 'abc')" % number for number in range(1000))
    inserts = [b"INSERT INTO t VALUES (%d, 'x')," % number + rows for number in range(200)]
    learn(inserts[0])
    measure("template, INSERT of 1,000 rows (13 kB)", inserts, forward)


def main() -> None:
    compiled = not str(template_module.__file__).endswith(".py")
    print(f"compiled: {compiled}; all in microseconds")
    print("databases of their own")
    measure_all(Guard(Permissions(), RateLimits(), Analyser()))
    print("rows in shared tables")
    measure_all(Guard(Permissions(), RateLimits(), Analyser(row_frame()), VALUES))


if __name__ == "__main__":
    main()
