"""Workers and supervisors that are killed, and cancel requests that reach the wrong worker."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack, closing

import psycopg
import pytest
from support.serving import Home, alive, serving, until

pytestmark = pytest.mark.engine

# With this many clients the chance that one worker has them all is 2 in 2**CLIENTS.
CLIENTS = 10


def test_a_cancel_finds_its_client_on_whichever_worker(home: Home) -> None:
    with serving(home, "--workers", "2") as proxy:
        assert "limits are split evenly among 2 workers, at least 1 each" in proxy.log()
        assert len(proxy.workers()) == 2
        with ExitStack() as stack:
            clients = [stack.enter_context(proxy.connect()) for _ in range(CLIENTS)]
            for client in clients:
                assert cancelled(client) == "57014"
                assert client.execute("SELECT 1").fetchone() == (1,), "the next one is not hit"


def test_a_killed_worker_comes_back_and_the_other_serves_meanwhile(
    home: Home,
) -> None:
    with serving(home, "--workers", "2") as proxy, ExitStack() as stack:
        clients = [stack.enter_context(closing(proxy.connect())) for _ in range(CLIENTS)]
        victim, survivor = proxy.workers()
        os.kill(victim, signal.SIGKILL)
        until(lambda: not alive(victim), "to die")
        answers = [answer(client) for client in clients]
        assert {"1", "lost"} == set(answers), "clients of one are lost, of the other are not"
        with proxy.connect() as newcomer:
            assert newcomer.execute("SELECT 1").fetchone() == (1,)
        proxy.says("was killed by SIGKILL; starting it again")
        proxy.says("serves again")
        assert survivor in proxy.workers()
        assert len(proxy.workers()) == 2


def test_a_worker_killed_in_a_transaction_commits_nothing(home: Home) -> None:
    with serving(home) as proxy:
        with proxy.connect() as client:
            client.execute("CREATE TABLE IF NOT EXISTS half (n int)")
        with closing(proxy.connect(autocommit=False)) as busy:
            busy.execute("INSERT INTO half VALUES (1)")
            os.kill(proxy.workers()[0], signal.SIGKILL)
            with pytest.raises(psycopg.OperationalError):
                busy.commit()
        proxy.says("serves again")
        with proxy.connect() as client:
            assert client.execute("SELECT count(*) FROM half").fetchone() == (0,)


def test_a_killed_supervisor_leaves_no_worker_and_the_next_start_works(
    home: Home,
) -> None:
    with serving(home, "--workers", "2") as proxy, closing(proxy.connect()) as client:
        workers = proxy.workers()
        proxy.signal(signal.SIGKILL)
        proxy.wait()
        assert answer(client) == "lost"
        until(lambda: not any(alive(worker) for worker in workers), "to leave no worker")
    with serving(home, file=False) as again, again.connect() as client:
        assert client.execute("SELECT 1").fetchone() == (1,)


def cancelled(client: psycopg.Connection) -> str:
    """The SQLSTATE of a long statement that is cancelled once it runs."""
    timer = threading.Timer(0.1, client.cancel_safe)
    timer.start()
    try:
        client.execute("SELECT pg_sleep(20)")
    except psycopg.Error as error:
        return error.sqlstate or ""
    finally:
        timer.join()
    return ""


def answer(client: psycopg.Connection) -> str:
    try:
        return str(client.execute("SELECT 1").fetchone()[0])
    except psycopg.OperationalError:
        return "lost"
