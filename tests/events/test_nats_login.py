"""TLS, certificates, nkeys and credentials files, against real servers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support.certificates import Authority
from support.nats import SERVER, free_port

from events.commander import Commander
from events.commands import PutTenant
from events.connection import Connection
from events.installation import Events
from events.log import ConfigLog
from events.nats_login import (
    LoginError,
    _crc16,
    addresses,
    encode_seed,
    parse,
    private_key,
    public_nkey,
)
from events.projection import Projection
from events.stream import LogUnavailable


@contextmanager
def server(folder: Path, config: str) -> Iterator[int]:
    """A nats-server with `config` besides JetStream; its port."""
    port = free_port()
    (folder / "nats.conf").write_text(
        f"listen: 127.0.0.1:{port}\njetstream {{ store_dir: '{folder}/store' }}\n{config}\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([SERVER, "-c", folder / "nats.conf"], stderr=log)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield port
    finally:
        process.kill()
        process.wait()


def use(*servers: str) -> None:
    """Store and read over the connection."""

    async def run() -> None:
        log = await ConfigLog.connect(servers, patience=1.5)
        await Commander(log, Projection()).execute(PutTenant(id="acme"), "ann")
        await log.close()

    asyncio.run(run())


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_tls_with_our_authority_and_a_certificate_of_our_own(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    theirs, ours = authority.issue("127.0.0.1"), authority.issue("tenantry")
    tls = (
        f"tls {{ cert_file: '{theirs.cert_path}', key_file: '{theirs.key_path}', "
        f"ca_file: '{authority.ca_path}', verify: true }}"
    )
    with server(tmp_path, tls) as port:
        ca = f"tls://127.0.0.1:{port}?ca={authority.ca_path}"
        use(f"{ca}&cert={ours.cert_path}&key={ours.key_path}")
        for wrong in (ca, f"tls://127.0.0.1:{port}"):
            with pytest.raises(LogUnavailable, match="no NATS at"):
                use(wrong)


def test_nothing_that_logs_in_is_sent_in_clear_text() -> None:
    """To a server, or somebody before it, that offers no TLS where its address asks for it."""
    heard: list[bytes] = []

    async def pose(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576}\r\n')
        while data := await reader.read(4096):
            heard.append(data)
        writer.close()

    async def run() -> None:
        listener = await asyncio.start_server(pose, "127.0.0.1", 0)
        here = f"u:hunter2@127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        with pytest.raises(LogUnavailable, match="does not offer TLS"):
            await Connection.to([f"tls://{here}"]).open(0.3)
        assert heard == []
        with pytest.raises(LogUnavailable):
            await Connection.to([f"nats://{here}"]).open(0.3)
        assert b"hunter2" in b"".join(heard)
        listener.close()
        await listener.wait_closed()
        await asyncio.sleep(0.05)

    asyncio.run(run())


def test_an_nkey(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    seed = private(tmp_path / "user.nk", encode_seed(key.private_bytes_raw()) + "\n")
    users = f"authorization {{ users = [ {{ nkey: {public_nkey(key)} }} ] }}"
    with server(tmp_path, users) as port:
        use(f"nats://127.0.0.1:{port}?nkey={seed}")
        seed.chmod(0o644)
        with pytest.raises(LogUnavailable, match="can be read by others"):
            use(f"nats://127.0.0.1:{port}?nkey={seed}")
        with pytest.raises(LogUnavailable):
            use(f"nats://127.0.0.1:{port}")


def encoded(kind: int, key: Ed25519PrivateKey) -> str:
    raw = bytes([kind << 3]) + key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return base64.b32encode(raw + _crc16(raw).to_bytes(2, "little")).decode().rstrip("=")


def jwt(issuer: Ed25519PrivateKey, issuer_name: str, subject: str, nats: dict[str, Any]) -> str:
    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).decode().rstrip("=")

    claims = {"iat": int(time.time()), "iss": issuer_name, "sub": subject, "name": "t"}
    claims |= {"nats": {"version": 2, **nats}}
    claims["jti"] = base64.b32encode(hashlib.sha256(json.dumps(claims).encode()).digest()).decode()
    head = part(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
    text = f"{head}.{part(json.dumps(claims).encode())}"
    return f"{text}.{part(issuer.sign(text.encode()))}"


def test_a_credentials_file(tmp_path: Path) -> None:
    operator, account, system, user = (Ed25519PrivateKey.generate() for _ in range(4))
    o, a, s, u = encoded(14, operator), encoded(0, account), encoded(0, system), public_nkey(user)
    unlimited = dict.fromkeys(
        ("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1
    ) | {"wildcards": True}
    stores = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    of_operator = jwt(operator, o, o, {"type": "operator"})
    of_account = jwt(operator, o, a, {"type": "account", "limits": unlimited | stores})
    of_user = jwt(account, a, u, {"type": "user", "subs": -1, "data": -1, "payload": -1})
    creds = private(
        tmp_path / "tenantry.creds",
        f"-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{encode_seed(user.private_bytes_raw())}\n"
        "------END USER NKEY SEED------\n",
    )
    of_system = jwt(operator, o, s, {"type": "account", "limits": unlimited})
    config = (
        f"operator: {of_operator}\nsystem_account: {s}\nresolver: MEMORY\n"
        f"resolver_preload: {{ {a}: {of_account}, {s}: {of_system} }}"
    )
    with server(tmp_path, config) as port:
        # Of several servers the first is away.
        use(f"nats://127.0.0.1:{free_port()}?credentials={creds}", f"nats://127.0.0.1:{port}")
        with pytest.raises(LogUnavailable):
            use(f"nats://127.0.0.1:{port}")
        private(creds, "nothing")
        with pytest.raises(LogUnavailable, match="holds no NATS USER JWT"):
            use(f"nats://127.0.0.1:{port}?credentials={creds}")


def test_the_events_table_becomes_addresses() -> None:
    events = Events(
        servers=("nats://a:4222", "tls://u:p@b:4222"),
        ca_path="/etc/my ca.pem",
        credentials_path="/etc/t.creds",
    )
    made = addresses(events)
    assert made[0] == "nats://a:4222?ca=/etc/my%20ca.pem&credentials=/etc/t.creds"
    login = parse(made)
    assert login.servers == ["nats://a:4222", "tls://u:p@b:4222"]
    assert login.options == {"ca": "/etc/my ca.pem", "credentials": "/etc/t.creds"}
    assert login.tls
    assert "u:p" not in repr(login)
    assert addresses(Events(servers=("nats://a:4222",))) == ("nats://a:4222",)
    assert not parse(["a:4222"]).tls
    with pytest.raises(LoginError, match="no option pasword"):
        parse(["nats://a:4222?pasword=x"])


@pytest.mark.parametrize("seed", ["", "SUAB", "S" * 58, "!"])
def test_what_is_no_seed_is_told_without_it(seed: str) -> None:
    with pytest.raises(LoginError) as caught:
        private_key(seed, "file.nk")
    assert str(caught.value) == "file.nk holds no seed of a user (SU…)"


def test_a_seed_there_and_back() -> None:
    raw = os.urandom(32)
    seed = encode_seed(raw)
    assert seed.startswith("SU")
    assert private_key(seed, "x").private_bytes_raw() == raw
    assert public_nkey(private_key(seed, "x")).startswith("U")
