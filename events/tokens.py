"""Command tokens: who may give commands, signed, for a time, and revocable.

A token is a JWT (RFC 7519) signed with Ed25519 (RFC 8037, "EdDSA"). The private key is derived from
the installation's key, so there is nothing more to keep or to lose; whoever only checks tokens gets
the public key and cannot make any. HMAC was the alternative: there, each checker could.

    sub     who (the actor of the events)        iss   "tenantry"
    role    viewer, tenant-admin or operator     aud   "tenantry-commands"
    tenant  for tenant-admin: of which tenant    iat, exp, jti

Tokens are never logged and never stored: the log holds the jti, the name, the role and the times.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import Any, Final, Protocol, get_args
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from events.commands_model import IssueToken
from events.facts import KIND_TOKEN
from events.named import TOKEN_SECONDS_MAX, Named
from events.operators import Principal, Role, bounded

ISSUER: Final = "tenantry"
AUDIENCE: Final = "tenantry-commands"
# A token for one message to other workers (admin.console.calls): whoever can read that message on
# NATS reads the token as well, and can do nothing else with it.
CALL_AUDIENCE: Final = "tenantry-calls"
# The only one: a token that names another, or none, is refused before its signature is looked at.
ALGORITHM: Final = "EdDSA"
PURPOSE: Final = "command tokens"
# Clocks of two machines that are kept by NTP differ by less.
SKEW_SECONDS: Final = 30
DEFAULT_SECONDS: Final = 8 * 3600
LIFE_SECONDS_MAX: Final = TOKEN_SECONDS_MAX
# A token has some 350 bytes; what is longer is not even parsed.
TOKEN_BYTES_MAX: Final = 4096
_REQUIRED: Final = ["sub", "role", "iss", "aud", "iat", "exp", "jti"]


class TokenRefused(Exception):
    """The token does not count. `reason` is for the audit; whoever sent it only hears that."""

    def __init__(self, reason: str) -> None:
        super().__init__("the token is missing, expired, revoked or not valid here")
        self.reason = reason


class Deriving(Protocol):
    """What signing needs of events.secrets.Vault."""

    def derive(self, purpose: str) -> bytes: ...


class Known(Protocol):
    """What checking needs of the folded log; a Projection has it."""

    def named(self, kind: str, id: str) -> Named | None: ...


class TokenSigner:
    """Makes tokens; for holders of the installation's key."""

    def __init__(self, vault: Deriving) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(vault.derive(PURPOSE))

    @property
    def public_key(self) -> Ed25519PublicKey:
        return self._key.public_key()

    def make(
        self, name: str, role: Role, *, tenant: str = "", seconds: float = DEFAULT_SECONDS
    ) -> tuple[str, IssueToken]:
        """A token, and the command that notes it in the log. Raises ValueError."""
        if not 1 <= seconds <= LIFE_SECONDS_MAX:
            raise ValueError(f"a token lives from a second to {LIFE_SECONDS_MAX // 86400} days")
        if (role == "tenant-admin") != bool(tenant):
            raise ValueError("the role tenant-admin needs a tenant, and no other role has one")
        now = int(time.time())
        noted = IssueToken(
            jti=uuid4().hex,
            name=name,
            role=role,
            tenant=tenant,
            issued_at=now,
            expires_at=now + int(seconds),
        )
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": name,
            "role": role,
            "iat": noted.issued_at,
            "exp": noted.expires_at,
            "jti": noted.jti,
        }
        if tenant:
            claims["tenant"] = tenant
        return jwt.encode(claims, self._key, algorithm=ALGORITHM), noted

    def make_for(self, body: bytes, name: str, role: Role, *, seconds: int) -> str:
        """A token that is good for the message `body` only, as long as `seconds`."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "aud": CALL_AUDIENCE,
            "sub": name,
            "role": role,
            "iat": now,
            "exp": now + seconds,
            "jti": uuid4().hex,
            "body": hashlib.sha256(body).hexdigest(),
        }
        return jwt.encode(claims, self._key, algorithm=ALGORITHM)


class TokenChecker:
    """Tells who a token speaks for. `known` is the folded log: revocations and operators."""

    def __init__(self, public_key: Ed25519PublicKey, known: Known) -> None:
        self._key = public_key
        self._known = known

    def check(self, token: str, *, address: str = "", at: float | None = None) -> Principal:
        """Raises TokenRefused. `at` (Unix seconds) is when the token was shown, if that is not now:
        a durable command may have waited while nobody was there to carry it out."""
        claims = self._claims(token, AUDIENCE)
        return self._principal(claims, address, time.time() if at is None else at)

    def check_for(self, token: str, body: bytes) -> Principal:
        """Whose token it is, made for the message `body`. Raises TokenRefused."""
        claims = self._claims(token, CALL_AUDIENCE)
        meant = claims.get("body")
        if not isinstance(meant, str) or not hmac.compare_digest(
            meant.encode(), hashlib.sha256(body).hexdigest().encode()
        ):
            raise TokenRefused("it was made for another message")
        return self._principal(claims, "", time.time())

    def _principal(self, claims: dict[str, Any], address: str, at: float) -> Principal:
        self._check_times(claims, at)
        role, tenant = claims["role"], claims.get("tenant", "")
        if role not in get_args(Role) or not isinstance(tenant, str):
            raise TokenRefused("its role is not known")
        if (role == "tenant-admin") != bool(tenant):
            raise TokenRefused("its role does not fit its tenant")
        noted = self._known.named(KIND_TOKEN, claims["jti"])
        if noted is not None and noted.settings.get("revoked"):
            raise TokenRefused("it was revoked")
        principal = Principal(claims["sub"], role, tenant, claims["jti"], address)
        allowed = bounded(principal, self._known)
        if allowed is None:
            raise TokenRefused("its operator is disabled or deleted")
        return allowed

    def _claims(self, token: str, audience: str) -> dict[str, Any]:
        if not token or len(token) > TOKEN_BYTES_MAX:
            raise TokenRefused("there is no token" if not token else "it is too long")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key,
                algorithms=[ALGORITHM],
                audience=audience,
                issuer=ISSUER,
                options={
                    "require": _REQUIRED,
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise TokenRefused(type(error).__name__) from None
        if not all(isinstance(claims[name], str) for name in ("sub", "role", "jti")):
            raise TokenRefused("a claim is no text")
        return claims

    def _check_times(self, claims: dict[str, Any], at: float) -> None:
        start, issued, end = claims.get("nbf", claims["iat"]), claims["iat"], claims["exp"]
        if not all(type(each) is int for each in (start, issued, end)):
            raise TokenRefused("a time is no whole number")
        if end - issued > LIFE_SECONDS_MAX:
            raise TokenRefused("it lives too long")
        if at >= end + SKEW_SECONDS:
            raise TokenRefused("it has expired")
        if at < max(issued, start) - SKEW_SECONDS:
            raise TokenRefused("it is of the future")
