"""Tokens for the database's seal: each value, connection and moment its own."""

from __future__ import annotations

import hmac

from wire.sql.seal import SEAL_SECONDS, setting, token

KEY = b"k" * 32


def test_a_token_says_whom_where_and_until_when_and_proves_it() -> None:
    made = token(KEY, "Ünit 7", "123:4567", 1_700_000_000.25)
    value, backend, expiry, proof = made.split(b".")
    assert bytes.fromhex(value.decode()).decode() == "Ünit 7"
    assert backend == b"123:4567"
    assert int(expiry) == 1_700_000_000_250_000 + SEAL_SECONDS * 1_000_000
    signed = b".".join((value, backend, expiry))
    assert proof.decode() == hmac.new(KEY, signed, "sha256").hexdigest()
    assert b"." not in value + backend + expiry


def test_whatever_differs_the_proof_differs() -> None:
    tokens = {
        token(KEY, "acme", "1:2", 5.0),
        token(KEY, "acm", "1:2", 5.0),
        token(KEY, "acme", "1:3", 5.0),
        token(KEY, "acme", "1:2", 5.000001),
        token(b"x" * 32, "acme", "1:2", 5.0),
    }
    assert len({each.split(b".")[-1] for each in tokens}) == 5


def test_the_setting_holds_any_value_in_letters_postgresql_takes() -> None:
    assert setting("acme") == "tenantry_61636d65"
    assert set(setting("a'_.\n漢")) <= {*"tenantry_0123456789abcdef"}
