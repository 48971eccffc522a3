"""One job: log in to a PostgreSQL server, whatever method it asks for, without trusting it.

    START ── password, md5 ──> SENT ── Ok ──> DONE
      │                                        ^
      ├── Ok (trust, certificate) ─────────────┤
      └── SASL ──> FIRST ── continue ──> FINAL ── final, signature right ──> VERIFIED ── Ok ─┘

Payloads are those of 'R' messages (AuthenticationXXX) and of 'p' messages, without type and
length: https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import hashlib
from typing import Final

from wire.errors import ServerUnavailable
from wire.postgres.scram import MAX_SCRAM_MESSAGE, PLAIN, PLUS
from wire.postgres.scram_client import ScramClient

_OK: Final = 0
_CLEARTEXT: Final = 3
_MD5: Final = 5
_SASL: Final = 10
_SASL_CONTINUE: Final = 11
_SASL_FINAL: Final = 12
_REFUSED: Final = {2: "Kerberos V5", 6: "SCM credentials", 7: "GSSAPI", 8: "GSSAPI", 9: "SSPI"}

_START: Final = "START"
_SENT: Final = "SENT"
_FIRST: Final = "FIRST"
_FINAL: Final = "FINAL"
_VERIFIED: Final = "VERIFIED"
_DONE: Final = "DONE"
_FAILED: Final = "FAILED"

# A list of mechanism names; PostgreSQL knows three (two SCRAM, OAUTHBEARER).
_MAX_MECHANISMS: Final = 32
_MD5_SALT: Final = 4


def md5_response(user: str, password: str, salt: bytes) -> bytes:
    """`md5` + hex of md5(md5(password + user) + salt), without the closing zero byte."""
    inner = hashlib.md5(_text(password) + _text(user), usedforsecurity=False).hexdigest()
    outer = hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest()
    return b"md5" + outer.encode()


class ServerLogin:
    """Feed it each authentication message; it gives what to send back. Raises ServerUnavailable.

    `tls_binding` is the hash of the server's certificate on an encrypted connection, else None.
    `allow_plain` permits sending the password as it is: only over TLS or to loopback.
    """

    def __init__(
        self, user: str, password: str, tls_binding: bytes | None, allow_plain: bool
    ) -> None:
        self._user = user
        self._password = password
        self._binding = tls_binding
        self._allow_plain = allow_plain
        self._state: str = _START
        self._scram: ScramClient | None = None

    @property
    def done(self) -> bool:
        return self._state == _DONE

    def feed(self, auth_message_payload: bytes) -> bytes | None:
        """Take an 'R' message's payload; give a 'p' message's payload, None for nothing to send."""
        try:
            return self._feed(auth_message_payload)
        except ServerUnavailable:
            self._state = _FAILED  # nothing that follows can make it done
            raise

    def _feed(self, auth_message_payload: bytes) -> bytes | None:
        if len(auth_message_payload) < 4:
            raise _broken("an authentication message is too short")
        code = int.from_bytes(auth_message_payload[:4], "big")
        body = auth_message_payload[4:]
        if len(body) > MAX_SCRAM_MESSAGE:
            raise _broken("an authentication message is too long")
        if code in (_SASL, _SASL_CONTINUE, _SASL_FINAL):
            return self._sasl(code, body)
        if code == _OK:
            self._ok(body)
            return None
        if self._state != _START:
            raise _broken("authentication messages came in the wrong order")
        self._state = _SENT
        if code == _MD5:
            if len(body) != _MD5_SALT:
                raise _broken("the md5 salt has the wrong length")
            return md5_response(self._user, self._given_password(), body) + b"\0"
        if code == _CLEARTEXT and not body:
            if not self._allow_plain:
                raise ServerUnavailable(
                    "the PostgreSQL server asks for the password in clear text",
                    hint="Use sslmode=require for the node, or scram-sha-256 in its pg_hba.conf.",
                )
            return _text(self._given_password()) + b"\0"
        method = _REFUSED.get(code, f"number {code}")
        raise ServerUnavailable(
            f"the PostgreSQL server asks for an unsupported authentication method ({method})",
            hint="Use scram-sha-256 for this role in the server's pg_hba.conf.",
        )

    def _given_password(self) -> str:
        if not self._password or "\0" in self._password:
            raise ServerUnavailable("the PostgreSQL server asks for a password, but none is set")
        return self._password

    def _ok(self, body: bytes) -> None:
        if body or self._state not in (_START, _SENT, _VERIFIED):
            # After SCRAM began only the server's signature proves it: an early Ok is a forgery.
            raise _broken("it reports success without having proven itself")
        self._state = _DONE

    def _sasl(self, code: int, body: bytes) -> bytes | None:
        if code == _SASL and self._state == _START:
            offered = _mechanism_names(body)
            scram = ScramClient(
                self._user,
                self._given_password(),
                channel_binding=self._binding,
                offered=offered,
            )
            if scram.mechanism not in offered:
                raise ServerUnavailable(
                    "the PostgreSQL server offers no supported SASL mechanism",
                    hint="Supported are SCRAM-SHA-256 and, over TLS, SCRAM-SHA-256-PLUS.",
                )
            self._scram = scram
            self._state = _FIRST
            first = scram.first()
            name = scram.mechanism.encode()
            return name + b"\0" + len(first).to_bytes(4, "big") + first
        if code == _SASL_CONTINUE and self._state == _FIRST and self._scram is not None:
            answer = self._scram.final(body)
            self._state = _FINAL
            return answer
        if code == _SASL_FINAL and self._state == _FINAL and self._scram is not None:
            self._scram.verify(body)
            self._state = _VERIFIED
            return None
        raise _broken("authentication messages came in the wrong order")


def _mechanism_names(body: bytes) -> tuple[str, ...]:
    """Zero-terminated names, ended by an empty one; those that are not ours are left out."""
    names = body.split(b"\0")
    if len(names) < 3 or names[-2:] != [b"", b""] or len(names) > _MAX_MECHANISMS:
        raise _broken("its list of SASL mechanisms is malformed")
    known = {PLAIN.encode(): PLAIN, PLUS.encode(): PLUS}
    return tuple(known[name] for name in names if name in known)


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _broken(why: str) -> ServerUnavailable:
    return ServerUnavailable("the PostgreSQL server broke the login protocol", detail=why)
