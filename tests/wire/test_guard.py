"""Verdicts: what a policy says of a text, and how the guard remembers it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from events.model import Permissions, RateLimits
from wire.errors import Forbidden, NotSupported, SyntaxRefused, TenantryError, TooLarge
from wire.sql import guard as module
from wire.sql import verdict as v
from wire.sql.analyse import analyse_or_refuse
from wire.sql.guard import Analyser, Guard
from wire.sql.helper import Helper
from wire.sql.policy import parse_name
from wire.sql.template import template
from wire.sql.verdict import Verdict, undo_sql


def make(analyser: Analyser | None = None, limit: int | None = 1 << 20, **may: Any) -> Guard:
    limits = RateLimits(max_statement_size=limit)
    return Guard(Permissions(**may), limits, analyser if analyser is not None else Analyser())


def ask(guard: Guard, sql: str | bytes) -> Verdict:
    text = sql.encode() if isinstance(sql, str) else sql
    verdict = guard.judge(text)
    return verdict if verdict is not None else guard.learn(text)


def refusal(sql: str | bytes, **may: Any) -> str:
    verdict = ask(make(**may), sql)
    return "" if verdict.refusal is None else verdict.refusal.message


REFUSED = [
    ("DELETE FROM t", {"allowed_operations": ("SELECT",)}, "tenant may not DELETE (permissions.al"),
    (
        "WITH x AS (DELETE FROM t RETURNING 1) SELECT 1",
        {"allowed_operations": ("SELECT",)},
        "DELETE",
    ),
    ("EXPLAIN ANALYZE DELETE FROM t", {"allowed_operations": ("SELECT",)}, "DELETE"),
    ("SELECT 1; DELETE FROM t", {"allowed_operations": ("SELECT",)}, "DELETE"),
    ("PREPARE p AS DELETE FROM t", {"allowed_operations": ("SELECT",)}, "DELETE"),
    ("SELECT 1", {"allowed_operations": ()}, "SELECT"),
    ("SELECT * FROM t FOR UPDATE", {"allowed_operations": ("SELECT",)}, "UPDATE"),
    ("TRUNCATE t", {"allowed_operations": ("SELECT", "INSERT")}, "TRUNCATE"),
    ("LOCK TABLE t", {"allowed_operations": ("SELECT",)}, "LOCK"),
    ("LISTEN x", {"allowed_operations": ("INSERT",)}, "SELECT"),
    ("CREATE TABLE t ()", {}, "tenant may not CREATE (permissions.allow_ddl)"),
    ("SELECT 1 INTO t", {}, "CREATE"),
    ("CREATE TEMP TABLE t ()", {}, "CREATE"),
    ("VACUUM t", {}, "VACUUM"),
    ("CREATE TABLE t AS SELECT 1", {"allow_ddl": True, "allowed_operations": ()}, "SELECT"),
    ("EXPLAIN SELECT 1", {"allow_explain": False}, "tenant may not EXPLAIN (permissions.allow_ex"),
    ("SELECT pg_read_file('x')", {}, "no system access: function pg_read_file"),
    ("CREATE ROLE x", {"allow_ddl": True}, "no system access: CREATE ROLE"),
    ("COPY t FROM '/x'", {}, "no system access: COPY with a file"),
    ("INSERT INTO t VALUES (1)", {"read_only": True}, "read-only and may not INSERT"),
    ("CREATE TABLE t ()", {"read_only": True, "allow_ddl": True}, "read-only and may not CREATE"),
    ("DO 'BEGIN END'", {"read_only": True}, "read-only"),
    ("BEGIN READ WRITE", {"read_only": True}, "read-only"),
    ("SET default_transaction_read_only = off", {"read_only": True}, "read-only"),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE", {"read_only": True}, "read-only"),
    ("SELECT set_config('transaction_read_only', 'off', true)", {"read_only": True}, "read-only"),
    ("SELECT * FROM a, b, c", {"max_tables_per_query": 2}, "uses 3 tables, 2 are allowed"),
    ("SELECT * FROM secrets", {"blocked_tables": ("secrets",)}, "denied for table secrets"),
    ("SELECT * FROM SECRETS", {"blocked_tables": ("Secrets",)}, "denied for table secrets"),
    ("SELECT * FROM s.secrets", {"blocked_tables": ("secrets",)}, "denied for table secrets"),
    ("SELECT * FROM secrets", {"blocked_tables": ("s.secrets",)}, "denied for table secrets"),
    ('SELECT * FROM "Secrets"', {"blocked_tables": ('"Secrets"',)}, "denied for table Secrets"),
    ("DROP TABLE secrets", {"blocked_tables": ("secrets",), "allow_ddl": True}, "denied for"),
    ("CREATE VIEW x AS TABLE y", {"blocked_tables": ("y",), "allow_ddl": True}, "denied for table"),
    ("WITH x AS (SELECT FROM y) SELECT", {"blocked_tables": ("y",)}, "denied for table y"),
    ("SET LOCAL standard_conforming_strings = off", {}, "cannot be changed here"),
    ("DO 'BEGIN END'", {}, "may not DO"),
    ("SELECT query_to_xml('TABLE y', true, true, '')", {"blocked_tables": ("y",)}, "any table"),
    ("SELECT * FROM pg_catalog.ts_stat('TABLE y')", {"blocked_tables": ("y",)}, "any table"),
]


@pytest.mark.parametrize(("sql", "may", "message"), REFUSED)
def test_what_is_refused_and_why(sql: str, may: dict[str, Any], message: str) -> None:
    assert message in refusal(sql, **may)


@pytest.mark.parametrize(
    ("sql", "may"),
    [
        ("", {}),
        ("BEGIN; SET a = 1; SHOW a; RESET ALL; COMMIT", {"allowed_operations": ()}),
        ("INSERT INTO t VALUES (1, 2)", {"allowed_operations": ("insert",)}),
        ("TRUNCATE t", {"allowed_operations": ("TRUNCATE",)}),
        ("TRUNCATE t", {"allowed_operations": ("DELETE",)}),
        ("LOCK TABLE t", {"allowed_operations": ("UPDATE",)}),
        ("LOCK TABLE t IN ACCESS SHARE MODE", {"allowed_operations": ("SELECT",)}),
        ("DO 'BEGIN END'", {"allow_ddl": True}),
        ("DO 'BEGIN END'", {"allowed_operations": ("DO",)}),
        ("CREATE TABLE t ()", {"allow_ddl": True, "allowed_operations": ()}),
        ("CREATE TABLE t ()", {"allowed_operations": ("CREATE",)}),
        ("CREATE EXTENSION x", {"allow_ddl": True, "allow_system_access": True}),
        ("SELECT * FROM t", {"read_only": True}),
        ("BEGIN READ ONLY", {"read_only": True}),
        ("SET default_transaction_read_only = on", {"read_only": True}),
        ("SELECT pg_terminate_backend(pg_backend_pid())", {}),
        # Catalogs do not count: psql and the ORMs join a dozen of them.
        ("SELECT * FROM pg_class, pg_catalog.pg_type, a, b", {"max_tables_per_query": 2}),
        ("SELECT * FROM a, a b, a c", {"max_tables_per_query": 1}),
        ('SELECT * FROM secrets, "SECRETS"', {"blocked_tables": ('"Secrets"',)}),
        ("SELECT * FROM t.secrets", {"blocked_tables": ("s.secrets",)}),
        ("WITH secrets AS (SELECT 1) SELECT * FROM secrets", {"blocked_tables": ("secrets",)}),
    ],
)
def test_what_passes(sql: str, may: dict[str, Any]) -> None:
    assert refusal(sql, **may) == ""


def test_refusals_have_the_sqlstate_of_their_reason() -> None:
    guard = make(limit=1000)
    for sql, error in [
        ("CREATE TABLE t ()", Forbidden),
        ("SELECT * FRM t", SyntaxRefused),
        ("SET client_encoding = 'SJIS'", NotSupported),
        ("SELECT '" + "x" * 1000 + "'", TooLarge),
    ]:
        assert isinstance(ask(guard, sql).refusal, error), sql


@pytest.mark.parametrize("name", ["", "a.", ".a", "a.b.c", '"a', "a b.c.d", '""'])
def test_a_blocked_table_that_is_not_a_name_is_a_mistake(name: str) -> None:
    with pytest.raises(ValueError, match="does not name a table"):
        parse_name(name)


def test_effects_are_one_per_statement_or_none_at_all() -> None:
    guard = make()
    assert ask(guard, "SELECT 1; SELECT 2").effects == ()
    effects = ask(guard, "SELECT 1; SET a = 'x' -- y\n; SAVEPOINT s").effects
    assert [(e.kind, e.key, e.sql) for e in effects] == [
        (v.NONE, "", b""),
        (v.SET, "guc:a", b"SET a = 'x'"),
        (v.SAVEPOINT, "s", b""),
    ]


@pytest.mark.parametrize(
    ("key", "sql"),
    [
        ("guc:work_mem", b'RESET "work_mem"'),
        ('guc:a."b', b'RESET "a"."""b"'),
        ('prepare:a"; DROP TABLE t; --', b'DEALLOCATE "a""; DROP TABLE t; --"'),
        ("role", b"RESET ROLE"),
        ("session_authorization", b"RESET SESSION AUTHORIZATION"),
    ],
)
def test_undoing_state(key: str, sql: bytes) -> None:
    assert undo_sql(key) == sql


# --- what is remembered ---------------------------------------------------------------------


def test_a_text_is_known_by_its_template() -> None:
    guard = make()
    assert guard.judge(b"SELECT * FROM t WHERE a = 1") is None
    first = guard.learn(b"SELECT * FROM t WHERE a = 1")
    assert guard.judge(b"SELECT * FROM t WHERE a = 2") is first
    assert guard.judge(b"SELECT * FROM t WHERE a = 'x'") is None
    assert guard.judge(b"SELECT * FROM u WHERE a = 1") is None


def test_texts_that_come_once_do_not_fill_the_cache_of_texts() -> None:
    guard = make()
    ask(guard, "SELECT 0")
    for number in range(5000):
        ask(guard, f"SELECT {number}")
    assert len(guard._templates) == 1
    before = len(guard._exact)
    assert before < 100
    # The second time soon after, it is worth keeping.
    ask(guard, "SELECT 'again'")
    ask(guard, "SELECT 'again'")
    ask(guard, "SELECT 'again'")
    assert len(guard._exact) == before + 1


def test_settings_never_share_a_verdict() -> None:
    guard = make()
    for value in ("a", "b", "a"):
        verdict = ask(guard, f"SET application_name = '{value}'")
        assert verdict.effects[0].sql == f"SET application_name = '{value}'".encode()
    assert ask(guard, "SET  client_encoding = 'UTF8'").refusal is None
    assert ask(guard, "SET  client_encoding = 'BIG5'").refusal is not None
    assert ask(guard, "SELECT set_config('client_encoding', 'UTF8', true)").refusal is None
    assert ask(guard, "SELECT set_config('client_encoding', 'BIG5', true)").refusal is not None
    # The template of one is the text of the other, but the positions differ.
    assert ask(guard, "SET a TO b").effects[0].sql == b"SET a TO b"
    assert ask(guard, "SET   a TO b").effects[0].sql == b"SET   a TO b"
    assert ask(guard, " SET   a TO b").effects[0].sql == b"SET   a TO b"


def test_facts_are_shared_and_verdicts_are_not() -> None:
    analyser = Analyser()
    writer = make(analyser)
    reader = make(analyser, allowed_operations=("SELECT",))
    assert ask(writer, "DELETE FROM t WHERE a = 1").refusal is None
    assert analyser.known(
        b"DELETE FROM t WHERE a = 2", module.template(b"DELETE FROM t WHERE a = 2")
    )
    assert ask(reader, "DELETE FROM t WHERE a = 2").refusal is not None
    assert ask(writer, "DELETE FROM t WHERE a = 3").refusal is None


def test_the_caches_are_bounded() -> None:
    analyser = Analyser()
    guard = make(analyser)
    for number in range(3000):
        ask(guard, f"SELECT a{number}, {'x' * 500}")
        ask(guard, f"SET a.b{number} = {'x' * 500}")
    for cache in (guard._exact, guard._templates):
        assert cache._size <= module.VERDICT_BYTES
        assert len(cache) <= 2 * module.VERDICT_ENTRIES
    assert analyser._size <= module.FACTS_BYTES


def test_syntax_errors_are_not_shared_by_template() -> None:
    guard = make()
    # Only one of them is an error.
    assert ask(guard, "SELECT 1 FETCH FIRST '1' ROWS ONLY").refusal is None
    error = ask(guard, "SELECT * FROM t WHERE a IN (1,)").refusal
    assert isinstance(error, SyntaxRefused)
    assert ask(guard, "SELECT * FROM t WHERE a IN (1)").refusal is None


# --- large and hostile texts ----------------------------------------------------------------


@pytest.fixture
def helper() -> Iterator[Helper]:
    helper = Helper()
    yield helper
    helper.close()


def offload(guard: Guard, helper: Helper, sql: bytes) -> Verdict:
    """As the wire does it: parsed elsewhere, adopted, then asked again."""
    assert guard.judge(sql) is None
    assert guard.must_offload(sql)
    guard.adopt(sql, helper.submit(sql).result())
    again = guard.judge(sql)
    if again is None:
        assert not guard.must_offload(sql)
        again = guard.learn(sql)
    return again


def test_large_texts_are_read_elsewhere(helper: Helper) -> None:
    guard = make(allowed_operations=("INSERT",))
    rows = [b"(%d, 'abc')" % number for number in range(40_000)]
    assert offload(guard, helper, b"INSERT INTO t VALUES " + b",".join(rows)).refusal is None
    # Below the size for templates the next one is known without parsing.
    insert = b"INSERT INTO t VALUES "
    assert offload(guard, helper, insert + b",".join(rows[:1000])).refusal is None
    assert guard.judge(insert + b",".join(rows[1000:2500])) is not None
    refused = offload(guard, helper, b"DELETE FROM t WHERE a IN (1" + b",1" * 50_000 + b")")
    assert isinstance(refused.refusal, Forbidden)
    broken = offload(guard, helper, b"SELECT " + b"a, " * 5000 + b"FROM t")
    assert isinstance(broken.refusal, SyntaxRefused)
    assert broken.refusal.position == 15008


def test_texts_over_the_limit_are_not_even_looked_at() -> None:
    guard = make(limit=100)
    verdict = guard.judge(b"\0" * 101)
    assert verdict is not None
    assert isinstance(verdict.refusal, TooLarge)
    assert verdict.refusal.sqlstate == "54000"


BOMBS = [
    b"SELECT " + b"(" * 500_000,
    b"SELECT " + b"+".join([b"1"] * 500_000),
    b"SELECT " + b"- " * 500_000 + b"1",
    b"SELECT " * 140_000,
    b"SELECT 1" + b" UNION SELECT 1" * 60_000,
    b"SELECT " + b"CASE WHEN " * 100_000,
    b"SELECT;" * 100_000,
    b"SELECT " + b"f(" * 300_000,
    b"SELECT '" + b"x" * 1_000_000,
    b"SELECT " + b"a." * 500_000 + b"a",
    b"/*" * 500_000,
]


def test_bombs_are_refused_and_harm_nobody(helper: Helper) -> None:
    guard = make(limit=2 << 20)
    for bomb in BOMBS:
        verdict = offload(guard, helper, bomb)
        assert verdict.refusal is None or isinstance(verdict.refusal, TenantryError)
    assert offload(guard, helper, b"SELECT 1" + b" " * 9000).refusal is None


def test_a_hundred_thousand_ors(helper: Helper) -> None:
    sql = b"SELECT 1 FROM t WHERE " + b" OR ".join([b"a=1"] * 100_000)
    assert offload(make(), helper, sql).refusal is None


def test_what_takes_too_long_costs_its_process_only() -> None:
    helper = Helper(cpu_seconds=0)
    try:
        sql = b"SELECT 1 FROM t WHERE " + b" OR ".join([b"a=1"] * 100_000)
        facts = helper.submit(sql).result()
        assert isinstance(facts.refusal, TooLarge)
        assert helper.submit(b"SELECT 1").result().refusal is None
    finally:
        helper.close()


def test_a_killed_helper_is_replaced(helper: Helper) -> None:
    assert helper.submit(b"SELECT 1").result().refusal is None
    for child in list(helper._children):
        child.kill()
        child.wait()
    assert helper.submit(b"SELECT 1").result().refusal is None


def test_closing_the_helper_leaves_no_process() -> None:
    helper = Helper()
    pending = helper.submit(b"SELECT 1 FROM t WHERE " + b" OR ".join([b"a=1"] * 100_000))
    deadline = time.monotonic() + 10
    while not helper._children and time.monotonic() < deadline:
        time.sleep(0.01)
    children = list(helper._children)
    helper.close()
    assert all(child.poll() is not None for child in children)
    assert pending.cancelled() or pending.result().refusal is not None


def test_deep_texts_below_the_size_for_the_helper_are_refused_here() -> None:
    guard = make()
    for bomb in BOMBS:
        ask(guard, bomb[: module.PARSE_HERE_MAX])
    assert ask(guard, "SELECT 1").refusal is None


def test_a_refused_text_is_not_taken_for_the_template_it_looks_like() -> None:
    analyser = Analyser()
    victim = b"SELECT 1"
    looks_like_it = template(victim)
    assert looks_like_it is not None
    assert looks_like_it != victim
    # As when a large text comes back from the helper, and its client has gone.
    make(analyser).adopt(looks_like_it, analyse_or_refuse(looks_like_it))
    assert make(analyser).learn(victim).refusal is None


def test_many_names_count_in_what_the_facts_take() -> None:
    analyser = Analyser()
    names = ", ".join(f"t{number}" for number in range(10_000))
    for number in range(14):
        sql = f"SELECT {number} FROM {names}".encode()
        analyser.remember(sql, None, analyse_or_refuse(sql))
    assert len(analyser._young) + len(analyser._old) < 14


def test_hard_texts_are_read_elsewhere_once_their_tenant_has_used_its_share() -> None:
    guard = make()
    hard = [f"SELECT c{n} FROM t WHERE {'a = 1 OR ' * 800} b" for n in range(200)]
    assert not guard.must_offload(hard[0].encode())
    for sql in hard:
        ask(guard, sql)
        if guard.must_offload(b"SELECT another FROM t WHERE " + b"x" * 300):
            break
    else:
        raise AssertionError("all read in the loop")
    assert not guard.must_offload(b"SELECT short FROM t")
    assert not make().must_offload(hard[-1].encode())
