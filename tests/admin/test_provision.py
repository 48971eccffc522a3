"""Provisioning makes PostgreSQL match the tenant, again and again, and from any half-way point."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.engines import Postgres, unique_name
from support.provisioning import (
    VAULT,
    login,
    lone_postgres,
    make,
    node,
    refused,
    renamed,
    snapshot,
    tenant,
)

from admin.provision import tenant as module
from admin.provision.tenant import (
    ProvisioningFailed,
    close_to_public,
    fingerprint,
    open_admin,
    provision,
    role_name,
)
from events.model import Tenant
from events.secrets import Vault, tenant_purpose

__all__ = ["lone_postgres"]


def test_a_schema_tenant_gets_a_role_a_schema_and_a_search_path(lone_postgres: Postgres) -> None:
    wanted = tenant("fresh-one", allow_ddl=True)
    made = make(lone_postgres, wanted)
    assert made.role == "tenantry_fresh-one"
    with login(lone_postgres, wanted, made) as conn:
        conn.execute("CREATE TABLE orders (id serial PRIMARY KEY, note text)")
        conn.execute("INSERT INTO orders (note) VALUES ('one')")
        where = "SELECT schemaname FROM pg_tables WHERE tablename = 'orders'"
        assert conn.execute(where).fetchall() == [("fresh-one",)]
        assert conn.execute("SHOW search_path").fetchone() == ('"fresh-one", public',)


def test_a_database_tenant_without_ddl_reads_and_writes_what_the_admin_makes(
    lone_postgres: Postgres,
) -> None:
    wanted = tenant("widgets", "database")
    made = make(lone_postgres, wanted)
    lone_postgres.execute("CREATE TABLE later (id serial PRIMARY KEY)", "widgets_db")
    lone_postgres.execute("CREATE SCHEMA more", "widgets_db")
    lone_postgres.execute("CREATE TABLE more.later (id serial PRIMARY KEY)", "widgets_db")
    with login(lone_postgres, wanted, made) as conn:
        for table in ("later", "more.later"):
            conn.execute(f"INSERT INTO {table} DEFAULT VALUES")
            conn.execute(f"UPDATE {table} SET id = id + 1")
            assert conn.execute(f"DELETE FROM {table} RETURNING id").fetchall() == [(2,)]
            assert refused(conn, f"TRUNCATE {table}") == "42501"
            assert refused(conn, f"ALTER TABLE {table} ADD more int") == "42501"
            assert refused(conn, f"DROP TABLE {table}") == "42501"
        assert refused(conn, "CREATE TABLE mine (id int)") == "42501"
        assert refused(conn, "CREATE SCHEMA mine") == "42501"
        assert refused(conn, "CREATE TEMP TABLE mine (id int)") == "42501"


def test_the_log_of_the_server_could_only_show_a_verifier(lone_postgres: Postgres) -> None:
    wanted = tenant("verified")
    made = make(lone_postgres, wanted)
    query = "SELECT rolpassword FROM pg_authid WHERE rolname = 'tenantry_verified'"
    assert lone_postgres.execute(query)[0][0].startswith("SCRAM-SHA-256$4096:")
    assert made.secret.startswith("sealed:")
    assert len(VAULT.open(made.secret, tenant_purpose("verified"))) == 43


def test_running_again_changes_nothing(lone_postgres: Postgres) -> None:
    for wanted in (
        tenant("again", allow_ddl=True),
        tenant("again-plain"),
        tenant("again-base", "database", read_only=True),
        tenant("again-base-ddl", "database", allow_ddl=True),
    ):
        made = make(lone_postgres, wanted)
        before = snapshot(lone_postgres, wanted.database)
        assert make(lone_postgres, wanted, made) == made
        assert snapshot(lone_postgres, wanted.database) == before


def test_the_secret_is_kept_unless_it_does_not_open(lone_postgres: Postgres) -> None:
    wanted = tenant("keeper")
    first = make(lone_postgres, wanted)
    assert make(lone_postgres, wanted, first).secret == first.secret
    stranger = Vault(b"x" * 32).seal("lost", tenant_purpose("keeper"))
    renewed = make(lone_postgres, wanted, first.model_copy(update={"secret": stranger}))
    login(lone_postgres, wanted, renewed).close()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        login(lone_postgres, wanted, first)


class Dying(psycopg.AsyncConnection[Any]):
    """A connection of a process that is killed at its `fuse`-th statement, before or after it."""

    fuse = 0
    after = False

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        Dying.fuse -= 1
        if Dying.fuse > 0:
            return await super().execute(*args, **kwargs)
        if Dying.after and Dying.fuse == 0:
            await super().execute(*args, **kwargs)
        await self.close()
        raise psycopg.OperationalError("killed")


async def _open_dying(at: Any, password: str, database: str) -> Any:
    return await Dying.connect(
        host=at.host,
        port=at.port,
        user=at.user,
        password=password,
        dbname=database,
        autocommit=True,
        options="-c search_path=pg_catalog,pg_temp",
    )


def _life(server: Postgres, name: str, strategy: str) -> list[Tenant]:
    """Three configurations, each with something to undo of the one before."""
    place = {"database_name": f"{name}_db"}
    return [
        tenant(name, strategy, allow_ddl=True, **place),
        tenant(name, strategy, read_only=True, blocked_tables=["kept"], **place),
        tenant(name, strategy, allow_ddl=True, **place),
    ]


def _act(server: Postgres, name: str, strategy: str) -> None:
    """What the tenant and the admin make while DDL is allowed."""
    schema = name if strategy == "schema" else "public"
    with server.connect(f"{name}_db") as conn:
        for statement in (
            "SET ROLE {role}; CREATE TABLE {schema}.kept (id serial, v text); "
            "CREATE VIEW {schema}.seen AS SELECT * FROM {schema}.kept; "
            "CREATE TYPE {schema}.mood AS ENUM ('a'); GRANT ALL ON {schema}.kept TO PUBLIC; "
            "CREATE FUNCTION {schema}.f() RETURNS int SECURITY DEFINER LANGUAGE sql "
            "AS 'SELECT 1'; RESET ROLE",
            "CREATE TABLE {schema}.given (id serial)",
        ):
            role, where = sql.Identifier(role_name(name)), sql.Identifier(schema)
            conn.execute(sql.SQL(statement).format(role=role, schema=where))


def _killed_everywhere(server: Postgres, strategy: str, after: bool) -> int:
    """Provision through a life, once undisturbed and once killed at every statement."""
    calm, rough = unique_name("calm"), unique_name("rogh")
    deaths = 0
    made = None
    for stage, (quiet, wanted) in enumerate(
        zip(_life(server, calm, strategy), _life(server, rough, strategy), strict=True)
    ):
        make(server, quiet)
        for fuse in range(1, 200):
            Dying.fuse, Dying.after = fuse, after
            try:
                made = make(server, wanted, made, opener=_open_dying)
                break
            except ProvisioningFailed as error:
                if "killed" not in error.message:
                    raise
                deaths += 1
        assert made is not None
        if stage == 0:
            _act(server, calm, strategy)
            _act(server, rough, strategy)
        else:
            state = snapshot(server, f"{calm}_db", f"{rough}_db")
            assert renamed(state, rough, calm) == renamed(state, calm, calm)
        login(server, wanted, made).close()
    return deaths


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("strategy", ["schema", "database"])
def test_killed_at_any_statement_the_next_run_ends_the_same(
    lone_postgres: Postgres, strategy: str, after: bool
) -> None:
    assert _killed_everywhere(lone_postgres, strategy, after) > 30


def test_ddl_taken_away_leaves_no_rights_of_others_in_the_tenants_code(
    lone_postgres: Postgres,
) -> None:
    free = tenant("coder", allow_ddl=True)
    made = make(lone_postgres, free)
    with login(lone_postgres, free, made) as conn:
        conn.execute("CREATE TABLE t (id int)")
        conn.execute("CREATE VIEW secrets AS SELECT * FROM pg_authid")
        conn.execute(
            "CREATE FUNCTION evil(text) RETURNS text SECURITY DEFINER LANGUAGE plpgsql AS "
            "$$BEGIN EXECUTE $1; RETURN current_user; END$$"
        )
    bound = tenant("coder")
    made = make(lone_postgres, bound, made)
    with login(lone_postgres, bound, made) as conn:
        assert refused(conn, "SELECT * FROM secrets") == "42501"
        assert conn.execute("SELECT evil('SELECT 1')").fetchone() == (made.role,)
        assert refused(conn, "SELECT evil('CREATE TABLE more (id int)')") == "42501"
        assert refused(conn, "ALTER TABLE t ADD x int") == "42501"
        conn.execute("INSERT INTO t VALUES (1)")
    owner = "SELECT tableowner FROM pg_tables WHERE tablename = 't' AND schemaname = 'coder'"
    assert lone_postgres.execute(owner, "shared_db") == [("tenantry-owner_coder",)]


def test_ddl_given_back_hands_everything_over(lone_postgres: Postgres) -> None:
    wanted = tenant("returner", "database")
    make(lone_postgres, wanted)
    lone_postgres.execute("CREATE TABLE old (id serial)", "returner_db")
    lone_postgres.execute("CREATE TYPE mood AS ENUM ('a')", "returner_db")
    free = tenant("returner", "database", allow_ddl=True)
    made = make(lone_postgres, free)
    with login(lone_postgres, free, made) as conn:
        conn.execute("ALTER TABLE old ADD more text")
        conn.execute("ALTER TYPE mood ADD VALUE 'b'")
        conn.execute("CREATE SCHEMA mine CREATE TABLE t (id int)")
        conn.execute("CREATE TEMP TABLE scratch (id int)")
        conn.execute("DROP TABLE old")


def test_read_only_holds_against_sessions_that_switch_it_off(lone_postgres: Postgres) -> None:
    wanted = tenant("reader", "database")
    made = make(lone_postgres, wanted)
    lone_postgres.execute("CREATE TABLE t (id serial)", "reader_db")
    lone_postgres.execute("GRANT INSERT ON t TO PUBLIC", "reader_db")
    lone_postgres.execute('GRANT UPDATE (id) ON t TO "tenantry_reader"', "reader_db")
    still = tenant("reader", "database", read_only=True)
    made = make(lone_postgres, still, made)
    with login(lone_postgres, still, made) as conn:
        assert refused(conn, "INSERT INTO t DEFAULT VALUES") == "25006"
        conn.execute("SET default_transaction_read_only = off")
        for statement in (
            "INSERT INTO t DEFAULT VALUES",
            "UPDATE t SET id = 1",
            "DELETE FROM t",
            "SELECT nextval('t_id_seq')",
            "SELECT lo_create(0)",
            "SELECT pg_logical_emit_message(false, 'a', 'b')",
            "CREATE TEMP TABLE x (id int)",
        ):
            assert refused(conn, statement) == "42501", statement
        conn.execute("SELECT * FROM t")


def test_blocked_tables_are_closed_to_functions_too(lone_postgres: Postgres) -> None:
    wanted = tenant("blocked", "database", blocked_tables=["Payroll", 'public."Mixed"'])
    make(lone_postgres, wanted)
    for statement in ("CREATE TABLE payroll (id int)", 'CREATE TABLE "Mixed" (id int)'):
        lone_postgres.execute(statement, "blocked_db")
    lone_postgres.execute("CREATE TABLE mixed (id int)", "blocked_db")
    made = make(lone_postgres, wanted)
    with login(lone_postgres, wanted, made) as conn:
        assert refused(conn, "DO $$BEGIN PERFORM * FROM payroll; END$$") == "42501"
        assert refused(conn, 'SELECT * FROM "Mixed"') == "42501"
        assert refused(conn, "SELECT * FROM mixed") == ""


def test_a_view_does_not_reach_what_was_blocked_afterwards(lone_postgres: Postgres) -> None:
    free = tenant("viewer", "database", allow_ddl=True)
    made = make(lone_postgres, free)
    with login(lone_postgres, free, made) as conn:
        conn.execute("CREATE TABLE payroll (id int)")
        conn.execute("CREATE VIEW around AS SELECT * FROM payroll")
    bound = tenant("viewer", "database", blocked_tables=["payroll"])
    with login(lone_postgres, bound, make(lone_postgres, bound, made)) as conn:
        assert refused(conn, "SELECT * FROM around") == "42501"


def test_read_only_wins_over_ddl(lone_postgres: Postgres) -> None:
    wanted = tenant("both", read_only=True, allow_ddl=True)
    with login(lone_postgres, wanted, make(lone_postgres, wanted)) as conn:
        conn.execute("SET default_transaction_read_only = off")
        assert refused(conn, "CREATE TABLE t (id int)") == "42501"


def test_a_template_is_no_tenants_database(lone_postgres: Postgres) -> None:
    lone_postgres.execute("CREATE DATABASE mould IS_TEMPLATE true")
    with pytest.raises(ProvisioningFailed, match="is a template or accepts nobody"):
        make(lone_postgres, tenant("caster", database_name="mould"))


def test_what_a_person_added_stays(lone_postgres: Postgres) -> None:
    wanted = tenant("helped")
    made = make(lone_postgres, wanted)
    for statement in (
        "CREATE ROLE reporter LOGIN",
        "CREATE TABLE helped.t (id int)",
        "GRANT USAGE ON SCHEMA helped TO reporter",
        "GRANT SELECT ON helped.t TO reporter",
        "CREATE TABLE public.prices (id int)",
        "GRANT SELECT ON public.prices TO tenantry_helped",
        "ALTER ROLE tenantry_helped SET work_mem = '8MB'",
    ):
        lone_postgres.execute(statement, "shared_db")
    made = make(lone_postgres, wanted, made)
    rights = "SELECT has_table_privilege('reporter', 'helped.t', 'SELECT')"
    assert lone_postgres.execute(rights, "shared_db") == [(True,)]
    with login(lone_postgres, wanted, made) as conn:
        assert refused(conn, "SELECT * FROM prices") == ""
        assert refused(conn, "INSERT INTO prices VALUES (1)") == "42501"
        assert conn.execute("SHOW work_mem").fetchone() == ("8MB",)


def test_a_role_that_somebody_made_powerful_is_cut_back(lone_postgres: Postgres) -> None:
    lone_postgres.execute("CREATE ROLE tenantry_strong LOGIN SUPERUSER CREATEDB BYPASSRLS")
    lone_postgres.execute("GRANT pg_read_all_data TO tenantry_strong")
    wanted = tenant("strong")
    with login(lone_postgres, wanted, make(lone_postgres, wanted)) as conn:
        assert refused(conn, "SELECT * FROM pg_authid") == "42501"
        member = (
            "SELECT pg_has_role('pg_read_all_data', 'MEMBER'), pg_has_role('postgres', 'MEMBER')"
        )
        assert conn.execute(member).fetchone() == (False, False)


def test_the_connection_limit_follows_the_pool(lone_postgres: Postgres) -> None:
    query = "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'tenantry_pooled'"
    make(lone_postgres, tenant("pooled", connections=10))
    assert lone_postgres.execute(query) == [(28,)]
    make(lone_postgres, tenant("pooled", connections=2))
    assert lone_postgres.execute(query) == [(12,)]


def test_many_tenants_of_one_database_at_once(
    lone_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without second tries the locks alone have to keep the runs apart.
    monkeypatch.setattr(module, "TRIES_MAX", 1)
    crowd = [tenant(f"crowd-{number}", allow_ddl=bool(number % 2)) for number in range(12)]
    at, password = node(lone_postgres), lone_postgres.password

    async def all_at_once() -> None:
        # Each twice at the same time: the later of the two has the last word on the secret.
        runs = [
            provision(each, at, VAULT, node_password=password, previous=None)
            for each in [*crowd, *crowd]
        ]
        await asyncio.gather(*runs)

    asyncio.run(all_at_once())
    for each in crowd:
        login(lone_postgres, each, make(lone_postgres, each)).close()


def test_a_person_who_changes_the_same_catalog_row_only_delays(lone_postgres: Postgres) -> None:
    wanted = tenant("delayed", database_name="busy_db")
    make(lone_postgres, tenant("delayed-first", database_name="busy_db"))
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'transactionid' AND query ~ 'busy'"
    with ThreadPoolExecutor(1) as pool, lone_postgres.connect() as person:
        with person.transaction():
            person.execute("GRANT TEMP ON DATABASE busy_db TO pg_monitor")
            run = pool.submit(make, lone_postgres, wanted)
            deadline = time.monotonic() + 9
            while not lone_postgres.execute(waiting) and time.monotonic() < deadline:
                time.sleep(0.01)
        login(lone_postgres, wanted, run.result()).close()


def test_an_admin_that_is_no_superuser(lone_postgres: Postgres, caplog: Any) -> None:
    lone_postgres.execute("CREATE ROLE landlord LOGIN CREATEROLE CREATEDB PASSWORD 'pw'")
    lone_postgres.execute("GRANT CONNECT ON DATABASE postgres TO landlord")
    admin = Postgres(lone_postgres.host, lone_postgres.port, "landlord", "pw")
    free = tenant("lodger", allow_ddl=True, database_name="house")
    made = make(admin, free)
    with login(lone_postgres, free, made) as conn:
        conn.execute("CREATE TABLE t (id serial)")
        conn.execute("CREATE FUNCTION f() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'")
    bound = tenant("lodger", read_only=True, database_name="house")
    made = make(admin, bound, made)
    with login(lone_postgres, bound, made) as conn:
        conn.execute("SET default_transaction_read_only = off")
        assert refused(conn, "INSERT INTO t DEFAULT VALUES") == "42501"
        assert refused(conn, "SELECT * FROM t") == ""
    make(admin, free, made)
    own = tenant("lodger-two", "database", allow_ddl=True)
    with login(lone_postgres, own, make(admin, own)) as conn:
        conn.execute("CREATE TABLE t (id serial)")
    assert "only a superuser can keep tenants from running" in caplog.text


def test_a_role_that_the_admin_may_not_manage_is_explained(lone_postgres: Postgres) -> None:
    lone_postgres.execute("CREATE ROLE clerk LOGIN CREATEROLE CREATEDB PASSWORD 'pw'")
    lone_postgres.execute("GRANT CONNECT ON DATABASE postgres TO clerk")
    lone_postgres.execute("CREATE ROLE tenantry_foreign LOGIN")
    admin = Postgres(lone_postgres.host, lone_postgres.port, "clerk", "pw")
    with pytest.raises(ProvisioningFailed, match="permission denied to alter role"):
        make(admin, tenant("foreign", database_name="clerks"))


def test_the_place_of_another_tenant_is_refused(lone_postgres: Postgres) -> None:
    make(lone_postgres, tenant("first"))
    with pytest.raises(ProvisioningFailed, match="belongs to another tenant"):
        make(lone_postgres, tenant("second", schema_name="first"))
    with pytest.raises(ProvisioningFailed, match="used by other tenants"):
        make(lone_postgres, tenant("third", "database", database_name="shared_db"))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"schema_name": "public"}, "belongs to the server"),
        ({"schema_name": "pg_evil"}, "belongs to the server"),
        ({"database_name": "postgres"}, "belongs to the server"),
        ({"schema_name": "x" * 64}, "cannot be the name"),
        ({"database_name": ""}, None),
    ],
)
def test_names_of_the_server_are_refused(settings: dict[str, str], complaint: str | None) -> None:
    if complaint is None:
        assert fingerprint(tenant("named", **settings))
        return
    with pytest.raises(ProvisioningFailed, match=complaint):
        fingerprint(tenant("named", **settings))


def test_names_are_quoted_whatever_they_are(lone_postgres: Postgres) -> None:
    wanted = tenant(
        "quoter", allow_ddl=True, schema_name='a"; DROP ROLE postgres; --', database_name="%s {} '"
    )
    with login(lone_postgres, wanted, make(lone_postgres, wanted)) as conn:
        conn.execute("CREATE TABLE t (id int)")
        where = conn.execute("SELECT schemaname FROM pg_tables WHERE tablename = 't'")
        assert where.fetchall() == [('a"; DROP ROLE postgres; --',)]


def test_long_ids_keep_their_roles_apart() -> None:
    assert role_name("a" * 54) == "tenantry_" + "a" * 54
    long, longer = role_name("a" * 62 + "b"), role_name("a" * 62 + "c")
    assert long != longer
    assert len(long) == len(longer) == 63


def test_the_fingerprint_follows_what_matters() -> None:
    same = fingerprint(tenant("f"))
    assert fingerprint(tenant("f")) == same
    assert fingerprint(tenant("f").model_copy(update={"name": "F", "version": 9})) == same
    for other in (
        tenant("f", allow_ddl=True),
        tenant("f", read_only=True),
        tenant("f", blocked_tables=["t"]),
        tenant("f", allow_system_access=True),
        tenant("f", connections=5),
        tenant("f", schema_name="g"),
        tenant("f", "database"),
    ):
        assert fingerprint(other) != same


def test_databases_made_by_hand_are_closed_afterwards(lone_postgres: Postgres) -> None:
    wanted = tenant("outsider")
    made = make(lone_postgres, wanted)
    lone_postgres.execute("CREATE DATABASE handmade")
    login(lone_postgres, wanted, made, "handmade").close()
    asyncio.run(close_to_public(node(lone_postgres), lone_postgres.password, open_admin))
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        login(lone_postgres, wanted, made, "handmade")
