"""psycopg (libpq) logs in to ScramServer, in clear, over TLS, over direct TLS, bound and not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from support.certificates import Authority
from support.wire_login import admit

from events.installation import Tls
from wire.errors import TenantryError
from wire.postgres.scram import ScramServer, make_verifier
from wire.postgres.tls_setup import ListenerTls, listener_tls

PASSWORDS = {"acme.bob": make_verifier("pencil ☃")}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> ListenerTls:
    issued = authority.issue("127.0.0.1")
    made = listener_tls(Tls(enabled=True, cert_path=issued.cert_path, key_path=issued.key_path))
    assert made is not None
    return made


@contextmanager
def one_client(tls: ListenerTls | None) -> Iterator[tuple[int, list[TenantryError]]]:
    """A server for one connection; gives its port and what it refused."""
    refused: list[TenantryError] = []

    def prove(user: str, encrypted: bool) -> ScramServer:
        return ScramServer(
            PASSWORDS.get(user),
            user=user,
            mock_secret=b"secret",
            channel_binding=tls.binding if tls else None,
            tls=encrypted,
        )

    def serve() -> None:
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(10)
            try:
                line = admit(sock, tls, prove)
                assert line.read(1) == b"X"
            except TenantryError as error:
                refused.append(error)
            except (EOFError, ConnectionError):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], refused
        finally:
            thread.join(10)


def connect(port: int, **options: str) -> psycopg.Connection:
    given = {
        "user": "acme.bob",
        "password": "pencil ☃",
        "dbname": "shared_db",
        "gssencmode": "disable",
    }
    return psycopg.connect(host="127.0.0.1", port=port, connect_timeout=10, **{**given, **options})


def test_in_clear() -> None:
    with one_client(None) as (port, refused):
        connect(port, sslmode="disable").close()
    assert not refused


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
@pytest.mark.parametrize("binding", ["require", "prefer", "disable"])
def test_over_tls(tls: ListenerTls, authority: Authority, negotiation: str, binding: str) -> None:
    with one_client(tls) as (port, refused):
        connect(
            port,
            sslmode="verify-full",
            sslrootcert=authority.ca_path,
            sslnegotiation=negotiation,
            channel_binding=binding,
        ).close()
    assert not refused


def test_tls_1_2(tls: ListenerTls) -> None:
    with one_client(tls) as (port, refused):
        connect(
            port,
            sslmode="require",
            ssl_max_protocol_version="TLSv1.2",
            channel_binding="require",
        ).close()
    assert not refused


@pytest.mark.parametrize(
    ("user", "password"), [("acme.bob", "wrong"), ("acme.nobody", "pencil ☃"), ("nobody", "x")]
)
def test_a_wrong_password_and_an_unknown_user_are_refused(
    tls: ListenerTls, user: str, password: str
) -> None:
    for mode, listener in (("disable", None), ("require", tls)):
        with one_client(listener) as (port, refused), pytest.raises(psycopg.OperationalError):
            connect(port, user=user, password=password, sslmode=mode)
        assert [str(error) for error in refused] == [
            f'password authentication failed for user "{user}"'
        ]


def test_a_certificate_without_a_binding_still_serves(authority: Authority) -> None:
    issued = authority.self_signed_ed25519("127.0.0.1")
    tls = listener_tls(Tls(enabled=True, cert_path=issued.cert_path, key_path=issued.key_path))
    assert tls is not None
    assert tls.binding is None
    with one_client(tls) as (port, refused):
        connect(port, sslmode="require").close()
    assert not refused


def test_a_required_client_certificate(authority: Authority, tmp_path: Path) -> None:
    issued = authority.issue("127.0.0.1")
    tls = listener_tls(
        Tls(
            enabled=True,
            cert_path=issued.cert_path,
            key_path=issued.key_path,
            ca_path=authority.ca_path,
            require_client_cert=True,
        )
    )
    own = authority.issue("bob")
    with one_client(tls) as (port, refused):
        connect(port, sslmode="require", sslcert=own.cert_path, sslkey=own.key_path).close()
    assert not refused
    with one_client(tls) as (port, refused), pytest.raises(psycopg.OperationalError):
        connect(port, sslmode="require", sslcert=str(tmp_path / "none"))
    assert [error.detail for error in refused] == ["peer did not return a certificate"]
    stranger = Authority(tmp_path, "stranger").issue("mallory")
    with one_client(tls) as (port, refused), pytest.raises(psycopg.OperationalError):
        connect(port, sslmode="require", sslcert=stranger.cert_path, sslkey=stranger.key_path)
    assert len(refused) == 1
