"""Tenants beside others: schemas they may name, settings, channels, lock keys, catalogs."""

from __future__ import annotations

import pytest
from support.shared_tables import VALUES, ask, catalog, forwarded, row_guard

from events.model import Permissions, RateLimits
from wire.errors import Forbidden, NotSupported
from wire.sql import namespaces
from wire.sql.frame import SHARED, Frame
from wire.sql.guard import Analyser, Guard
from wire.sql.qualified import split_path

SCHEMAS = frozenset({"own", "public"})


def schema_guard(analyser: Analyser | None = None) -> Guard:
    may = Permissions(allow_ddl=True, allow_system_access=True)
    own = analyser if analyser is not None else Analyser(SHARED)
    return Guard(may, RateLimits(), own, VALUES, SCHEMAS)


OTHERS = [
    *("SELECT * FROM other.t", "SELECT other.f(1)", "SELECT 'a'::other.kind", "DROP TABLE other.t"),
    *("SELECT a OPERATOR(other.+) b", "SELECT a COLLATE other.c", "CREATE TABLE t (a other.kind)"),
    *("CREATE SCHEMA other", "DROP SCHEMA own, other", "ALTER SCHEMA own RENAME TO other"),
    *("ALTER TABLE t SET SCHEMA other", "SET search_path = own, other", "SET SCHEMA 'other'"),
    *(
        "SET LOCAL search_path TO 'other'",
        "SELECT set_config('search_path', 'own, \"other\"', true)",
    ),
    *("SELECT set_config('search_path', current_user, true)", "SELECT set_config($1, 'x', true)"),
    *("SET search_path = 'Own'", "CREATE FUNCTION f() RETURNS int SET search_path = other AS 'x'"),
    *("GRANT SELECT ON ALL TABLES IN SCHEMA other TO x", "COMMENT ON COLUMN other.t.c IS 'x'"),
    *("ALTER DEFAULT PRIVILEGES IN SCHEMA other GRANT SELECT ON TABLES TO x", "DROP TYPE other.t"),
    *("DROP FUNCTION other.f(int)", "DROP TRIGGER x ON other.t", "TRUNCATE own.t, other.t"),
    *("COPY other.t TO STDOUT", "INSERT INTO other.t VALUES (1)", "LOCK TABLE other.t"),
    *("WITH x AS (SELECT * FROM other.t) SELECT 1", "PREPARE p AS SELECT * FROM other.t"),
    *("CREATE TABLE x (LIKE other.t)", "CREATE TABLE x () INHERITS (other.t)", "CALL other.p()"),
    *("CREATE VIEW v AS SELECT * FROM other.t", "CREATE INDEX ON t (a other.ops)", "TABLE other.t"),
    *(
        "DROP OPERATOR CLASS other.c USING btree",
        "REINDEX SCHEMA other",
        "SELECT * FROM pg_temp_3.t",
    ),
    *("EXPLAIN SELECT * FROM other.t", "DECLARE c CURSOR FOR SELECT * FROM other.t"),
    "CREATE FUNCTION f() RETURNS own.t LANGUAGE sql BEGIN ATOMIC SELECT * FROM other.t; END",
    "CREATE TABLE t (a int REFERENCES other.k)",
]


@pytest.mark.parametrize("sql", OTHERS)
def test_schemas_of_others_are_refused(sql: str) -> None:
    assert isinstance(ask(schema_guard(), sql).refusal, (Forbidden, NotSupported))


@pytest.mark.parametrize(
    "sql",
    [
        *("SELECT * FROM own.t, public.t, t", "SELECT own.f(pg_catalog.now())", "TABLE pg_temp.t"),
        *(
            "SET search_path = own, public",
            'SET search_path = "$user", public',
            "CREATE SCHEMA own",
        ),
        *(
            "SET search_path = ''",
            "SELECT set_config('search_path', '', false)",
            "DROP TABLE own.t",
        ),
        *("SELECT t.a, x.b FROM t, x", "SELECT other.a FROM t AS other", "RESET search_path"),
        *("COMMENT ON COLUMN t.c IS 'x'", "DROP TRIGGER x ON t", "ALTER TABLE t SET SCHEMA own"),
        *("SELECT set_config('search_path', ' Own , \"public\"', true)", "SELECT 'other.t'"),
        *("CREATE OPERATOR CLASS own.c FOR TYPE own.t USING btree AS STORAGE int", "SET a.b = 1"),
        *("SELECT * FROM information_schema.tables", "CREATE FUNCTION f(a t.c%TYPE) AS 'x'"),
        "CREATE TABLE own.x AS SELECT * FROM public.t",
    ],
)
def test_own_schemas_and_postgresqls_pass(sql: str) -> None:
    verdict = ask(schema_guard(), sql)
    assert verdict.refusal is None


def test_facts_are_shared_by_tenants_of_different_schemas() -> None:
    analyser = Analyser(SHARED)
    may = Permissions()
    other = Guard(may, RateLimits(), analyser, VALUES, frozenset({"other"}))
    assert ask(other, "SELECT * FROM other.t WHERE a = 1").refusal is None
    assert ask(schema_guard(analyser), "SELECT * FROM other.t WHERE a = 2").refusal is not None


@pytest.mark.parametrize(
    "sql",
    [
        *(
            "SET ROLE postgres",
            "RESET ROLE",
            "SET SESSION AUTHORIZATION x",
            "SELECT set_config(name, 'view', false) FROM pg_settings",
        ),
        *("SELECT set_config('role', 'x', true)", "SET backtrace_functions = 'tenantry_61636d65'"),
        *("RESET backtrace_functions", "PREPARE TRANSACTION 'x'", "COMMIT PREPARED 'x'"),
        *("SET tenantry.x = 1", "SET session_preload_libraries = 'x'", "ROLLBACK PREPARED 'x'"),
        "SELECT pg_catalog.set_config('backtrace_functions', '', false)",
        "SELECT set_config(setting_name => 'role', new_value => 'x', is_local => true)",
        "CREATE FUNCTION f() RETURNS int SET role = x AS 'x'",
    ],
)
def test_what_nobody_may_set_beside_others(sql: str) -> None:
    assert ask(schema_guard(), sql).refusal is not None
    assert ask(row_guard(), sql).refusal is not None


@pytest.mark.parametrize(
    "sql",
    [
        "SET row_security = off",
        "SELECT set_config(name, 'view, foreign-table', false) FROM pg_settings "
        "WHERE name = 'restrict_nonsystem_relation_kind'",
        "SELECT tableoid, oid, srvname FROM pg_foreign_server",
        "SELECT count(*) FROM pg_subscription WHERE subdbid = 5",
        "SELECT oid, lomowner FROM pg_largeobject_metadata",
    ],
)
def test_what_pg_dump_asks_of_a_schema_of_ones_own(sql: str) -> None:
    assert ask(schema_guard(), sql).refusal is None
    assert ask(row_guard(), sql).refusal is not None


def test_roles_of_others_have_no_names() -> None:
    sql = "SELECT oid, rolname FROM pg_catalog.pg_roles ORDER BY 1"
    assert b"pg_other_" in forwarded(schema_guard(), sql)
    assert b"pg_has_role" in forwarded(row_guard(), sql)
    assert b"pg_other_" not in forwarded(row_guard(), sql)


@pytest.mark.parametrize("make", [schema_guard, row_guard])
def test_channels_and_lock_keys_are_the_tenants_own(make: type[Guard]) -> None:
    guard = make()
    assert forwarded(guard, "LISTEN chat") == b'LISTEN "acme_chat"'
    assert forwarded(guard, "NOTIFY chat, 'x'") == b"NOTIFY \"acme_chat\", 'x'"
    assert b"'acme_'" in forwarded(guard, "SELECT pg_notify('chat', 'x')")
    for number in (7, 8, 123456):
        # The second and third by the template of the first.
        text = forwarded(guard, f"SELECT pg_advisory_xact_lock({number})")
        assert b"424242" in text
        assert b"((%d)" % number in text
    assert guard.judge(b"SELECT pg_advisory_xact_lock(99)") is not None


def test_rows_of_literals_are_short_in_templates_of_schema_tenants() -> None:
    guard = schema_guard()
    ask(guard, "INSERT INTO t VALUES (1, 'a'); SELECT pg_notify('c', 'x')")
    text = b"INSERT INTO t VALUES (1, 'a') , (2, 'bcd'); SELECT pg_notify('c', 'x')"
    verdict = guard.judge(text)
    assert verdict is not None
    assert guard.rewritten(text, verdict) == forwarded(schema_guard(), text)


@pytest.mark.parametrize(
    "sql",
    [
        *("SELECT own.f()", "SELECT pg_sleep_forever()", "SELECT lo_get(1)", "SELECT lo_creat(1)"),
        *("SELECT query_to_xml('TABLE orders', true, true, '')", "SELECT * FROM pg_stat_activity"),
        *("SELECT set_config('search_path', 'public, x', false)", "SET search_path = x"),
        *("SELECT set_config(customer, 'x', true) FROM orders", "SELECT 1 OPERATOR(public.+) 1"),
        *("SELECT pg_terminate_backend(1)", "SELECT * FROM pg_authid", "CALL proc()"),
        *("SELECT * FROM pg_statistic", "SELECT setval('x', 1)", "SELECT * FROM pg_toast.x"),
        "SELECT set_config('app.tenant', 'beta', false)",
    ],
)
def test_what_else_row_tenants_may_not_use(sql: str) -> None:
    frame = Frame(catalog(settings=frozenset({"app.tenant"})), shared=True)
    everything = {"allow_system_access": True, "allow_ddl": True}
    assert isinstance(ask(row_guard(Analyser(frame), **everything), sql).refusal, Forbidden)


def test_functions_that_the_operator_allows() -> None:
    frame = Frame(catalog(functions=frozenset({("public", "discount")})), shared=True)
    guard = row_guard(Analyser(frame))
    assert ask(guard, "SELECT discount(total), public.discount(1) FROM orders").refusal is None
    assert ask(guard, "SELECT other.discount(total) FROM orders").refusal is not None


@pytest.mark.parametrize(
    ("path", "sql", "passes"),
    [
        (("public",), "SET search_path = public", True),
        (("public",), "SET search_path = pg_catalog, public", True),
        (("public",), "SET search_path = public, pg_catalog", False),
        (("public",), "SET search_path = ''", True),
        (("public",), "SET search_path = information_schema", False),
        (("public",), "RESET search_path", True),
        (("a", "b"), "SET search_path = a, b", True),
        # The unqualified name would mean another table than the one that was looked up.
        (("a", "b"), "SET search_path = b", False),
        (("a", "b"), "SET search_path = b, a", False),
        (("a", "b"), "SET search_path TO DEFAULT", False),
        (("a", "b"), "SELECT set_config('search_path', 'b', true)", False),
    ],
)
def test_search_path_among_shared_tables(path: tuple[str, ...], sql: str, passes: bool) -> None:
    guard = row_guard(Analyser(Frame(catalog(path=path), shared=True)))
    assert (ask(guard, sql).refusal is None) is passes


def test_catalogs_that_tell_of_others_are_shown_in_part() -> None:
    for guard in (schema_guard(), row_guard()):
        text = forwarded(guard, "SELECT relname, reltuples FROM pg_class c WHERE relname = 'x'")
        assert b"(-1)::pg_catalog.float4 AS reltuples" in text
        assert forwarded(guard, "SELECT oid FROM pg_authid").startswith(b"refused")


def test_functions_for_channels_and_locks_are_told_by_their_first_letters() -> None:
    # framed.py looks for no others.
    assert all(name.startswith("pg_") for name in namespaces.CALLED)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT U&\"pg\\005fnotify\"('chat', 'x')",
        "SELECT 1 FROM orders WHERE pg_catalog.pg_try_advisory_lock(id)",
        "WITH x AS (SELECT pg_notify('chat', 'x')) SELECT * FROM x",
        "PREPARE p AS SELECT pg_advisory_lock(1)",
    ],
)
def test_no_call_for_channels_and_locks_is_missed(sql: str) -> None:
    for guard in (schema_guard(), row_guard()):
        text = forwarded(guard, sql)
        assert b"424242" in text or b"acme_" in text


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('a, B ,"C"', ["a", "b", "C"]),
        ("", []),
        (' "a""b" ', ['a"b']),
        ('""', [""]),
        ("a,,b", None),
        ("a b", None),
        ('"a', None),
        ("a,", None),
    ],
)
def test_search_path_is_read_as_postgresql_does(text: str, path: list[str] | None) -> None:
    assert split_path(text) == path
