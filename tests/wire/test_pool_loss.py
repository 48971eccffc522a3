"""Servers die, clients die, clients do not read: clear errors, nothing lent, counters right."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from time import monotonic, sleep

import psutil
import pytest
from support.debian import debian_postgres
from support.engines import Postgres
from support.proxy import WireProxy, own_database, wire_proxy
from support.raw import PATIENCE_SECONDS, Gone, Raw, raw
from support.transcript import (
    Bind,
    CopyData,
    CopyDone,
    Execute,
    Parse,
    Query,
    Sync,
    codes,
    packet,
)

MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def place(postgres: Postgres) -> Iterator[tuple[Postgres, str]]:
    with own_database(postgres) as made:
        made[0].execute("create table bytes (x bytea)", made[1])
        made[0].execute("create table words (x text)", made[1])
        yield made


@pytest.fixture
def proxy(place: tuple[Postgres, str]) -> Iterator[WireProxy]:
    with wire_proxy(place[0], database=place[1], servers=1) as made:
        yield made


def kill(postgres: Postgres, proxy: WireProxy) -> None:
    """End all backends of the proxy's pool, and wait until they are gone."""
    for pid in proxy.backends():
        postgres.execute(f"select pg_terminate_backend({pid}, 5000)")


def settled(proxy: WireProxy) -> None:
    pool = proxy.pool
    deadline = monotonic() + PATIENCE_SECONDS
    while True:
        found = proxy.call(
            lambda: (
                proxy.meter.running,
                proxy.meter.pinned,
                len(pool.lent),
                len(pool.waiters),
                pool.budget.used - pool.size(),
            )
        )
        if found == (0, 0, 0, 0, 0) or monotonic() > deadline:
            break
        sleep(0.005)
    assert found == (0, 0, 0, 0, 0), "running, pinned, lent, waiting, unaccounted for"


def test_an_idle_server_that_dies_is_noticed_by_nobody(postgres, proxy: WireProxy) -> None:
    with raw(proxy) as a:
        assert a.ask("select 1") == "1"
        kill(postgres, proxy)
        assert a.ask("select 2") == "2"
    settled(proxy)


def test_a_server_that_dies_in_a_query(postgres, proxy: WireProxy) -> None:
    with raw(proxy) as a, raw(proxy) as b:
        a >> Query("select pg_sleep(20)")
        while not proxy.call(lambda: proxy.meter.running):
            sleep(0.005)
        kill(postgres, proxy)
        assert codes(a.until("Z")) == ["57P01"]
        assert b.ask("select 1") == "1"
    settled(proxy)


def test_a_server_that_dies_in_a_transaction(postgres, proxy: WireProxy) -> None:
    with raw(proxy) as a, raw(proxy) as b:
        a.ask("begin")
        kill(postgres, proxy)
        assert codes(a.until("Z")) == ["57P01"]
        with pytest.raises(Gone):
            a.message()
        assert b.ask("select 1") == "1"
    settled(proxy)


def test_a_client_that_dies_while_it_waits(proxy: WireProxy) -> None:
    with raw(proxy) as a:
        a.ask("begin")
        b = Raw(proxy, proxy.database)
        b >> Query("select 1")
        while not proxy.call(lambda: len(proxy.pool.waiters)):
            sleep(0.005)
        b.crash()
        a.ask("commit")
    settled(proxy)


def memory() -> int:
    return int(psutil.Process().memory_info().rss)


def test_a_client_that_does_not_read_costs_little(proxy: WireProxy) -> None:
    with raw(proxy) as a:
        assert a.ask("select 1") == "1"
        a.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        before = memory()
        a >> Query("select repeat('x', 1000) from generate_series(1, 300000)") * 2
        sleep(1.0)
        assert memory() - before < 30 * MEGABYTE
        a.crash()
    settled(proxy)
    with raw(proxy) as b:
        assert b.ask("select 1") == "1"


def test_a_large_parameter_goes_through(proxy: WireProxy) -> None:
    with raw(proxy) as a:
        a >> Parse("put", "insert into bytes values ($1)") + Sync
        a.answers()
        before = memory()
        size = 40 * MEGABYTE
        value = b"\0" * size
        head = b"\0put\0" + (1).to_bytes(2, "big") * 2 + (1).to_bytes(2, "big")
        body = head + size.to_bytes(4, "big") + value + b"\0\0"
        a >> packet("B", body) + Execute() + Sync
        heard = a.answers()
        assert codes(heard) == []
        assert memory() - before < 5 * size
        assert a.ask("select sum(length(x)) from bytes") == str(size)
        a.ask("truncate bytes")
    settled(proxy)


def test_copy_in_streams(proxy: WireProxy) -> None:
    with raw(proxy) as a:
        before = memory()
        piece = CopyData((b"x" * 99 + b"\n") * 600)
        a >> Query("copy words from stdin")
        a.until("G")
        for _ in range(800):
            a >> piece
        assert memory() - before < 30 * MEGABYTE
        a >> CopyDone
        assert codes(a.answers()) == []
        assert a.ask("select count(*) from words") == "480000"
        a.ask("truncate words")
    settled(proxy)


def test_a_statement_of_a_megabyte(proxy: WireProxy) -> None:
    with raw(proxy) as a:
        assert a.ask("select length('" + "x" * 1_200_000 + "')") == "1200000"
        a >> Parse("", "select length('" + "x" * 1_200_000 + "')") + Bind() + Execute() + Sync
        assert codes(a.answers()) == []
    settled(proxy)


def test_kill_9_of_a_backend() -> None:
    """PostgreSQL restarts: everybody in a query hears of it, and service comes back."""
    with debian_postgres(ssl=False) as server, wire_proxy(server, servers=1) as proxy:
        with raw(proxy) as a, raw(proxy) as b:
            a >> Query("select pg_sleep(20)")
            while not proxy.call(lambda: proxy.meter.running):
                sleep(0.005)
            os.kill(proxy.backends()[0], signal.SIGKILL)
            assert codes(a.until("Z")) == ["08006"]
            deadline = monotonic() + PATIENCE_SECONDS
            while b.ask("select 1") != "1" and monotonic() < deadline:
                sleep(0.1)
            assert b.ask("select 1") == "1"
        settled(proxy)
