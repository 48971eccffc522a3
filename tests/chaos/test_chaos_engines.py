"""NATS and PostgreSQL killed under traffic: clear errors, and the service is back by itself."""

from __future__ import annotations

import os
import signal
from contextlib import closing

import psycopg
import pytest
from support.serving import (  # noqa: F401 - fixtures
    Home,
    alive,
    home,
    original,
    serving,
    until,
)

from admin.engines import EmbeddedNats, EmbeddedPostgres

pytestmark = pytest.mark.engine


def test_queries_go_on_without_nats_and_commands_fail_clearly(
    original: Home,  # noqa: F811
) -> None:
    nats = EmbeddedNats(original.data)
    with serving(original) as proxy, proxy.connect() as client:
        port = nats.port()
        client.execute("SELECT 1")
        # Stopped, not killed: it holds its port and answers nobody.
        os.kill(nats.pid(), signal.SIGSTOP)
        original.change("allow_ddl = true", "allow_ddl = false")
        refused = original.run("apply", str(original.config))
        assert refused.returncode == 1
        assert "The configuration log does not answer, so nothing was changed" in refused.stderr
        assert client.execute("SELECT 2").fetchone() == (2,)

        os.kill(nats.pid(), signal.SIGKILL)
        proxy.says("NATS has died; starting it again")
        with proxy.connect("widgetco") as newcomer:
            assert newcomer.execute("SELECT 3").fetchone() == (3,)
        proxy.says(f"NATS is back on port {port}")

        assert original.run("apply", str(original.config)).returncode == 0
        until(lambda: code(client, "CREATE TABLE x (n int)") == "42501", "to follow the log again")


def test_a_killed_backend_costs_its_client_one_clear_error(home: Home) -> None:  # noqa: F811
    with serving(home) as proxy, closing(proxy.connect(autocommit=False)) as busy:
        pid = busy.execute("SELECT pg_backend_pid()").fetchone()[0]
        with proxy.connect("widgetco") as other:
            other.execute("SELECT 1")
        # SIGTERM ends this one only; SIGKILL makes PostgreSQL restart all of them.
        os.kill(pid, signal.SIGTERM)
        assert code(busy, "SELECT 1") in ("57P01", "08006")
        with proxy.connect() as client:
            assert client.execute("SELECT 1").fetchone() == (1,)


def test_a_backend_killed_hard_restarts_postgres_and_service_is_back(
    home: Home,  # noqa: F811
) -> None:
    with serving(home) as proxy, closing(proxy.connect(autocommit=False)) as busy:
        pid = busy.execute("SELECT pg_backend_pid()").fetchone()[0]
        os.kill(pid, signal.SIGKILL)
        assert code(busy, "SELECT 1") in ("57P02", "08006")
        until(lambda: works(proxy, "acme") and works(proxy, "widgetco"), "to be back", proxy.log)


def test_a_killed_postgres_is_started_again(home: Home) -> None:  # noqa: F811
    postgres = EmbeddedPostgres(home.data)
    with serving(home) as proxy, closing(proxy.connect(autocommit=False)) as busy:
        port, pid = postgres.port(), postgres.pid()
        busy.execute("SELECT 1")
        backend = busy.execute("SELECT pg_backend_pid()").fetchone()[0]
        os.kill(pid, signal.SIGKILL)
        os.kill(backend, signal.SIGKILL)
        assert code(busy, "SELECT 1") in ("57P02", "08006")
        proxy.says(f"PostgreSQL is back on port {port}")
        until(lambda: works(proxy, "acme") and works(proxy, "widgetco"), "to be back", proxy.log)
        assert postgres.pid() != pid


def works(proxy, tenant: str) -> bool:
    try:
        with proxy.connect(tenant) as client:
            return client.execute("SELECT 1").fetchone() == (1,)
    except psycopg.Error as error:
        assert error.sqlstate in (None, "57P03", "08006", "57P01", "57P02", "53300"), error
        return False


def code(client: psycopg.Connection, statement: str) -> str:
    """The SQLSTATE of the answer, "" when it is none."""
    try:
        client.execute(statement)
    except psycopg.Error as error:
        return error.sqlstate or ""
    return ""
