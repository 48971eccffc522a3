"""One job: prove a password to a server by SCRAM-SHA-256(-PLUS), and have it prove itself too.

The server is not trusted: what it sends is bounded before use, and it must show by its signature
that it knows the password's verifier. Sources: RFC 5802 and RFC 7677.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections import OrderedDict
from typing import Final

from wire.errors import ServerUnavailable
from wire.postgres.saslprep import password_bytes
from wire.postgres.scram import (
    KEY_BYTES,
    MAX_SALT,
    MAX_SCRAM_MESSAGE,
    PLAIN,
    PLUS,
    decode_base64,
    derive_keys,
    encode_base64,
    new_nonce,
    valid_attribute,
    valid_nonce,
)

# The count is the server's to choose and is paid for on our event loop: 100,000 take about 35 ms,
# and PostgreSQL's default is 4,096.
MAX_SERVER_ITERATIONS: Final = 100_000
# One per role and salt; an entry is about 200 bytes, so 1 MB at most.
MAX_CACHED_PASSWORDS: Final = 4096

# Keyed by a digest under a key of this process, so that the cache holds no password's plain hash.
_cache_key: Final = os.urandom(32)
_salted_passwords: OrderedDict[bytes, bytes] = OrderedDict()


def salted_password(password: str, salt: bytes, iterations: int) -> bytes:
    """PBKDF2 of the password, remembered: every new server connection of a role asks the same."""
    material = b"%d:%d:%b%b" % (iterations, len(salt), salt, password_bytes(password))
    key = hmac.digest(_cache_key, material, "sha256")
    known = _salted_passwords.get(key)
    if known is not None:
        _salted_passwords.move_to_end(key)
        return known
    salted = hashlib.pbkdf2_hmac("sha256", password_bytes(password), salt, iterations)
    if len(_salted_passwords) >= MAX_CACHED_PASSWORDS:
        _salted_passwords.popitem(last=False)
    _salted_passwords[key] = salted
    return salted


class ScramClient:
    """One exchange: `first`, `final`, `verify`. Raises ServerUnavailable only.

    `channel_binding` is the hash of the server's certificate (tls-server-end-point) on an
    encrypted connection. `offered` are the mechanisms that the server listed; with a binding and
    no PLUS among them the client says so ('y'), so that a server that did offer it notices.
    """

    def __init__(
        self,
        user: str,
        password: str,
        *,
        channel_binding: bytes | None,
        offered: tuple[str, ...] = (PLUS, PLAIN),
        nonce: bytes | None = None,
    ) -> None:
        self._user = user
        self._password = password
        self._nonce = new_nonce() if nonce is None else nonce
        self.mechanism: str = PLAIN
        header = b"n,,"
        binding = b""
        if channel_binding is not None and PLUS in offered:
            self.mechanism = PLUS
            header = b"p=tls-server-end-point,,"
            binding = channel_binding
        elif channel_binding is not None:
            header = b"y,,"
        self._header = header
        self._bound = encode_base64(header + binding)
        self._bare = b""
        self._signature: bytes | None = None
        self.verified = False

    def first(self) -> bytes:
        name = self._user.replace("=", "=3D").replace(",", "=2C")
        self._bare = b"n=%b,r=%b" % (name.encode("utf-8", "surrogatepass"), self._nonce)
        return self._header + self._bare

    def final(self, server_first: bytes) -> bytes:
        """Take server-first-message, give client-final-message."""
        if not self._bare or self._signature is not None:
            raise _unproven("SCRAM messages came in the wrong order")
        nonce, salt, iterations = self._challenge(server_first)
        client_key, server_key = derive_keys(salted_password(self._password, salt, iterations))
        without_proof = b"c=%b,r=%b" % (self._bound, nonce)
        message = b",".join((self._bare, server_first, without_proof))
        stored_key = hashlib.sha256(client_key).digest()
        signature = hmac.digest(stored_key, message, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self._signature = hmac.digest(server_key, message, "sha256")
        return b"%b,p=%b" % (without_proof, encode_base64(proof))

    def verify(self, server_final: bytes) -> None:
        """Take server-final-message; returning means that the server knows our verifier."""
        if self._signature is None or self.verified:
            raise _unproven("SCRAM messages came in the wrong order")
        if len(server_final) > MAX_SCRAM_MESSAGE or server_final[:2] != b"v=":
            raise _unproven("its final SCRAM message is malformed")
        try:
            signature = decode_base64(server_final[2:].split(b",", 1)[0])
        except ValueError:
            raise _unproven("its final SCRAM message is malformed") from None
        if len(signature) != KEY_BYTES or not hmac.compare_digest(signature, self._signature):
            raise _unproven("its SCRAM signature is wrong")
        self.verified = True

    def _challenge(self, server_first: bytes) -> tuple[bytes, bytes, int]:
        """(nonce, salt, iterations) of server-first-message, all checked."""
        parts = server_first.split(b",") if len(server_first) <= MAX_SCRAM_MESSAGE else []
        if len(parts) < 3 or not all(valid_attribute(part) for part in parts):
            raise _unproven("its first SCRAM message is malformed")
        if not (parts[0][:2] == b"r=" and parts[1][:2] == b"s=" and parts[2][:2] == b"i="):
            raise _unproven("its first SCRAM message is malformed")
        nonce, count = parts[0][2:], parts[2][2:]
        if not valid_nonce(nonce) or not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise _unproven("it did not extend our SCRAM nonce")
        try:
            salt = decode_base64(parts[1][2:])
        except ValueError:
            raise _unproven("its SCRAM salt is malformed") from None
        if not 1 <= len(salt) <= MAX_SALT:
            raise _unproven("its SCRAM salt has an unacceptable length")
        if not count.isdigit() or not 1 <= int(count) <= MAX_SERVER_ITERATIONS:
            raise ServerUnavailable(
                "the PostgreSQL server asks for an unacceptable number of SCRAM iterations",
                hint=f"At most {MAX_SERVER_ITERATIONS} are accepted (scram_iterations).",
            )
        return nonce, salt, int(count)


def _unproven(why: str) -> ServerUnavailable:
    return ServerUnavailable("the PostgreSQL server could not be authenticated", detail=why)
