"""Facts of statements: what they do, found by PostgreSQL's own parser, not by their first word."""

from __future__ import annotations

import random
import re

import psycopg
import pytest
from support.engines import Postgres

from wire.errors import SyntaxRefused, TenantryError
from wire.sql import builtins
from wire.sql import verdict as v
from wire.sql.analyse import analyse
from wire.sql.facts import FIELDS, Statement, dump, load
from wire.sql.libpg import parse


def only(sql: str | bytes) -> Statement:
    facts = analyse(sql)
    assert len(facts.statements) == 1
    return facts.statements[0]


OPERATIONS = [
    ("SELECT 1", "SELECT"),
    ("VALUES (1)", "SELECT"),
    ("TABLE t", "SELECT"),
    ("INSERT INTO t VALUES (1)", "INSERT"),
    ("INSERT INTO t DEFAULT VALUES", "INSERT"),
    ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 2", "INSERT UPDATE"),
    ("INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING", "INSERT"),
    ("INSERT INTO t SELECT * FROM s", "INSERT SELECT"),
    ("INSERT INTO t VALUES ((SELECT 1 FROM s))", "INSERT SELECT"),
    ("UPDATE t SET a = 1 WHERE b = 2", "UPDATE"),
    ("UPDATE t SET a = s.a FROM s", "SELECT UPDATE"),
    ("DELETE FROM t", "DELETE"),
    ("DELETE FROM t USING s", "DELETE SELECT"),
    ("WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x", "DELETE SELECT"),
    ("SELECT 1 FROM (WITH x AS (SELECT 1) SELECT * FROM x) y", "SELECT"),
    ("SELECT * FROM t FOR UPDATE", "SELECT UPDATE"),
    ("SELECT * FROM t FOR KEY SHARE", "SELECT UPDATE"),
    ("(SELECT * FROM t FOR UPDATE) UNION ALL SELECT 1", "SELECT UPDATE"),
    ("EXPLAIN DELETE FROM t", "DELETE"),
    ("EXPLAIN (ANALYZE false) DELETE FROM t", "DELETE"),
    ("PREPARE p AS DELETE FROM t", "DELETE"),
    ("DECLARE c CURSOR FOR SELECT 1", "SELECT"),
    ("COPY t TO STDOUT", "SELECT"),
    ("COPY t FROM STDIN", "INSERT"),
    ("COPY (DELETE FROM t RETURNING *) TO STDOUT", "DELETE"),
    (
        "MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN DELETE"
        " WHEN NOT MATCHED THEN INSERT VALUES (1)",
        "DELETE INSERT SELECT",
    ),
    ("TRUNCATE t", "TRUNCATE"),
    ("LOCK TABLE t IN ACCESS SHARE MODE", "SELECT"),
    ("LOCK TABLE t", "LOCK"),
    ("CALL p()", "CALL"),
    ("DO 'BEGIN END'", "DO"),
    ("LISTEN x", "SELECT"),
    ("CREATE TABLE x AS SELECT 1", "SELECT"),
    ("SELECT 1 INTO x", "SELECT"),
    ("CREATE VIEW x AS SELECT 1", ""),
    ("CREATE RULE r AS ON INSERT TO t DO INSTEAD DELETE FROM s", ""),
    ("BEGIN", ""),
    ("SET a = 1", ""),
    ("SHOW a", ""),
    ("EXECUTE p", ""),
    ("FETCH 1 FROM c", ""),
]


@pytest.mark.parametrize(("sql", "expected"), OPERATIONS)
def test_operations(sql: str, expected: str) -> None:
    assert " ".join(sorted(only(sql).operations)) == expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 1", ""),
        ("SELECT 1 INTO x", "CREATE"),
        ("SELECT 1 INTO x UNION SELECT 2", "CREATE"),
        ("CREATE TABLE x ()", "CREATE"),
        ("EXPLAIN ANALYZE CREATE TABLE x AS SELECT 1", "CREATE"),
        ("ALTER TABLE x ADD y int", "ALTER"),
        ("ALTER TABLE x RENAME TO y", "ALTER"),
        ("DROP TABLE x", "DROP"),
        ("GRANT SELECT ON x TO y", "GRANT"),
        ("REVOKE SELECT ON x FROM y", "REVOKE"),
        ("COMMENT ON TABLE x IS 'y'", "COMMENT"),
        ("ANALYZE x", "ANALYZE"),
        ("VACUUM x", "VACUUM"),
        ("REINDEX TABLE x", "REINDEX"),
        ("REFRESH MATERIALIZED VIEW x", "REFRESH"),
        ("CREATE ROLE x", "CREATE ROLE"),
    ],
)
def test_schema_changes(sql: str, expected: str) -> None:
    assert only(sql).ddl == expected


SYSTEM = """
    SELECT pg_read_file('/etc/passwd')
    SELECT * FROM pg_catalog.pg_ls_dir('/')
    SELECT lo_import('/etc/passwd')
    SELECT public.dblink_connect('x')
    SELECT pg_cancel_backend(1)
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    SELECT pg_terminate_backend(pg_backend_pid(), 1)
    COPY t TO PROGRAM 'x'
    COPY t FROM '/x'
    ALTER SYSTEM SET a = 1
    CREATE EXTENSION x
    CREATE DATABASE x
    ALTER DATABASE x RENAME TO y
    ALTER ROLE x PASSWORD 'y'
    ALTER ROLE x SET default_transaction_read_only = off
    GRANT x TO y
    GRANT CREATE ON DATABASE x TO y
    DROP OWNED BY x
    DROP SERVER x
    CREATE SUBSCRIPTION x CONNECTION 'y' PUBLICATION z
    CHECKPOINT
    LOAD 'x'
    EXPLAIN SELECT pg_reload_conf()
"""


@pytest.mark.parametrize("sql", SYSTEM.strip().split("\n"))
def test_what_reaches_the_server_itself(sql: str) -> None:
    assert only(sql).system


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM pg_catalog.pg_class c JOIN information_schema.tables t ON true",
        "SELECT pg_terminate_backend(pg_backend_pid())",
        "SELECT pg_get_viewdef('x'), pg_table_size('x'), current_setting('y')",
        "GRANT SELECT ON x TO y",
        "DROP TABLE x",
    ],
)
def test_what_does_not(sql: str) -> None:
    assert only(sql).system == ""


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT * FROM a, b.c, d AS e", ".a .d b.c"),
        ("WITH a AS (SELECT 1) SELECT * FROM a, s.a", "s.a"),
        # Not recursive: inside it, the name is still that of the table.
        ("WITH a AS (SELECT * FROM a) SELECT * FROM a", ".a"),
        ("WITH RECURSIVE a AS (SELECT 1 UNION SELECT * FROM a) SELECT * FROM a", ""),
        ("WITH a AS (SELECT 1), b AS (SELECT * FROM a) SELECT * FROM b", ""),
        ("WITH b AS (SELECT * FROM a), a AS (SELECT 1) SELECT * FROM b", ".a"),
        ("SELECT (WITH a AS (SELECT 1) SELECT 1 FROM a) FROM a", ".a"),
        # What is written to is never a CTE.
        ("WITH a AS (SELECT 1) INSERT INTO a VALUES (1)", ".a"),
        ("WITH a AS (SELECT 1) DELETE FROM a", ".a"),
        ("WITH a AS (SELECT 1) INSERT INTO b VALUES ((SELECT * FROM a))", ".b"),
        ("SELECT * FROM a x FOR UPDATE OF x", ".a"),
        ("DROP TABLE a, b.c", ".a b.c"),
        ("COMMENT ON COLUMN a.b.c IS 'x'", "a.b"),
        ("TRUNCATE a, b", ".a .b"),
        ('SELECT * FROM A, "A"', ".A .a"),
        ("EXPLAIN SELECT 1 FROM a WHERE EXISTS (SELECT FROM b)", ".a .b"),
        ("CREATE TABLE a (b int REFERENCES c)", ".a .c"),
    ],
)
def test_relations(sql: str, expected: str) -> None:
    found = only(sql).relations
    assert " ".join(sorted(f"{schema}.{name}" for schema, name in found)) == expected


EFFECTS = [
    ("SET Work_Mem = '1MB'", v.SET, "guc:work_mem"),
    ("SET SESSION x.y TO 1", v.SET, "guc:x.y"),
    ("SET LOCAL work_mem = '1MB'", v.NONE, ""),
    ("SET work_mem TO DEFAULT", v.RESET, "guc:work_mem"),
    ("RESET work_mem", v.RESET, "guc:work_mem"),
    ("RESET ALL", v.RESET_ALL, ""),
    ("SET TIME ZONE 'UTC'", v.SET, "guc:timezone"),
    ("SET TIME ZONE LOCAL", v.RESET, "guc:timezone"),
    ("SET NAMES 'UTF8'", v.SET, "guc:client_encoding"),
    ("SET ROLE x", v.SET, "role"),
    ("RESET ROLE", v.RESET, "role"),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", v.SET, "characteristics"),
    ("SET TRANSACTION READ ONLY", v.NONE, ""),
    ("PREPARE p AS SELECT 1", v.PREPARE, "prepare:p"),
    ("DEALLOCATE p", v.DEALLOCATE, "prepare:p"),
    ("DEALLOCATE ALL", v.DEALLOCATE_ALL, ""),
    ("DISCARD ALL", v.DISCARD_ALL, ""),
    ("DISCARD PLANS", v.NONE, ""),
    ("BEGIN", v.BEGIN, ""),
    ("START TRANSACTION READ ONLY", v.BEGIN, ""),
    ("COMMIT AND CHAIN", v.COMMIT, ""),
    ("ABORT", v.ROLLBACK, ""),
    ("PREPARE TRANSACTION 'x'", v.COMMIT, ""),
    ("COMMIT PREPARED 'x'", v.NONE, ""),
    ("SAVEPOINT a", v.SAVEPOINT, "a"),
    ("RELEASE a", v.RELEASE, "a"),
    ("ROLLBACK TO a", v.ROLLBACK_TO, "a"),
    ("SELECT 1", v.NONE, ""),
    ("EXPLAIN ANALYZE SELECT 1", v.NONE, ""),
]


@pytest.mark.parametrize(("sql", "kind", "key"), EFFECTS)
def test_effects_on_the_session(sql: str, kind: int, key: str) -> None:
    statement = only(sql)
    assert (statement.effect, statement.key) == (kind, key)


@pytest.mark.parametrize(
    ("sql", "pin", "unsure", "unpin"),
    [
        ("SELECT lower('A'), pg_catalog.now(), count(*) FROM t", "", False, False),
        ("SELECT information_schema._pg_expandarray(x) FROM t", "", False, False),
        ("SELECT my_function()", "", True, False),
        ("SELECT s.lower('A')", "", True, False),
        ("SELECT setseed(0.5)", "", True, False),
        ("SELECT query_to_xml('SELECT setseed(1)', true, true, '')", "", True, False),
        ("DO 'BEGIN END'", "", True, False),
        ("CALL p()", "", True, False),
        ("EXECUTE p", "", True, False),
        ("SET a.b = 'c'", "", True, False),
        ("CREATE TEMP TABLE x ()", "temporary objects", False, False),
        ("CREATE TABLE pg_temp.x ()", "temporary objects", False, False),
        ("CREATE TEMP VIEW x AS SELECT 1", "temporary objects", False, False),
        ("CREATE TEMP SEQUENCE x", "temporary objects", False, False),
        ("CREATE FUNCTION pg_temp.f() RETURNS int RETURN 1", "temporary objects", False, False),
        ("SELECT 1 INTO TEMP x", "temporary objects", False, False),
        ("SET search_path = pg_temp, public", "set_config", False, False),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "a cursor WITH HOLD", False, False),
        ("DECLARE c CURSOR FOR SELECT 1", "", False, False),
        ("LISTEN x", "LISTEN", False, False),
        ("UNLISTEN *", "", False, True),
        ("SELECT pg_advisory_lock(1)", "an advisory lock", False, False),
        ("SELECT pg_try_advisory_lock_shared(1, 2)", "an advisory lock", False, False),
        ("SELECT pg_advisory_xact_lock(1)", "", False, False),
        ("SELECT pg_advisory_unlock(1)", "", False, True),
        ("SELECT set_config('a.b', 'c', true)", "", False, False),
        ("SELECT set_config('a.b', 'c', false)", "set_config", False, False),
        ("SELECT set_config('a.b', 'c', $1)", "set_config", False, False),
        ("SELECT set_config(is_local => true, new_value => 'c', setting_name => 'a')", "", 0, 0),
        ("SELECT set_config($1, 'c', true)", "", True, False),
        ("DROP TABLE x", "", False, True),
        ("DISCARD TEMP", "", False, True),
        ("COMMIT", "", False, True),
    ],
)
def test_what_ties_a_client_to_its_server(sql: str, pin: str, unsure: bool, unpin: bool) -> None:
    statement = only(sql)
    assert (statement.pin, statement.unsure, statement.unpin) == (pin, unsure, unpin)


@pytest.mark.parametrize(
    "sql",
    [
        "SET LOCAL standard_conforming_strings TO 'no'",
        "SELECT set_config('Standard_Conforming_Strings', $1, false)",
        "SET client_encoding = 'SHIFT_JIS_2004'",
        "SET NAMES 'gb18030'",
        "SET SESSION AUTHORIZATION x",
        "UPDATE pg_settings SET setting = 'off' WHERE name = 'standard_conforming_strings'",
        "MERGE INTO pg_catalog.pg_settings USING s ON true WHEN MATCHED THEN DO NOTHING",
    ],
)
def test_what_nobody_may_do(sql: str) -> None:
    assert only(sql).forbidden


def test_each_statement_of_a_text_has_its_own_bytes() -> None:
    sql = "/* é */ SET a = 'ü' -- c\n; SELECT 1;\n SET b.c = $$;$$ ;".encode()
    found = analyse(sql).statements
    texts = [sql[statement.start : statement.end] for statement in found]
    assert texts == ["SET a = 'ü'".encode(), b"", b"SET b.c = $$;$$"]


def test_texts_that_are_not_utf_8() -> None:
    sql = "SELECT 'é'; SET a = 'é'".encode("latin-1")
    assert sql[analyse(sql).statements[1].start :] == b"SET a = '\xe9'"
    # Its name could not be undone.
    named = analyse("SET é.a = 1".encode("latin-1")).statements[0]
    assert (named.effect, named.pin) == (v.NONE, "a name that is not UTF-8")


def test_syntax_errors_read_as_from_postgresql(postgres: Postgres) -> None:
    for sql in [
        "SELECT 'é', * FRM x",
        "SELECT FROM WHERE",
        "SELECT 'a",
        "SELECT 1a",
        "CREATE x",
        ")",
    ]:
        with pytest.raises(SyntaxRefused) as ours:
            analyse(sql)
        with pytest.raises(psycopg.errors.SyntaxError) as theirs:
            postgres.execute(sql)
        assert ours.value.message == theirs.value.diag.message_primary
        assert str(ours.value.position) == theirs.value.diag.statement_position


def test_a_nul_byte_is_refused() -> None:
    with pytest.raises(SyntaxRefused):
        analyse(b"SELECT 1\0; DELETE FROM t")


def test_nesting_beyond_what_can_be_followed_is_refused() -> None:
    for sql in ["SELECT " + "(" * 8000, "SELECT " + "+".join(["a"] * 4000), "SELECT " * 1000]:
        with pytest.raises(TenantryError):
            analyse(sql)
    assert only("SELECT " + " || ".join(["a"] * 450)).operations == {"SELECT"}
    assert only("SELECT " + " OR ".join(["a"] * 2000)).operations == {"SELECT"}


def test_facts_survive_the_way_between_processes() -> None:
    for sql, *_ in [*OPERATIONS, *EFFECTS, ("SELECT 1; SELECT 1; SELECT f(2) FROM a.b",)]:
        facts = analyse(sql)
        again = load(dump(facts))
        assert again.exact == facts.exact
        for one, other in zip(facts.statements, again.statements, strict=True):
            assert all(getattr(one, name) == getattr(other, name) for name in FIELDS)


def test_equal_neighbours_are_kept_once() -> None:
    facts = analyse("INSERT INTO t VALUES (1);" * 1000 + "SET a = 1; SET a = 1")
    assert (len(facts.statements), facts.weight) == (1002, 3)
    with pytest.raises(TenantryError):
        analyse("SELECT;" * 10_001)


def test_the_known_functions_are_those_of_the_catalog(postgres: Postgres) -> None:
    known = {row[0] for row in postgres.execute(builtins.QUERY)}
    excluded = re.compile(builtins.EXCLUDED)
    assert {name for name in known if not excluded.match(name)} == builtins.BUILTINS


def test_whatever_parses_can_be_walked() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    pieces = [sql for sql, *_ in OPERATIONS + EFFECTS]
    words = " ".join(pieces).split(" ")
    accepted = 0
    for _ in range(2000):
        text = rng.choice(pieces).split(" ")
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(text))
            text[at : at + rng.randint(0, 1)] = [rng.choice(words)]
        sql = " ".join(text)
        try:
            analyse(sql)
            accepted += 1
        except SyntaxRefused:
            assert parse(sql.encode())[1]
    assert accepted > 50


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 FROM t WHERE a NOT /* c */ IN (1)",
        "SELECT a FROM t ORDER BY a NULLS -- c\n FIRST",
        "SELECT a::timestamp WITH /* 'x */ TIME ZONE FROM t -- '",
    ],
)
def test_comments_where_postgresql_looks_ahead(sql: str) -> None:
    # libpg_query reports a syntax error for these, PostgreSQL does not.
    assert analyse(sql).statements[0].relations == {("", "t")}
    with pytest.raises(SyntaxRefused) as error:
        analyse("SELECT /* é */ 1 FRM t")
    assert error.value.position == 22
