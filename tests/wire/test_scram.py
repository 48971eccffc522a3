"""SCRAM: the RFC's own exchange, and everything a hostile peer may send instead."""

from __future__ import annotations

import base64
import hashlib

import pytest

from wire.errors import AuthenticationFailed, ProtocolViolation, ServerUnavailable
from wire.postgres import scram_client
from wire.postgres.saslprep import password_bytes
from wire.postgres.scram import (
    PLAIN,
    PLUS,
    ScramServer,
    make_verifier,
    mechanisms,
    parse_verifier,
    verify_password,
)
from wire.postgres.scram_client import MAX_CACHED_PASSWORDS, ScramClient, salted_password

# RFC 7677 section 3: user "user", password "pencil".
CLIENT_NONCE = b"rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
CLIENT_FIRST = b"n,,n=user,r=" + CLIENT_NONCE
SERVER_FIRST = b"r=" + CLIENT_NONCE + SERVER_NONCE + b",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
CLIENT_FINAL = (
    b"c=biws,r=" + CLIENT_NONCE + SERVER_NONCE + b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="

BINDING = hashlib.sha256(b"our certificate").digest()
SECRET = b"shared by all workers"


def rfc_verifier() -> str:
    salted = hashlib.pbkdf2_hmac(
        "sha256", b"pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096
    )
    client_key, server_key = scram_client.derive_keys(salted)
    stored = base64.b64encode(hashlib.sha256(client_key).digest()).decode()
    signing = base64.b64encode(server_key).decode()
    return f"SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==${stored}:{signing}"


def server(verifier: str | None = None, *, binding: bytes | None = None) -> ScramServer:
    return ScramServer(
        verifier,
        user="acme.bob",
        mock_secret=SECRET,
        channel_binding=binding,
        tls=binding is not None,
        nonce=SERVER_NONCE,
    )


def rfc_server() -> ScramServer:
    return server(rfc_verifier())


def exchange(client: ScramClient, proving: ScramServer) -> None:
    client_final = client.final(proving.first(client.first(), client.mechanism))
    client.verify(proving.final(client_final))


# --- the exchange ------------------------------------------------------------------------------


def test_server_speaks_the_rfc_7677_exchange() -> None:
    proving = rfc_server()
    assert proving.first(CLIENT_FIRST, PLAIN) == SERVER_FIRST
    assert proving.final(CLIENT_FINAL) == SERVER_FINAL


def test_client_speaks_the_rfc_7677_exchange() -> None:
    client = ScramClient("user", "pencil", channel_binding=None, nonce=CLIENT_NONCE)
    assert client.first() == CLIENT_FIRST
    assert client.final(SERVER_FIRST) == CLIENT_FINAL
    client.verify(SERVER_FINAL)
    assert client.verified


@pytest.mark.parametrize("password", ["pencil", "", "a" * 500, "naïve", "I\u00adX", "\u0627 1"])
def test_right_password_is_proven_with_and_without_binding(password: str) -> None:
    for binding, mechanism in ((None, PLAIN), (BINDING, PLUS)):
        client = ScramClient("bob", password, channel_binding=binding)
        assert client.mechanism == mechanism
        exchange(client, server(make_verifier(password), binding=binding))
        assert client.verified


def test_wrong_password_and_unknown_user_fail_alike() -> None:
    texts = []
    for verifier in (make_verifier("right"), None, "garbage"):
        client = ScramClient("bob", "wrong", channel_binding=None)
        with pytest.raises(AuthenticationFailed) as failed:
            exchange(client, server(verifier))
        texts.append(str(failed.value))
    assert texts == ['password authentication failed for user "acme.bob"'] * 3


def test_unknown_user_gets_the_same_salt_from_every_worker() -> None:
    first, again = (server(None).first(CLIENT_FIRST, PLAIN) for _ in range(2))
    assert first == again
    assert first.endswith(b",i=4096")
    other = ScramServer(
        None,
        user="acme.bob",
        mock_secret=b"another installation",
        channel_binding=None,
        tls=False,
        nonce=SERVER_NONCE,
    )
    assert other.first(CLIENT_FIRST, PLAIN) != first
    salt = base64.b64decode(first.split(b",s=")[1].split(b",")[0])
    assert len(salt) == 16


def test_one_name_unknown_in_two_tenants_gets_two_salts() -> None:
    answers = {
        ScramServer(
            None,
            user="bob",
            mock_name=f"{tenant}\0bob",
            mock_secret=SECRET,
            channel_binding=None,
            tls=False,
            nonce=SERVER_NONCE,
        ).first(CLIENT_FIRST, PLAIN)
        for tenant in ("acme", "globex")
    }
    assert len(answers) == 2


# --- channel binding ---------------------------------------------------------------------------


def test_plus_is_offered_first_and_only_with_a_binding() -> None:
    assert mechanisms(True) == [PLUS, PLAIN]
    assert mechanisms(False) == [PLAIN]
    assert server(binding=BINDING).mechanisms() == [PLUS, PLAIN]
    no_hash = ScramServer(None, user="b", mock_secret=SECRET, channel_binding=None, tls=True)
    assert no_hash.mechanisms() == [PLAIN]


def test_binding_to_another_certificate_fails() -> None:
    client = ScramClient("bob", "pw", channel_binding=hashlib.sha256(b"theirs").digest())
    with pytest.raises(AuthenticationFailed):
        exchange(client, server(make_verifier("pw"), binding=BINDING))


def test_stripping_plus_from_the_offer_is_noticed() -> None:
    client = ScramClient("bob", "pw", channel_binding=BINDING, offered=(PLAIN,))
    assert client.first().startswith(b"y,,")
    with pytest.raises(ProtocolViolation, match="negotiation"):
        server(make_verifier("pw"), binding=BINDING).first(client.first(), PLAIN)
    exchange(client, server(make_verifier("pw")))  # where it truly was not offered, all is well


@pytest.mark.parametrize(
    ("mechanism", "header"),
    [
        (PLUS, b"n,,"),
        (PLUS, b"y,,"),
        (PLUS, b"p=tls-unique,,"),
        (PLAIN, b"p=tls-server-end-point,,"),
        (PLAIN, b"x,,"),
        (PLAIN, b"n,a=admin,"),
        ("SCRAM-SHA-1", b"n,,"),
        ("", b"n,,"),
    ],
)
def test_flag_and_mechanism_must_fit(mechanism: str, header: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        server(binding=BINDING).first(header + b"n=,r=abc", mechanism)


def test_plus_without_tls_is_refused() -> None:
    with pytest.raises(ProtocolViolation):
        server().first(b"p=tls-server-end-point,,n=,r=abc", PLUS)


# --- hostile clients ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"n",
        b"n,,",
        b"n,,n=",
        b"n,,n=,r=",
        b"n,,n=,r=a b",
        b"n,,n=,r=caf\xc3\xa9",
        b"n,,n=,r=a\x00",
        b"n,,r=abc,n=",
        b"n,,m=ext,n=,r=abc",
        b"n,,n=a=b,r=abc",
        b"n,,n=,r=abc,",
        b"n,,n=,r=" + b"a" * 257,
        b"n,,n=" + b"a" * 3000 + b",r=abc",
    ],
)
def test_malformed_client_first_is_a_protocol_violation(message: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        server().first(message, PLAIN)


RIGHT_PROOF = CLIENT_FINAL.split(b",p=")[1]
RIGHT_START = CLIENT_FINAL.split(b",p=")[0]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"c=biws",
        RIGHT_START,
        RIGHT_START + b",p=",
        RIGHT_START + b",p=" + RIGHT_PROOF + b",x=1",
        RIGHT_START + b",p=" + RIGHT_PROOF + b"\n",
        RIGHT_START + b",p=" + RIGHT_PROOF[:-1],
        RIGHT_START + b",p=" + base64.b64encode(bytes(31)),
        RIGHT_START + b",p=" + base64.b64encode(bytes(33)),
        RIGHT_START + b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVR=",  # not canonical
        CLIENT_FINAL.replace(b"c=biws", b"c=bi ws"),
        CLIENT_FINAL.replace(b"r=rO", b"r=rP"),
        CLIENT_FINAL.replace(b"c=biws,", b""),
        CLIENT_FINAL + b"," * 4000,
    ],
)
def test_malformed_client_final_is_a_protocol_violation(message: bytes) -> None:
    proving = rfc_server()
    proving.first(CLIENT_FIRST, PLAIN)
    with pytest.raises(ProtocolViolation):
        proving.final(message)


def test_another_header_than_the_first_message_had_fails() -> None:
    proving = rfc_server()
    proving.first(CLIENT_FIRST, PLAIN)
    with pytest.raises(AuthenticationFailed):
        proving.final(CLIENT_FINAL.replace(b"c=biws", b"c=eSws"))


def test_messages_out_of_order_are_refused_and_a_proof_is_judged_once() -> None:
    with pytest.raises(ProtocolViolation):
        rfc_server().final(CLIENT_FINAL)
    proving = rfc_server()
    proving.first(CLIENT_FIRST, PLAIN)
    with pytest.raises(ProtocolViolation):
        proving.first(CLIENT_FIRST, PLAIN)
    with pytest.raises(AuthenticationFailed):
        proving.final(RIGHT_START + b",p=" + base64.b64encode(bytes(32)))
    with pytest.raises(ProtocolViolation):
        proving.final(CLIENT_FINAL)


# --- hostile servers ---------------------------------------------------------------------------


def started_client() -> ScramClient:
    client = ScramClient("user", "pencil", channel_binding=None, nonce=CLIENT_NONCE)
    client.first()
    return client


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"e=other-error",
        SERVER_FIRST.replace(SERVER_NONCE, b""),
        SERVER_FIRST.replace(CLIENT_NONCE, b"another"),
        SERVER_FIRST.replace(b"s=W22", b"s=W2 "),
        SERVER_FIRST.replace(b"s=W22ZaJ0SNY7soEsUEjb6gQ==", b"s="),
        SERVER_FIRST.replace(b"s=W22ZaJ0SNY7soEsUEjb6gQ==", b"s=" + b"AAAA" * 100),
        SERVER_FIRST.replace(b"i=4096", b"i=0"),
        SERVER_FIRST.replace(b"i=4096", b"i=-1"),
        SERVER_FIRST.replace(b"i=4096", b"i=100001"),
        SERVER_FIRST.replace(b"i=4096", b"i=" + b"9" * 1500),
        SERVER_FIRST.replace(b"i=4096", b"i=4 096"),
        SERVER_FIRST.replace(b"i=4096", b"i=\xb2"),
        SERVER_FIRST.replace(b"r=", b"m=ext,r="),
        SERVER_FIRST + b"," + b"x=1," * 1000,
    ],
)
def test_malformed_server_first_is_refused(message: bytes) -> None:
    with pytest.raises(ServerUnavailable):
        started_client().final(message)


@pytest.mark.parametrize(
    "message",
    [b"", b"v=", b"v=!", b"e=no", b"v=" + base64.b64encode(bytes(32)), SERVER_FINAL[:-4]],
)
def test_server_that_cannot_sign_is_refused(message: bytes) -> None:
    client = started_client()
    client.final(SERVER_FIRST)
    with pytest.raises(ServerUnavailable):
        client.verify(message)
    assert not client.verified


def test_client_refuses_messages_out_of_order() -> None:
    with pytest.raises(ServerUnavailable):
        started_client().verify(SERVER_FINAL)
    with pytest.raises(ServerUnavailable):
        ScramClient("user", "pencil", channel_binding=None).final(SERVER_FIRST)


def test_salted_passwords_are_remembered_up_to_a_limit() -> None:
    scram_client._salted_passwords.clear()
    first = salted_password("pencil", b"salt", 1)
    assert salted_password("pencil", b"salt", 1) is first
    assert salted_password("pencil", b"salt", 2) != first
    assert salted_password("Pencil", b"salt", 1) != first
    for count in range(MAX_CACHED_PASSWORDS):
        salted_password("pencil", b"%d" % count, 1)
    assert len(scram_client._salted_passwords) == MAX_CACHED_PASSWORDS
    scram_client._salted_passwords.clear()


# --- verifiers ---------------------------------------------------------------------------------


def test_verifier_is_read_back_and_verifies_only_its_password() -> None:
    text = make_verifier("pencil", iterations=1000)
    kept = parse_verifier(text)
    assert (kept.iterations, len(kept.salt)) == (1000, 16)
    assert verify_password("pencil", text)
    assert not verify_password("pencil ", text)
    assert make_verifier("pencil") != make_verifier("pencil")


GOOD = rfc_verifier()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "md5abc",
        "SCRAM-SHA-1" + GOOD[13:],
        GOOD + "\n",
        GOOD[:-1],
        GOOD[:-4],
        GOOD.replace("$4096", "$0"),
        GOOD.replace("$4096", "$1000001"),
        GOOD.replace("$4096", "$٤٠٩٦"),
        GOOD.replace("W22ZaJ0SNY7soEsUEjb6gQ==", "W22ZaJ0SNY7soEsUEjb6gR=="),
        GOOD.replace("W22ZaJ0SNY7soEsUEjb6gQ==", "é"),
    ],
)
def test_broken_verifier_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_verifier(text)
    assert not verify_password("pencil", text)


@pytest.mark.parametrize("iterations", [0, -1, 1_000_001])
def test_iterations_are_bounded(iterations: int) -> None:
    with pytest.raises(ValueError):
        make_verifier("pencil", iterations=iterations)


# --- SASLprep ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        ("I\u00adX", "IX"),  # RFC 4013 section 3: soft hyphen mapped to nothing
        ("user", "user"),
        ("\u00aa", "a"),  # NFKC
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),  # non-ASCII space
        ("a\u200bb", "a b"),  # a space by one table, nothing by the other: space wins
        ("\u0627\u0031", "\u0627\u0031"),  # bad bidi: used raw
        ("\u0627\u2075", "\u0627\u2075"),  # the same, where normalising would show
        ("\u0627\u00aa\u0628", "\u0627\u00aa\u0628"),  # both directions: used raw
        ("\u0627\u2075\u0628", "\u06275\u0628"),
        ("\u0627\u0031\u0628", "\u0627\u0031\u0628"),
        ("\u00aa\u0007", "\u00aa\u0007"),  # a control character: raw, so not normalised
        ("\u00aa\U000e0001", "\u00aa\U000e0001"),
        ("\u00aa\u0378", "\u00aa\u0378"),  # unassigned
        ("\u00ad", "\u00ad"),  # nothing would be left
        ("a\x07", "a\x07"),  # ASCII is never looked at
    ],
)
def test_saslprep_as_postgresql_does_it(password: str, prepared: str) -> None:
    assert password_bytes(password) == prepared.encode()


def test_passwords_that_are_not_unicode_are_used_as_they_are() -> None:
    assert password_bytes("caf\udce9") == b"caf\xe9"
    assert password_bytes("\ud800") == b"\xed\xa0\x80"
