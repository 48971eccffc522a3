"""The SQL console of a running installation: psql and psycopg, two workers, PgBouncer's columns."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator

import asyncpg
import psycopg
import psycopg2
import pytest
from psycopg import errors
from support.serving import COMMAND, CONFIG, Home, Proxy, home, serving, until

from admin.worker_keeper import environment

__all__ = ["home"]

PASSWORD = "console-secret"
# As PgBouncer 1.18 answers itself, by name and type OID.
POOLS = [
    *(("database", 25), ("user", 25), ("cl_active", 23), ("cl_waiting", 23)),
    *(("cl_active_cancel_req", 23), ("cl_waiting_cancel_req", 23), ("sv_active", 23)),
    *(("sv_active_cancel", 23), ("sv_being_canceled", 23), ("sv_idle", 23), ("sv_used", 23)),
    *(("sv_tested", 23), ("sv_login", 23), ("maxwait", 23), ("maxwait_us", 23)),
    ("pool_mode", 25),
]
TOTALS = [
    ("database", 25),
    *(("xact_count", 1700), ("query_count", 1700), ("bytes_received", 1700)),
    *(("bytes_sent", 1700), ("xact_time", 1700), ("query_time", 1700), ("wait_time", 1700)),
]


def put_operator(home: Home, name: str, *arguments: str) -> None:
    command = ["operators", "put", name, "--password-stdin", *arguments]
    done = subprocess.run(
        [*COMMAND, *command, "--data-dir", str(home.data)],
        input=PASSWORD + "\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environment(),
        cwd=home.folder,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def proxy(home: Home) -> Iterator[Proxy]:
    home.config.write_text(CONFIG)
    with serving(home, "--workers", "2") as made:
        put_operator(home, "ann", "--role", "operator", "--tenants", "*")
        put_operator(home, "vic", "--role", "viewer", "--tenants", "*")
        put_operator(home, "bob", "--role", "operator", "--tenants", "widgetco")
        yield made


def console(proxy: Proxy, name: str = "ann", **options: object) -> psycopg.Connection:
    """Logged in; the operator may have been put a moment ago."""
    known = {"host": "127.0.0.1", "port": proxy.port, "user": name, "password": PASSWORD}
    known |= {"dbname": "tenantry", "autocommit": True, "connect_timeout": 10}
    found: list[psycopg.Connection] = []

    def met() -> bool:
        try:
            found.append(psycopg.connect(**(known | options)))
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                return False
            raise
        return True

    until(met, "to let the operator in", proxy.log)
    return found[0]


def shown(client: psycopg.Connection, text: str) -> list[dict[str, object]]:
    cursor = client.execute(text)
    assert cursor.description is not None
    names = [column.name for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def pool(client: psycopg.Connection, tenant: str) -> dict[str, object]:
    return next((row for row in shown(client, "SHOW POOLS") if row["database"] == tenant), {})


def test_psql_and_its_tables(proxy: Proxy) -> None:
    def psql(text: str) -> subprocess.CompletedProcess[str]:
        address = f"host=127.0.0.1 port={proxy.port} user=ann dbname=tenantry"
        return subprocess.run(
            ["psql", "-X", "-A", "-t", "-c", text, address],
            env={"PGPASSWORD": PASSWORD, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    console(proxy).close()
    assert re.fullmatch(r"Tenantry \S+\n", psql("SHOW VERSION").stdout)
    tenants = psql("show tenants;").stdout
    assert [line.split("|")[0] for line in tenants.splitlines()] == ["acme", "widgetco"]
    told = psql("SHOW HELP").stderr
    assert "PAUSE [tenant]" in told
    wrong = psql("SELECT * FROM orders")
    assert "invalid command 'SELECT * FROM orders', use SHOW HELP;" in wrong.stderr


def test_columns_and_types_are_those_of_pgbouncer(proxy: Proxy) -> None:
    with console(proxy) as client:
        for thing, wanted in (("POOLS", POOLS), ("STATS_TOTALS", TOTALS)):
            cursor = client.execute(f"SHOW {thing}")
            found = [(column.name, column.type_code) for column in cursor.description]
            assert found[: len(wanted)] == wanted
        for thing in (
            *("CLIENTS", "SERVERS", "STATS", "STATS_AVERAGES", "TOTALS", "DATABASES", "USERS"),
            *("CONFIG", "LISTS", "MEM", "STATE", "PEERS", "WORKERS", "EVENTS", "AUDIT"),
        ):
            shown(client, f"SHOW {thing}")


def test_figures_of_both_workers_are_together(proxy: Proxy) -> None:
    clients = [proxy.connect() for _ in range(8)]
    try:
        for client in clients:
            client.execute("SELECT 1")
        with console(proxy) as seen:
            workers = shown(seen, "SHOW WORKERS")
            assert len({row["pid"] for row in workers}) == 2
            assert pool(seen, "acme")["cl_active"] == 8
            rows = [row for row in shown(seen, "SHOW CLIENTS") if row["database"] == "acme"]
            assert len({row["id"] for row in rows}) == 8
            assert len({row["worker"] for row in rows}) == 2, "all clients came to one worker"
            until(
                lambda: any(
                    row["database"] == "acme" and row["query_count"] >= 8
                    for row in shown(seen, "SHOW STATS_TOTALS")
                ),
                "to count the queries",
            )
    finally:
        for client in clients:
            client.close()


def test_drivers_with_habits(proxy: Proxy) -> None:
    """Binary results, transactions that nobody asked for, prepared statements."""
    with console(proxy, autocommit=False) as client:
        client.execute("SHOW POOLS")
        client.commit()
        with pytest.raises(errors.SyntaxError):
            client.execute("SHOW NOTHING")
        client.rollback()
        client.execute("SHOW VERSION", prepare=True)
        cursor = client.cursor(binary=True)
        assert cursor.execute("SHOW LISTS").fetchone() == ("databases", 2)
        assert cursor.execute("SHOW STATS_TOTALS").fetchall()
    old = psycopg2.connect(
        host="127.0.0.1", port=proxy.port, user="ann", password=PASSWORD, dbname="pgbouncer"
    )
    with old.cursor() as cursor:
        cursor.execute("SHOW DATABASES")
        assert {row[0] for row in cursor.fetchall()} == {"acme", "widgetco"}
    old.close()

    async def by_asyncpg() -> None:
        client = await asyncpg.connect(
            host="127.0.0.1", port=proxy.port, user="ann", password=PASSWORD, database="tenantry"
        )
        rows = await client.fetch("SHOW LISTS")
        assert dict(rows[0]) == {"list": "databases", "items": 2}
        assert await client.fetch("SHOW STATS_TOTALS")
        await client.reset()
        await client.close()

    asyncio.run(by_asyncpg())


def test_pause_holds_and_resume_lets_go(proxy: Proxy) -> None:
    with console(proxy) as ann, proxy.connect() as one, proxy.connect() as two:
        for client in (one, two):
            client.execute("SELECT 1")
        ann.execute("PAUSE acme")
        assert pool(ann, "acme")["paused"] == 1
        assert pool(ann, "acme")["sv_active"] == 0
        answers: list[object] = []

        def ask(client: psycopg.Connection) -> None:
            answers.append(client.execute("SELECT 2").fetchone())

        threads = [threading.Thread(target=ask, args=(each,)) for each in (one, two)]
        for thread in threads:
            thread.start()
        until(lambda: pool(ann, "acme").get("cl_waiting") == 2, "to let two clients wait")
        with proxy.connect("widgetco") as other:
            other.execute("SELECT 3")
        assert answers == []
        ann.execute("RESUME acme")
        for thread in threads:
            thread.join(20)
        assert answers == [(2,), (2,)]
        assert pool(ann, "acme")["paused"] == 0


def test_a_transaction_may_end_before_the_pause_is_complete(proxy: Proxy) -> None:
    with console(proxy) as ann, proxy.connect() as client:
        with client.transaction():
            client.execute("SELECT 1")
            done = threading.Event()

            def pause() -> None:
                ann.execute("PAUSE acme")
                done.set()

            thread = threading.Thread(target=pause)
            thread.start()
            with console(proxy) as other:
                until(lambda: pool(other, "acme").get("paused") == 1, "to pause")
            assert client.execute("SELECT 2").fetchone() == (2,)
            assert not done.is_set()
        thread.join(20)
        assert done.is_set()
        ann.execute("RESUME")
        assert client.execute("SELECT 3").fetchone() == (3,)


def test_kill_ends_clients_and_waits_for_resume(proxy: Proxy) -> None:
    with console(proxy) as ann:
        client = proxy.connect()
        client.execute("SELECT 1")
        ann.execute("KILL acme")
        with pytest.raises(psycopg.OperationalError, match="administrator command"):
            client.execute("SELECT 2")
        client.close()
        ann.execute("RESUME acme")
        with proxy.connect() as again:
            assert again.execute("SELECT 1").fetchone() == (1,)
            ids = [row["id"] for row in shown(ann, "SHOW CLIENTS acme")]
            ann.execute(f"KILL_CLIENT {ids[0]}")
            with pytest.raises(psycopg.OperationalError, match="administrator command"):
                again.execute("SELECT 2")
        with pytest.raises(errors.UndefinedObject, match="client not found"):
            ann.execute(f"KILL_CLIENT {ids[0]}")


def test_reconnect_replaces_servers(proxy: Proxy) -> None:
    with console(proxy) as ann, proxy.connect() as client:
        before = client.execute("SELECT pg_backend_pid()").fetchone()
        ann.execute("RECONNECT acme")
        assert client.execute("SELECT pg_backend_pid()").fetchone() != before


def test_disable_is_stored(proxy: Proxy) -> None:
    with console(proxy) as ann:
        ann.execute("DISABLE widgetco")
        tenants = {row["tenant"]: row["state"] for row in shown(ann, "SHOW TENANTS")}
        assert tenants["widgetco"] == "disabled"
        last = shown(ann, "SHOW EVENTS widgetco 1")[0]
        assert (last["actor"], last["event"]) == ("ann", "disabled")
        ann.execute("ENABLE widgetco")
    with proxy.connect("widgetco") as client:
        client.execute("SELECT 1")


def test_who_may_do_what(proxy: Proxy) -> None:
    with console(proxy, "vic") as viewer:
        assert len(shown(viewer, "SHOW TENANTS")) == 2
        with pytest.raises(errors.InsufficientPrivilege, match="may only SHOW"):
            viewer.execute("PAUSE acme")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(
            host="127.0.0.1", port=proxy.port, user="vic", password=PASSWORD, dbname="acme"
        )
    with console(proxy, "bob") as bounded:
        assert [row["tenant"] for row in shown(bounded, "SHOW TENANTS")] == ["widgetco"]
        assert {row["database"] for row in shown(bounded, "SHOW POOLS")} <= {"widgetco"}
        for text in ("PAUSE acme", "PAUSE", "SHOW POOLS acme", "RELOAD", "SHOW AUDIT"):
            with pytest.raises(errors.InsufficientPrivilege):
                bounded.execute(text)
        with pytest.raises(errors.FeatureNotSupported, match="not shut down"):
            bounded.execute("SHUTDOWN")
    with console(proxy) as ann, pytest.raises(errors.InvalidCatalogName, match="no such tenant"):
        ann.execute("PAUSE nobody")


def test_acts_are_in_the_audit(proxy: Proxy) -> None:
    with console(proxy) as ann:
        ann.execute("PAUSE widgetco")
        ann.execute("RESUME widgetco")

        def noted() -> bool:
            rows = shown(ann, "SHOW AUDIT widgetco 200")
            return {"PAUSE widgetco console", "RESUME widgetco console"} <= {
                str(row["detail"])
                for row in rows
                if row["kind"] == "override" and row["actor"] == "ann"
            }

        until(noted, "to note both acts")


def test_reload_reads_the_file(proxy: Proxy, home: Home) -> None:
    with console(proxy) as ann:
        home.change("max_connections = 5,", "max_connections = 6,")
        ann.execute("RELOAD")

        def applied() -> bool:
            rows = {row["name"]: row for row in shown(ann, "SHOW DATABASES")}
            return rows["widgetco"]["pool_size"] == 6

        until(applied, "to apply the file")
        home.change('strategy = "schema"', 'strategy = "shema"')
        with pytest.raises(errors.ConfigFileError, match="RELOAD failed"):
            ann.execute("RELOAD")
        home.config.write_text(CONFIG)
        ann.execute("RELOAD")


def test_a_pause_outlives_the_worker_that_took_it(proxy: Proxy) -> None:
    with console(proxy) as ann:
        ann.execute("PAUSE acme")
        pids = {row["pid"] for row in shown(ann, "SHOW WORKERS")}
        mine = next(iter(pids))
    os.kill(int(str(mine)), signal.SIGKILL)

    def two() -> bool:
        try:
            with console(proxy) as seen:
                rows = shown(seen, "SHOW WORKERS")
        except psycopg.OperationalError:
            return False  # the dead worker's socket had it
        return len(rows) == 2 and mine not in {row["pid"] for row in rows}

    until(two, "to start another worker")
    with console(proxy) as ann:
        state = {row["key"]: row["value"] for row in shown(ann, "SHOW STATE")}
        assert state["paused_tenants"] == "acme"
        assert {row["state"] for row in shown(ann, "SHOW TENANTS acme")} == {"paused"}
        ann.execute("RESUME acme")
    with proxy.connect() as client:
        client.execute("SELECT 1")


def test_a_pause_waits_for_clients_that_keep_their_server(proxy: Proxy) -> None:
    """A temporary table keeps a server as session pooling does: PAUSE tells how many are left, and
    answers when the client leaves."""
    told: list[str] = []
    done = threading.Event()
    client = proxy.connect()
    with console(proxy) as ann, console(proxy) as other:
        ann.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))

        def pause() -> None:
            ann.execute("PAUSE acme")
            done.set()

        client.execute("CREATE TEMPORARY TABLE kept (n int)")
        thread = threading.Thread(target=pause)
        thread.start()
        try:
            until(lambda: pool(other, "acme").get("paused") == 1, "to pause")
            client.execute("INSERT INTO kept VALUES (1)")
            until(lambda: told, "to tell how many are left", proxy.log)
            assert told[0] == "waiting for 1 servers that clients keep"
            states = [row["state"] for row in shown(other, "SHOW SERVERS acme")]
            assert states == ["used"]
            assert not done.is_set()
        finally:
            client.close()
            thread.join(20)
        assert done.is_set()
        assert pool(other, "acme")["sv_active"] == 0
        other.execute("RESUME acme")


def test_who_gives_up_waiting_lets_everything_go_on(proxy: Proxy) -> None:
    with console(proxy) as ann, console(proxy) as other, proxy.connect() as client:
        client.execute("CREATE TEMPORARY TABLE kept (n int)")
        for end, wanted in (
            (lambda: ann.cancel_safe(), errors.QueryCanceled),
            (lambda: other.execute("RESUME acme"), errors.QueryCanceled),
        ):
            failed: list[type[Exception]] = []

            def pause(failed: list[type[Exception]] = failed) -> None:
                try:
                    ann.execute("PAUSE acme")
                except psycopg.Error as error:
                    failed.append(type(error))

            thread = threading.Thread(target=pause)
            thread.start()
            until(lambda: pool(other, "acme").get("paused") == 1, "to pause")
            end()
            thread.join(20)
            assert failed == [wanted]
            assert pool(other, "acme")["paused"] == 0
        assert client.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_wait_close_waits_for_what_reconnect_replaces(proxy: Proxy) -> None:
    with console(proxy) as ann, proxy.connect() as client:
        client.execute("SELECT 1")
        ann.execute("WAIT_CLOSE acme")
        done = threading.Event()
        with client.transaction():
            client.execute("SELECT 1")
            # In use, and not to be replaced: nothing to wait for.
            ann.execute("WAIT_CLOSE acme")
            ann.execute("RECONNECT acme")

            def wait() -> None:
                ann.execute("WAIT_CLOSE acme")
                done.set()

            thread = threading.Thread(target=wait)
            thread.start()
            with console(proxy) as other:
                shown(other, "SHOW POOLS")
            assert not done.is_set()
        thread.join(20)
        assert done.is_set()
        with pytest.raises(errors.FeatureNotSupported, match="nothing to suspend for"):
            ann.execute("SUSPEND")
