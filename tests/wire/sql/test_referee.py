"""The second reading: honest statements agree, a relation too few or too many is told."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from support.engines import Postgres

from wire.sql.analyse import analyse, parse
from wire.sql.referee import UNREADABLE, disagreement, inner
from wire.sql.referee_long import shortened
from wire.sql.referee_plain import KEYWORDS, plain, unescaped

STATEMENTS = [
    line
    for line in (Path(__file__).parent / "read_by_both.sql").read_text().splitlines()
    if not line.startswith("--")
]

# What sqlglot does not read, or reads otherwise: the caller decides, or refuses.
NOT_READ = [
    "SELECT a::interval day to second(3) FROM t",
    "SELECT substring(a SIMILAR 'x' ESCAPE '#') FROM t",
    "SELECT \"char\" 'a' FROM t",
    "SELECT xmlroot(a, VERSION '1', STANDALONE YES) FROM t",
    "INSERT INTO t (a, b.c, d[1]) VALUES (1, 2, 3)",
]

TPCH = [
    """select s_acctbal, s_name, n_name, p_partkey, p_mfgr, s_address, s_phone, s_comment
    from part, supplier, partsupp, nation, region where p_partkey = ps_partkey
    and s_suppkey = ps_suppkey and p_size = 15 and p_type like '%BRASS'
    and s_nationkey = n_nationkey and n_regionkey = r_regionkey and r_name = 'EUROPE'
    and ps_supplycost = (select min(ps_supplycost) from partsupp, supplier, nation, region
    where p_partkey = ps_partkey and s_suppkey = ps_suppkey and s_nationkey = n_nationkey
    and n_regionkey = r_regionkey and r_name = 'EUROPE')
    order by s_acctbal desc, n_name, s_name, p_partkey limit 100""",
    """select o_year, sum(case when nation = 'BRAZIL' then volume else 0 end) / sum(volume)
    from (select extract(year from o_orderdate) as o_year,
    l_extendedprice * (1 - l_discount) as volume, n2.n_name as nation
    from part, supplier, lineitem, orders, customer, nation n1, nation n2, region
    where p_partkey = l_partkey and s_suppkey = l_suppkey and l_orderkey = o_orderkey
    and o_custkey = c_custkey and c_nationkey = n1.n_nationkey and n1.n_regionkey = r_regionkey
    and r_name = 'AMERICA' and s_nationkey = n2.n_nationkey
    and o_orderdate between date '1995-01-01' and date '1996-12-31') as all_nations
    group by o_year order by o_year""",
    """with revenue (supplier_no, total_revenue) as (select l_suppkey,
    sum(l_extendedprice * (1 - l_discount)) from lineitem where l_shipdate >= date '1996-01-01'
    and l_shipdate < date '1996-01-01' + interval '3' month group by l_suppkey)
    select s_suppkey, s_name, total_revenue from supplier, revenue
    where s_suppkey = supplier_no and total_revenue = (select max(total_revenue) from revenue)""",
    """select cntrycode, count(*) as numcust, sum(c_acctbal) as totacctbal
    from (select substring(c_phone from 1 for 2) as cntrycode, c_acctbal from customer
    where substring(c_phone from 1 for 2) in ('13', '31', '23', '29', '30', '18', '17')
    and c_acctbal > (select avg(c_acctbal) from customer where c_acctbal > 0.00)
    and not exists (select * from orders where o_custkey = c_custkey)) as custsale
    group by cntrycode order by cntrycode""",
]


def readings(sql: str) -> tuple[str, set[tuple[str, str]]]:
    """The kind and the relations by PostgreSQL's parser."""
    (tree,) = parse(sql.encode())
    return next(iter(tree["stmt"])), analyse(sql).statements[0].relations


@pytest.mark.parametrize("sql", [*STATEMENTS, *TPCH])
def test_both_parsers_read_the_same(sql: str) -> None:
    kind, relations = readings(sql)
    assert disagreement(sql, kind, relations) is None
    # A relation that one of the two missed or made up is told, whatever the statement.
    wrong = "UPDATE" if kind != "UpdateStmt" else "DELETE"
    assert disagreement(sql, wrong, relations)
    assert disagreement(sql, kind, relations | {("", "made_up")})
    for one in relations:
        reason = disagreement(sql, kind, relations - {one})
        assert reason is not None
        assert not reason.startswith(UNREADABLE)


@pytest.mark.parametrize("sql", NOT_READ)
def test_what_is_not_read_is_told(sql: str) -> None:
    reason = disagreement(sql, *readings(sql))
    assert reason is not None
    assert reason.startswith(UNREADABLE)


def test_other_statements_are_for_one_parser() -> None:
    for kind in ("TruncateStmt", "LOCK", "ViewStmt", ""):
        assert str(disagreement("TRUNCATE t", kind, ())).startswith(UNREADABLE)
    assert disagreement("SELECT 1; SELECT 2", "SELECT", ())
    assert disagreement("", "SELECT", ())
    assert disagreement("SELECT 1;", "SELECT", ()) is None
    for sql in ("CREATE TABLE t (a int)", "SET a = 1", "CALL p()", "SHOW x"):
        assert disagreement(sql, "SELECT", ())


def test_names_are_folded_as_postgresql_does() -> None:
    for name in [
        *("T", '"T"', '"a ""b"', "ÄÖ", '"ÄÖ"', "x" * 70, '"' + "ä" * 40 + '"', "é" * 32 + "x"),
        *('U&"d\\0061t\\+000061"', "U&\"!0041\" UESCAPE '!'", 'U&"a""\\0022"', "_$1", "İ"),
    ]:
        sql = f"SELECT * FROM {name}"
        assert disagreement(sql, *readings(sql)) is None, name
        (relation,) = readings(sql)[1]
        assert disagreement(sql, "SELECT", {("", relation[1] + "x")})


# Texts made to be read otherwise by one of the two: no relation may get lost in agreement.
HOSTILE = [
    "SELECT 1 /* /* */ */ FROM secrets",
    "SELECT 1 -- \r FROM secrets",
    "SELECT '\\' FROM secrets --'",
    "SELECT E'\\' FROM t --' FROM secrets",
    "SELECT $a$ $b$ FROM t $a$ FROM secrets",
    "SELECT $$ FROM t $$ FROM secrets",
    "SELECT E'a'\n'\\' FROM t ' FROM secrets",
    "SELECT U&'\\\\' FROM secrets",
    "SELECT 1 FROM \u00a0secrets, t",
    "SELECT 1 FROM t\u3000, secrets",
    "SELECT (WITH secrets AS (SELECT 1) SELECT 1 FROM secrets) FROM secrets",
    "WITH secrets AS (SELECT 1) INSERT INTO secrets SELECT * FROM secrets",
    "WITH a AS (SELECT * FROM secrets), secrets AS (SELECT 1) SELECT * FROM a, secrets",
    "WITH secrets AS (SELECT * FROM secrets) SELECT * FROM secrets",
    "WITH secrets AS (SELECT 1) SELECT * FROM secrets, public.secrets",
    'WITH "Secrets" AS (SELECT 1) SELECT * FROM "Secrets", Secrets',
    "SELECT * FROM t WHERE a = ANY (TABLE secrets)",
    "SELECT a[(SELECT 1 FROM secrets)] FROM t",
    "SELECT a::numeric((SELECT 1 FROM secrets)) FROM t",
    "SELECT a::t((SELECT 1 FROM secrets)) FROM t",
    "SELECT f(a => (SELECT 1 FROM secrets)) FROM t",
    "SELECT array_prepend(1, 2, (SELECT 1 FROM secrets)) FROM t",
    "SELECT now((SELECT 1 FROM secrets)), version((SELECT 1 FROM secrets)) FROM t",
    "SELECT * FROM t TABLESAMPLE system ((SELECT 1 FROM secrets))",
    "SELECT 1 FROM t FOR UPDATE OF t LIMIT (SELECT 1 FROM secrets)",
    "SELECT json_query(a, '$' PASSING (SELECT 1 FROM secrets) AS x) FROM t",
    "SELECT 1 FROM t ORDER BY a USING < , (SELECT 1 FROM secrets)",
    "SELECT sum(a) OVER (ROWS (SELECT 1 FROM secrets) PRECEDING) FROM t",
    "INSERT INTO t (a[(SELECT 1 FROM secrets)]) VALUES (1)",
    "INSERT INTO t VALUES (1) ON CONFLICT (a) WHERE (SELECT true FROM secrets) DO NOTHING",
    "UPDATE t SET a[(SELECT 1 FROM secrets)] = 1",
]


@pytest.mark.parametrize("sql", HOSTILE)
def test_a_relation_that_is_missed_never_agrees(sql: str) -> None:
    """Were PostgreSQL's reading without `secrets`, the two must not agree on that."""
    kind, relations = readings(sql)
    hidden = {one for one in relations if "secrets" in one[1]}
    assert hidden
    assert disagreement(sql, kind, relations - hidden)


def test_readings_are_bounded() -> None:
    for text in [
        "SELECT " + "(" * 5000 + "1" + ")" * 5000,
        "SELECT * FROM " + "(SELECT * FROM " * 5000 + "t" + ") x" * 5000,
        "SELECT a" + "[1]" * 5000,
        "SELECT " + "NOT " * 20_000 + "a",
        "SELECT " + "- " * 20_000 + "1",
        "SELECT " + "CASE a WHEN 1 THEN " * 5000 + "1" + " END" * 5000,
    ]:
        assert str(disagreement(text, "SELECT", {("", "t")})).startswith(UNREADABLE)
    # Each level of these would double the time.
    for word in ("array[", "text(", "uuid(", "date(", "numeric(", "array[text("):
        ends = "".join("]" if char == "[" else ")" for char in reversed(word) if char in "([")
        text = "SELECT " + word * 30 + "1" + ends * 30 + " FROM t"
        assert disagreement(text, "SELECT", {("", "t")}) is None
    assert disagreement("SELECT " + "1 + " * 20_000 + "1 FROM t", "SELECT", {("", "t")}) is None


def test_long_lists_of_literals_are_cut_short() -> None:
    numbers = ", ".join(map(str, range(5_000)))
    rows = ", ".join(f"({n}, 'x''{n}', -1.5, NULL, '{{}}'::jsonb)" for n in range(2_000))
    for sql in [
        f"SELECT * FROM t WHERE a IN ({numbers}) AND b = ANY (ARRAY[{numbers}])",
        f"INSERT INTO t VALUES {rows} ON CONFLICT DO NOTHING RETURNING (SELECT 1 FROM u)",
        f"SELECT * FROM (VALUES {rows}) AS v, u JOIN t USING (a)",
    ]:
        assert len(shortened(sql)) < 1000
        relations = {("", "t"), ("", "u")} if " u" in sql else {("", "t")}
        kind = "INSERT" if sql.startswith("INSERT") else "SELECT"
        assert disagreement(sql, kind, relations) is None
    # What is no literal stays.
    for sql in [
        "SELECT 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 x, a, (SELECT 1), f(1), 1 + 2 FROM t LIMIT 1",
        "VALUES " + ", ".join(["(1, (SELECT 2 FROM t))"] * 50),
        "SELECT " + ", ".join(["a = 1"] * 50),
    ]:
        kept = shortened(sql).replace(" ", "")
        assert kept in (sql.replace(" ", ""), sql.replace(" ", "").replace("9,", ""))


def test_escapes_of_identifiers() -> None:
    assert unescaped("d\\0061t\\+000061\\\\", "\\") == "data\\"
    assert unescaped("\\D83D\\DE00", "\\") == "😀"
    assert unescaped('a""!0022', "!") == 'a""""'
    for broken in ("\\", "\\00", "\\+0061", "\\D83D"):
        with pytest.raises(ValueError):
            unescaped(broken, "\\")
    assert plain("SELECT 1") == "SELECT 1"


def test_key_words_are_those_of_the_server(postgres: Postgres) -> None:
    rows = postgres.execute("SELECT word FROM pg_get_keywords()")
    assert {word.encode() for (word,) in rows} == KEYWORDS


def test_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        disagreement("CREATE EVENT secret AS x", "SELECT", ())
        disagreement("EXEC secret", "SELECT", ())
        disagreement("SELECT a[1] FROM secret WHERE $$ open", "SELECT", ())
    assert caplog.records == []


@pytest.mark.parametrize(
    ("sql", "query"),
    [
        ("SELECT 1", "SELECT 1"),
        (" /* a */ SELECT 1 -- b\n ; ", "SELECT 1"),
        ("EXPLAIN SELECT 1;", "SELECT 1"),
        ("EXPLAIN (COSTS off, FORMAT json) (SELECT 1)", "(SELECT 1)"),
        ("EXPLAIN (SELECT 1) UNION (SELECT 2)", "(SELECT 1) UNION (SELECT 2)"),
        ("EXPLAIN (VALUES (1))", "(VALUES (1))"),
        ("EXPLAIN ANALYSE VERBOSE WITH x AS (SELECT 1) TABLE x", "WITH x AS (SELECT 1) TABLE x"),
        ("EXPLAIN verbose DELETE FROM t", "DELETE FROM t"),
        ("PREPARE p (numeric(10, 2), text[]) AS SELECT 1 AS a", "SELECT 1 AS a"),
        ('PREPARE "as" AS UPDATE t SET a = 1', "UPDATE t SET a = 1"),
        ("DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT 1 FOR UPDATE", "SELECT 1 FOR UPDATE"),
        ('EXPLAIN DECLARE "for" CURSOR FOR (SELECT 1)', "(SELECT 1)"),
        ("COPY (SELECT f(1) FROM t) TO STDOUT (FORMAT csv)", "SELECT f(1) FROM t"),
        ("COPY t TO STDOUT", "COPY t TO STDOUT"),
        ("EXPLAIN ANALYZE EXECUTE p (1)", "EXECUTE p (1)"),
        ("CREATE TABLE a AS SELECT 1", "CREATE TABLE a AS SELECT 1"),
    ],
)
def test_the_statement_inside(sql: str, query: str) -> None:
    before = "SELECT 'ü'; "
    text = (before + sql + " ").encode()
    tree = parse(text)[-1]["stmt"]
    found, start, end = inner(tree, text, len(before.encode()), len(text))
    assert text[start:end].decode() == query
    assert next(iter(found)) == next(iter(parse(query.encode())[0]["stmt"]))
