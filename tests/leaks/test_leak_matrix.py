"""Nothing that one client sets is seen by another: kinds of session state × ways to let go.

Each case: client A makes the state and lets its server go in one way, then client B, of the same
tenant, looks. It must see what a new connection to PostgreSQL sees. And where A is still there, it
must see what it would see on a connection of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic, sleep

import pytest
from support.engines import Postgres
from support.proxy import WireProxy, own_database, wire_proxy
from support.raw import Raw, raw
from support.transcript import CopyData, CopyFail, Query, Sync, one

PATIENCE_SECONDS = 15.0
# Roles belong to the whole cluster, which the processes of a test run share.
OTHER_ROLE = f"leak_other_{os.getpid()}"


@dataclass(frozen=True)
class Kind:
    """A kind of state: what makes it, and what shows it."""

    make: str
    show: str
    # Restored, or tied to its server, by the proxy: A finds it again.
    kept: bool = True


KINDS = {
    "setting": Kind("set work_mem = '1234kB'", "show work_mem"),
    "setting among others": Kind("select 1; set work_mem = '1235kB'; select 2", "show work_mem"),
    "search_path": Kind("set search_path = pg_catalog, pg_temp", "show search_path"),
    "characteristics": Kind(
        "set session characteristics as transaction isolation level serializable",
        "show default_transaction_isolation",
    ),
    "made-up setting": Kind("set leak.who = 'me'", "select current_setting('leak.who', true)"),
    "role": Kind(f"set role {OTHER_ROLE}", "select current_user"),
    "set_config": Kind("select set_config('work_mem', '1236kB', false)", "show work_mem"),
    "set_config unseen": Kind(
        "do $$ begin perform set_config('work_mem', '1237kB', false); end $$",
        "show work_mem",
        kept=False,
    ),
    "local setting": Kind("set local work_mem = '1238kB'", "show work_mem"),
    "temporary table": Kind(
        "create temp table leak_t (x int)", "select to_regclass('pg_temp.leak_t')"
    ),
    "temporary table unseen": Kind(
        "do $$ begin create temp table leak_u (x int); end $$",
        "select to_regclass('pg_temp.leak_u')",
        kept=False,
    ),
    "prepared in SQL": Kind(
        "prepare leak_q as select 1",
        "select count(*) from pg_prepared_statements where name = 'leak_q'",
    ),
    "cursor with hold": Kind(
        "declare leak_c cursor with hold for select 1",
        "select count(*) from pg_cursors where name = 'leak_c'",
    ),
    "listen": Kind("listen leak_n", "select count(*) from pg_listening_channels()"),
    "advisory lock": Kind(
        "select pg_advisory_lock(4711)",
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
    ),
    "advisory lock unseen": Kind(
        "do $$ begin perform pg_advisory_lock(4712); end $$",
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
        kept=False,
    ),
}

CANCELLED = "error 57014"
# Ways after which the client is gone.
LEAVING = ("crash", "goodbye", "copy broken")


def plain(a: Raw, make: str) -> bool:
    a.ask(make)
    return True


def commit(a: Raw, make: str) -> bool:
    a.ask("begin")
    a.ask(make)
    a.ask("commit")
    return True


def rollback(a: Raw, make: str) -> bool:
    a.ask("begin")
    a.ask(make)
    a.ask("rollback")
    return True


def rollback_to_savepoint(a: Raw, make: str) -> bool:
    a.ask("begin; savepoint s")
    a.ask(make)
    a.ask("rollback to s")
    a.ask("commit")
    return True


def error(a: Raw, make: str) -> bool:
    a.ask(make)
    assert a.ask("select 1/0") == "error 22012"
    return True


def error_in_the_same_text(a: Raw, make: str) -> bool:
    assert a.ask(f"{make}; select 1/0") == "error 22012"
    return True


def error_in_a_block(a: Raw, make: str) -> bool:
    a.ask("begin")
    a.ask(make)
    assert a.ask("select 1/0") == "error 22012"
    assert a.ask("commit") == "ROLLBACK"
    return True


def refusal_in_a_block(a: Raw, make: str) -> bool:
    a.ask("begin")
    a.ask(make)
    a.ask("select from from")
    assert a.ask("commit") == "ROLLBACK"
    return True


def cancel(a: Raw, make: str) -> bool:
    a.ask(make)
    a >> Query("select pg_sleep(20)")
    stop(a)
    return True


def cancel_in_a_block(a: Raw, make: str) -> bool:
    a.ask("begin")
    a.ask(make)
    a >> Query("select pg_sleep(20)")
    stop(a)
    assert a.ask("commit") == "ROLLBACK"
    return True


def stop(a: Raw) -> None:
    """Cancel until it has been: the first request may come before the query."""
    a.sock.settimeout(0.05)
    deadline = monotonic() + PATIENCE_SECONDS
    while monotonic() < deadline:
        a.cancel()
        try:
            a.buffer += a.receive()
        except TimeoutError:
            continue
        break
    a.sock.settimeout(PATIENCE_SECONDS)
    assert b"57014" in a.answers()


def pipeline(a: Raw, make: str) -> bool:
    a >> b"".join(one(part) for part in make_parts(make)) + one("select 1") + Sync
    a.answers()
    return True


def aborted_pipeline(a: Raw, make: str) -> bool:
    a >> b"".join(one(part) for part in make_parts(make)) + one("select 1/0") + one("select 1")
    a >> Sync
    a.answers()
    return True


def make_parts(make: str) -> list[str]:
    return [make] if "$$" in make else make.split(";")


def crash(a: Raw, make: str) -> bool:
    a.ask(make)
    a.crash()
    return False


def crash_in_a_block(a: Raw, make: str) -> bool:
    a.ask("begin")
    a.ask(make)
    a.crash()
    return False


def crash_in_a_query(a: Raw, make: str) -> bool:
    a.ask(make)
    a >> Query("select pg_sleep(20)")
    a.crash()
    return False


def goodbye(a: Raw, make: str) -> bool:
    a.ask(make)
    a.close()
    return False


def copy_that_fails(a: Raw, make: str) -> bool:
    a.ask(make)
    a >> Query("copy public.leak_r from stdin")
    assert a.until("G")
    a >> CopyData(b"1\n") + CopyFail("no")
    assert b"57014" in a.answers()
    return True


def copy_broken_off(a: Raw, make: str) -> bool:
    a.ask(make)
    a >> Query("copy public.leak_r from stdin")
    assert a.until("G")
    a >> CopyData(b"1\n") + CopyData(b"2\n" * 5000)[:3000]
    a.crash()
    return False


WAYS: dict[str, Callable[[Raw, str], bool]] = {
    way.__name__.replace("_", " "): way
    for way in (
        plain,
        commit,
        rollback,
        rollback_to_savepoint,
        error,
        error_in_the_same_text,
        error_in_a_block,
        refusal_in_a_block,
        cancel,
        cancel_in_a_block,
        pipeline,
        aborted_pipeline,
        crash,
        crash_in_a_block,
        crash_in_a_query,
        goodbye,
        copy_that_fails,
        copy_broken_off,
    )
}


@dataclass
class House:
    """A proxy, the server behind it, and what a new connection of the same role sees."""

    proxy: WireProxy
    server: Postgres
    database: str
    clean: dict[str, str]

    def direct(self) -> Raw:
        return Raw(self.server, self.database)


@pytest.fixture(scope="module")
def house(postgres: Postgres) -> Iterator[House]:
    with own_database(postgres) as (server, database):
        postgres.execute(f"drop role if exists {OTHER_ROLE}")
        postgres.execute(f"create role {OTHER_ROLE}")
        postgres.execute(f"grant {OTHER_ROLE} to {server.user}")
        server.execute("create sequence leak_s", database)
        server.execute("create table leak_r (x int)", database)
        server.execute(f"grant all on leak_r to {OTHER_ROLE}", database)
        clean = {}
        for name, kind in KINDS.items():
            with raw(server, database) as new:
                clean[name] = new.ask(kind.show)
        with wire_proxy(server, database=database, servers=2) as proxy:
            yield House(proxy, server, database, clean)
    postgres.execute(f"drop role {OTHER_ROLE}")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_state_stays_with_its_client(house: House, kind: str, way: str) -> None:
    made = KINDS[kind]
    expected = ""
    if not way.startswith(LEAVING):
        with raw(house.server, house.database) as own:
            WAYS[way](own, made.make)
            expected = own.ask(made.show)
    a = Raw(house.proxy, house.database)
    try:
        stays = WAYS[way](a, made.make)
        with raw(house.proxy) as b:
            assert b.ask(made.show) == house.clean[kind], "the next client sees it"
            b.ask("begin")
            assert b.ask(made.show) == house.clean[kind]
            b.ask("commit")
        if stays and made.kept:
            # Undone, a made-up setting is an empty string where it was made, and null elsewhere.
            found = a.ask(made.show) or "null"
            assert found == (expected or "null"), "its client does not find it again"
    finally:
        a.close()
    settled(house.proxy)


def settled(proxy: WireProxy) -> None:
    """Everything is given back, and counted back."""
    deadline = monotonic() + PATIENCE_SECONDS
    while (now := gauges(proxy)) != (0, 0, 0, 0) and monotonic() < deadline:
        sleep(0.005)
    assert now == (0, 0, 0, 0), "running, pinned, lent, unaccounted for"


def gauges(proxy: WireProxy) -> tuple[int, int, int, int]:
    pool = proxy.pool
    counted: tuple[int, int, int, int] = proxy.call(
        lambda: (
            proxy.meter.running,
            proxy.meter.pinned,
            len(pool.lent),
            pool.budget.used - pool.size(),
        )
    )
    return counted


@pytest.mark.parametrize("kind", KINDS)
def test_state_goes_with_a_query_over_its_time(house: House, kind: str) -> None:
    limits = {"max_query_duration": 0.2}
    with wire_proxy(house.server, database=house.database, servers=2, limits=limits) as proxy:
        with raw(proxy) as a:
            a.ask(KINDS[kind].make)
            assert a.ask("select pg_sleep(20)") == CANCELLED
            with raw(proxy) as b:
                assert b.ask(KINDS[kind].show) == house.clean[kind]
        settled(proxy)


@pytest.mark.parametrize("kind", KINDS)
def test_state_goes_with_a_result_over_its_size(house: House, kind: str) -> None:
    limits = {"max_rows_per_query": 100}
    with wire_proxy(house.server, database=house.database, servers=2, limits=limits) as proxy:
        with raw(proxy) as a:
            a.ask(f"select generate_series(1, 150); {KINDS[kind].make}")
            with raw(proxy) as b:
                assert b.ask(KINDS[kind].show) == house.clean[kind]
        settled(proxy)


@pytest.mark.parametrize("kind", KINDS)
def test_state_goes_with_its_server(house: House, postgres: Postgres, kind: str) -> None:
    with wire_proxy(house.server, database=house.database, servers=2) as proxy:
        with raw(proxy) as a:
            a.ask(KINDS[kind].make)
            for pid in proxy.backends():
                postgres.execute(f"select pg_terminate_backend({pid}, 5000)")
            with raw(proxy) as b:
                assert b.ask(KINDS[kind].show) == house.clean[kind]
        settled(proxy)
