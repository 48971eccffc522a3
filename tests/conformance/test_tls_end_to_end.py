"""TLS on both sides of the proxy, with libpq and asyncpg as clients and a real server behind."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psycopg
import pytest
from support.certificates import Authority
from support.debian import debian_postgres, server_certificate
from support.engines import Postgres
from support.proxy import PASSWORD, USER, WireProxy, wire_proxy

from events.installation import Node, Tls
from wire.postgres.tls_setup import listener_tls, node_tls


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls_proxy(postgres: Postgres, authority: Authority) -> Iterator[WireProxy]:
    issued = authority.issue("127.0.0.1")
    tls = listener_tls(Tls(enabled=True, cert_path=issued.cert_path, key_path=issued.key_path))
    with wire_proxy(postgres, listener_tls=tls) as proxy:
        yield proxy


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_a_client_verifies_us_and_binds_its_login_to_the_channel(
    tls_proxy: WireProxy, authority: Authority, negotiation: str, version: str
) -> None:
    with tls_proxy.connect(
        sslmode="verify-full",
        sslrootcert=authority.ca_path,
        sslnegotiation=negotiation,
        channel_binding="require",
        ssl_max_protocol_version=version,
        ssl_min_protocol_version=version,
    ) as client:
        assert client.pgconn.ssl_in_use
        rows = client.execute("SELECT g, repeat('x', 1000) FROM generate_series(1, 2000) g")
        assert sum(len(text) for _, text in rows) == 2_000_000
        assert client.execute("SELECT length(%s)", ["y" * 1_000_000]).fetchone() == (1_000_000,)


def test_cancel_goes_over_tls_too_and_ends_properly(tls_proxy: WireProxy) -> None:
    with tls_proxy.connect(sslmode="require", max_protocol_version="latest") as client:
        failures: list[Exception] = []

        def cancel() -> None:
            try:
                client.cancel_safe(timeout=10)
            except Exception as error:
                failures.append(error)

        timer = threading.Timer(0.3, cancel)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            client.execute("SELECT pg_sleep(30)")
        timer.join()
        assert failures == []


def test_asyncpg_speaks_tls(tls_proxy: WireProxy, authority: Authority) -> None:
    async def run() -> int:
        context = ssl.create_default_context(cafile=authority.ca_path)
        client = await asyncpg.connect(
            host=tls_proxy.host,
            port=tls_proxy.port,
            user=USER,
            password=PASSWORD,
            database=tls_proxy.database,
            ssl=context,
        )
        try:
            answer: int = await client.fetchval("SELECT 40 + $1::int", 2)
            return answer
        finally:
            await client.close()

    assert asyncio.run(run()) == 42


def test_a_stranger_s_certificate_is_refused_by_the_client(
    tls_proxy: WireProxy, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        tls_proxy.connect(sslmode="verify-full", sslrootcert=stranger.ca_path)


def test_without_tls_a_client_that_needs_it_is_told(postgres: Postgres) -> None:
    with (
        wire_proxy(postgres) as proxy,
        pytest.raises(psycopg.OperationalError, match="does not support SSL"),
    ):
        proxy.connect(sslmode="require")


def test_where_tls_is_required_a_clear_connection_is_refused(
    postgres: Postgres, authority: Authority
) -> None:
    issued = authority.issue("localhost")
    settings = Tls(enabled=True, cert_path=issued.cert_path, key_path=issued.key_path, require=True)
    with (
        wire_proxy(
            postgres, listener_tls=listener_tls(settings), installation={"tls": settings}
        ) as proxy,
        pytest.raises(psycopg.OperationalError, match="requires TLS"),
    ):
        proxy.connect()


def test_servers_are_reached_over_verified_tls() -> None:
    with debian_postgres(hba=["hostssl all all 127.0.0.1/32 scram-sha-256"]) as server:
        node = Node(host="localhost", sslmode="verify-full", sslrootcert=server_certificate(server))
        reached = Postgres("localhost", server.port, server.user, server.password, server.pid)
        with wire_proxy(reached, node_tls=node_tls(node)) as proxy, proxy.connect() as client:
            used = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            assert client.execute(used).fetchone() == (True,)
            timer = threading.Timer(0.3, client.cancel_safe)
            timer.start()
            with pytest.raises(psycopg.errors.QueryCanceled):
                client.execute("SELECT pg_sleep(30)")
            timer.join()
