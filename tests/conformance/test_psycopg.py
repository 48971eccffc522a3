"""psycopg 3 through both modes, beside a direct connection."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.compare import extended, named, results, simple, transcript
from support.proxy import WireProxy, wire_proxy

SCRIPTS = {
    "values": [
        "select 1 as one, 'text'::text, null, 1.5::numeric, true, array[1,2], '{}'::jsonb",
        "values (1), (2)",
        "select",
        "",
        "-- nothing but a comment",
        "select generate_series(1, 300)",
    ],
    "changes": [
        "create table changes (id int primary key, v text)",
        "insert into changes values (1, 'a'), (2, 'b')",
        "update changes set v = 'c' where id = 1 returning *",
        "delete from changes where id = 2",
        "insert into changes values (1, 'again')",
        "table changes",
        "alter table changes add column w int",
        "table changes",
        "drop table changes",
        "drop table if exists changes",
    ],
    "errors": [
        "select 1/0",
        "select nope",
        "selec 1",
        "select * from no_such_table",
        "select 'unclosed",
        "begin",
        "select 1/0",
        "select 1",
        "commit",
        "commit",
        "rollback",
        "savepoint outside",
    ],
    "transactions": [
        "begin isolation level serializable read only",
        "show transaction_isolation",
        "savepoint a",
        "select 1/0",
        "rollback to a",
        "release a",
        "commit and chain",
        "show transaction_isolation",
        "rollback",
        "start transaction",
        "end",
    ],
    "notices": [
        "do $$ begin raise notice 'n';"
        " raise warning 'w' using hint = 'h', errcode = '01X01'; end $$",
        "set client_min_messages = error",
        "drop table if exists nowhere",
        "reset client_min_messages",
    ],
    "settings": [
        "set datestyle = 'German'",
        "set timezone to 'Europe/Vienna'",
        "set intervalstyle = 'iso_8601'",
        "set application_name to 'conform'",
        "begin",
        "set timezone to 'UTC'",
        "rollback",
        "show timezone",
        "begin",
        "set local timezone to 'UTC'",
        "show timezone",
        "commit",
        "show timezone",
        "reset timezone",
        "set search_path to pg_catalog, public",
        "show search_path",
        "select set_config('search_path', 'public', false)",
        "show search_path",
        "discard all",
        "show search_path",
        "set no_such_setting = 1",
    ],
    "cursors": [
        "begin",
        "declare c scroll cursor for select generate_series(1, 9)",
        "fetch 3 from c",
        "move 2 in c",
        "fetch backward 1 from c",
        "close c",
        "declare h cursor with hold for select generate_series(1, 3)",
        "commit",
        "fetch 2 from h",
        "close h",
        "fetch 1 from h",
    ],
    "copy": [
        "create table copied (id int, v text)",
        "copy copied from stdin",
        "copy copied to stdout",
        "copy (select 1, 'x') to stdout with (format csv, header)",
        "copy copied (no_such) from stdin",
        "select count(*) from copied",
        "drop table copied",
    ],
    "prepared in SQL": [
        "prepare q (int) as select $1 + 1",
        "execute q (1)",
        "prepare q as select 2",
        "deallocate q",
        "execute q (1)",
    ],
    "session objects": [
        "create temp table t (a int) on commit delete rows",
        "insert into t values (1)",
        "table t",
        "drop table t",
        "select pg_advisory_lock(7), pg_advisory_unlock(7)",
        "listen a_channel",
        "unlisten *",
    ],
    "backslashes": [
        "set standard_conforming_strings to off",
        r"select E'a\\b', 'plain', $$a\b$$",
        "set standard_conforming_strings to on",
        r"select 'a\b'",
    ],
}
SEVERAL = [
    "select 1; select 2",
    "select 1; select 1/0; select 3",
    "create table several (a int); insert into several values (1); table several",
    "begin; drop table several; select 1/0; commit",
    "rollback",
    "begin; drop table several; commit; select 'after'",
    "set timezone to 'Asia/Tokyo'; select 1/0",
    "show timezone",
]


@pytest.mark.parametrize("how", [simple, extended, named], ids=lambda how: how.__name__)
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_same_as_direct(proxy: WireProxy, name: str, how: Any) -> None:
    if how is not simple and name == "copy":
        pytest.skip("a result in binary is no text to put in")
    if how is named and name == "prepared in SQL" and proxy.mode == "transaction":
        pytest.skip("EXECUTE of what is gone is parsed on no server again, so Describe tells it")
    script = SCRIPTS[name]
    assert transcript(proxy.dsn(), script, how) == transcript(proxy.direct_dsn(), script, how)


def test_several_statements_in_one_text(proxy: WireProxy) -> None:
    assert transcript(proxy.dsn(), SEVERAL) == transcript(proxy.direct_dsn(), SEVERAL)


def test_prepared_by_itself_after_some_runs(proxy: WireProxy) -> None:
    with proxy.connect() as client, proxy.connect() as other:
        client.prepare_threshold = 2
        for number in range(6):
            # The other client takes the server that has the statement already.
            with other.transaction():
                other.execute("select 1")
                assert client.execute("select %s::int", [number]).fetchone() == (number,)
        assert client.execute("select count(*) from pg_prepared_statements").fetchone() is not None


def test_a_new_statement_after_a_change_of_its_table(proxy: WireProxy, unique: str) -> None:
    table = sql.Identifier(unique)
    query = sql.SQL("select * from {}").format(table)
    with proxy.connect() as client, proxy.connect() as other:
        client.prepare_threshold = other.prepare_threshold = 0
        client.execute(sql.SQL("create table {} as select 1 as a").format(table))
        assert client.execute(query).fetchall() == [(1,)]
        client.execute(sql.SQL("alter table {} add b int").format(table))
        # The same text, which some server may know from before.
        assert other.execute(query).fetchall() == [(1, None)]
        client.execute(sql.SQL("drop table {}").format(table))


def test_pipeline(proxy: WireProxy) -> None:
    with proxy.connect() as client:
        with client.pipeline():
            answers = [client.execute("select %s::int", [n]) for n in range(50)]
        assert [a.fetchone() for a in answers] == [(n,) for n in range(50)]
        with pytest.raises(psycopg.errors.DivisionByZero), client.pipeline():
            client.execute("select 1")
            client.execute("select 1/0")
            client.execute("select 2")
        assert client.execute("select 3").fetchone() == (3,)


def test_server_side_cursor(proxy: WireProxy) -> None:
    with proxy.connect() as client:
        with client.transaction(), client.cursor("c") as cursor:
            cursor.itersize = 10
            cursor.execute("select generate_series(1, 100)")
            assert sum(row[0] for row in cursor) == 5050
        with client.cursor("held", withhold=True) as cursor:
            cursor.execute("select generate_series(1, 5)")
            assert cursor.fetchall() == [(n,) for n in range(1, 6)]


def test_copy_both_ways(proxy: WireProxy, unique: str) -> None:
    table = sql.Identifier(unique)
    with proxy.connect() as client:
        client.execute(sql.SQL("create table {} (a int, b text)").format(table))
        cursor = client.cursor()
        with cursor.copy(sql.SQL("copy {} from stdin").format(table)) as copy:
            for number in range(5000):
                copy.write_row((number, "x" * 100))
        with cursor.copy(sql.SQL("copy {} to stdout (format binary)").format(table)) as copy:
            copy.set_types(["int4", "text"])
            assert sum(row[0] for row in copy.rows()) == sum(range(5000))
        with (
            pytest.raises(psycopg.errors.QueryCanceled),
            cursor.copy(sql.SQL("copy {} from stdin").format(table)) as copy,
        ):
            copy.write_row((1, "y"))
            raise psycopg.errors.QueryCanceled("thought better of it")
        assert client.execute(sql.SQL("select count(*) from {}").format(table)).fetchone() == (
            5000,
        )
        client.execute(sql.SQL("drop table {}").format(table))


def test_notifications_name_their_sender(proxy: WireProxy, unique: str) -> None:
    channel = sql.Identifier(unique)
    with proxy.connect() as listener, proxy.connect() as sender:
        listener.execute(sql.SQL("listen {}").format(channel))
        sender.execute(sql.SQL("notify {}, 'from another'").format(channel))
        (first,) = listener.notifies(timeout=10, stop_after=1)
        assert (first.payload, first.pid) == ("from another", sender.info.backend_pid)
        # A hidden question of the proxy's (is it still listening?) must not swallow one.
        for number in range(20):
            sender.execute(sql.SQL("notify {}, {}").format(channel, str(number)))
            with listener.transaction():
                listener.execute("select 1")
        got = [n.payload for n in listener.notifies(timeout=10, stop_after=20)]
        assert got == [str(number) for number in range(20)]
        listener.execute(sql.SQL("notify {}, 'own'").format(channel))
        (own,) = listener.notifies(timeout=10, stop_after=1)
        assert own.pid == listener.info.backend_pid


def test_cancel(proxy: WireProxy) -> None:
    with proxy.connect() as client:
        timer = threading.Timer(0.1, client.cancel_safe)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            client.execute("select pg_sleep(30)")
        timer.join()
        assert client.execute("select 1").fetchone() == (1,)


def test_async_connection(proxy: WireProxy) -> None:
    async def run() -> list[Any]:
        async with await psycopg.AsyncConnection.connect(proxy.dsn(), autocommit=True) as client:
            async with client.pipeline():
                cursors = [await client.execute("select %s::text", [str(n)]) for n in range(10)]
            return [await cursor.fetchone() for cursor in cursors]

    assert asyncio.run(run()) == [(str(n),) for n in range(10)]


def test_large_objects_by_function_call(proxy: WireProxy) -> None:
    with proxy.connect() as client:
        (oid,) = client.execute("select lo_from_bytea(0, 'content')").fetchone()
        assert client.execute("select lo_get(%s)", [oid]).fetchone() == (b"content",)
        client.execute("select lo_unlink(%s)", [oid])


def test_set_config_stays_with_its_client(transaction_proxy: WireProxy) -> None:
    with wire_proxy(
        transaction_proxy.server, database=transaction_proxy.database, servers=1
    ) as narrow:
        with narrow.connect() as client:
            # As pg_restore does: first the setting, then blocks.
            client.execute("select pg_catalog.set_config('search_path', '', false)")
            with client.transaction():
                client.execute("select 1")
        with narrow.connect() as client:
            assert client.execute("show search_path").fetchone() == ('"$user", public',)


def test_errors_name_statements_as_the_client_did(proxy: WireProxy) -> None:
    with proxy.connect() as client:
        client.pgconn.send_prepare(b"mine", b"select $1::int")
        results(client)
        client.pgconn.send_query_prepared(b"mine", None)
        (failed,) = results(client)
        assert failed[3] == (
            b'bind message supplies 0 parameters, but prepared statement "mine" requires 1'
        )


@pytest.mark.parametrize("options", ["", "-c standard_conforming_strings=off"])
def test_a_backslash_that_could_be_read_in_two_ways_is_refused(
    proxy: WireProxy, options: str
) -> None:
    with proxy.connect(options=options) as client:
        client.execute("set standard_conforming_strings to off")
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="backslash"):
            client.execute(r"select 'a\b'")
        # What stands behind a change in one pipeline is read before the answer to the change.
        with (
            pytest.raises(psycopg.errors.FeatureNotSupported, match="backslash"),
            client.pipeline(),
        ):
            client.execute("set standard_conforming_strings to on")
            client.execute(r"select 'a\b'")
        client.execute("set standard_conforming_strings to on")
        assert client.execute(r"select 'a\b'").fetchone() == (r"a\b",)


def test_replication_is_refused_clearly(proxy: WireProxy) -> None:
    with pytest.raises(psycopg.OperationalError, match="replication connections are not supported"):
        proxy.connect(replication="database")
