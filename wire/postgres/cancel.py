"""Cancel requests: keys that clients hold, and the connection that carries one to PostgreSQL.

A key is random and belongs to one client; PostgreSQL's own never leaves the proxy.
https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import ssl
from typing import TYPE_CHECKING, Final

from wire.postgres import protocol as p

if TYPE_CHECKING:
    from wire.postgres.client import ClientConnection

log = logging.getLogger("tenantry.cancel")

# Long keys exist since protocol 3.2, up to 256 bytes; 32 random ones cannot be guessed.
LONG_KEY_BYTES: Final = 32
SHORT_KEY_BYTES: Final = 4
# How long PostgreSQL may take to accept and close a cancel connection.
CANCEL_SECONDS: Final = 10.0


class CancelTarget:
    """Where and how to cancel what one server connection runs."""

    def __init__(
        self, host: str, port: int, process_id: int, key: bytes, context: ssl.SSLContext | None
    ) -> None:
        self.host = host
        self.port = port
        self.process_id = process_id
        self.key = key
        self.context = context


async def send_cancel(target: CancelTarget, seconds: float = CANCEL_SECONDS) -> bool:
    """Send the request and wait until PostgreSQL has closed the connection.

    The wait matters: only then has the signal been sent, and only then may the server be lent to
    another client, whose statement it would hit otherwise. Never raises; False when it is not
    known to have arrived, so that it may still do.
    """
    body = p.CANCEL_REQUEST.to_bytes(4, "big") + target.process_id.to_bytes(4, "big") + target.key
    packet = (len(body) + 4).to_bytes(4, "big") + body
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(target.host, target.port)
            try:
                if target.context is not None:
                    writer.write(p.SSL_REQUEST_PACKET)
                    if await reader.readexactly(1) != b"S":
                        return False
                    await writer.start_tls(target.context)
                writer.write(packet)
                await reader.read(1)
                return True
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        log.warning("cancel request to %s:%d failed: %s", target.host, target.port, error)
        return False


class CancelKeys:
    """Which client holds which key on this worker.

    The process id that a client is told is random, except in session pooling where it is the
    server's own; the secret is always ours, so an entry is found by both.
    """

    def __init__(self, worker: int = 0, secret: bytes = b"") -> None:
        self.worker = worker
        # Shared by the workers of an installation.
        self._secret = secret
        self._clients: dict[tuple[int, bytes], ClientConnection] = {}

    def issue(
        self, client: ClientConnection, *, long: bool, process_id: int = 0
    ) -> tuple[int, bytes]:
        """A new (process id, key) for `client`. The key tells its worker, to us only: a short
        key must not lose a quarter of its bits where the process id is no secret."""
        size = LONG_KEY_BYTES if long else SHORT_KEY_BYTES
        while True:
            pid = process_id or secrets.randbelow(2**31 - 1) + 1
            rest = secrets.token_bytes(size - 1)
            key = bytes((self.worker & 0xFF ^ self._mask(pid, rest),)) + rest
            if (pid, key) not in self._clients:
                self._clients[pid, key] = client
                return pid, key

    def owner(self, process_id: int, key: bytes) -> int:
        """The worker that has issued this key, if any has."""
        return key[0] ^ self._mask(process_id, key[1:])

    def _mask(self, process_id: int, rest: bytes) -> int:
        return hmac.digest(self._secret, process_id.to_bytes(4, "big") + rest, "sha256")[0]

    def revoke(self, process_id: int, key: bytes) -> None:
        self._clients.pop((process_id, key), None)

    def find(self, process_id: int, key: bytes) -> ClientConnection | None:
        return self._clients.get((process_id, key))
