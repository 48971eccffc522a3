"""NATS and PostgreSQL killed under traffic: clear errors, and the service is back by itself."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import psycopg
import pytest
from support.serving import (
    Home,
    serving,
    until,
)

from admin.engines.both import EmbeddedNats, EmbeddedPostgres

pytestmark = pytest.mark.engine


def test_queries_go_on_without_nats_and_commands_fail_clearly(
    original: Home,
) -> None:
    nats = EmbeddedNats(original.data)
    with serving(original) as proxy, proxy.connect() as client:
        port = nats.port()
        client.execute("SELECT 1")
        # Stopped, not killed: it holds its port and answers nobody.
        os.kill(nats.pid(), signal.SIGSTOP)
        try:
            original.change("allow_ddl = true", "allow_ddl = false")
            refused = original.run("apply", str(original.config))
            assert refused.returncode == 1
            assert "The configuration log does not answer" in refused.stderr
            assert "Nothing was changed" in refused.stderr
            assert client.execute("SELECT 2").fetchone() == (2,)
        finally:
            os.kill(nats.pid(), signal.SIGKILL)
        proxy.says("NATS has died; starting it again")
        with proxy.connect("widgetco") as newcomer:
            assert newcomer.execute("SELECT 3").fetchone() == (3,)
        proxy.says(f"NATS is back on port {port}")

        assert original.run("apply", str(original.config)).returncode == 0
        until(lambda: code(client, "CREATE TABLE x (n int)") == "42501", "to follow the log again")


def test_a_killed_backend_costs_its_client_one_clear_error(home: Home) -> None:
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
    home: Home,
) -> None:
    with serving(home) as proxy, closing(proxy.connect(autocommit=False)) as busy:
        pid = busy.execute("SELECT pg_backend_pid()").fetchone()[0]
        os.kill(pid, signal.SIGKILL)
        assert code(busy, "SELECT 1") in ("57P02", "08006")
        until(lambda: works(proxy, "acme") and works(proxy, "widgetco"), "to be back", proxy.log)


def test_a_killed_postgres_is_started_again(home: Home) -> None:
    postgres = EmbeddedPostgres(home.data)
    with serving(home) as proxy, closing(proxy.connect(autocommit=False)) as busy:
        port, pid = postgres.port(), postgres.pid()
        busy.execute("SELECT 1")
        backend = busy.execute("SELECT pg_backend_pid()").fetchone()[0]
        os.kill(pid, signal.SIGKILL)
        os.kill(backend, signal.SIGKILL)
        # 57P01 when the backend saw the end of its postmaster first.
        assert code(busy, "SELECT 1") in ("57P01", "57P02", "08006")
        proxy.says(f"PostgreSQL is back on port {port}")
        until(lambda: works(proxy, "acme") and works(proxy, "widgetco"), "to be back", proxy.log)
        assert postgres.pid() != pid


def test_statements_under_way_end_with_an_error_not_a_hang(home: Home) -> None:
    postgres = EmbeddedPostgres(home.data)
    with serving(home) as proxy, ThreadPoolExecutor() as threads, ExitStack() as stack:
        clients = [stack.enter_context(closing(proxy.connect())) for _ in range(3)]
        answers = [threads.submit(code, client, "SELECT pg_sleep(60)") for client in clients]
        until(lambda: len(backends(home, "SELECT pg_sleep(60)")) == 3, "to run them")
        for pid in (postgres.pid(), *backends(home, "SELECT pg_sleep(60)")):
            os.kill(pid, signal.SIGKILL)
        assert {answer.result(20) for answer in answers} <= {"57P01", "57P02", "08006"}
        until(lambda: works(proxy, "acme"), "to be back", proxy.log)


def test_engines_whose_ports_are_taken_come_back_elsewhere(home: Home) -> None:
    nats, postgres = EmbeddedNats(home.data), EmbeddedPostgres(home.data)
    with serving(home, "--workers", "2") as proxy, ExitStack() as stack:
        for engine in (nats, postgres):
            port = engine.port()
            proxy.signal(signal.SIGSTOP)
            os.kill(engine.pid(), signal.SIGKILL)
            stack.enter_context(occupied(port))
            proxy.signal(signal.SIGCONT)
            until(lambda: engine.port() != port and engine.pid(), "to move", proxy.log)  # noqa: B023
        until(lambda: works(proxy, "acme") and works(proxy, "widgetco"), "to be back", proxy.log)
        until(lambda: len(proxy.workers()) == 2, "to have replaced the workers", proxy.log)
        assert home.run("apply", str(home.config)).stdout == "nothing to change\n"


def test_what_was_acknowledged_outlives_everything_killed_at_once(original: Home) -> None:
    with serving(original) as proxy:
        original.change("allow_ddl = true", "allow_ddl = true, max_tables_per_query = 7")
        assert original.run("apply", str(original.config)).returncode == 0
        victims = [proxy.pid, EmbeddedNats(original.data).pid(), *proxy.workers()]
        for pid in (*victims, EmbeddedPostgres(original.data).pid()):
            os.kill(pid, signal.SIGKILL)
        proxy.wait()
    with serving(original, file=False) as again:
        shown = json.loads(original.run("tenants", "show", "acme", "--json").stdout)
        assert shown["permissions"]["max_tables_per_query"] == 7
        until(lambda: works(again, "acme"), "to serve again", again.log)


def works(proxy, tenant: str) -> bool:
    try:
        with proxy.connect(tenant) as client:
            return client.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def code(client: psycopg.Connection, statement: str) -> str:
    """The SQLSTATE of the answer, "" when it is none."""
    try:
        client.execute(statement)
    except psycopg.Error as error:
        return error.sqlstate or ""
    return ""


def backends(home: Home, statement: str) -> list[int]:
    """Process ids of the servers that run `statement` now."""
    asked = "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query = %s"
    with psycopg.connect(EmbeddedPostgres(home.data).dsn()) as admin:
        return [row[0] for row in admin.execute(asked, [statement])]


@contextlib.contextmanager
def occupied(port: int) -> Iterator[None]:
    """Another program on `port`, as soon as it is free."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def bound() -> bool:
            try:
                other.bind(("127.0.0.1", port))
            except OSError:
                return False
            return True

        until(bound, f"to free port {port}")
        # Bound for itself from now on; it does not listen, so that connecting fails at once.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        yield
