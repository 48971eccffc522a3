"""Seals secrets before they become events, and opens them where they are used.

AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce. A sealed text reads
`sealed:1:<key id>:<base64url of nonce, ciphertext and tag>`. What the secret is for (`purpose`) is
authenticated with it, so a sealed text moved to another place does not open there.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import stat
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from events.model import Settings

KEY_FILE = "secret.key"
KEY_VARIABLE = "TENANTRY_SECRET_KEY"
KEY_BYTES = 32
NONCE_BYTES = 12
_PREFIX = "sealed:1:"


class SecretError(Exception):
    """The key cannot be had, or a sealed text cannot be opened with it. Names no secret."""


class Vault:
    """Holds the installation's key. `key` is 32 bytes."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise SecretError(f"the secret key has {len(key)} bytes instead of {KEY_BYTES}")
        self._cipher = AESGCM(key)
        self._key = key
        self.key_id = hashlib.sha256(b"tenantry key id" + key).hexdigest()[:8]

    @classmethod
    def load(cls, data_dir: Path | str) -> Vault:
        """The key of TENANTRY_SECRET_KEY (base64), else of data_dir/secret.key, made if missing.

        Raises SecretError.
        """
        given = os.environ.get(KEY_VARIABLE, "")
        if given:
            return cls(_decode_key(given, KEY_VARIABLE))
        path = Path(data_dir) / KEY_FILE
        try:
            if not path.exists():
                _create(path)
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                raise SecretError(
                    f"{path} can be read by others (mode {mode:o}); run: chmod 600 {path}"
                )
            return cls(_decode_key(path.read_text("ascii"), str(path)))
        except (OSError, UnicodeDecodeError) as error:
            raise SecretError(f"cannot use the secret key {path}: {error}") from error

    def must_be_one_of(self, needed: set[str]) -> None:
        """Raises SecretError unless this key is among those that the log's secrets need: what a
        process with another key seals would stop all the others."""
        if needed and self.key_id not in needed:
            raise SecretError(
                f"the log's secrets are sealed with key {min(needed)}, and this data directory has "
                f"key {self.key_id}: copy {KEY_FILE} from a data directory of the same "
                f"installation, or set {KEY_VARIABLE}"
            )

    def derive(self, purpose: str) -> bytes:
        """32 bytes that only holders of the key can compute, the same every time."""
        return hmac.digest(self._key, b"tenantry derive " + purpose.encode(), "sha256")

    def seal(self, plaintext: str, purpose: str) -> str:
        """`plaintext` sealed for `purpose`; sealing twice gives two different texts."""
        nonce = os.urandom(NONCE_BYTES)
        box = nonce + self._cipher.encrypt(nonce, plaintext.encode(), purpose.encode())
        return f"{_PREFIX}{self.key_id}:{base64.urlsafe_b64encode(box).decode()}"

    def open(self, sealed: str, purpose: str) -> str:
        """What was sealed. Raises SecretError: another key, another purpose, or changed."""
        if not is_sealed(sealed):
            raise SecretError(f"the secret for {purpose} is not sealed")
        key_id, _, text = sealed.removeprefix(_PREFIX).partition(":")
        if key_id != self.key_id:
            raise SecretError(
                f"the secret for {purpose} was sealed with key {key_id}, but this process has key "
                f"{self.key_id}; restore the {KEY_FILE} that belongs to this log"
            )
        try:
            box = base64.b64decode(text, altchars=b"-_", validate=True)
            if base64.urlsafe_b64encode(box).decode() != text:
                raise ValueError("padding bits are set: one secret must have one spelling")
            opened = self._cipher.decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], purpose.encode())
            return opened.decode()
        except (InvalidTag, ValueError, binascii.Error):
            raise SecretError(
                f"the secret for {purpose} does not open: it was changed or sealed for another use"
            ) from None


def is_sealed(text: str) -> bool:
    return text.startswith(_PREFIX)


def sealed_with(sealed: str) -> str:
    """The id of the key that a sealed text needs."""
    return sealed.removeprefix(_PREFIX).partition(":")[0]


def tenant_purpose(tenant_id: str) -> str:
    """The purpose of a tenant's server login secret."""
    return f"tenant:{tenant_id}"


def node_purpose(host: str, port: int, user: str) -> str:
    """The purpose of a node's password. It names the address, so that whoever can write to the log
    but lacks the key cannot have the password sent to a host of his own."""
    return f"node:{user}@{host}:{port}"


def seal_nodes(settings: Settings, previous: Settings, vault: Vault) -> Settings:
    """Installation settings with every node's password sealed.

    A sealed text of `previous` that opens to the same password is kept, because a fresh one would
    look like a change each time the configuration file is read. Raises SecretError.
    """
    kept = {
        _purpose_of(node): node["password"]
        for node in previous.get("nodes", ())
        if is_sealed(node.get("password", ""))
    }
    nodes = [_seal_node(node, kept, vault) for node in settings.get("nodes", ())]
    return {**settings, "nodes": nodes} if nodes else dict(settings)


def _seal_node(node: dict[str, Any], kept: dict[str, str], vault: Vault) -> dict[str, Any]:
    password = node.get("password", "")
    if not password or is_sealed(password):
        return node
    purpose = _purpose_of(node)
    old = kept.get(purpose)
    try:
        same = old is not None and vault.open(old, purpose) == password
    except SecretError:
        same = False
    return {**node, "password": old if same else vault.seal(password, purpose)}


def _purpose_of(node: dict[str, Any]) -> str:
    host, port = node.get("host", "127.0.0.1"), int(node.get("port", 5432))
    return node_purpose(host, port, node.get("user", "postgres"))


def _decode_key(text: str, source: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (ValueError, binascii.Error):
        raise SecretError(f"{source} is not base64") from None
    if len(key) != KEY_BYTES:
        raise SecretError(f"{source} holds {len(key)} bytes instead of {KEY_BYTES}")
    return key


def _create(path: Path) -> None:
    """Make the key file. Of several processes that try at once exactly one wins: link() fails when
    the name exists, and nobody ever sees a half-written file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(base64.b64encode(os.urandom(KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        _sync_directory(path.parent)
    finally:
        draft.unlink()


def _sync_directory(path: Path) -> None:
    """A new name is on disk only when its directory is: losing the key loses every secret."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
