"""Cancel requests hit the client whose key they carry, while it runs something, and nobody else."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from time import monotonic, sleep

import pytest
from support.engines import Postgres
from support.proxy import WireProxy, wire_proxy
from support.raw import PATIENCE_SECONDS, raw
from support.transcript import Query, codes

from wire.postgres import protocol as p
from wire.postgres.cancel import CancelTarget, send_cancel


@pytest.fixture(scope="module")
def proxy(postgres: Postgres) -> Iterator[WireProxy]:
    with wire_proxy(postgres) as made:
        yield made


@pytest.mark.parametrize("version", [p.PROTOCOL_3_0, p.PROTOCOL_3_2])
def test_a_cancel_stops_its_own_client_only(proxy: WireProxy, version: int) -> None:
    with raw(proxy, version=version) as a, raw(proxy) as b:
        assert len(a.key) == (4 if version == p.PROTOCOL_3_0 else 32)
        a >> Query("select pg_sleep(20)")
        b >> Query("select pg_sleep(0.3)")
        wait_until_running(proxy, 2)
        a.cancel()
        assert codes(a.answers()) == ["57014"]
        assert codes(b.answers()) == []
        assert a.ask("select 1") == "1"


def test_a_wrong_key_stops_nothing(proxy: WireProxy) -> None:
    with raw(proxy) as a:
        a >> Query("select pg_sleep(0.3)")
        wait_until_running(proxy, 1)
        key = a.key
        for wrong in (b"", b"\0\0\0\0", key[:3], key + b"x", key[::-1] + b"!", b"x" * 5000):
            a.key = wrong
            a.cancel()
        assert codes(a.answers()) == []


def test_late_cancels_never_hit_the_next_client(postgres) -> None:
    """Two clients take turns on one server while one of them cancels what has just ended."""
    with wire_proxy(postgres, servers=1) as proxy, raw(proxy) as a, raw(proxy) as b:
        stopped: list[str] = []
        done = threading.Event()

        def innocent() -> None:
            while not done.is_set():
                stopped.extend(codes(b.ask_bytes("select pg_sleep(0.001)")))

        thread = threading.Thread(target=innocent)
        thread.start()
        try:
            for _ in range(150):
                a >> Query("select 1")
                a.cancel()
                a.answers()
        finally:
            done.set()
            thread.join()
        assert stopped == []


def test_a_cancel_while_waiting_for_a_server(postgres) -> None:
    with wire_proxy(postgres, servers=1) as proxy, raw(proxy) as a, raw(proxy) as b:
        b.ask("begin")
        a >> Query("select 1")
        deadline = monotonic() + PATIENCE_SECONDS
        while not proxy.call(lambda: len(proxy.pool.waiters)) and monotonic() < deadline:
            sleep(0.005)
        a.cancel()
        assert codes(a.answers()) == ["57014"]
        b.ask("commit")
        assert a.ask("select 1") == "1"


def test_a_cancel_that_may_still_arrive_is_told_apart() -> None:
    """A server that takes the request and never closes the connection: nobody knows."""

    async def play() -> None:
        target = CancelTarget("127.0.0.1", silent.getsockname()[1], 1, b"key!", None)
        assert not await send_cancel(target, 0.05)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        asyncio.run(play())


def wait_until_running(proxy: WireProxy, count: int) -> None:
    deadline = monotonic() + PATIENCE_SECONDS
    while proxy.call(lambda: proxy.meter.running) < count and monotonic() < deadline:
        sleep(0.005)
    sleep(0.02)  # from the proxy's socket to the backend's execution
