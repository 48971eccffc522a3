"""The servers that row tenants share: each gets its own back, and there are as many as pay."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from support.engines import Postgres, unique_name
from support.estate import Estate, estate, protect, tenant
from support.provisioning import lone_postgres

from actors.shelf import HAND_OVERS

__all__ = ["lone_postgres"]

NAMES = ("acme", "globex", "initech", "umbrella")
TABLE = """
CREATE TABLE orders (tenant_id text NOT NULL, id int NOT NULL, PRIMARY KEY (tenant_id, id));
INSERT INTO orders SELECT name, 1 FROM unnest(ARRAY['acme', 'globex', 'initech', 'umbrella']) name;
"""
WAIT_SECONDS = 20.0
Clients = dict[str, psycopg.Connection[Any]]


@contextlib.contextmanager
def clients_of(server: Postgres, budget: int) -> Iterator[tuple[Estate, Clients]]:
    database = unique_name("shelf")

    def prepare(made: Estate) -> None:
        with made.admin("acme") as admin:
            admin.execute(TABLE)
        protect(made, database)

    tenants = [tenant(name, database_name=database) for name in NAMES]
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(estate(server, tenants, prepare=prepare, budget=budget))
        yield made, {name: stack.enter_context(made.connect(name)) for name in NAMES}


def ask(clients: Clients) -> dict[str, int]:
    """Each in turn; the server process that answered it. Each sees its own rows."""
    used = {}
    for name, client in clients.items():
        found = client.execute("SELECT tenant_id, pg_backend_pid() FROM orders").fetchall()
        assert [row[0] for row in found] == [name]
        used[name] = found[0][1]
    return used


@pytest.mark.parametrize("budget", [4, 20])
def test_each_busy_tenant_finds_its_own_server_in_the_end(
    lone_postgres: Postgres, budget: int
) -> None:
    with clients_of(lone_postgres, budget) as (_, clients):
        assert len(set(ask(clients).values())) < len(NAMES), "one is shared at first"
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            used = ask(clients)
            if len(set(used.values())) == len(NAMES) and ask(clients) == used:
                break
            assert time.monotonic() < deadline, used
        assert all(ask(clients) == used for _ in range(2 * HAND_OVERS))


def test_it_takes_nobodys_room(lone_postgres: Postgres) -> None:
    with clients_of(lone_postgres, 2) as (made, clients):
        seen: set[int] = set()
        for _ in range(3 * HAND_OVERS):
            seen |= set(ask(clients).values())
        assert len(seen) <= 2
        assert made.call(lambda: made.budget.used) <= 2


def test_what_is_idle_is_known_by_its_seal(lone_postgres: Postgres) -> None:
    with clients_of(lone_postgres, 20) as (made, clients):
        for _ in range(2 * HAND_OVERS):
            ask(clients)
        shelf = made.commons.shelf(made.tenants["acme"])

        def consistent() -> bool:
            sealed = [server for own in shelf.sealed.values() for server in own]
            wanted = [server for server in shelf.idle if server.seal is not None]
            return sorted(map(id, sealed)) == sorted(map(id, wanted)) and all(
                server.seal is seal for seal, own in shelf.sealed.items() for server in own
            )

        assert made.call(consistent)
        clients["acme"].execute("BEGIN")
        assert made.call(consistent)
        clients["acme"].close()
        assert made.call(consistent)
