"""A tenant with its own role's password, past the proxy, reaches nothing that is not its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from support.engines import Postgres
from support.provisioning import login, lone_postgres, make, refused, tenant

from events.model import Provisioned, Tenant

__all__ = ["lone_postgres"]

PERMISSION = "42501"


@dataclass(frozen=True)
class Town:
    """Four tenants on one server, each with a table `orders` holding its own id."""

    server: Postgres
    tenants: dict[str, Tenant]
    made: dict[str, Provisioned]

    def enter(self, id: str, dbname: str = "") -> psycopg.Connection[Any]:
        return login(self.server, self.tenants[id], self.made[id], dbname)


@pytest.fixture(scope="module")
def town(lone_postgres: Postgres) -> Town:
    tenants = [
        tenant("acme", allow_ddl=True),
        tenant("plain"),
        tenant("widgetco", "database"),
        tenant("builder", "database", allow_ddl=True),
    ]
    made = {each.id: make(lone_postgres, each) for each in tenants}
    for each in tenants:
        schema = "public" if each.isolation.strategy == "database" else each.id
        lone_postgres.execute(
            f"CREATE TABLE {schema}.orders AS SELECT '{each.id}' o", each.database
        )
    lone_postgres.execute("CREATE TABLE public.internal (id int)", "shared_db")
    return Town(lone_postgres, {each.id: each for each in tenants}, made)


TENANTS = ["acme", "plain", "widgetco", "builder"]


@pytest.mark.parametrize("id", TENANTS)
def test_its_own_orders_and_nobody_elses(town: Town, id: str) -> None:
    with town.enter(id) as conn:
        assert conn.execute("SELECT o FROM orders").fetchall() == [(id,)]
        for other in {"acme", "plain"} - {id}:
            expected = PERMISSION if town.tenants[id].database == "shared_db" else "42P01"
            assert refused(conn, f"SELECT * FROM {other}.orders") == expected
            assert refused(conn, f"INSERT INTO {other}.orders VALUES ('x')") == expected


@pytest.mark.parametrize("id", TENANTS)
def test_no_other_database_lets_it_in(town: Town, id: str) -> None:
    databases = [row[0] for row in town.server.execute("SELECT datname FROM pg_database")]
    assert {"postgres", "template1", "shared_db", "widgetco_db", "builder_db"} <= {*databases}
    for name in {*databases} - {town.tenants[id].database}:
        with pytest.raises(psycopg.OperationalError, match=r"permission denied|not currently"):
            town.enter(id, name)


@pytest.mark.parametrize("id", TENANTS)
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM pg_authid",
        "SELECT * FROM pg_shadow",
        "SELECT * FROM pg_user_mapping",
        "SELECT * FROM pg_largeobject",
        "SELECT * FROM pg_hba_file_rules",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_ls_dir('.')",
        "SELECT lo_import('/etc/passwd')",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "COPY (SELECT 1) TO '/tmp/out'",
        "SELECT pg_terminate_backend(pg_backend_pid())",
        "SELECT pg_cancel_backend(0)",
        "SELECT pg_logical_emit_message(false, 'a', 'b')",
        "SELECT pg_reload_conf()",
        "CREATE ROLE other",
        "CREATE DATABASE other",
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        "SELECT set_config('role', 'postgres', false)",
        "ALTER SYSTEM SET work_mem = '1GB'",
        "GRANT pg_read_all_data TO CURRENT_USER",
        "ALTER ROLE CURRENT_USER CONNECTION LIMIT -1",
        "ALTER ROLE CURRENT_USER SUPERUSER",
        "CREATE EVENT TRIGGER t ON ddl_command_start EXECUTE FUNCTION pg_catalog.now()",
    ],
)
def test_the_server_itself_is_out_of_reach(town: Town, id: str, statement: str) -> None:
    with town.enter(id) as conn:
        assert refused(conn, statement) == PERMISSION


@pytest.mark.parametrize("id", ["acme", "plain"])
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE public.mine (id int)",
        "CREATE SCHEMA mine",
        "SELECT * FROM public.internal",
        "INSERT INTO public.internal VALUES (1)",
        "CREATE PUBLICATION p FOR ALL TABLES",
    ],
)
def test_a_shared_database_is_not_the_tenants(town: Town, id: str, statement: str) -> None:
    with town.enter(id) as conn:
        assert refused(conn, statement) == PERMISSION


def test_new_tables_in_public_are_closed_until_granted(town: Town) -> None:
    town.server.execute("CREATE TABLE public.prices AS SELECT 5 p", "shared_db")
    with town.enter("plain") as conn:
        assert refused(conn, "SELECT p FROM prices") == PERMISSION
        town.server.execute('GRANT SELECT ON prices TO "tenantry_plain"', "shared_db")
        assert conn.execute("SELECT p FROM prices").fetchall() == [(5,)]


@pytest.mark.parametrize("id", ["plain", "widgetco"])
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (id int)",
        "CREATE TEMP TABLE mine (id int)",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "DO $$BEGIN CREATE TABLE mine (id int); END$$",
        "DO $$BEGIN EXECUTE 'DROP TABLE orders'; END$$",
        "ALTER TABLE orders ADD x int",
        "TRUNCATE orders",
        "GRANT SELECT ON orders TO PUBLIC",
        "ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT ALL ON TABLES TO PUBLIC",
    ],
)
def test_without_ddl_nothing_is_made_or_changed(town: Town, id: str, statement: str) -> None:
    with town.enter(id) as conn:
        if statement.startswith("GRANT"):
            conn.execute(statement)  # a warning in PostgreSQL; nothing is granted
            granted = "SELECT relacl::text ~ '[{,]=' FROM pg_class WHERE oid = 'orders'::regclass"
            assert conn.execute(granted).fetchone() == (False,)
        else:
            assert refused(conn, statement) == PERMISSION


def test_large_objects_of_one_tenant_are_closed_to_another(town: Town) -> None:
    with town.enter("acme") as acme, town.enter("plain") as plain:
        blob = acme.execute("SELECT lo_from_bytea(0, 'secret')").fetchone()
        assert blob is not None
        assert refused(plain, f"SELECT lo_get({blob[0]})") == PERMISSION
        assert refused(plain, f"SELECT lo_unlink({blob[0]})") == PERMISSION


def test_large_objects_stay_their_makers_when_ddl_is_taken_away(town: Town) -> None:
    free = tenant("painter", allow_ddl=True)
    made = make(town.server, free)
    with login(town.server, free, made) as conn:
        conn.execute("CREATE TABLE t (id int)")
        ((blob,),) = conn.execute("SELECT lo_from_bytea(0, 'red')").fetchall()
    bound = tenant("painter")
    made = make(town.server, bound, made)
    with login(town.server, bound, made) as conn:
        conn.execute("SELECT lo_put(%s, 0, 'tan')", [blob])
        assert conn.execute("SELECT lo_get(%s)", [blob]).fetchone() == (b"tan",)


def test_more_connections_than_the_limit_are_refused(town: Town) -> None:
    limit = "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'tenantry_plain'"
    ((most,),) = town.server.execute(limit)
    opened = [town.enter("plain") for _ in range(most)]
    try:
        with pytest.raises(psycopg.OperationalError, match="too many connections"):
            town.enter("plain")
    finally:
        for each in opened:
            each.close()


def test_system_access_gives_signals_to_the_tenants_own_sessions_only(town: Town) -> None:
    wanted = tenant("keeper", allow_system_access=True)
    made = make(town.server, wanted)
    with town.enter("acme") as other, login(town.server, wanted, made) as conn:
        assert refused(conn, f"SELECT pg_terminate_backend({other.info.backend_pid})") == PERMISSION
        with login(town.server, wanted, made) as mine:
            conn.execute("SELECT pg_terminate_backend(%s)", [mine.info.backend_pid])
        other.execute("SELECT 1")


def test_a_moved_tenant_loses_its_old_database(town: Town) -> None:
    before = tenant("mover", database_name="old_home")
    made = make(town.server, before)
    after = tenant("mover", database_name="new_home")
    made = make(town.server, after, made)
    login(town.server, after, made).close()
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        login(town.server, after, made, "old_home")
