"""Invariant: whatever bytes come in a login, only wire.errors come out, and no false proof passes.

Fuzzed: ScramServer, ScramClient, ServerLogin, parse_verifier, TlsEndpoint, parse_options. Cases are
mutations of a true exchange, so that they get past the first check.
"""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable

import pytest

from wire.errors import AuthenticationFailed, ProtocolViolation, ServerUnavailable
from wire.identify import parse_options
from wire.postgres.auth import ServerLogin
from wire.postgres.scram import (
    PLAIN,
    ScramServer,
    make_verifier,
    parse_verifier,
    verify_password,
)
from wire.postgres.scram_client import ScramClient
from wire.postgres.tls import TlsEndpoint

SHORT_CASES = 400
LONG_SECONDS = 120.0

PIECES = [
    b",",
    b"=",
    b"n=",
    b"r=",
    b"s=",
    b"i=",
    b"p=",
    b"c=",
    b"v=",
    b"e=",
    b"m=x",
    b"\0",
    b"\xff",
]
PIECES += [b"biws", b"AAAA", b"A===", b"9" * 30, b"-1", b"n,,", b"y,,", b"$", b":", b" ", b"\n"]
VERIFIER = make_verifier("pencil", iterations=1)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """A few small changes somewhere in `data`."""
    for _ in range(chance.randint(1, 3)):
        at, end = sorted(chance.choices(range(len(data) + 1), k=2))
        piece = chance.choice([*PIECES, data[at:end], bytes([chance.randrange(256)])])
        data = data[:at] + piece + data[chance.choice([at, at + 1, end]) :]
    return data


def fuzz_scram_server(chance: random.Random) -> None:
    server = ScramServer(VERIFIER, user="u", mock_secret=b"", channel_binding=None, tls=False)
    client = ScramClient("u", "pencil", channel_binding=None)
    true_first = client.first()
    first = mutate(true_first, chance) if chance.random() < 0.5 else true_first
    try:
        final = client.final(server.first(first, PLAIN))
        sent = mutate(final, chance)
        server.final(sent)
    except (ProtocolViolation, AuthenticationFailed, ServerUnavailable):
        return
    # Accepted: then nothing that the proof covers was changed.
    assert first == true_first
    assert sent == final


def fuzz_scram_client(chance: random.Random) -> None:
    server = ScramServer(VERIFIER, user="u", mock_secret=b"", channel_binding=None, tls=False)
    client = ScramClient("u", "pencil", channel_binding=None)
    server_first = server.first(client.first(), PLAIN)
    told = mutate(server_first, chance) if chance.random() < 0.5 else server_first
    try:
        signature = server.final(client.final(told))
        client.verify(mutate(signature, chance) if told == server_first else signature)
    except (ProtocolViolation, AuthenticationFailed, ServerUnavailable):
        assert not client.verified
        return
    assert told == server_first


def fuzz_server_login(chance: random.Random) -> None:
    login = ServerLogin("u", "pencil", chance.choice([None, b"hash"]), chance.random() < 0.5)
    try:
        for _ in range(4):
            code = chance.choice([0, 3, 5, 10, 10, 11, 12, chance.randrange(-9, 99)])
            bodies = [b"", b"salt", b"SCRAM-SHA-256\0\0", b"r=a,s=AAAA,i=1", chance.randbytes(9)]
            body = mutate(chance.choice(bodies), chance)
            login.feed(code.to_bytes(4, "big", signed=True) + body)
    except ServerUnavailable:
        assert not login.done


def fuzz_verifier(chance: random.Random) -> None:
    text = mutate(VERIFIER.encode(), chance).decode("latin-1")
    try:
        parse_verifier(text)
    except ValueError:
        assert not verify_password("pencil", text)


def fuzz_options(chance: random.Random) -> None:
    pieces = ["-c", " ", "--", "=", "\\", "a.b", "x", "-", "\t", "é", "-cz=1"]
    text = "".join(chance.choices(pieces, k=chance.randrange(12)))
    try:
        settings = parse_options(text)
    except ProtocolViolation:
        return
    assert all(name and "-" not in name for name in settings)


CLIENT_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
CLIENT_CONTEXT.check_hostname = False
CLIENT_CONTEXT.verify_mode = ssl.CERT_NONE
SERVER_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def fuzz_tls(chance: random.Random) -> None:
    client = TlsEndpoint(CLIENT_CONTEXT, server_side=False)
    server = TlsEndpoint(SERVER_CONTEXT, server_side=True)
    hello = mutate(client.start(), chance)
    try:
        server.received(hello)
    except ProtocolViolation:
        server.alert()
    try:
        client.received(mutate(b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03", chance) + hello)
    except ServerUnavailable:
        client.alert()
    assert not client.handshake_done
    assert not server.handshake_done


TARGETS = [
    fuzz_scram_server,
    fuzz_scram_client,
    fuzz_server_login,
    fuzz_verifier,
    fuzz_options,
    fuzz_tls,
]


@pytest.mark.parametrize("target", TARGETS)
def test_login_survives_mutations(target: Callable[[random.Random], None]) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(SHORT_CASES):
        target(chance)


@pytest.mark.fuzz
@pytest.mark.parametrize("target", TARGETS)
def test_login_survives_mutations_for_long(target: Callable[[random.Random], None]) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")
    chance = random.Random(seed)
    deadline = time.monotonic() + LONG_SECONDS
    while time.monotonic() < deadline:
        target(chance)
