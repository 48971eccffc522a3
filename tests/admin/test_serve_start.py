"""`tenantry serve` from the first start to the last signal, as its users see it."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import closing

import psycopg
import pytest
from support.serving import Home, alive, serving, until

from admin.engines.both import EmbeddedNats
from events.log import ConfigLog

pytestmark = pytest.mark.engine


def test_each_tenant_finds_its_own_place(home: Home) -> None:
    with serving(home) as proxy, proxy.connect("acme") as acme, proxy.connect("widgetco") as widget:
        place = "SELECT current_user, current_database(), current_schema"
        assert acme.execute(place).fetchone() == ("tenantry_acme", "shared_db", "acme")
        assert widget.execute(place).fetchone()[:2] == ("tenantry_widgetco", "widgetco_db")
        acme.execute("CREATE TABLE own (text text)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            widget.execute("CREATE TABLE own (text text)")


def test_a_start_without_the_file_brings_back_the_tenants_and_adds_no_event(home: Home) -> None:
    with serving(home) as proxy, proxy.connect("acme") as acme:
        acme.execute("CREATE TABLE note AS SELECT 'kept' AS text")
        before = last_sequence(home)
    with serving(home, file=False) as proxy, proxy.connect("acme") as acme:
        assert acme.execute("SELECT text FROM note").fetchall() == [("kept",)]
        assert last_sequence(home) == before
    with serving(home) as proxy:
        assert last_sequence(home) == before, "the same file has nothing new"
        assert "taken from the file" not in proxy.log()


def test_two_supervisors_never_share_a_data_directory(home: Home) -> None:
    with serving(home) as proxy:
        second = home.run("serve", "--config", str(home.config))
        assert second.returncode == 1
        assert f"Another Tenantry (process {proxy.pid}) already runs in" in second.stderr
        with proxy.connect() as client:
            assert client.execute("SELECT 1").fetchone() == (1,)


def test_a_taken_port_is_named_with_what_to_do(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        refused = home.run("serve", "--config", str(home.config), "--port", port)
    assert refused.returncode == 1
    assert f"Port {port} on 127.0.0.1 is taken by another program: stop it" in refused.stderr


def test_without_file_and_log_it_says_what_to_do() -> None:
    empty = Home()
    try:
        refused = empty.run("serve")
        assert refused.returncode == 2
        assert "Nothing is configured in" in refused.stderr
        assert "tenantry serve --config FILE" in refused.stderr
        assert not (empty.data / "nats").exists(), "no engine is started for nothing"
    finally:
        empty.remove()


def test_every_mistake_of_the_file_is_told_at_once() -> None:
    wrong = Home('listen_adress = "x"\n[[nodes]]\nembedded = true\nport = "no"\n')
    try:
        refused = wrong.run("serve", "--config", str(wrong.config))
        assert refused.returncode == 2
        assert "listen_adress: unknown key" in refused.stderr
        assert 'nodes[0].port: "no" must be a whole number' in refused.stderr
        assert refused.stderr.startswith(f"{wrong.config}:1: ")
        assert not wrong.data.exists()
    finally:
        wrong.remove()


def test_sigterm_lets_transactions_end_and_refuses_newcomers(home: Home) -> None:
    with serving(home) as proxy, proxy.connect() as idle, proxy.connect(autocommit=False) as busy:
        idle.execute("CREATE TABLE slow (text text)")
        busy.execute("INSERT INTO slow VALUES ('before')")
        proxy.signal(signal.SIGTERM)
        proxy.says("draining")
        until(lambda: ended(idle) == "57P01", "to end the idle client")
        with pytest.raises(psycopg.OperationalError):
            proxy.connect().close()
        busy.execute("INSERT INTO slow VALUES ('while draining')")
        busy.commit()
        assert proxy.wait() == 0
    with serving(home) as proxy, proxy.connect() as client:
        assert client.execute("SELECT count(*) FROM slow").fetchone() == (2,)


def test_a_second_signal_stops_at_once(home: Home) -> None:
    with serving(home) as proxy, closing(proxy.connect(autocommit=False)) as busy:
        busy.execute("SELECT 1")
        workers = proxy.workers()
        proxy.signal(signal.SIGINT)
        proxy.says("draining")
        proxy.signal(signal.SIGINT)
        assert proxy.wait(10) == 0
        assert workers
        assert not any(alive(worker) for worker in workers)
        assert ended(busy) == "57P01"


def test_in_one_process(home: Home) -> None:
    with serving(home, "--workers", "0") as proxy, proxy.connect() as client:
        assert client.execute("SELECT 1").fetchone() == (1,)
        assert proxy.workers() == []
        proxy.signal(signal.SIGTERM)
        assert proxy.wait() == 0


def test_engines_start_and_stop_with_it() -> None:
    own = Home()
    try:
        with serving(own) as proxy:
            assert "NATS is ready" in proxy.log()
            assert "PostgreSQL is ready" in proxy.log()
            assert own.run("engines", "status").returncode == 0
        status = own.run("engines", "status")
        assert status.returncode == 1
        assert status.stdout.count("does not run") == 2
        # And again, from what is on disk, without the file.
        with serving(own, file=False) as proxy, proxy.connect("widgetco") as client:
            assert client.execute("SELECT current_database()").fetchone() == ("widgetco_db",)
    finally:
        own.remove()


def ended(client: psycopg.Connection) -> str:
    """The SQLSTATE with which the proxy has ended the client's connection, "" while it has not."""
    try:
        client.execute("SELECT 1")
    except psycopg.OperationalError as error:
        return error.sqlstate or "no reason"
    return ""


def last_sequence(home: Home) -> int:
    """How many events the log holds."""

    async def look() -> int:
        log = await ConfigLog.connect([EmbeddedNats(home.data).nats_url()])
        try:
            return await log.last_sequence()
        finally:
            await log.close()

    return asyncio.run(look())
