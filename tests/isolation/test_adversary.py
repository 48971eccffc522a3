"""What a hostile tenant found that the corpus of attacks had not: each was a way out once.

Some need what attacks.toml cannot say: a victim that does something in between, or functions.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors
from support.engines import Postgres
from support.estate import Estate, estate, protect, tenant
from support.provisioning import lone_postgres

from admin.catalog_reader import READ_PAUSE_SECONDS
from admin.provision.names import group_role

__all__ = ["lone_postgres"]

DATABASE = "adversary"
WAIT_SECONDS = 20.0
FLOOD = 400
TABLES = """
CREATE TABLE orders (id serial PRIMARY KEY, tenant_id text NOT NULL, note text);
INSERT INTO orders (tenant_id, note) SELECT name, name || ' note ' || i
  FROM unnest(ARRAY['acme', 'victim']) name, generate_series(1, 5) i;
CREATE FUNCTION peek(text) RETURNS text LANGUAGE sql SECURITY DEFINER
  AS 'SELECT string_agg(note, '','') FROM public.orders';
CREATE FUNCTION length(orders) RETURNS text LANGUAGE sql SECURITY DEFINER
  AS 'SELECT string_agg(note, '','') FROM public.orders';
CREATE FUNCTION always(int, int) RETURNS bool LANGUAGE sql SECURITY DEFINER
  AS 'SELECT count(*) > 0 FROM public.orders';
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = always);
CREATE FUNCTION peek(orders) RETURNS text LANGUAGE sql SECURITY DEFINER
  AS 'SELECT string_agg(note, '','') FROM public.orders';
"""


def prepare(made: Estate) -> None:
    for name in (f"{DATABASE}_rewrite", f"{DATABASE}_both"):
        rows = (each for each in made.tenants.values() if each.isolation.strategy == "row")
        one = next(each for each in rows if each.database == name)
        with made.admin(one.id) as admin:
            admin.execute(TABLES.replace("'acme', 'victim'", f"'{one.id}', 'victim'"))
            if one.isolation.enforcement == "rewrite":
                role = group_role("select", name)
                admin.execute(f'GRANT SELECT ON orders TO "{role}"')
        if one.isolation.enforcement != "rewrite":
            protect(made, name)


@pytest.fixture(scope="module")
def town(lone_postgres: Postgres) -> Iterator[Estate]:
    ddl: dict[str, Any] = {"allow_ddl": True}
    tenants = [
        tenant("rewritten", "row", database_name=f"{DATABASE}_rewrite", enforcement="rewrite"),
        tenant(
            "single",
            "row",
            database_name=f"{DATABASE}_rewrite",
            enforcement="rewrite",
            pool={"max_connections": 1},
        ),
        tenant("sealed", "row", database_name=f"{DATABASE}_both"),
        tenant("beside", "schema", database_name=f"{DATABASE}_both", permissions=ddl),
        tenant("mallory", "schema", database_name=DATABASE, permissions=ddl),
        tenant("victim", "schema", database_name=DATABASE, permissions=ddl),
    ]
    with estate(lone_postgres, tenants, prepare=prepare, budget=12) as made:
        yield made


@pytest.fixture(scope="module")
def session(lone_postgres: Postgres) -> Iterator[Estate]:
    tenants = [tenant("alone", "schema", database_name=f"{DATABASE}_alone")]
    with estate(lone_postgres, tenants, mode="session") as made:
        # The proxy may not lean on privileges and passwords alone.
        lone_postgres.execute("GRANT CONNECT ON DATABASE postgres TO PUBLIC")
        yield made


@pytest.mark.parametrize("who", ["rewritten", "sealed"])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT ((x.s).ts_stat).word"
        " FROM (SELECT 'SELECT to_tsvector(note) FROM orders'::text AS s) x",
        "SELECT y.ts_stat FROM CAST('SELECT to_tsvector(note) FROM orders' AS text) AS y",
        "SELECT ('orders_id_seq'::regclass).pg_sequence_last_value",
        "SELECT (c.oid).pg_relation_size FROM pg_class c WHERE relname = 'orders'",
        "SELECT (7::bigint).pg_try_advisory_lock",
        "SELECT ('x'::text).peek",
        "SELECT y.peek FROM lower('x') AS y",
        "SELECT o.peek FROM orders o",
        "SELECT (o).peek FROM orders o",
    ],
)
def test_functions_called_as_fields(town: Estate, who: str, sql: str) -> None:
    with town.connect(who) as client:
        with pytest.raises((errors.InsufficientPrivilege, errors.FeatureNotSupported)):
            client.execute(sql)
        assert client.execute("SELECT o.note, (o).id FROM orders o LIMIT 1").fetchone() is not None


@pytest.mark.parametrize("who", ["rewritten", "sealed"])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT length(o) FROM orders o",
        "SELECT o.length FROM orders o",
        "SELECT (o).length FROM orders o",
        "SELECT 1 === 2",
        "SELECT note FROM orders WHERE id === ANY (ARRAY[1])",
    ],
)
def test_functions_of_the_operators_that_bear_names_of_postgresqls_own(
    town: Estate, who: str, sql: str
) -> None:
    with town.connect(who) as client:
        with pytest.raises(errors.InsufficientPrivilege):
            client.execute(sql)
        row = client.execute("SELECT pg_catalog.length(note), 1 = 2 FROM orders").fetchone()
        assert row is not None


# One literal where backslashes are plain; else the literal ends early, and more comes behind it.
AMBIGUOUS = r"'a\''; SELECT set_config($$evil.ran$$, $$yes$$, false); --'"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"SET application_name = {AMBIGUOUS}", "SET standard_conforming_strings = off"),
        (f"PREPARE p AS SELECT {AMBIGUOUS}", "SET standard_conforming_strings = off"),
        (
            "SELECT 1",
            f"RESET ALL; SET standard_conforming_strings = off; SET application_name = {AMBIGUOUS}",
        ),
        (
            "SELECT 1",
            f"SET standard_conforming_strings = off; SET application_name = {AMBIGUOUS}",
        ),
    ],
)
def test_what_is_replayed_is_read_as_it_was_judged(town: Estate, one: str, other: str) -> None:
    """Two clients of one tenant take turns on one server, and read backslashes differently."""
    with town.connect("single") as first, town.connect("single") as second:
        first.execute(one)
        second.execute(other)
        for _ in range(2):
            for client in (first, second):
                ran = client.execute("SELECT current_setting('evil.ran', true)").fetchone()
                assert ran == (None,)
        shown = [
            each.execute("SHOW standard_conforming_strings").fetchone() for each in (first, second)
        ]
        assert shown == [("on",), ("off",)]


def test_functions_cannot_notify_another_tenant(town: Estate) -> None:
    """What a function says is not seen by the guard; so nobody may know others' channels."""
    with town.connect("victim") as victim, town.connect("mallory") as mallory:
        victim.execute("LISTEN chat")
        own = mallory.execute("SELECT current_query(), pg_notify('chat', '')").fetchone()
        assert own is not None
        aimed = own[0].partition("pg_notify('")[2].partition("'")[0]
        assert aimed.endswith("/"), "its own prefix may be known"
        for name in ("victim/chat", f"{aimed}chat", "chat"):
            mallory.execute(f"DO $$ BEGIN PERFORM pg_notify('{name}', 'forged'); END $$")
        victim.execute("NOTIFY chat, 'real'")
        heard = list(victim.notifies(timeout=WAIT_SECONDS, stop_after=1))
        assert [each.payload for each in heard] == ["real"]


@pytest.mark.parametrize(
    "call", ["pg_stat_get_tuples_inserted(c.oid)", "(c.oid).pg_stat_get_live_tuples"]
)
def test_no_statistics_of_others_tables(town: Estate, call: str) -> None:
    with town.connect("mallory") as mallory, pytest.raises(psycopg.errors.Error) as told:
        mallory.execute(f"SELECT {call} FROM pg_class c")
    assert told.value.sqlstate in ("42501", "0A000")


def test_notifications_cannot_keep_the_catalog_reader_busy(town: Estate) -> None:
    """A schema tenant beside row tenants: it may notify the channel that tells of DDL."""
    read = 0
    learned = town.catalogs._learned

    def counted(*args: Any) -> None:
        nonlocal read
        read += 1
        learned(*args)

    with town.connect("sealed") as client, town.connect("beside") as beside:
        client.execute("SELECT count(*) FROM orders")
        town.catalogs._learned = counted  # type: ignore[method-assign]
        try:
            started = time.monotonic()
            for number in range(FLOOD):
                beside.execute(
                    f"DO $$ BEGIN PERFORM pg_notify('tenantry/catalog', '{number}'); END $$"
                )
            with town.admin("sealed") as admin:
                admin.execute("ALTER TABLE orders ADD COLUMN more int")
            deadline = time.monotonic() + WAIT_SECONDS
            while time.monotonic() < deadline:
                with contextlib.suppress(errors.FeatureNotSupported):
                    client.execute("INSERT INTO orders VALUES (DEFAULT, DEFAULT, 'x', 7)")
                    break
                time.sleep(0.05)
            assert client.execute("SELECT more FROM orders WHERE more = 7").fetchall() == [(7,)]
        finally:
            town.catalogs._learned = learned  # type: ignore[method-assign]
    assert 0 < read <= 2 + (time.monotonic() - started) / READ_PAUSE_SECONDS


def test_functions_cannot_learn_the_keys_of_others_locks(town: Estate) -> None:
    with town.connect("victim") as victim, town.connect("mallory") as mallory:
        victim.execute("SELECT pg_advisory_lock(77)")
        mallory.execute(
            "CREATE FUNCTION held() RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY"
            " EXECUTE 'SELECT l::text FROM pg_catalog.pg_locks l WHERE locktype = ''advisory''';"
            " END $$"
        )
        for sql in ("SELECT held()", "SELECT pg_lock_status()", "SELECT * FROM pg_locks"):
            with pytest.raises(errors.InsufficientPrivilege):
                mallory.execute(sql)
        with town.admin("victim") as admin, pytest.raises(psycopg.errors.RaiseException):
            admin.execute(
                "DO $$ BEGIN IF EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory')"
                " THEN RAISE EXCEPTION 'operators see them'; END IF; END $$"
            )


@pytest.mark.parametrize(
    "options",
    [
        "-c database=postgres",
        "-c user=postgres",
        "--user=tenantry_victim",
        "-c replication=database",
        "-c options=-cclient_encoding\\=SJIS",
        "-c _pq_.anything=1",
        "-c Database=postgres",
    ],
)
def test_options_say_nothing_of_the_servers_login(session: Estate, options: str) -> None:
    """In session pooling, settings of a client are part of its server's startup packet."""
    with pytest.raises(psycopg.OperationalError, match="unrecognized configuration parameter"):
        session.connect("alone", options=options)
    with session.connect("alone", options="-c geqo=off") as client:
        told = client.execute("SELECT current_database(), current_setting('geqo')").fetchone()
        assert told == (f"{DATABASE}_alone", "off")


def test_who_has_taken_no_lock_gives_its_server_back(town: Estate) -> None:
    """Where pg_locks is closed, a server can still be asked for all that is no lock."""
    with town.connect("single") as first, town.connect("single") as second:
        first.execute("LISTEN chat")
        first.execute("UNLISTEN chat")
        assert second.execute("SELECT 1").fetchone() == (1,)
