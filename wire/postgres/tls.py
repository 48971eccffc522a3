"""One job: TLS on bytes in memory, for a plain transport that is upgraded in place.

    client                         endpoint                        transport
    plaintext <── received(data) ──┤ OpenSSL between two memory ├── data
    plaintext ──> send() ──────────┤ BIOs                       ├── ciphertext to write

Endpoints are made by wire/postgres/tls_setup.py. Sources: RFC 5929 for the channel binding, and
for direct TLS the "SSL Session Encryption" part of PostgreSQL's "Message Flow" page.
"""

from __future__ import annotations

import contextlib
import hashlib
import ssl
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from wire.errors import ProtocolViolation, ServerUnavailable, TenantryError

# What PostgreSQL 17 and libpq name in the handshake; direct TLS requires it.
ALPN: Final = "postgresql"
# First byte of a TLS handshake record; a startup packet begins with a zero byte.
_HANDSHAKE_RECORD: Final = b"\x16"
# Ciphertext goes to OpenSSL in pieces, since a memory BIO keeps the size of its largest content
# for as long as the connection lives.
FEED_BYTES: Final = 4096
# PostgreSQL's own send buffer. Larger records hang clients that use libpq asynchronously (they
# wait for the socket while the rest of a record lies in OpenSSL), and the BIO would stay larger.
RECORD_BYTES: Final = 8192
# As much as a record can hold; OpenSSL gives at most one record a read.
_READ_BYTES: Final = 16384
# A ClientHello has 0.3 to 2 KiB, a client's certificate chain rarely 10 KiB; until the handshake
# is over the peer is a stranger.
MAX_HANDSHAKE_BYTES: Final = 32 * 1024


def is_direct_tls(first: bytes) -> bool:
    """Whether a connection's first bytes start TLS without an SSLRequest (PostgreSQL 17)."""
    return first[:1] == _HANDSHAKE_RECORD


def certificate_binding(der: bytes) -> bytes | None:
    """tls-server-end-point of a certificate (RFC 5929 section 4.1).

    None where the RFC defines none (Ed25519 and the like). Raises ValueError for a certificate
    that cannot be read.
    """
    try:
        algorithm = x509.load_der_x509_certificate(der).signature_hash_algorithm
    except (x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise ValueError(str(error)) from None
    if algorithm is None:
        return None
    name = algorithm.name.replace("sha512-256", "sha512_256")
    return hashlib.new("sha256" if name in ("md5", "sha1") else name, der).digest()


class TlsEndpoint:
    """One side of one TLS connection. `error` is what it raises: the peer's kind of TenantryError.

    After an error, `alert()` holds what may still be sent before closing.
    """

    __slots__ = (
        "_binding",
        "_handshake_bytes",
        "_incoming",
        "_object",
        "_outgoing",
        "_require_alpn",
        "_server_side",
        "_verified",
        "closed_by_peer",
        "handshake_done",
    )

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        binding: bytes | None = None,
        require_alpn: bool = False,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._server_side = server_side
        self._verified = context.verify_mode == ssl.CERT_REQUIRED
        self._binding = binding
        self._require_alpn = require_alpn
        self._handshake_bytes = 0
        self.handshake_done = False
        self.closed_by_peer = False
        try:
            self._object = context.wrap_bio(
                self._incoming,
                self._outgoing,
                server_side=server_side,
                server_hostname=server_hostname,
            )
        except ValueError as error:  # a host name that cannot be one, UnicodeError included
            raise self._failure(str(error)) from None

    def start(self) -> bytes:
        """The first bytes to send: a client's hello, nothing on the server side."""
        if not self._server_side:
            self._handshake()
        return self._outgoing.read()

    def received(self, data: bytes) -> tuple[bytes, bytes]:
        """Take ciphertext; give (plaintext, bytes to send). Raises the peer's error."""
        plain: list[bytes] = []
        view = memoryview(data)
        for at in range(0, len(data), FEED_BYTES):
            if self.closed_by_peer:
                break
            self._incoming.write(view[at : at + FEED_BYTES])
            if not self.handshake_done:
                self._handshake_bytes += min(FEED_BYTES, len(data) - at)
                self._handshake()
                if not self.handshake_done:
                    if self._handshake_bytes > MAX_HANDSHAKE_BYTES:
                        raise self._failure("the handshake is too long")
                    continue
            self._read(plain)
        to_send = self._outgoing.read() if self._outgoing.pending else b""
        return (plain[0] if len(plain) == 1 else b"".join(plain)), to_send

    def send(self, plaintext: bytes) -> bytes:
        """Ciphertext of `plaintext`, in records of at most RECORD_BYTES."""
        assert self.handshake_done, "nothing may be sent before the handshake is over"
        try:
            if len(plaintext) <= RECORD_BYTES:
                if plaintext:
                    self._object.write(plaintext)
                return self._outgoing.read()
            records: list[bytes] = []
            view = memoryview(plaintext)
            for at in range(0, len(plaintext), RECORD_BYTES):
                self._object.write(view[at : at + RECORD_BYTES])
                records.append(self._outgoing.read())
            return b"".join(records)
        except ssl.SSLError as error:
            raise self._failure(_reason(error)) from None

    def server_end_point(self) -> bytes | None:
        """Channel binding of the server's certificate, for SCRAM-SHA-256-PLUS.

        None where the certificate has none. On the client side raises ServerUnavailable if the
        certificate was not verified either: a stranger in between could pick such a one to have
        the binding left out.
        """
        if self._server_side:
            return self._binding
        try:
            der = self._object.getpeercert(True)
            binding = certificate_binding(der) if der else None
        except ValueError as error:
            raise self._failure(f"its certificate cannot be read: {error}") from None
        if binding is None and not self._verified:
            raise self._failure("its certificate allows no channel binding; use verify-full")
        return binding

    def peer_certificate(self) -> bytes | None:
        """The peer's certificate (DER), None when it showed none."""
        return self._object.getpeercert(True)

    def version(self) -> str:
        return self._object.version() or ""

    def alert(self) -> bytes:
        """What OpenSSL still wants to say after an error."""
        return self._outgoing.read()

    def close(self) -> bytes:
        """The bytes that end the connection properly (close_notify); nothing can be sent after."""
        if self.handshake_done:
            with contextlib.suppress(ssl.SSLError):  # the peer's own is not waited for
                self._object.unwrap()
        return self._outgoing.read()

    def _handshake(self) -> None:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            raise self._failure(_reason(error)) from None
        if self._require_alpn and self._object.selected_alpn_protocol() != ALPN:
            raise self._failure(f'direct TLS needs the ALPN protocol "{ALPN}"')
        self.handshake_done = True

    def _read(self, plain: list[bytes]) -> None:
        """Decrypt whatever is complete."""
        try:
            while self._incoming.pending or self._object.pending():
                piece = self._object.read(_READ_BYTES)
                if not piece:
                    self.closed_by_peer = True
                    return
                plain.append(piece)
        except ssl.SSLWantReadError:
            return
        except ssl.SSLZeroReturnError:
            self.closed_by_peer = True
        except ssl.SSLError as error:
            raise self._failure(_reason(error)) from None

    def _failure(self, why: str) -> TenantryError:
        if self._server_side:
            return ProtocolViolation("TLS with the client failed", detail=why)
        return ServerUnavailable("TLS with the PostgreSQL server failed", detail=why)


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.reason or "the peer broke off").replace("_", " ").lower()
