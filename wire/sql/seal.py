"""Makes what the database's seal takes: tokens for `tenantry.enter`, and the setting they become.

A token lets one server connection serve one tenant from now on. It reads, joined by dots:

    hex of the tenant's value (UTF-8)
    what `tenantry.backend()` answered on that connection
    when it expires, in microseconds since 1970, 16 digits
    hex of HMAC-SHA-256 (RFC 2104) over all before it, without the last dot

Only a token that expires later than the one before is taken on the same seal, so none works twice.
The functions of the database are in admin/provision/seal.sql.
"""

from __future__ import annotations

import hmac
from typing import Final

SEAL_SECONDS: Final = 30.0
"""A token's life. The server also refuses what expires more than twice this ahead: so the clocks of
proxy and server may differ by this much in either direction, and not more."""

SETTING_PREFIX: Final = "tenantry_"
_MICROSECONDS: Final = 1_000_000


def token(key: bytes, value: str, backend: str, now: float) -> bytes:
    """What to give to `tenantry.enter`, to be bound as a parameter and sent at once.

    `key` is the database's (32 bytes), `value` the tenant's in the tenant column, `backend` what
    `tenantry.backend()` answered, `now` seconds since 1970.
    """
    expiry = int((now + SEAL_SECONDS) * _MICROSECONDS)
    signed = f"{value.encode().hex()}.{backend}.{expiry}".encode()
    return signed + b"." + hmac.digest(key, signed, "sha256").hex().encode()


def setting(value: str) -> str:
    """The value of the sealing setting with which a tenant's own role is sealed for ever."""
    return SETTING_PREFIX + value.encode().hex()
