"""One job: let a client prove its password by SCRAM-SHA-256(-PLUS), as the server side of it.

    client-first   n,,n=user,r=NONCE                    (p=tls-server-end-point,, with PLUS)
    server-first   r=NONCE+OURS,s=SALT,i=ITERATIONS
    client-final   c=GS2-HEADER[+BINDING],r=NONCE+OURS,p=PROOF
    server-final   v=SIGNATURE

Sources: RFC 5802, RFC 7677, RFC 5929 (tls-server-end-point), and for verifiers PostgreSQL's
"SASL Authentication" page. Passwords are never stored: a verifier cannot be used to log in.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import os
import re
from typing import Final, NamedTuple

from wire.errors import AuthenticationFailed, ProtocolViolation
from wire.postgres.saslprep import password_bytes

PLAIN: Final = "SCRAM-SHA-256"
PLUS: Final = "SCRAM-SHA-256-PLUS"

# PostgreSQL's own default; RFC 7677 asks for at least this many.
DEFAULT_ITERATIONS: Final = 4096
# One million is 0.3 s of one core; more in a verifier is a mistake or an attack on us.
MAX_ITERATIONS: Final = 1_000_000
# As PostgreSQL makes them, so that a made-up salt looks like a stored one.
SALT_BYTES: Final = 16
KEY_BYTES: Final = 32
# 18 random bytes are 24 characters of base64, PostgreSQL's own nonce length.
NONCE_BYTES: Final = 18
# A nonce of any known driver is under 64 characters.
MAX_NONCE: Final = 256
# Name, nonce, a SHA-512 binding and room for extensions; nothing legitimate comes near it.
MAX_SCRAM_MESSAGE: Final = 2048
# Salts in the wild have 16 bytes; the bound only keeps a stranger's from being a burden.
MAX_SALT: Final = 256

_NONCE: Final = re.compile(rb"[\x21-\x2b\x2d-\x7e]+")
_ATTRIBUTE: Final = re.compile(rb"[A-Za-z]=[^\x00,]+")
_NAME: Final = re.compile(rb"n=(?:[^\x00,=]|=2C|=3D)*")
_VERIFIER: Final = re.compile(r"SCRAM-SHA-256\$([0-9]{1,10}):([^$:]+)\$([^$:]+):([^$:]+)")


class Verifier(NamedTuple):
    """What is stored of a password; bytes are raw, not base64."""

    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes


def mechanisms(tls: bool) -> list[str]:
    """Names to offer, best first. `tls`: the connection is encrypted and has a binding."""
    return [PLUS, PLAIN] if tls else [PLAIN]


def decode_base64(data: bytes) -> bytes:
    """Canonical base64 only, as two spellings of one value invite tricks. Raises ValueError."""
    raw = binascii.a2b_base64(data, strict_mode=True)
    if encode_base64(raw) != data:
        raise ValueError("not canonical base64")
    return raw


def encode_base64(raw: bytes) -> bytes:
    return binascii.b2a_base64(raw, newline=False)


def new_nonce() -> bytes:
    return encode_base64(os.urandom(NONCE_BYTES))


def valid_nonce(nonce: bytes) -> bool:
    """Printable ASCII without the comma (RFC 5802 section 7), of a bounded length."""
    return len(nonce) <= MAX_NONCE and _NONCE.fullmatch(nonce) is not None


def valid_attribute(part: bytes) -> bool:
    return _ATTRIBUTE.fullmatch(part) is not None


def derive_keys(salted_password: bytes) -> tuple[bytes, bytes]:
    """(ClientKey, ServerKey) of RFC 5802 section 3."""
    return (
        hmac.digest(salted_password, b"Client Key", "sha256"),
        hmac.digest(salted_password, b"Server Key", "sha256"),
    )


def make_verifier(password: str, *, iterations: int = DEFAULT_ITERATIONS) -> str:
    """A verifier with a fresh salt, as PostgreSQL writes them. Raises ValueError."""
    if not 1 <= iterations <= MAX_ITERATIONS:
        raise ValueError(f"iterations must be 1 to {MAX_ITERATIONS}, not {iterations}")
    salt = os.urandom(SALT_BYTES)
    salted = hashlib.pbkdf2_hmac("sha256", password_bytes(password), salt, iterations)
    client_key, server_key = derive_keys(salted)
    stored_key = hashlib.sha256(client_key).digest()
    return _format_verifier(iterations, salt, stored_key, server_key)


def _format_verifier(iterations: int, salt: bytes, stored_key: bytes, server_key: bytes) -> str:
    parts = [encode_base64(part).decode() for part in (salt, stored_key, server_key)]
    return f"{PLAIN}${iterations}:{parts[0]}${parts[1]}:{parts[2]}"


def parse_verifier(text: str) -> Verifier:
    """Read `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`. Raises ValueError."""
    found = _VERIFIER.fullmatch(text)
    if found is None or not text.isascii():
        raise ValueError("not a SCRAM-SHA-256 verifier")
    iterations = int(found[1])
    salt, stored_key, server_key = (decode_base64(found[i].encode()) for i in (2, 3, 4))
    if not 1 <= iterations <= MAX_ITERATIONS:
        raise ValueError(f"a SCRAM verifier's iterations must be 1 to {MAX_ITERATIONS}")
    if not 1 <= len(salt) <= MAX_SALT or not len(stored_key) == len(server_key) == KEY_BYTES:
        raise ValueError("a SCRAM verifier's salt or key has the wrong length")
    return Verifier(iterations, salt, stored_key, server_key)


def verify_password(password: str, verifier: str) -> bool:
    """Whether a password in the clear is the verifier's; a broken verifier matches nothing."""
    try:
        kept = parse_verifier(verifier)
    except ValueError:
        return False
    salted = hashlib.pbkdf2_hmac("sha256", password_bytes(password), kept.salt, kept.iterations)
    return hmac.compare_digest(derive_keys(salted)[1], kept.server_key)


def mock_verifier(name: str, secret: bytes, iterations: int) -> str:
    """What an unknown `name` is answered with: always the same salt, and keys nobody has.

    Workers that share `secret` agree on the salt, so asking twice tells nothing.
    """
    seed = name.encode("utf-8", "surrogatepass")
    salt = hmac.digest(secret, b"salt:" + seed, "sha256")[:SALT_BYTES]
    stored_key = hmac.digest(secret, b"stored:" + seed, "sha256")
    server_key = hmac.digest(secret, b"server:" + seed, "sha256")
    return _format_verifier(iterations, salt, stored_key, server_key)


class ScramServer:
    """One exchange: `first`, then `final`. Raises ProtocolViolation and AuthenticationFailed only.

    `verifier` None, or one that cannot be read, is a user that does not exist: the same steps at
    the same cost, failing at the end. `user` is the name that the error shows. `mock_name` is
    what the made-up salt is derived from; give tenant and user, since one name answered with
    the same salt in two tenants would give away that neither has it. `channel_binding` is the
    hash of our certificate, without which PLUS is not offered.
    """

    def __init__(
        self,
        verifier: str | None,
        *,
        user: str,
        mock_secret: bytes,
        channel_binding: bytes | None,
        tls: bool,
        mock_name: str | None = None,
        mock_iterations: int = DEFAULT_ITERATIONS,
        nonce: bytes | None = None,
    ) -> None:
        self._user = user
        mock = mock_verifier(user if mock_name is None else mock_name, mock_secret, mock_iterations)
        self._known = verifier is not None
        try:
            # The made-up one is written and read like a stored one, so that both take as long.
            self._verifier = parse_verifier(mock if verifier is None else verifier)
        except ValueError:
            self._known = False  # a broken record looks like an unknown user, not like a crash
            self._verifier = parse_verifier(mock)
        self._binding = channel_binding if tls else None
        self._own_nonce = new_nonce() if nonce is None else nonce
        self._binding_input = b""
        self._nonce = b""
        self._client_first_bare = b""
        self._server_first = b""
        self._finished = False

    def mechanisms(self) -> list[str]:
        return mechanisms(self._binding is not None)

    def first(self, client_first: bytes, mechanism: str) -> bytes:
        """Take client-first-message, give server-first-message."""
        if self._server_first or len(client_first) > MAX_SCRAM_MESSAGE:
            raise _malformed()
        if mechanism not in self.mechanisms():
            raise ProtocolViolation("client selected an invalid SASL authentication mechanism")
        parts = client_first.split(b",", 2)
        if len(parts) != 3:
            raise _malformed()
        flag, authzid, bare = parts
        if authzid:
            raise ProtocolViolation("client uses authorization identity, but it is not supported")
        self._check_flag(flag, mechanism)
        nonce = _client_nonce(bare)
        self._binding_input = flag + b",,"
        if mechanism == PLUS and self._binding is not None:
            self._binding_input += self._binding
        self._client_first_bare = bare
        self._nonce = nonce + self._own_nonce
        kept = self._verifier
        self._server_first = b"r=%b,s=%b,i=%d" % (
            self._nonce,
            encode_base64(kept.salt),
            kept.iterations,
        )
        return self._server_first

    def final(self, client_final: bytes) -> bytes:
        """Take client-final-message, give server-final-message; the client is then proven."""
        if not self._server_first or self._finished or len(client_final) > MAX_SCRAM_MESSAGE:
            raise _malformed()
        self._finished = True
        parts = client_final.split(b",")
        if len(parts) < 3 or not all(valid_attribute(part) for part in parts):
            raise _malformed()
        binding, nonce, proof_part = parts[0], parts[1], parts[-1]
        if not (binding[:2] == b"c=" and nonce[:2] == b"r=" and proof_part[:2] == b"p="):
            raise _malformed()
        try:
            proof, bound = decode_base64(proof_part[2:]), decode_base64(binding[2:])
        except ValueError:
            raise _malformed() from None
        if len(proof) != KEY_BYTES:
            raise _malformed()
        if not hmac.compare_digest(nonce[2:], self._nonce):
            raise _malformed()
        without_proof = client_final[: -len(proof_part) - 1]
        message = b",".join((self._client_first_bare, self._server_first, without_proof))
        # All three are computed before any is judged, so that time tells nothing.
        proven = _proof_holds(proof, self._verifier.stored_key, message)
        same_channel = hmac.compare_digest(bound, self._binding_input)
        signature = hmac.digest(self._verifier.server_key, message, "sha256")
        if not (proven and same_channel and self._known):
            raise AuthenticationFailed(self._user)
        return b"v=" + encode_base64(signature)

    def _check_flag(self, flag: bytes, mechanism: str) -> None:
        """The gs2-cbind-flag must fit the mechanism (RFC 5802 section 6)."""
        if mechanism == PLUS:
            if flag != b"p=tls-server-end-point":
                raise ProtocolViolation("unsupported SCRAM channel-binding type")
        elif flag == b"y":
            if self._binding is not None:
                # The client thinks that we did not offer PLUS: somebody took it out of the list.
                raise ProtocolViolation(
                    "SCRAM channel binding negotiation error",
                    detail="The client supports SCRAM channel binding but thinks the server "
                    "does not. However, this server does support channel binding.",
                )
        elif flag != b"n":
            raise _malformed()


def _client_nonce(bare: bytes) -> bytes:
    """The nonce of client-first-message-bare; the name in it is ignored, as PostgreSQL does."""
    parts = bare.split(b",")
    if len(parts) < 2 or _NAME.fullmatch(parts[0]) is None:
        raise _malformed()  # m= (mandatory extensions) ends here too
    if parts[1][:2] != b"r=" or not valid_nonce(parts[1][2:]):
        raise _malformed()
    if not all(valid_attribute(part) for part in parts[2:]):
        raise _malformed()
    return parts[1][2:]


def _proof_holds(proof: bytes, stored_key: bytes, message: bytes) -> bool:
    signature = hmac.digest(stored_key, message, "sha256")
    client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
    return hmac.compare_digest(hashlib.sha256(client_key).digest(), stored_key)


def _malformed() -> ProtocolViolation:
    return ProtocolViolation("malformed SCRAM message")
