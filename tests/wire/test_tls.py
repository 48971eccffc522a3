"""TlsEndpoint, two of them talking in memory; and hostile bytes in place of either."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from support.certificates import Authority, Issued

from events.installation import Node, Tls
from wire.errors import ProtocolViolation, ServerUnavailable
from wire.postgres.tls import (
    MAX_HANDSHAKE_BYTES,
    TlsEndpoint,
    certificate_binding,
    is_direct_tls,
)
from wire.postgres.tls_setup import ListenerTls, NodeTls, listener_tls, node_tls


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def issued(authority: Authority) -> Issued:
    return authority.issue("db.example")


@pytest.fixture(scope="module")
def listener(issued: Issued) -> ListenerTls:
    made = listener_tls(Tls(enabled=True, cert_path=issued.cert_path, key_path=issued.key_path))
    assert made is not None
    return made


@pytest.fixture(scope="module")
def node(authority: Authority) -> NodeTls:
    made = node_tls(Node(host="db.example", sslmode="verify-full", sslrootcert=authority.ca_path))
    assert made is not None
    return made


def dialled(node: NodeTls) -> TlsEndpoint:
    endpoint = node.answered(b"S")
    assert endpoint is not None
    return endpoint


def shake(client: TlsEndpoint, server: TlsEndpoint) -> None:
    to_server, to_client = client.start(), server.start()
    while to_server or to_client:
        _, to_client = server.received(to_server)
        _, to_server = client.received(to_client)


def pair(listener: ListenerTls, node: NodeTls) -> tuple[TlsEndpoint, TlsEndpoint]:
    client, server = dialled(node), listener.upgrade(b"")
    shake(client, server)
    assert client.handshake_done
    assert server.handshake_done
    return client, server


def records(ciphertext: bytes) -> list[int]:
    """Lengths of the records in a run of them."""
    lengths = []
    while ciphertext:
        length = int.from_bytes(ciphertext[3:5], "big")
        lengths.append(length)
        ciphertext = ciphertext[5 + length :]
    return lengths


# --- talking -----------------------------------------------------------------------------------


def test_both_ways(listener: ListenerTls, node: NodeTls) -> None:
    client, server = pair(listener, node)
    assert server.received(client.send(b"hello")) == (b"hello", b"")
    assert client.received(server.send(b"welcome")) == (b"welcome", b"")
    assert client.send(b"") == b""
    assert server.received(b"") == (b"", b"")


def test_one_byte_at_a_time(listener: ListenerTls, node: NodeTls) -> None:
    client, server = dialled(node), listener.upgrade(b"")
    to_server, to_client, plain = client.start(), b"", b""
    while not (client.handshake_done and server.handshake_done):
        for at in range(len(to_server)):
            to_client += server.received(to_server[at : at + 1])[1]
        to_server = b""
        for at in range(len(to_client)):
            to_server += client.received(to_client[at : at + 1])[1]
        to_client = b""
    ciphertext = client.send(b"x" * 20_000)
    for at in range(len(ciphertext)):
        plain += server.received(ciphertext[at : at + 1])[0]
    assert plain == b"x" * 20_000


def test_a_megabyte_goes_in_records_no_larger_than_postgresqls(
    listener: ListenerTls, node: NodeTls
) -> None:
    client, server = pair(listener, node)
    data = bytes(range(256)) * 4096
    ciphertext = server.send(data)
    assert max(records(ciphertext)) <= 8192 + 32
    assert client.received(ciphertext)[0] == data


def test_what_follows_the_handshake_in_one_chunk_is_read(
    listener: ListenerTls, node: NodeTls
) -> None:
    client, server = dialled(node), listener.upgrade(b"")
    _, to_client = server.received(client.start())
    _, finished = client.received(to_client)
    assert server.received(finished + client.send(b"startup"))[0] == b"startup"


def test_close_is_seen_and_what_comes_after_it_is_not(listener: ListenerTls, node: NodeTls) -> None:
    client, server = pair(listener, node)
    plain, _ = server.received(client.send(b"bye") + client.close() + b"\x17\x03\x03\x00\x01x")
    assert plain == b"bye"
    assert server.closed_by_peer
    assert server.received(bytes(100_000)) == (b"", b"")
    assert server._incoming.pending < 100  # it is not kept either


def test_close_before_the_handshake_says_nothing(listener: ListenerTls) -> None:
    assert listener.upgrade(b"").close() == b""


def test_nothing_can_be_sent_before_the_handshake(listener: ListenerTls) -> None:
    with pytest.raises(AssertionError):
        listener.upgrade(b"").send(b"secret")


def test_no_session_tickets_follow_the_handshake(listener: ListenerTls, node: NodeTls) -> None:
    client, server = dialled(node), listener.upgrade(b"")
    _, to_client = server.received(client.start())
    _, finished = client.received(to_client)
    assert server.received(finished) == (b"", b"")


# --- nothing in clear --------------------------------------------------------------------------


def test_bytes_behind_the_request_for_tls_are_refused(listener: ListenerTls) -> None:
    with pytest.raises(ProtocolViolation, match="unencrypted data"):
        listener.upgrade(b"\0\0\0\x08")


@pytest.mark.parametrize("answer", [b"", b"SE", b"Sx", b"NN", b"E", b"E\0\0\0\x05x", b"G", b"s"])
def test_a_server_answers_with_one_byte(node: NodeTls, answer: bytes) -> None:
    with pytest.raises(ServerUnavailable):
        node.answered(answer)


def test_refused_tls_goes_on_in_clear_only_under_prefer(node: NodeTls) -> None:
    with pytest.raises(ServerUnavailable, match="sslmode"):
        node.answered(b"N")
    preferring = node_tls(Node(sslmode="prefer"))
    assert preferring is not None
    assert preferring.answered(b"N") is None
    with pytest.raises(ServerUnavailable):
        preferring.answered(b"NZ")


# --- direct TLS --------------------------------------------------------------------------------


def test_direct_tls_is_told_by_its_first_byte() -> None:
    assert is_direct_tls(b"\x16\x03\x01")
    assert not is_direct_tls(b"\0\0\0\x08")
    assert not is_direct_tls(b"")


def test_direct_tls_needs_the_protocols_name(listener: ListenerTls, node: NodeTls) -> None:
    client, server = node.direct(), listener.direct()
    shake(client, server)
    assert server.handshake_done
    for names in ([], ["http/1.1"]):
        other = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        other.check_hostname = False
        other.verify_mode = ssl.CERT_NONE
        if names:
            other.set_alpn_protocols(names)
        with pytest.raises(ProtocolViolation) as failed:
            shake(TlsEndpoint(other, server_side=False), listener.direct())
        assert "ALPN" in failed.value.detail
        shake(TlsEndpoint(other, server_side=False), listener.upgrade(b""))


# --- channel binding ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("digest", "name"),
    [(hashes.SHA256(), "sha256"), (hashes.SHA384(), "sha384"), (hashes.SHA512(), "sha512")],
)
def test_binding_is_the_certificates_hash_by_its_own_algorithm(
    authority: Authority, digest: hashes.HashAlgorithm, name: str
) -> None:
    der = authority.issue(f"{name}.example", digest=digest).der
    assert certificate_binding(der) == hashlib.new(name, der).digest()


def test_both_sides_agree_on_the_binding(listener: ListenerTls, node: NodeTls) -> None:
    client, server = pair(listener, node)
    assert client.server_end_point() == server.server_end_point() is not None


def test_a_certificate_that_cannot_be_read_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        certificate_binding(b"\x30\x03abc")


def test_an_unverified_certificate_without_binding_is_refused(
    authority: Authority,
) -> None:
    issued = authority.self_signed_ed25519("db.example")
    listener = listener_tls(Tls(enabled=True, cert_path=issued.cert_path, key_path=issued.key_path))
    unverified = node_tls(Node(host="db.example", sslmode="require"))
    verified = node_tls(
        Node(host="db.example", sslmode="verify-full", sslrootcert=issued.cert_path)
    )
    assert listener is not None
    assert unverified is not None
    assert verified is not None
    client, server = pair(listener, unverified)
    assert server.server_end_point() is None
    with pytest.raises(ServerUnavailable):
        client.server_end_point()
    assert pair(listener, verified)[0].server_end_point() is None


# --- hostile bytes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x17\x03\x03\x00\x10" + bytes(16),
        bytes(4096),
    ],
)
def test_garbage_instead_of_a_hello_is_the_peers_error(
    listener: ListenerTls, node: NodeTls, garbage: bytes
) -> None:
    with pytest.raises(ProtocolViolation):
        listener.upgrade(b"").received(garbage)
    client = dialled(node)
    client.start()
    with pytest.raises(ServerUnavailable):
        client.received(garbage)


def test_a_failed_handshake_leaves_an_alert_to_send(listener: ListenerTls) -> None:
    server = listener.upgrade(b"")
    with pytest.raises(ProtocolViolation):
        server.received(b"\x16\x03\x01\x00\x05hello")
    assert server.alert()[:1] == b"\x15"


def test_a_changed_record_is_refused(listener: ListenerTls, node: NodeTls) -> None:
    client, server = pair(listener, node)
    ciphertext = bytearray(client.send(b"select 1"))
    ciphertext[-1] ^= 1
    with pytest.raises(ProtocolViolation):
        server.received(bytes(ciphertext))


def test_a_handshake_that_is_too_long_is_cut_off(
    authority: Authority, issued: Issued, node: NodeTls, tmp_path: Path
) -> None:
    asking = listener_tls(
        Tls(
            enabled=True,
            cert_path=issued.cert_path,
            key_path=issued.key_path,
            ca_path=authority.ca_path,
        )
    )
    assert asking is not None
    own = authority.issue("mallory")
    chain = tmp_path / "chain.pem"
    chain.write_bytes(Path(own.cert_path).read_bytes() * (MAX_HANDSHAKE_BYTES // len(own.der) + 1))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.ca_path)
    context.load_cert_chain(chain, own.key_path)
    client = TlsEndpoint(context, server_side=False, server_hostname="db.example")
    with pytest.raises(ProtocolViolation) as failed:
        shake(client, asking.upgrade(b""))
    assert failed.value.detail == "the handshake is too long"


@pytest.mark.parametrize("host", ["a..b", "x" * 300, "", ".example"])
def test_a_host_that_is_no_name_is_a_server_error(host: str) -> None:
    tls = node_tls(Node(host=host, sslmode="require"))
    assert tls is not None
    with pytest.raises(ServerUnavailable):
        tls.answered(b"S")


# --- settings ----------------------------------------------------------------------------------


def test_switched_off() -> None:
    assert listener_tls(Tls()) is None
    assert node_tls(Node(sslmode="disable")) is None
    assert node_tls(Node(host="/run/postgresql", sslmode="require")) is None


def test_mistakes_in_settings_are_sentences(authority: Authority, tmp_path: Path) -> None:
    good, locked = authority.issue("good"), authority.issue("locked", passphrase="secret")
    other = authority.issue("other")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("not a certificate")
    for tls, says in (
        (Tls(enabled=True), "both cert_path and key_path"),
        (Tls(enabled=True, cert_path="/none", key_path="/none"), "cannot read certificate"),
        (Tls(enabled=True, cert_path=str(garbage), key_path=good.key_path), "garbage.pem"),
        (Tls(enabled=True, cert_path=good.cert_path, key_path=other.key_path), "mismatch"),
        (Tls(enabled=True, cert_path=locked.cert_path, key_path=locked.key_path), "passphrase"),
        (
            Tls(
                enabled=True,
                cert_path=good.cert_path,
                key_path=good.key_path,
                require_client_cert=True,
            ),
            "needs ca_path",
        ),
    ):
        with pytest.raises(ValueError, match=says):
            listener_tls(tls)
    for node, says in (
        (Node(sslmode="verify-full"), "needs sslrootcert"),
        (Node(sslmode="verify-ca", sslrootcert="/none"), "cannot read certificate authorities"),
    ):
        with pytest.raises(ValueError, match=says):
            node_tls(node)


def test_the_machines_own_authorities_can_be_used() -> None:
    tls = node_tls(Node(host="db.example", sslmode="verify-full", sslrootcert="system"))
    assert tls is not None
    assert tls.context.verify_mode == ssl.CERT_REQUIRED
    assert tls.context.check_hostname
