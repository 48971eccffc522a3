"""Changing what runs, by SIGHUP and by `tenantry apply`: what connected clients notice."""

from __future__ import annotations

import json
import signal
from contextlib import closing

import psycopg
import pytest
from support.serving import (
    Home,
    Proxy,
    serving,
    until,
)

pytestmark = pytest.mark.engine


@pytest.fixture
def proxy(original: Home):
    with serving(original) as running:
        yield running


def test_sighup_reaches_the_next_statement_of_a_connected_client(
    original: Home,
    proxy: Proxy,
) -> None:
    with proxy.connect() as client:
        client.execute("SELECT 1")
        original.change("allow_ddl = true", "allow_ddl = false")
        proxy.signal(signal.SIGHUP)
        proxy.says("is applied")
        until(lambda: code(client, "CREATE TABLE late (n int)") == "42501", "to refuse DDL")
        assert client.execute("SELECT 2").fetchone() == (2,), "the connection goes on"


def test_a_wrong_file_changes_nothing_and_the_log_says_why(
    original: Home,
    proxy: Proxy,
) -> None:
    original.change("allow_ddl = true", 'allow_ddl = "perhaps"')
    proxy.signal(signal.SIGHUP)
    proxy.says("was not applied")
    assert "allow_ddl" in proxy.log()
    with proxy.connect() as client:
        client.execute("CREATE TABLE IF NOT EXISTS early (n int)")


def test_apply_tells_first_and_ends_the_clients_of_a_disabled_tenant(
    original: Home,
    proxy: Proxy,
) -> None:
    with closing(proxy.connect("widgetco")) as client:
        client.execute("SELECT 1")
        original.change('id = "widgetco"\n', 'id = "widgetco"\nenabled = false\n')
        told = original.run("apply", str(original.config), "--dry-run")
        assert told.stdout == "tenant widgetco: enabled = false\n"
        assert client.execute("SELECT 1").fetchone() == (1,), "a dry run changes nothing"

        done = original.run("apply", str(original.config))
        assert (done.returncode, done.stdout) == (0, told.stdout)
        until(lambda: code(client, "SELECT 1") == "57P01", "to end the client")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            proxy.connect("widgetco").close()

        original.change("enabled = false\n", "enabled = true\n")
        assert original.run("apply", str(original.config)).returncode == 0
        until(lambda: can_connect(proxy, "widgetco"), "to let it in again")
        assert original.run("apply", str(original.config)).stdout == "nothing to change\n"


def test_a_new_tenant_is_set_up_while_others_work(
    original: Home,
    proxy: Proxy,
) -> None:
    original.change(
        "[pool]",
        '[[multi_tenancy.tenants]]\nid = "late"\n'
        'users = [{ name = "appuser", password = "late-secret" }]\n\n[pool]',
    )
    done = original.run("apply", str(original.config))
    assert done.stdout == "tenant late: new\n"
    until(lambda: can_connect(proxy, "late", dbname="shared_db"), "to serve it", proxy.log)
    rows = json.loads(original.run("tenants", "list", "--json").stdout)
    assert [row["id"] for row in rows] == ["acme", "widgetco", "late"]


def test_what_workers_read_at_their_start_replaces_them(
    original: Home,
    proxy: Proxy,
) -> None:
    before = proxy.workers()
    with closing(proxy.connect(autocommit=False)) as busy:
        busy.execute("SELECT 1")
        original.change("max_connections = 40\n\n[[", "max_connections = 30\n\n[[")
        proxy.signal(signal.SIGHUP)
        proxy.says("pool changed: replacing the workers one by one")
        until(lambda: set(proxy.workers()) - set(before), "to start another worker")
        assert busy.execute("SELECT 2").fetchone() == (2,), "an open transaction goes on"
        busy.commit()
        until(lambda: not set(proxy.workers()) & set(before), "to let the old one go")
    with proxy.connect() as client:
        assert client.execute("SELECT 3").fetchone() == (3,)


def test_what_takes_a_new_start_is_said(original: Home, proxy: Proxy) -> None:
    original.change("[pool]", '[events]\nservers = ["nats://127.0.0.1:1"]\n\n[pool]')
    proxy.signal(signal.SIGHUP)
    proxy.says("events.embedded, events.servers: takes effect when Tenantry is started again")


def code(client: psycopg.Connection, statement: str) -> str:
    """The SQLSTATE of the answer, "" when it is none."""
    try:
        client.execute(statement)
    except psycopg.Error as error:
        return error.sqlstate or ""
    return ""


def can_connect(proxy: Proxy, tenant: str, **options: object) -> bool:
    try:
        proxy.connect(tenant, **options).close()
    except psycopg.OperationalError:
        return False
    return True
