"""ServerLogin and NodeTls against real PostgreSQL: the packaged 18, and Debian's with TLS."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from support.certificates import Authority
from support.debian import debian_postgres, server_certificate
from support.engines import Postgres
from support.wire_login import log_in, query

from events.installation import Node, SslMode
from wire.errors import ProtocolViolation, ServerUnavailable
from wire.identify import parse_options
from wire.postgres.scram import make_verifier
from wire.postgres.tls_setup import NodeTls, node_tls

pytestmark = pytest.mark.engine

# Passwords that SASLprep changes, refuses, or takes as they are; PostgreSQL must agree on each.
ODD_PASSWORDS = [
    "I\u00adX",
    "\u2168 \u00aa",
    "a\u00a0b\u200bc",
    "\u0627\u0031",
    "\u0627\u0031\u0628",
    "\u0627\u2075",
    "\u0627\u00aa\u0628",
    "\u0627\u2075\u0628",
    "\u00aa\u0378",
    "\u00aa\u0007",
    "\u00ad",
    "naïve ☃ 😀",
    "tab\tand 'quote'",
    "\u1e9b\u0323 \ufb01",
]


HBA = [
    "host all md5_user 127.0.0.1/32 md5",
    "host all plain_user 127.0.0.1/32 password",
    "host all trust_user 127.0.0.1/32 trust",
    "host all all 127.0.0.1/32 scram-sha-256",
]
PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def debian() -> Iterator[Postgres]:
    """The machine's PostgreSQL: with TLS, and each role asked for its password in another way."""
    with debian_postgres(hba=HBA) as server:
        for role in ("scram_user", "plain_user", "trust_user"):
            create_role(server, role, PASSWORD)
        create_role(server, "md5_user", PASSWORD, "md5")
        yield server


def create_role(
    server: Postgres, name: str, password: str, encryption: str = "scram-sha-256"
) -> None:
    role, secret = sql.Identifier(name), sql.Literal(password)
    with server.connect() as connection:
        connection.execute(sql.SQL("set password_encryption = {}").format(encryption))
        connection.execute(sql.SQL("create role {} login password {}").format(role, secret))


def dial(server: Postgres) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=10)


def settings(mode: SslMode, ca: str = "", host: str = "127.0.0.1") -> NodeTls:
    tls = node_tls(Node(host=host, sslmode=mode, sslrootcert=ca))
    assert tls is not None
    return tls


@pytest.mark.parametrize("user", ["scram_user", "md5_user", "plain_user", "trust_user"])
def test_every_method_logs_in(debian: Postgres, user: str) -> None:
    with dial(debian) as sock:
        assert user.encode() in b"".join(query(log_in(sock, user, PASSWORD), "select user"))


@pytest.mark.parametrize("user", ["scram_user", "md5_user", "plain_user"])
def test_a_wrong_password_is_the_servers_to_refuse(debian: Postgres, user: str) -> None:
    with dial(debian) as sock, pytest.raises(PermissionError, match="28P01"):
        log_in(sock, user, "wrong")


def test_a_password_is_not_sent_in_clear_unless_allowed(debian: Postgres) -> None:
    with dial(debian) as sock, pytest.raises(ServerUnavailable, match="clear text"):
        log_in(sock, "plain_user", PASSWORD, allow_plain=False)


def test_no_password_set_is_said_before_anything_is_sent(debian: Postgres) -> None:
    with dial(debian) as sock, pytest.raises(ServerUnavailable, match="none is set"):
        log_in(sock, "scram_user", "")


@pytest.mark.parametrize("number", range(len(ODD_PASSWORDS)))
def test_postgresql_18_prepares_passwords_as_we_do(
    postgres: Postgres, unique: str, number: int
) -> None:
    create_role(postgres, unique, ODD_PASSWORDS[number])
    with dial(postgres) as sock:
        log_in(sock, unique, ODD_PASSWORDS[number])


@pytest.mark.parametrize("iterations", [4096, 50_000])
def test_postgresql_18_accepts_our_verifiers(
    postgres: Postgres, unique: str, iterations: int
) -> None:
    verifier = make_verifier("pw ☃", iterations=iterations)
    create_role(postgres, unique, verifier)
    stored = "select rolpassword from pg_authid where rolname = "
    assert postgres.execute(f"{stored}'{unique}'") == [(verifier,)]
    with dial(postgres) as sock:
        log_in(sock, unique, "pw ☃")


def test_prefer_goes_on_in_clear_where_the_server_has_no_tls(
    postgres: Postgres, unique: str
) -> None:
    create_role(postgres, unique, PASSWORD)
    with dial(postgres) as sock:
        assert log_in(sock, unique, PASSWORD, tls=settings("prefer")).endpoint is None
    with dial(postgres) as sock, pytest.raises(ServerUnavailable, match="does not support TLS"):
        log_in(sock, unique, PASSWORD, tls=settings("require"))


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-ca", "verify-full"])
def test_every_sslmode_logs_in_and_binds_the_channel(debian: Postgres, mode: SslMode) -> None:
    ca = server_certificate(debian) if mode.startswith("verify") else ""
    with dial(debian) as sock:
        line = log_in(sock, "scram_user", PASSWORD, tls=settings(mode, ca))
        assert line.endpoint is not None
        assert line.endpoint.version() == "TLSv1.3"
        assert line.mechanism == "SCRAM-SHA-256-PLUS"
        big = b"".join(query(line, "select repeat('x', 1000000)"))
        assert big.count(b"x") == 1_000_000
        assert b"1000000" in b"".join(query(line, f"select length('{'y' * 1_000_000}')"))


def test_the_servers_certificate_must_come_from_the_given_authority(
    debian: Postgres, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    modes: tuple[SslMode, ...] = ("verify-ca", "verify-full", "require")
    for mode in modes:
        with dial(debian) as sock, pytest.raises(ServerUnavailable) as failed:
            log_in(sock, "scram_user", PASSWORD, tls=settings(mode, stranger.ca_path))
        assert failed.value.detail in ("self-signed certificate", "self signed certificate")


def test_only_verify_full_compares_the_host_name(debian: Postgres) -> None:
    ca = server_certificate(debian)
    for host in ("db.example", "127.0.0.2"):
        with dial(debian) as sock:
            log_in(sock, "scram_user", PASSWORD, tls=settings("verify-ca", ca, host))
        with dial(debian) as sock, pytest.raises(ServerUnavailable) as failed:
            log_in(sock, "scram_user", PASSWORD, tls=settings("verify-full", ca, host))
        assert "mismatch" in failed.value.detail


# What libpq sends as `options`; two-part names, so that any value may be set.
OPTIONS = [
    "-c a.b=1 -ca.c=2 --a.d=3",
    "-c a.b=one\\ two -c a.c=x\\\\y",
    "-c a.b=1 -c a.b=2",
    "-c a.b= -c a.c=x=y",
    "--a-b.c-d=e-f",
    "\t -c\n a.b='q'\v",
    "-c a.b=end\\",
]


@pytest.mark.parametrize("number", range(len(OPTIONS)))
def test_postgresql_18_reads_options_as_we_do(postgres: Postgres, number: int) -> None:
    settings = parse_options(OPTIONS[number])
    assert settings
    with postgres.connect(options=OPTIONS[number]) as connection:
        for name, value in settings.items():
            assert connection.execute("select current_setting(%s)", [name]).fetchone() == (value,)


@pytest.mark.parametrize("text", ["-c", "-c a.b", "a.b=1", "-Z", "--a.b"])
def test_postgresql_18_refuses_options_that_we_refuse(postgres: Postgres, text: str) -> None:
    with pytest.raises(ProtocolViolation):
        parse_options(text)
    with pytest.raises(psycopg.OperationalError):
        postgres.connect(options=text)
