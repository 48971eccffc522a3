"""What judging costs, in microseconds: of known texts, known templates and unknown texts.

    python bench/guard.py

Figures of one run on one machine compare with each other only. `compiled` says what was measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from events.model import Permissions, RateLimits
from wire.sql import template as template_module
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


def main() -> None:
    compiled = not str(template_module.__file__).endswith(".py")
    print(f"compiled: {compiled}; all in microseconds")
    guard = Guard(Permissions(), RateLimits(), Analyser())
    points = [POINT % number for number in range(ROUNDS)]
    analytic = [text % number for text in ANALYTIC for number in range(ROUNDS // 10)]
    guard.learn(points[0])
    for text in ANALYTIC:
        guard.learn(text % 0)
    prepared = b"SELECT abalance FROM pgbench_accounts WHERE aid = $1"
    guard.learn(prepared)
    measure("exact text, point query", [prepared] * ROUNDS, guard.judge)
    measure("template alone, point query", points, template)
    measure("template, point query", points, guard.judge)
    measure("template, analytic queries", analytic, guard.judge)
    # Another alias in each: no template is known.
    cold = [b"%s /* */ -- %d" % (text % 0, n) for text in ANALYTIC for n in range(COLD_ROUNDS)]
    cold = [text.replace(b"AS ", b"AS x%d_" % number) for number, text in enumerate(cold)]
    fresh = [b"SELECT a%d FROM t WHERE b = 1" % number for number in range(COLD_ROUNDS * 5)]
    measure("unknown, point query", fresh, guard.learn)
    measure("unknown, analytic queries", cold, guard.learn)
    rows = b",".join(b"(%d, 'abc')" % number for number in range(1000))
    inserts = [b"INSERT INTO t VALUES (%d, 'x')," % number + rows for number in range(200)]
    guard.learn(inserts[0])
    measure("template, INSERT of 1,000 rows (13 kB)", inserts, guard.judge)


if __name__ == "__main__":
    main()
