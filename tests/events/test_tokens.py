"""Who a token speaks for, and every way in which it does not."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.world import World

from events.commands import DeleteOperator, PutOperator, RevokeToken
from events.operators import Principal
from events.secrets import Vault
from events.tokens import (
    AUDIENCE,
    ISSUER,
    LIFE_SECONDS_MAX,
    PURPOSE,
    SKEW_SECONDS,
    TOKEN_BYTES_MAX,
    TokenChecker,
    TokenRefused,
    TokenSigner,
)

VAULT = Vault(bytes(range(32)))
SIGNER = TokenSigner(VAULT)


def checker(world: World | None = None) -> TokenChecker:
    return TokenChecker(SIGNER.public_key, (world or World()).projection)


def refused(token: str, world: World | None = None, at: float | None = None) -> str:
    with pytest.raises(TokenRefused) as caught:
        checker(world).check(token, at=at)
    # Whoever sent it hears one sentence, whatever the reason is.
    assert str(caught.value) == "the token is missing, expired, revoked or not valid here"
    return caught.value.reason


def signed(key: Any = None, algorithm: str = "EdDSA", **claims: Any) -> str:
    now = int(time.time())
    full = {
        "iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "role": "operator",
        "iat": now, "exp": now + 60, "jti": "j" * 32,
    }  # fmt: skip
    full = {name: value for name, value in (full | claims).items() if value is not None}
    own = Ed25519PrivateKey.from_private_bytes(VAULT.derive(PURPOSE))
    return jwt.encode(full, own if key is None else key, algorithm=algorithm)


def test_a_token_speaks_for_whom_it_names() -> None:
    token, noted = SIGNER.make("ann", "tenant-admin", tenant="acme", seconds=60)
    principal = checker().check(token, address="10.0.0.1")
    assert principal == Principal("ann", "tenant-admin", "acme", noted.jti, "10.0.0.1")
    assert (noted.name, noted.tenant) == ("ann", "acme")
    assert noted.expires_at - noted.issued_at == 60
    assert token not in repr(noted)
    assert checker().check(signed()) == Principal("ann", "operator", "", "j" * 32)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "other"}, "InvalidIssuerError"),
        ({"aud": "other"}, "InvalidAudienceError"),
        ({"aud": None}, "MissingRequiredClaimError"),
        ({"jti": None}, "MissingRequiredClaimError"),
        ({"exp": None}, "MissingRequiredClaimError"),
        ({"role": "root"}, "its role is not known"),
        ({"role": ["operator"]}, "a claim is no text"),
        ({"role": "tenant-admin"}, "its role does not fit its tenant"),
        ({"tenant": "acme"}, "its role does not fit its tenant"),
        ({"role": "tenant-admin", "tenant": 7}, "its role is not known"),
        ({"exp": 5}, "it has expired"),
        ({"exp": 2**62}, "it lives too long"),
        ({"exp": True}, "a time is no whole number"),
        ({"iat": 2**40, "exp": 2**40 + 9}, "it is of the future"),
        ({"nbf": 2**40}, "it is of the future"),
    ],
)
def test_a_claim_that_is_wrong(claims: dict[str, Any], reason: str) -> None:
    assert refused(signed(**claims)) == reason


def test_only_our_key_and_only_our_algorithm() -> None:
    assert refused(signed(Ed25519PrivateKey.generate())) == "InvalidSignatureError"
    # The public key as the secret of an HMAC, and no signature at all.
    public = SIGNER.public_key.public_bytes_raw()
    assert refused(signed(public.hex(), "HS256")) == "InvalidAlgorithmError"
    head, body, _ = signed().split(".")
    none = urlsafe_b64encode(json.dumps({"alg": "none"}).encode()).decode().rstrip("=")
    assert refused(f"{none}.{body}.") == "InvalidAlgorithmError"
    assert refused(f"{head}.{body}.") == "InvalidSignatureError"
    other = TokenSigner(Vault(bytes(32))).make("ann", "operator")[0]
    assert refused(other) == "InvalidSignatureError"
    for text in ("", "a.b", "a.b.c", "\ud800", "x" * (TOKEN_BYTES_MAX + 1)):
        assert refused(text)


def test_the_clocks_may_differ_a_little() -> None:
    token, noted = SIGNER.make("ann", "operator", seconds=60)
    for at in (noted.issued_at - SKEW_SECONDS, noted.expires_at + SKEW_SECONDS - 1):
        assert checker().check(token, at=at)
    assert refused(token, at=noted.issued_at - SKEW_SECONDS - 1) == "it is of the future"
    assert refused(token, at=noted.expires_at + SKEW_SECONDS) == "it has expired"


def test_a_revoked_token_counts_no_more() -> None:
    token, noted = SIGNER.make("ann", "operator")
    world = World(noted)
    assert checker(world).check(token)
    world.does(RevokeToken(jti=noted.jti))
    assert refused(token, world) == "it was revoked"


def test_what_the_log_says_of_an_operator_bounds_its_tokens() -> None:
    token, noted = SIGNER.make("ann", "operator")
    admin, _ = SIGNER.make("ann", "tenant-admin", tenant="acme")
    world = World(noted, PutOperator(name="ann", role="viewer"))
    assert checker(world).check(token).role == "viewer"
    world.does(PutOperator(name="ann", role="operator"))
    assert checker(world).check(token).role == "operator"
    world.does(PutOperator(name="ann", role="operator", disabled=True))
    assert refused(token, world) == "its operator is disabled or deleted"
    world.does(DeleteOperator(name="ann"))
    assert refused(token, world) == "its operator is disabled or deleted"
    assert refused(admin, world) == "its operator is disabled or deleted"


def test_what_cannot_be_made() -> None:
    for seconds in (0, LIFE_SECONDS_MAX + 1):
        with pytest.raises(ValueError, match="90 days"):
            SIGNER.make("ann", "viewer", seconds=seconds)
    with pytest.raises(ValueError, match="needs a tenant"):
        SIGNER.make("ann", "tenant-admin")
    with pytest.raises(ValueError, match="needs a tenant"):
        SIGNER.make("ann", "operator", tenant="acme")
    with pytest.raises(ValueError, match="name"):
        SIGNER.make("ann smith", "operator")
