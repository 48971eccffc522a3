"""ServerLogin against a server that lies."""

from __future__ import annotations

import struct

import pytest

from wire.errors import ServerUnavailable
from wire.postgres.auth import ServerLogin, md5_response
from wire.postgres.scram import ScramServer, make_verifier


def login(password: str = "pencil", binding: bytes | None = None) -> ServerLogin:
    return ServerLogin("bob", password, binding, True)


def message(code: int, body: bytes = b"") -> bytes:
    return struct.pack("!i", code) + body


BOTH = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"
OK = message(0)


def initial(payload: bytes | None) -> tuple[bytes, bytes]:
    """(mechanism, client-first) of a SASLInitialResponse."""
    assert payload is not None
    mechanism, _, rest = payload.partition(b"\0")
    assert struct.unpack("!i", rest[:4])[0] == len(rest) - 4
    return mechanism, rest[4:]


def test_a_whole_scram_login() -> None:
    proving = ScramServer(
        make_verifier("pencil"), user="bob", mock_secret=b"", channel_binding=None, tls=False
    )
    client = login()
    mechanism, first = initial(client.feed(message(10, b"SCRAM-SHA-256\0\0")))
    final = client.feed(message(11, proving.first(first, mechanism.decode())))
    assert final is not None
    assert client.feed(message(12, proving.final(final))) is None
    assert not client.done
    assert client.feed(OK) is None
    assert client.done


def test_plus_is_chosen_when_there_is_a_binding() -> None:
    assert initial(login(binding=b"hash").feed(message(10, BOTH)))[0] == b"SCRAM-SHA-256-PLUS"
    assert initial(login().feed(message(10, BOTH)))[0] == b"SCRAM-SHA-256"


def test_md5_answer_is_what_postgresql_documents() -> None:
    # concat('md5', md5(concat(md5(concat(password, username)), random-salt))), by md5sum
    expected = b"md5735bfd3e1298fa49b4b28c02c7f176e1"
    assert md5_response("bob", "pencil", b"\x01\x02\x03\x04") == expected
    assert login().feed(message(5, b"\x01\x02\x03\x04")) == expected + b"\0"


def test_password_is_sent_as_it_is() -> None:
    assert login("pass wörd").feed(message(3)) == "pass wörd".encode() + b"\0"


def test_early_success_is_a_forgery() -> None:
    client = login()
    client.feed(message(10, BOTH))
    with pytest.raises(ServerUnavailable) as failed:
        client.feed(OK)
    assert "without having proven itself" in failed.value.detail
    assert not client.done


def test_success_after_the_challenge_but_before_the_signature_is_a_forgery() -> None:
    client = login()
    _, first = initial(client.feed(message(10, BOTH)))
    nonce = first.split(b"r=")[1]
    client.feed(message(11, b"r=" + nonce + b"x,s=AAAA,i=1"))
    with pytest.raises(ServerUnavailable):
        client.feed(OK)


def test_a_server_that_cannot_sign_is_refused() -> None:
    client = login()
    _, first = initial(client.feed(message(10, BOTH)))
    client.feed(message(11, b"r=" + first.split(b"r=")[1] + b"x,s=AAAA,i=1"))
    with pytest.raises(ServerUnavailable):
        client.feed(message(12, b"v=" + b"A" * 43 + b"="))
    with pytest.raises(ServerUnavailable):
        client.feed(OK)


def test_done_is_taken_back_when_more_follows() -> None:
    client = login()
    client.feed(OK)
    assert client.done
    with pytest.raises(ServerUnavailable):
        client.feed(OK)
    assert not client.done


@pytest.mark.parametrize("code", [3, 5])
def test_no_weaker_method_once_scram_began(code: int) -> None:
    client = login()
    client.feed(message(10, BOTH))
    with pytest.raises(ServerUnavailable):
        client.feed(message(code, b"salt" if code == 5 else b""))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0\0\0",
        message(0, b"x"),
        message(2),
        message(3, b"x"),
        message(5),
        message(5, b"salts"),
        message(6),
        message(7),
        message(8, b"token"),
        message(9),
        message(-1),
        message(10),
        message(10, b"\0"),
        message(10, b"SCRAM-SHA-256"),
        message(10, b"SCRAM-SHA-256\0"),
        message(10, b"OAUTHBEARER\0\0"),
        message(10, b"SCRAM-SHA-256-PLUS\0\0"),
        message(10, b"SCRAM-SHA-256\0x\0y"),
        message(10, b"x\0" * 40 + b"SCRAM-SHA-256\0\0"),
        message(11, b"r=x,s=AAAA,i=1"),
        message(12, b"v=AAAA"),
        message(5, b"s" * 100_000),
    ],
)
def test_what_a_server_must_not_say_first(payload: bytes) -> None:
    client = login()
    with pytest.raises(ServerUnavailable):
        client.feed(payload)
    assert not client.done


def test_a_password_is_asked_for_once() -> None:
    client = login()
    client.feed(message(3))
    with pytest.raises(ServerUnavailable):
        client.feed(message(3))
