"""A hostile tenant past the proxy, on a sealed session: other tenants' rows never come back.

Each test runs as the tenant's own role and as the role that row tenants share, on PostgreSQL 18 and
on the oldest installed one.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from support.debian import debian_postgres
from support.engines import Postgres
from support.provisioning import lone_postgres, refused
from support.rows import (
    DATABASE,
    IDS,
    KINDS,
    ROWS_EACH,
    Estate,
    enter,
    estate,
    fresh_token,
    hand_over,
    seen,
)

from admin.provision.names import group_role
from wire.sql.seal import setting

__all__ = ["lone_postgres"]

PERMISSION = "42501"
EVIL = setting("beta")
SETTING = "backtrace_functions"


@pytest.fixture(scope="module", params=["18", "debian"])
def town(request: pytest.FixtureRequest) -> Iterator[Estate]:
    if request.param == "18":
        lone: Postgres = request.getfixturevalue("lone_postgres")
        yield estate(lone)
    else:
        with debian_postgres() as server:
            yield estate(server)


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_rows_come_back_and_no_others(town: Estate, kind: str) -> None:
    before = town.everything()
    for id in IDS:
        with town.session(kind, id) as conn:
            for table in ("orders", "customers", "events", "events_new", "invoked"):
                assert seen(conn, f"SELECT DISTINCT tenant_id FROM {table}") == {id}
            assert conn.execute("SELECT count(*) FROM orders").fetchone() == (ROWS_EACH,)
            conn.execute("INSERT INTO customers (id) VALUES (1000)")
            conn.execute("INSERT INTO orders (id, note, customer) VALUES (1000, 'new', 1000)")
            conn.execute("UPDATE orders SET note = 'newer' WHERE id = 1000")
            assert seen(conn, "SELECT tenant_id FROM orders WHERE note = 'newer'") == {id}
            conn.execute("DELETE FROM orders WHERE id = 1000")
            conn.execute("DELETE FROM customers WHERE id = 1000")
    assert town.everything() == before


def test_without_a_seal_there_is_nothing(town: Estate) -> None:
    with town.shared() as conn:
        assert seen(conn) == set()
        assert conn.execute("SELECT tenantry.current_tenant()").fetchone() == (None,)
        assert refused(conn, "INSERT INTO customers (id) VALUES (7)") == PERMISSION
        assert refused(conn, "INSERT INTO customers VALUES ('beta', 7)") == PERMISSION


SEAL_ATTACKS = [
    f"SET {SETTING} = '{EVIL}'",
    f"SET LOCAL {SETTING} = '{EVIL}'",
    f"SET SESSION {SETTING} = '{EVIL}'",
    f"SET {SETTING} TO DEFAULT",
    f"RESET {SETTING}",
    f"SELECT set_config('{SETTING}', '{EVIL}', false)",
    f"SELECT set_config('{SETTING}', '{EVIL}', true)",
    f"SELECT set_config('BACKTRACE_FUNCTIONS', '{EVIL}', false)",
    f"DO $$BEGIN PERFORM set_config('{SETTING}', '{EVIL}', false); END$$",
    f"DO $$BEGIN EXECUTE 'SET {SETTING} = ''{EVIL}'''; END$$",
    f"CREATE FUNCTION f() RETURNS int LANGUAGE sql SET {SETTING} = '{EVIL}' AS 'SELECT 1'",
    f"CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql SET {SETTING} = '{EVIL}' AS 'SELECT 1'",
    f"ALTER FUNCTION tell(text) SET {SETTING} = '{EVIL}'",
    f"ALTER ROLE CURRENT_USER SET {SETTING} = '{EVIL}'",
    f"ALTER ROLE CURRENT_USER IN DATABASE {DATABASE} SET {SETTING} = '{EVIL}'",
    f"ALTER DATABASE {DATABASE} SET {SETTING} = '{EVIL}'",
    f"ALTER SYSTEM SET {SETTING} = '{EVIL}'",
    f"UPDATE pg_settings SET setting = '{EVIL}' WHERE name = '{SETTING}'",
    'SET ROLE "tenantry-seal"',
    "SET ROLE postgres",
    "SET ROLE tenantry_beta",
    "SET SESSION AUTHORIZATION tenantry_beta",
    "SELECT set_config('role', 'tenantry_beta', false)",
    'GRANT "tenantry-seal" TO CURRENT_USER',
    f"GRANT SET ON PARAMETER {SETTING} TO PUBLIC",
    "SELECT * FROM tenantry.key",
    "SELECT tenantry.enter('')",
    "DROP FUNCTION tenantry.enter(text)",
    "CREATE FUNCTION tenantry.current_tenant(int) RETURNS text LANGUAGE sql AS 'SELECT ''beta'''",
    "CREATE OR REPLACE FUNCTION tenantry.current_tenant() RETURNS text LANGUAGE sql AS 'SELECT 1'",
    "CREATE SCHEMA mine",
    "CREATE TABLE mine (id int)",
    "CREATE TEMP TABLE orders (tenant_id text)",
    "CREATE VIEW mine AS SELECT * FROM orders",
    "CREATE FUNCTION f() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'",
    "ALTER TABLE orders DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE orders NO FORCE ROW LEVEL SECURITY",
    "ALTER TABLE orders OWNER TO CURRENT_USER",
    "CREATE POLICY mine ON orders USING (true)",
    "DROP POLICY tenantry ON orders",
    "CREATE TRIGGER mine BEFORE UPDATE ON orders EXECUTE FUNCTION tell()",
    "CREATE RULE mine AS ON SELECT TO orders DO INSTEAD SELECT 1",
    "CREATE STATISTICS mine ON id, note FROM orders",
    "TRUNCATE orders",
    "SELECT * FROM unprotected",
    "SELECT * FROM countries",
    "COPY orders TO '/tmp/x'",
    "COPY orders TO PROGRAM 'cat'",
    "SELECT lo_create(0)",
    "SELECT lo_get(1)",
    "SELECT lo_open(1, 262144)",
    "SELECT * FROM pg_largeobject",
    "SELECT pg_terminate_backend(1)",
    "SELECT pg_cancel_backend(1)",
    "SELECT * FROM pg_stat_activity",
    "SELECT * FROM pg_locks",
    "SELECT * FROM pg_statistic",
    "SELECT pg_read_file('PG_VERSION')",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attack", SEAL_ATTACKS)
def test_no_statement_moves_the_seal(town: Estate, kind: str, attack: str) -> None:
    with town.session(kind) as conn:
        if attack.startswith("GRANT") and "PARAMETER" in attack:
            assert refused(conn, attack) in (PERMISSION, "")  # PostgreSQL warns, and grants nothing
        else:
            assert refused(conn, attack) in (PERMISSION, "28000", "42809"), attack
        conn.execute("ROLLBACK")
        assert seen(conn) == {"acme"}
    with town.session(kind) as conn:
        assert seen(conn) == {"acme"}, "a later session too"


UNSEALING = ["RESET ALL", "DISCARD ALL", "ALTER ROLE CURRENT_USER RESET ALL", "SET ROLE NONE",
             f"ALTER ROLE CURRENT_USER RESET {SETTING}", "RESET SESSION AUTHORIZATION",
             f"ALTER ROLE CURRENT_USER IN DATABASE {DATABASE} RESET ALL",
             f"ALTER ROLE CURRENT_USER IN DATABASE {DATABASE} RESET {SETTING}"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attack", UNSEALING)
def test_taking_the_seal_off_gives_nothing(town: Estate, kind: str, attack: str) -> None:
    with town.session(kind) as conn:
        refused(conn, attack)
        assert seen(conn) == {"acme"} if kind == "own" else seen(conn) <= {"acme"}
    with town.session(kind) as conn:
        assert seen(conn) == {"acme"}, "a later session too"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "attack",
    [
        "INSERT INTO orders VALUES ('beta', 1000)",
        "INSERT INTO customers VALUES ('beta', 1000)",
        "INSERT INTO customers SELECT 'beta', g FROM generate_series(1001, 1003) g",
        "UPDATE orders SET tenant_id = 'beta'",
        "UPDATE customers SET tenant_id = 'beta' WHERE id = 1",
        "INSERT INTO events_old VALUES ('beta', 1, 'x')",
        "MERGE INTO orders o USING (VALUES (1)) s ON o.id = s.column1 "
        "WHEN MATCHED THEN UPDATE SET tenant_id = 'beta'",
        "INSERT INTO orders VALUES ('beta', 1) ON CONFLICT DO NOTHING",
        "INSERT INTO orders VALUES ('beta', 1) ON CONFLICT (tenant_id, id) "
        "DO UPDATE SET note = orders.note RETURNING *",
        "COPY orders FROM STDIN",
        "SET row_security = off; SELECT * FROM orders",
    ],
)
def test_nothing_is_written_for_another(town: Estate, kind: str, attack: str) -> None:
    before = town.everything()
    with town.session(kind) as conn:
        assert refused(conn, attack) in (PERMISSION, "0A000")
    assert town.everything() == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE orders SET note = 'x'",
        "UPDATE orders SET note = 'x' WHERE tenant_id = 'beta'",
        "DELETE FROM orders",
        "DELETE FROM events_old WHERE tenant_id <> 'acme'",
        "DELETE FROM orders USING events WHERE true",
        "WITH gone AS (DELETE FROM orders RETURNING *) SELECT * FROM gone",
    ],
)
def test_writes_reach_only_its_own(town: Estate, kind: str, attack: str) -> None:
    others = [row for row in town.everything() if row[1] != "acme"]
    with town.session(kind) as conn, conn.transaction(force_rollback=True):
        conn.execute(attack)
        conn.execute("SAVEPOINT s; ROLLBACK TO s")
        with town.session(kind, "beta") as beta:
            assert seen(beta) == {"beta"}
    assert [row for row in town.everything() if row[1] != "acme"] == others


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "query",
    [
        "SELECT tenant_id FROM orders WHERE tenant_id = 'beta' OR true",
        "SELECT tenant_id FROM ONLY orders",
        "SELECT tenant_id FROM orders TABLESAMPLE BERNOULLI (100)",
        "SELECT tenant_id FROM orders FOR UPDATE",
        "SELECT tenant_id FROM orders WHERE ctid >= '(0,0)'",
        "SELECT (o).tenant_id FROM (SELECT o FROM orders o) x",
        "SELECT tenant_id FROM orders WHERE tell(note)",
        "SELECT tenant_id FROM orders WHERE note ~~~~ 'beta secret 1' OR true",
        "SELECT tenant_id FROM customers c JOIN LATERAL (SELECT id FROM orders) o ON true",
        "SELECT everybody()",
        "SELECT o.tenant_id FROM orders o FULL JOIN events e ON e.at = o.id",
        "WITH RECURSIVE r AS (SELECT tenant_id, 1 n FROM orders UNION ALL "
        "SELECT o.tenant_id, n + 1 FROM orders o, r WHERE n < 2) SELECT tenant_id FROM r",
    ],
)
def test_reads_see_only_its_own(town: Estate, kind: str, query: str) -> None:
    told: list[str] = []
    with town.session(kind) as conn:
        conn.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
        assert seen(conn, query) == {"acme"}
    assert not [text for text in told if "acme" not in text]


def test_a_copy_out_has_only_its_own(town: Estate) -> None:
    with town.session("shared") as conn, conn.cursor() as cursor:
        for source in ("orders", "(SELECT * FROM orders)"):
            with cursor.copy(f"COPY {source} TO STDOUT") as copy:
                lines = b"".join(copy).splitlines()
            assert len(lines) == ROWS_EACH
            assert all(line.startswith(b"acme\t") for line in lines)


@pytest.mark.parametrize(
    ("options", "sqlstate"),
    [(f"-c {SETTING}={EVIL}", PERMISSION), ("-c row_security=off", PERMISSION)],
)
def test_startup_options_do_not_seal(town: Estate, options: str, sqlstate: str) -> None:
    with pytest.raises(psycopg.Error), town.shared(options=options) as conn:
        enter(conn, "acme")
        assert refused(conn, "SELECT * FROM orders") == sqlstate
        conn.execute("SELECT * FROM orders")


@pytest.mark.parametrize("end", ["ROLLBACK", "COMMIT", "ROLLBACK TO s", "SELECT 1/0"])
def test_the_seal_outlives_every_end_of_a_transaction(town: Estate, end: str) -> None:
    with town.session("shared") as conn:
        conn.execute("BEGIN; SAVEPOINT s")
        refused(conn, f"SET LOCAL {SETTING} = '{EVIL}'")
        conn.execute("ROLLBACK TO s")
        refused(conn, end)
        conn.execute("ROLLBACK")
        assert seen(conn) == {"acme"}


def test_plans_follow_the_seal(town: Estate) -> None:
    """Generic plans, a function's own plans, and parallel workers; without a reset in between."""
    with town.shared() as conn:
        enter(conn, "gamma")
        conn.execute("SET plan_cache_mode = force_generic_plan")
        conn.execute("PREPARE mine AS SELECT DISTINCT tenant_id FROM orders")
        for id in ("acme", "beta", "acme"):
            enter(conn, id)
            for query in ("EXECUTE mine", "SELECT everybody()"):
                assert seen(conn, query) == {id}


def test_parallel_workers_have_the_seal(town: Estate) -> None:
    with town.session("shared") as conn:
        forced = "debug_parallel_query" if conn.info.server_version >= 160000 else (
            "force_parallel_mode"
        )  # fmt: skip
        for text in (forced, "parallel_leader_participation"):
            conn.execute(f"SET {text} = {'on' if text == forced else 'off'}")
        conn.execute("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0")
        conn.execute("SET min_parallel_table_scan_size = 0")
        # The policy's InitPlan runs in the leader (and keeps plans serial before version 17); where
        # there is no policy, the function itself runs in the workers.
        queries = [
            "SELECT DISTINCT tenant_id FROM free WHERE tenant_id = tenantry.current_tenant()"
        ]
        if conn.info.server_version >= 170000:
            queries.append("SELECT DISTINCT tenant_id FROM orders")
        for query in queries:
            plan = "\n".join(row[0] for row in conn.execute(f"EXPLAIN {query}").fetchall())
            assert "Gather" in plan
            assert seen(conn, query) == {"acme"}


def test_a_hand_over_leaves_nothing_of_the_session_before(town: Estate) -> None:
    with town.session("shared") as conn:
        conn.execute("BEGIN; DECLARE held CURSOR WITH HOLD FOR SELECT * FROM orders; COMMIT")
        conn.execute("SET application_name = 'acme'; LISTEN channel")
        hand_over(conn, "beta")
        assert refused(conn, "FETCH ALL FROM held") == "34000"
        assert seen(conn) == {"beta"}
        assert conn.execute("SHOW application_name").fetchone() == ("",)


@pytest.mark.parametrize("how", ["again", "older", "expired", "ahead", "backend", "forged", "cut"])
def test_a_token_works_once_here_and_now(town: Estate, how: str) -> None:
    """Every refusal reads the same and leaves the seal as it was."""
    with town.session("shared") as conn, town.shared() as other:
        now = float(conn.execute("SELECT extract(epoch FROM clock_timestamp())").fetchone()[0])
        given = fresh_token(conn, "beta")
        bad = {
            "again": given,
            "older": fresh_token(conn, "beta", now=now - 5),
            "expired": fresh_token(conn, "beta", now=now - 31),
            "ahead": fresh_token(conn, "beta", now=now + 35),
            "backend": fresh_token(other, "beta"),
            "forged": given[:-1] + ("1" if given[-1] == "0" else "0"),
            "cut": given[4:],
        }[how]
        if how == "expired":
            conn.execute("RESET ALL")  # or it would be refused for being older than the seal
        if how == "again":
            conn.execute("SELECT tenantry.enter(%s)", [given])
            enter(conn, "acme")
        with pytest.raises(psycopg.Error) as caught:
            conn.execute("SELECT tenantry.enter(%s)", [bad])
        assert caught.value.sqlstate == "28000"
        assert caught.value.diag.message_primary == "the seal does not take this token"
        assert given.split(".")[-1] not in str(caught.value.diag.context)
        assert seen(conn) == (set() if how == "expired" else {"acme"})


@pytest.mark.parametrize("given", [None, "", ".", "x" * 70, "ff.1:2.3.4", "é" * 100, "a" * 10**6])
def test_what_is_no_token_is_refused_the_same_way(town: Estate, given: str | None) -> None:
    with town.session("shared") as conn:
        with pytest.raises(psycopg.Error, match="the seal does not take this token"):
            conn.execute("SELECT tenantry.enter(%s)", [given])
        assert seen(conn) == {"acme"}


def test_only_the_shared_role_may_enter(town: Estate) -> None:
    with town.session("own") as conn:
        assert refused(conn, "SELECT tenantry.enter('x')") == PERMISSION
        assert refused(conn, "SELECT tenantry.backend()") == PERMISSION


def test_sessions_of_one_role_do_not_see_each_other(town: Estate) -> None:
    """Not in any view that PostgreSQL has, by text, channel, lock or process."""
    with town.session("shared") as acme, town.session("shared", "beta") as beta:
        marker = "'betas-own-words'"
        beta.execute("BEGIN; SELECT pg_advisory_lock(424242)")
        beta.execute(f"SELECT {marker}, pg_sleep(0)")
        views = town.server.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'v' AND relnamespace IN "
            "('pg_catalog'::regnamespace, 'information_schema'::regnamespace)",
            DATABASE,
        )
        assert len(views) > 100
        for (view,) in views:
            try:
                rows = str(acme.execute(f"SELECT * FROM {view}").fetchall())
            except psycopg.errors.InsufficientPrivilege:
                continue
            assert "betas-own-words" not in rows, view
            assert "424242" not in rows, view
        assert "betas-own-words" in str(town.server.execute("SELECT query FROM pg_stat_activity"))


def test_the_groups_are_what_a_tenant_is_member_of(town: Estate) -> None:
    member = "SELECT pg_has_role(%s, 'USAGE')"
    with town.session("shared") as conn, town.session("own") as own:
        for operation in ("select", "insert", "update", "delete"):
            role = group_role(operation, DATABASE)
            assert conn.execute(member, [role]).fetchone() == (True,)
            assert own.execute(member, [role]).fetchone() == (True,)
            if conn.info.server_version >= 160000:
                assert refused(conn, f'SET ROLE "{role}"') == PERMISSION
