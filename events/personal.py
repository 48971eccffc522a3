"""Personal data of tenants: sealed with a key of the tenant's own, erased by destroying that key.

The log keeps every fact for ever, so what must be erasable is in it only as sealed text: the
tenant's name, its metadata and its users (PERSONAL), each as
`erasable:1:<base64url of nonce, ciphertext and tag>` (AES-256-GCM, NIST SP 800-38D; the tenant and
the field are authenticated with it). The keys are in a stream of their own whose messages can be
deleted (events.keys). Whoever folds the log keeps the sealed text and opens it when asked, so that
snapshots and every other copy of the state are erased together with the key.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable
from typing import Any, Final

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from events.model import Settings

PERSONAL: Final = ("name", "metadata", "users")
PREFIX: Final = "erasable:1:"
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12

Opener = Callable[[str, Settings], Settings]
"""opener(tenant id, settings as stored) → settings with personal data in clear, or without it."""


def is_erasable(value: object) -> bool:
    return isinstance(value, str) and value.startswith(PREFIX)


def without_sealed(settings: Settings) -> Settings:
    """Without the personal data that is sealed."""
    return {
        key: value
        for key, value in settings.items()
        if not (key in PERSONAL and is_erasable(value))
    }


class DataKey:
    """The key of one tenant; `raw` is 32 bytes."""

    def __init__(self, tenant: str, raw: bytes) -> None:
        assert len(raw) == KEY_BYTES
        self._tenant = tenant
        self._cipher = AESGCM(raw)

    def seal(self, field: str, value: Any) -> str:
        """`value` (JSON) as sealed text; sealing twice gives two different texts."""
        nonce = os.urandom(NONCE_BYTES)
        box = nonce + self._cipher.encrypt(nonce, orjson.dumps(value), self._bound_to(field))
        return PREFIX + base64.urlsafe_b64encode(box).decode()

    def open(self, field: str, sealed: str) -> Any:
        """What was sealed; None when it was sealed with another key or for something else."""
        try:
            box = base64.b64decode(sealed[len(PREFIX) :], altchars=b"-_", validate=True)
            nonce, text = box[:NONCE_BYTES], box[NONCE_BYTES:]
            return orjson.loads(self._cipher.decrypt(nonce, text, self._bound_to(field)))
        except (InvalidTag, ValueError, binascii.Error):
            return None

    def seal_all(self, settings: Settings) -> Settings:
        """`settings` with each personal field sealed; None (take it away) stays."""
        return {
            key: self.seal(key, value)
            if key in PERSONAL and value is not None and not is_erasable(value)
            else value
            for key, value in settings.items()
        }

    def open_all(self, settings: Settings) -> Settings:
        """`settings` with each sealed field opened, without those that do not open."""
        opened: Settings = {}
        for key, value in settings.items():
            if key in PERSONAL and is_erasable(value):
                value = self.open(key, value)
                if value is None:
                    continue
            opened[key] = value
        return opened

    def _bound_to(self, field: str) -> bytes:
        return f"{self._tenant}:{field}".encode()
