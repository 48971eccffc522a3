"""Memory of an idle TLS connection: our endpoint on a plain uvloop transport, and uvloop's own TLS.

    python bench/tls_memory.py [--connections 2000] [--rounds 1]

For each way a fresh server process accepts the connections of a client process over loopback,
each does its handshake and one small exchange, and the growth of the server's resident memory is
divided by their number. `burst` is the same after 256 KiB went each way on every connection: what
a connection that was busy once keeps. `plain` is without TLS: what the transport alone costs.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import gc
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

sys.path.append(str(Path(__file__).resolve().parent.parent))  # the installed build goes first

from events.installation import Tls
from wire.postgres.tls import TlsEndpoint
from wire.postgres.tls_setup import ListenerTls, listener_tls

SMALL = 200
BURST = 256 * 1024
WAYS = ("plain", "ours", "uvloop")


def certificate(folder: Path) -> Tls:
    """A self-signed RSA certificate, written to `folder`."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(signed.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return Tls(enabled=True, cert_path=f"{folder}/cert.pem", key_path=f"{folder}/key.pem")


def resident() -> int:
    """Bytes of resident memory of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Echo(asyncio.Protocol):
    """Sends back what it gets, through an endpoint when there is one."""

    __slots__ = ("endpoint", "transport")

    def __init__(self, tls: ListenerTls | None) -> None:
        self.endpoint: TlsEndpoint | None = tls.upgrade(b"") if tls else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no asyncio.Transport for isinstance.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.endpoint is None:
            self.transport.write(data)
            return
        plain, to_send = self.endpoint.received(data)
        if to_send:
            self.transport.write(to_send)
        if plain:
            self.transport.write(self.endpoint.send(plain))


async def serve(way: str, folder: Path) -> None:
    """Echo until standard input ends; each line there is answered with the resident memory."""
    tls = listener_tls(
        Tls(enabled=True, cert_path=f"{folder}/cert.pem", key_path=f"{folder}/key.pem")
    )
    assert tls is not None
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Echo(tls if way == "ours" else None),
        "127.0.0.1",
        0,
        ssl=tls.context if way == "uvloop" else None,
        backlog=1024,
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(resident(), flush=True)
    os._exit(0)


async def clients(way: str, port: int, count: int) -> None:
    """Open the connections, then exchange `n` bytes on all of them for each line `n` read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    loop = asyncio.get_running_loop()
    streams = []
    for _ in range(count):
        streams.append(
            await asyncio.open_connection(
                "127.0.0.1", port, ssl=None if way == "plain" else context
            )
        )
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        size = int(line)
        for reader, writer in streams:
            writer.write(bytes(size))
            await reader.readexactly(size)
        print("done", flush=True)
    os._exit(0)


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ask(process: subprocess.Popen[str], line: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def measure(way: str, folder: Path, count: int) -> dict[str, float]:
    """KiB a connection after the small exchange and after the burst."""
    server = start("--serve", way, "--folder", str(folder))
    assert server.stdout is not None
    port = server.stdout.readline().strip()
    # The first few connections pay for what a process loads once.
    warm = start("--clients", way, "--port", port, "--connections", "20")
    assert warm.stdout is not None
    warm.stdout.readline()
    ask(warm, str(SMALL))
    before = int(ask(server, ""))
    peers = start("--clients", way, "--port", port, "--connections", str(count))
    assert peers.stdout is not None
    began = time.monotonic()
    peers.stdout.readline()
    opened = time.monotonic() - began
    ask(peers, str(SMALL))
    idle = int(ask(server, "")) - before
    ask(peers, str(BURST))
    burst = int(ask(server, "")) - before
    for process in (peers, warm, server):
        process.communicate()
    return {
        "idle_kib": round(idle / count / 1024, 1),
        "after_burst_kib": round(burst / count / 1024, 1),
        "connects_per_second": round(count / opened),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--serve", choices=WAYS)
    parser.add_argument("--clients", choices=WAYS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--port", type=int)
    args = parser.parse_args()
    if args.serve:
        uvloop.run(serve(args.serve, args.folder))
    elif args.clients:
        uvloop.run(clients(args.clients, args.port, args.connections))
    else:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            certificate(folder)
            for _ in range(args.rounds):
                for way in WAYS:
                    print(
                        f"{way:8}", json.dumps(measure(way, folder, args.connections)), flush=True
                    )


if __name__ == "__main__":
    main()
