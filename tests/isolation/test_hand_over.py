"""Servers that pass between tenants: what a hand-over leaves behind, and what its failure means.

One database with shared tables, as few servers as possible, so that each statement of another
tenant is a hand-over.
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

__all__ = ["lone_postgres"]

DATABASE = "hand_over"
NAMES = ("acme", "globex", "initech")
TABLES = """
CREATE TABLE orders (
  tenant_id text NOT NULL, id int NOT NULL, note text, PRIMARY KEY (tenant_id, id));
INSERT INTO orders SELECT name, i, name || ' note ' || i
  FROM unnest(ARRAY['acme', 'globex', 'initech']) name, generate_series(1, 10) i;
"""
WAIT_SECONDS = 10.0


def prepare(made: Estate) -> None:
    with made.admin("acme") as admin:
        admin.execute(TABLES)
    protect(made, DATABASE)


@pytest.fixture(scope="module")
def shared(lone_postgres: Postgres) -> Iterator[Estate]:
    """Three tenants, two servers."""
    tenants = [tenant(name, database_name=DATABASE) for name in NAMES]
    with estate(lone_postgres, tenants, prepare=prepare, budget=2) as made:
        yield made


@pytest.fixture
def clients(shared: Estate) -> Iterator[dict[str, psycopg.Connection[Any]]]:
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(shared.connect(name)) for name in NAMES}


def owners(client: psycopg.Connection[Any]) -> set[str]:
    return {row[0] for row in client.execute("SELECT DISTINCT tenant_id FROM orders")}


def pid(client: psycopg.Connection[Any]) -> int:
    row = client.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


def test_servers_pass_between_tenants_and_show_each_its_own_rows(
    clients: dict[str, psycopg.Connection[Any]],
) -> None:
    seen: dict[int, set[str]] = {}
    for _ in range(5):
        for name, client in clients.items():
            assert owners(client) == {name}
            seen.setdefault(pid(client), set()).add(name)
    assert any(len(names) > 1 for names in seen.values())


def test_statements_prepared_for_one_tenant_are_not_run_for_the_next(
    clients: dict[str, psycopg.Connection[Any]],
) -> None:
    for _ in range(3):
        for name, client in clients.items():
            rows = client.execute("SELECT note FROM orders WHERE id = %s", (1,), prepare=True)
            assert rows.fetchall() == [(f"{name} note 1",)]


def test_a_client_keeps_its_settings_and_leaves_none(
    clients: dict[str, psycopg.Connection[Any]],
) -> None:
    acme, globex = clients["acme"], clients["globex"]
    acme.execute("SET application_name TO 'of acme'")
    for _ in range(3):
        assert globex.execute("SHOW application_name").fetchone() == ("",)
        assert acme.execute("SHOW application_name").fetchone() == ("of acme",)
    acme.execute("RESET application_name")


def test_reset_all_breaks_the_seal_and_the_next_statement_has_it_again(
    clients: dict[str, psycopg.Connection[Any]],
) -> None:
    client = clients["acme"]
    client.execute("RESET ALL")
    assert owners(client) == {"acme"}
    client.execute("DISCARD ALL")
    assert owners(client) == {"acme"}


def test_reset_all_while_the_server_is_pinned(shared: Estate) -> None:
    with shared.connect("acme") as client:
        client.execute("LISTEN something")
        first = pid(client)
        client.execute("RESET ALL")
        assert owners(client) == {"acme"}
        assert pid(client) == first


def test_reset_all_inside_a_block_is_refused_and_aborts_it(shared: Estate) -> None:
    with shared.connect("acme") as client:
        client.execute("BEGIN")
        client.execute("INSERT INTO orders (id, note) VALUES (77, 'never')")
        with pytest.raises(errors.FeatureNotSupported, match="RESET ALL"):
            client.execute("RESET ALL")
        with pytest.raises(errors.InFailedSqlTransaction):
            client.execute("SELECT 1")
        client.execute("COMMIT")
        assert client.execute("SELECT count(*) FROM orders WHERE id = 77").fetchone() == (0,)


def test_nothing_can_follow_reset_all_in_a_pipeline(shared: Estate) -> None:
    with shared.connect("acme") as client:
        assert owners(client) == {"acme"}
        with pytest.raises(errors.FeatureNotSupported, match="follow RESET ALL"), client.pipeline():
            client.execute("RESET ALL")
            client.execute("SELECT count(*) FROM orders")
        assert owners(client) == {"acme"}


def test_reset_all_by_the_extended_protocol(shared: Estate) -> None:
    with shared.connect("acme") as client:
        with client.pipeline():
            client.execute("RESET ALL")
        assert owners(client) == {"acme"}


def test_a_seal_that_is_not_taken_costs_the_server_not_the_tenant(shared: Estate) -> None:
    """The key in the database changes: nobody gets in, and nobody sees rows, until it is right."""
    with shared.connect("acme") as client, shared.admin("acme") as admin:
        assert owners(client) == {"acme"}
        admin.execute("CREATE TABLE kept AS SELECT * FROM tenantry.key")
        admin.execute("UPDATE tenantry.key SET inner_pad = outer_pad")
        try:
            with (
                shared.connect("globex") as other,
                pytest.raises(psycopg.errors.SystemError),
            ):
                owners(other)
        except psycopg.OperationalError:
            pass  # the login itself needed a server
        finally:
            admin.execute(
                "UPDATE tenantry.key SET inner_pad = kept.inner_pad, outer_pad = kept.outer_pad"
                " FROM kept"
            )
            admin.execute("DROP TABLE kept")
        with shared.connect("globex") as other:
            assert owners(other) == {"globex"}
        assert owners(client) == {"acme"}


def test_no_seal_is_left_on_a_server_whose_token_was_refused(shared: Estate) -> None:
    idle = shared.call(lambda: [(s.seal is None, s.closed) for s in shared_idle(shared)])
    assert not any(unsealed for unsealed, _ in idle)


def shared_idle(made: Estate) -> list[Any]:
    shelf = made.commons.shelf(made.tenants["acme"])
    return list(shelf.idle)


def test_a_waiting_neighbour_gets_the_server_itself(shared: Estate) -> None:
    """Both servers are in transactions of acme; globex waits and gets one of them, resealed."""
    with contextlib.ExitStack() as stack:
        one, two = (stack.enter_context(shared.connect("acme")) for _ in range(2))
        other = stack.enter_context(shared.connect("globex"))
        one.execute("BEGIN")
        two.execute("BEGIN")
        pids = {pid(one), pid(two)}
        cursor = stack.enter_context(shared.connect("globex", options="")).cursor()
        with pytest.raises(psycopg.OperationalError):
            # Nothing is free, and the wait has its limit.
            cursor.execute("SELECT 1")
            raise psycopg.OperationalError("a server was free")
        one.execute("COMMIT")
        assert owners(other) == {"globex"}
        assert pid(other) in pids
        two.execute("COMMIT")


def test_notifications_reach_the_same_tenant_only(shared: Estate) -> None:
    with (
        shared.connect("acme") as listener,
        shared.connect("acme") as friend,
        shared.connect("globex") as stranger,
    ):
        listener.execute("LISTEN news")
        stranger.execute("NOTIFY news, 'from globex'")
        stranger.execute("SELECT pg_notify('acme/news', 'aimed')")
        friend.execute("NOTIFY news, 'from acme'")
        got = list(listener.notifies(timeout=WAIT_SECONDS, stop_after=1))
        assert [(note.channel, note.payload) for note in got] == [("news", "from acme")]
        assert list(listener.notifies(timeout=0.2)) == []


def test_advisory_locks_of_two_tenants_do_not_meet(shared: Estate) -> None:
    with shared.connect("acme") as one, shared.connect("globex") as two:
        one.execute("BEGIN")
        two.execute("BEGIN")
        for client in (one, two):
            assert client.execute("SELECT pg_try_advisory_xact_lock(42)").fetchone() == (True,)
        one.execute("COMMIT")
        two.execute("COMMIT")


def test_an_errors_position_is_in_the_clients_own_text(shared: Estate) -> None:
    sql = "SELECT note, nothing FROM orders WHERE id = 1"
    with shared.connect("acme") as client:
        with pytest.raises(errors.UndefinedColumn) as caught:
            client.execute(sql)
        assert caught.value.diag.statement_position == str(sql.index("nothing") + 1)
        late = "SELECT note FROM orders WHERE id = 1 ORDER BY nothing"
        with pytest.raises(errors.UndefinedColumn) as caught:
            client.execute(late)
        assert caught.value.diag.statement_position == str(late.index("nothing") + 1)


def test_a_cancelled_statement_and_a_lost_client_leave_a_clean_server(shared: Estate) -> None:
    with shared.connect("acme") as client:
        client.execute("SET statement_timeout TO '100ms'")
        with pytest.raises(errors.QueryCanceled):
            client.execute("SELECT pg_sleep(5)")
    dying = shared.connect("acme")
    dying.execute("BEGIN")
    dying.execute("SET LOCAL lock_timeout TO '64s'")
    dying.pgconn.finish()
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        with shared.connect("globex") as other:
            assert owners(other) == {"globex"}
            if other.execute("SHOW statement_timeout").fetchone() == ("0",):
                return
    raise AssertionError("settings of another tenant are left")


def test_a_table_made_while_running_yields_nothing_until_it_is_protected(shared: Estate) -> None:
    with shared.connect("acme") as client, shared.admin("acme") as admin:
        admin.execute("CREATE TABLE late (tenant_id text NOT NULL, x int)")
        admin.execute("INSERT INTO late VALUES ('acme', 1), ('globex', 2)")
        with pytest.raises(errors.InsufficientPrivilege):
            client.execute("SELECT * FROM late")
        protect(shared, DATABASE)
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                rows = client.execute("SELECT tenant_id, x FROM late").fetchall()
                break
            except errors.InsufficientPrivilege:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert rows == [("acme", 1)]
