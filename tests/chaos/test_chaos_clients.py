"""Clients that vanish mid-query and mid-transaction: their servers are free again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psycopg
import pytest
from support.serving import Home, Proxy, serving, until

from admin.engines.both import EmbeddedPostgres

pytestmark = pytest.mark.engine

CLIENT = """
import sys, psycopg
client = psycopg.connect(sys.argv[1], autocommit=False)
for statement in sys.argv[2:]:
    client.execute(statement)
sys.stdin.read()
"""


def test_a_client_killed_in_a_query_frees_its_server(home: Home) -> None:
    with serving(home) as proxy:
        victim = client_process(proxy, "SELECT pg_sleep(60)")
        until(lambda: busy(home) == ["SELECT pg_sleep(60)"], "to run it")
        os.kill(victim.pid, signal.SIGKILL)
        until(lambda: busy(home) == [], "to end the statement")
        end(victim)
        with proxy.connect() as client:
            assert client.execute("SELECT 1").fetchone() == (1,)


def test_a_client_killed_in_a_transaction_leaves_no_lock(home: Home) -> None:
    with serving(home) as proxy, proxy.connect() as client:
        client.execute("CREATE TABLE IF NOT EXISTS locked (n int)")
        victim = client_process(proxy, "LOCK TABLE locked", "INSERT INTO locked VALUES (1)")
        until(lambda: locks(home) > 0, "to lock the table")
        os.kill(victim.pid, signal.SIGKILL)
        until(lambda: locks(home) == 0, "to release the lock")
        end(victim)
        assert client.execute("SELECT count(*) FROM locked").fetchone() == (0,)


def client_process(proxy: Proxy, *statements: str) -> subprocess.Popen[bytes]:
    """Another process that runs `statements` in a transaction and then waits."""
    where = f"host=127.0.0.1 port={proxy.port} user=acme.appuser dbname=shared_db"
    command = [sys.executable, "-c", CLIENT, f"{where} password=acme-secret", *statements]
    return subprocess.Popen(command, stdin=subprocess.PIPE)


def end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def ask(home: Home, question: str) -> list[tuple]:
    with psycopg.connect(EmbeddedPostgres(home.data).dsn("shared_db")) as admin:
        return admin.execute(question).fetchall()


def busy(home: Home) -> list[str]:
    """What tenants' servers run or hold open now."""
    rows = ask(
        home,
        "SELECT query FROM pg_stat_activity"
        " WHERE usename LIKE 'tenantry!_%' ESCAPE '!' AND state <> 'idle'",
    )
    return [row[0] for row in rows]


def locks(home: Home) -> int:
    return ask(
        home,
        "SELECT count(*) FROM pg_locks JOIN pg_class c ON c.oid = relation"
        " WHERE c.relname = 'locked' AND mode = 'AccessExclusiveLock'",
    )[0][0]
