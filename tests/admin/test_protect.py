"""`tenantry protect` on a real server: afterwards a tenant with its own password, past the proxy,
reads and writes its own rows and nobody else's; and what could not be made safe stays closed."""

from __future__ import annotations

import psycopg
import pytest
from support.engines import Postgres
from support.provisioning import login, lone_postgres, make, refused, tenant
from support.shared_rows import Shared

from admin.cli.failure import Failure
from admin.protect.queries import CATALOG_QUERY

__all__ = ["lone_postgres"]

DENIED = "42501"

SETUP = """
CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY, tenant_id text, item text,
  PRIMARY KEY (tenant_id, id));
INSERT INTO orders (tenant_id, item) VALUES ('acme', 'anvil'), ('beta', 'bolt');
CREATE TABLE notes (id serial, tenant_id varchar(20), note text);
CREATE TABLE events (tenant_id text, at date, what text) PARTITION BY RANGE (at);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2021-01-01') TO ('2022-01-01')
  PARTITION BY LIST (what);
CREATE TABLE events_2a PARTITION OF events_2 DEFAULT;
INSERT INTO events VALUES ('acme', '2020-05-05', 'a'), ('beta', '2021-05-05', 'b');
CREATE TABLE people (tenant_id text, name text);
CREATE TABLE staff (boss text) INHERITS (people);
CREATE TABLE countries (code text PRIMARY KEY);
INSERT INTO countries VALUES ('de');
CREATE TABLE internal (x int);
"""
TABLES = ["events", "events_1", "events_2", "events_2a", "notes", "orders", "people", "staff"]


@pytest.fixture(scope="module")
def shop(lone_postgres: Postgres) -> Shared:
    shared = Shared(lone_postgres, SETUP, shared_tables=["countries"])
    before = shared.look()
    assert not before.plan.complete
    assert before.plan.protected == []
    told: list[str] = []
    after = shared.protect(told.append)
    assert after.plan.complete
    assert after.plan.protected == TABLES
    assert after.plan.unreachable == ["internal"]
    assert any("orders: policy" in line for line in told)
    return shared


def test_each_tenant_reads_its_own_rows(shop: Shared) -> None:
    for id, item in (("acme", "anvil"), ("beta", "bolt")):
        with shop.enter(id) as conn:
            assert conn.execute("SELECT item FROM orders").fetchall() == [(item,)]
            assert conn.execute("SELECT DISTINCT tenant_id FROM events").fetchall() == [(id,)]
            assert conn.execute("SELECT code FROM countries").fetchall() == [("de",)]
            assert refused(conn, "INSERT INTO countries VALUES ('fr')") == DENIED
            assert refused(conn, "SELECT * FROM internal") == DENIED
    with shop.enter("acme") as conn:
        assert conn.execute("SELECT count(*) FROM events_1").fetchone() == (1,)
        assert conn.execute("SELECT count(*) FROM events_2").fetchone() == (0,)


def test_writes_are_stamped_and_move_to_nobody(shop: Shared) -> None:
    with shop.enter("acme") as conn:
        conn.execute("INSERT INTO notes (note) VALUES ('mine')")
        found = conn.execute("SELECT id, tenant_id, note FROM notes").fetchall()
        assert found == [(1, "acme", "mine")]
        for wrong in (
            "INSERT INTO notes (tenant_id, note) VALUES ('beta', 'x')",
            "INSERT INTO notes (tenant_id, note) VALUES (NULL, 'x')",
            "INSERT INTO events_2a VALUES ('beta', '2021-06-06', 'x')",
            "UPDATE orders SET tenant_id = 'beta'",
            "UPDATE staff SET tenant_id = 'beta'; INSERT INTO people VALUES ('beta')",
            "TRUNCATE orders",
            "ALTER TABLE orders DISABLE ROW LEVEL SECURITY",
            "DROP POLICY tenantry ON orders",
            "SELECT setval('notes_id_seq', 1)",
            "SELECT last_value FROM notes_id_seq",
            "CREATE TABLE evil (x orders REFERENCES orders)",
        ):
            assert refused(conn, wrong) in (DENIED, "23502"), wrong
        conn.execute("DELETE FROM events")
        conn.execute("UPDATE orders SET item = 'all of them'")
    assert shop.sql("SELECT tenant_id FROM events") == [("beta",)]
    assert shop.sql("SELECT item FROM orders WHERE tenant_id = 'beta'") == [("bolt",)]


def test_the_owner_and_sessions_without_a_seal_see_nothing(shop: Shared) -> None:
    shop.sql("CREATE ROLE keeper LOGIN PASSWORD 'k'; ALTER TABLE people OWNER TO keeper")
    shop.sql(f'GRANT CONNECT ON DATABASE "{shop.database}" TO keeper')
    shop.sql("GRANT USAGE ON SCHEMA tenantry TO keeper; INSERT INTO people VALUES ('acme', 'Ann')")
    dsn = shop.server.dsn(shop.database, user="keeper", password="k")
    with psycopg.connect(dsn, autocommit=True) as conn:
        assert conn.execute("SELECT * FROM people").fetchall() == []
    with shop.enter("acme") as conn:
        assert conn.execute("SELECT name FROM people").fetchall() == [("Ann",)]


def test_indexes_begin_with_the_tenant_and_rows_have_one(shop: Shared) -> None:
    indexed = shop.sql(
        "SELECT DISTINCT i.indrelid::regclass::text FROM pg_index i JOIN pg_attribute a "
        "ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] "
        "WHERE a.attname = 'tenant_id' AND i.indisvalid ORDER BY 1"
    )
    assert [name for (name,) in indexed] == TABLES
    # orders has a key that begins with it: no second index.
    assert shop.sql("SELECT count(*) FROM pg_index WHERE indrelid = 'orders'::regclass") == [(1,)]
    lacking = "SELECT relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid WHERE "
    lacking += "attname = 'tenant_id' AND NOT attnotnull AND relkind IN ('r', 'p') "
    assert shop.sql(lacking + "AND relnamespace = 'public'::regnamespace") == []
    with shop.enter("acme") as conn:
        conn.execute("SET enable_seqscan = off")
        plan = conn.execute("EXPLAIN SELECT * FROM notes").fetchall()
        assert any("Index" in line for (line,) in plan), plan


def test_a_second_run_finds_nothing_to_do(shop: Shared) -> None:
    told: list[str] = []
    assert shop.protect(told.append).plan.complete
    assert told == []


def test_a_new_table_yields_nothing_until_it_is_protected(shop: Shared) -> None:
    shop.sql("CREATE TABLE fresh (tenant_id text); INSERT INTO fresh VALUES ('acme'), ('beta')")
    with shop.enter("acme") as conn:
        assert refused(conn, "SELECT * FROM fresh") == DENIED
        assert not shop.look().plan.complete
        shop.protect()
        assert conn.execute("SELECT * FROM fresh").fetchall() == [("acme",)]
    shop.sql("DROP TABLE fresh")
    assert shop.protect().plan.complete


def test_what_opens_new_tables_by_itself_is_taken_back(shop: Shared) -> None:
    shop.sql("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO PUBLIC")
    shop.sql("GRANT TRUNCATE, SELECT ON orders TO PUBLIC; GRANT UPDATE (item) ON orders TO PUBLIC")
    with shop.enter("acme") as conn:
        assert refused(conn, "BEGIN; TRUNCATE orders; ROLLBACK") == ""
        missing = [text for step in shop.look().plan.steps for text in step.missing]
        assert "new tables of postgres would be open to PUBLIC" in missing
        shop.protect()
        conn.execute("ROLLBACK")
        assert refused(conn, "TRUNCATE orders") == DENIED
    assert shop.sql("SELECT count(*) FROM pg_default_acl WHERE defaclnamespace <> 0") == [(0,)]


def test_the_catalog_tells_the_proxy_what_is_protected(shop: Shared) -> None:
    with psycopg.connect(shop.server.dsn(shop.database)) as conn:
        found = conn.execute(CATALOG_QUERY, {"column": "tenant_id"}).fetchall()
    by_name = {row[1]: row for row in found}
    oid = shop.sql("SELECT 'notes'::regclass::oid")[0][0]
    assert by_name["notes"] == (
        *("public", "notes", "r", ["id", "tenant_id", "note"], [], "varchar"),
        *(True, False, f"copy_{oid}", []),
    )
    assert by_name["countries"][5:] == ("", False, True, None, [["code"]])
    assert by_name["internal"][5:] == ("", False, False, None, [])
    shop.sql("ALTER TABLE notes NO FORCE ROW LEVEL SECURITY; ALTER TABLE notes ADD COLUMN more int")
    with psycopg.connect(shop.server.dsn(shop.database)) as conn:
        found = conn.execute(CATALOG_QUERY, {"column": "tenant_id"}).fetchall()
    changed = next(row for row in found if row[1] == "notes")
    assert (changed[6], changed[8]) == (False, None)
    shop.protect()


def test_changes_of_definitions_are_told(shop: Shared) -> None:
    with shop.server.connect(shop.database) as ear:
        ear.execute('LISTEN "tenantry/catalog"')
        for change in ("CREATE TABLE heard (x int)", "DROP TABLE heard"):
            shop.sql(change)
            assert len(list(ear.notifies(timeout=5, stop_after=1))) == 1, change
        shop.sql("CREATE TEMPORARY TABLE unheard (x int)")
        assert list(ear.notifies(timeout=0.2)) == []


def test_a_tenant_with_ddl_beside_them_is_not_in_the_way(shop: Shared) -> None:
    """Its definitions set off the event triggers, which need rights that it does not have."""
    builder = tenant("builder", database_name=shop.database, allow_ddl=True)
    with login(shop.server, builder, make(shop.server, builder)) as conn:
        conn.execute("CREATE TABLE mine (tenant_id text); DROP TABLE mine")
        conn.execute("CREATE TEMPORARY TABLE brief (x serial PRIMARY KEY)")
        assert refused(conn, "SELECT * FROM public.orders") == DENIED
        assert refused(conn, "SELECT tenantry.tell()") != ""
    assert shop.look().plan.complete


def test_without_row_tenants_there_is_no_seal(lone_postgres: Postgres) -> None:
    bare = Shared(lone_postgres, "CREATE TABLE t (tenant_id text)", tenants=())
    with pytest.raises(Failure, match='first tenant of strategy "row"'):
        bare.look()


@pytest.mark.parametrize("type", ["int2", "int4", "int8", "uuid"])
def test_numbers_and_uuids_name_tenants_too(lone_postgres: Postgres, type: str) -> None:
    values = ("7", "8")
    if type == "uuid":
        values = tuple(f"{number}" * 8 + "-0000-0000-0000-000000000000" for number in values)
    shared = Shared(lone_postgres, f"CREATE TABLE t (tenant_id {type}, x int)", tenants=values)
    assert shared.protect().plan.complete
    for value in values:
        with shared.enter(value) as conn:
            conn.execute("INSERT INTO t (x) VALUES (1)")
            assert str(conn.execute("SELECT tenant_id FROM t").fetchall()[0][0]) == value
            assert refused(conn, f"UPDATE t SET tenant_id = '{values[0]}', x = 2") == (
                "" if value == values[0] else DENIED
            )


def test_interrupted_runs_open_nothing_and_are_finished(lone_postgres: Postgres) -> None:
    """Die after each single step: whatever tenants reach then is protected."""
    setup = "CREATE TABLE t (tenant_id text, x serial); INSERT INTO t VALUES ('acme'), ('beta')"
    shared = Shared(lone_postgres, setup)
    steps = len(shared.look().plan.steps)
    assert steps > 4
    outcomes = []
    for survive in range(1, steps + 1):
        done = 0

        def die(_: str, survive: int = survive) -> None:
            nonlocal done
            done += 1
            if done > survive:
                raise KeyboardInterrupt

        try:
            shared.protect(die)
        except KeyboardInterrupt:
            outcomes.append("died")
            with shared.enter("acme") as conn:
                if refused(conn, "TABLE t") != DENIED:
                    assert conn.execute("SELECT tenant_id FROM t").fetchall() == [("acme",)]
        else:
            break
    assert len(outcomes) > 1, "steps were done between the deaths"
    assert shared.look().plan.complete


def test_an_index_that_was_cut_short_is_made_again(lone_postgres: Postgres) -> None:
    shared = Shared(lone_postgres, "CREATE TABLE t (tenant_id text)")
    oid = shared.sql("SELECT 't'::regclass::oid")[0][0]
    shared.sql(f"CREATE INDEX tenantry_{oid} ON t (tenant_id)")
    shared.sql("UPDATE pg_index SET indisvalid = false WHERE indrelid = 't'::regclass")
    assert shared.protect().plan.complete
    assert shared.sql("SELECT indisvalid FROM pg_index WHERE indrelid = 't'::regclass") == [(True,)]
