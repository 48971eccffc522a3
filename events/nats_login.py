"""How to log in to NATS: TLS, credentials files, nkeys, users and passwords.

All of it is part of the address, so that whoever is handed addresses can connect:

    tls://nats-1:4222?ca=/etc/tenantry/nats-ca.pem&cert=/…/client.pem&key=/…/client.key
    nats://user:password@nats-1:4222
    tls://nats-1:4222?credentials=/etc/tenantry/tenantry.creds
    tls://nats-1:4222?nkey=/etc/tenantry/tenantry.nk

The options of the first address count for all. With `tls://`, or an option that only TLS has,
nothing that logs in is sent before the TLS handshake: the client library would go on in clear text
when the server does not ask for TLS, and whoever sits between can make it look so.

Formats: NATS nkeys (base32 of prefix, seed and CRC-16; Ed25519), decorated JWT files (ADR-14).
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from events.direct import DirectClient

if TYPE_CHECKING:
    from events.installation import Events

log = logging.getLogger("tenantry.log")

OPTIONS: Final = ("ca", "cert", "key", "credentials", "nkey")
_ONLY_WITH_TLS: Final = ("ca", "cert", "key")
# A credentials file has some 1 kB.
FILE_BYTES_MAX: Final = 64 * 1024
_SECTION: Final = re.compile(r"-----BEGIN ([A-Z ]+)-----\s*(.*?)\s*-+END \1-----", re.DOTALL)
# The first byte of an encoded public key of a user ("U"), of a seed ("S") and of its kind.
_PREFIX_SEED: Final = 18 << 3
_PREFIX_USER: Final = 20 << 3
_SEED_BYTES: Final = 36  # two of prefix, 32 of seed, two of CRC


class LoginError(Exception):
    """An address or a file that it names cannot be used. Names no secret."""


@dataclass(frozen=True)
class Login:
    """What the addresses come to. `servers` may hold passwords."""

    servers: list[str] = field(repr=False)
    tls: bool
    options: dict[str, str]


def parse(addresses: Sequence[str]) -> Login:
    """The addresses without their options, and the options. Raises LoginError."""
    servers: list[str] = []
    options: dict[str, str] = {}
    tls = False
    for address in addresses:
        parts = urlsplit(address if "//" in address else f"nats://{address}")
        given = parse_qs(parts.query, keep_blank_values=True)
        unknown = [name for name in given if name not in OPTIONS]
        if unknown:
            known = ", ".join(OPTIONS)
            raise LoginError(f"an address of NATS has no option {unknown[0]}: use {known}")
        for name, values in given.items():
            options.setdefault(name, values[-1])
        tls = tls or parts.scheme in ("tls", "wss") or any(name in given for name in _ONLY_WITH_TLS)
        servers.append(parts._replace(query="").geturl())
    return Login(servers, tls, {name: value for name, value in options.items() if value})


def addresses(events: Events) -> tuple[str, ...]:
    """The addresses of a configuration, with the options of its `[events]` table."""
    table = {
        "ca": events.ca_path,
        "cert": events.cert_path,
        "key": events.key_path,
        "credentials": events.credentials_path,
        "nkey": events.nkey_path,
    }
    query = urlencode(
        {name: value for name, value in table.items() if value}, quote_via=quote, safe="/"
    )
    if not query:
        return events.servers
    return tuple(f"{server}{'&' if '?' in server else '?'}{query}" for server in events.servers)


def tls_context(login: Login) -> ssl.SSLContext | None:
    """For `tls`; None when it is not asked for. Raises LoginError."""
    if not login.tls:
        return None
    options = login.options
    if ("cert" in options) != ("key" in options):
        raise LoginError("a certificate for NATS needs its key, and a key its certificate")
    try:
        context = ssl.create_default_context(cafile=options.get("ca"))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if "cert" in options:
            context.load_cert_chain(options["cert"], options["key"])
    except (OSError, ValueError) as error:
        files = ", ".join(options[name] for name in _ONLY_WITH_TLS if name in options)
        raise LoginError(f"the certificates for NATS cannot be used ({files}): {error}") from None
    return context


class Signer:
    """Answers the server's challenge. The files are read at each login, so that renewed ones
    count; they must not be readable by others."""

    def __init__(self, options: dict[str, str]) -> None:
        self._credentials = options.get("credentials", "")
        self._nkey = options.get("nkey", "")

    def fields(self, nonce: str) -> dict[str, str]:
        """What CONNECT says besides. Raises LoginError."""
        path = self._credentials or self._nkey
        text = _read(path)
        sections = dict(_SECTION.findall(text))
        jwt = sections.get("NATS USER JWT", "")
        if self._credentials and not jwt:
            raise LoginError(f"{path} holds no NATS USER JWT")
        seed = sections.get("USER NKEY SEED", "") if self._credentials else text.strip()
        key = private_key(seed, path)
        signature = base64.b64encode(key.sign(nonce.encode())).decode()
        if jwt:
            return {"jwt": "".join(jwt.split()), "sig": signature}
        return {"nkey": public_nkey(key), "sig": signature}


class SafeClient(DirectClient):
    """The library's client, which logs in as `login` says and never in clear text with TLS."""

    def __init__(self, login: Login) -> None:
        super().__init__()
        self._signer = (
            Signer(login.options) if {"credentials", "nkey"} & set(login.options) else None
        )
        self._needs_tls = login.tls

    def _connect_command(self) -> bytes:
        """The CONNECT line; called by the library when the transport is as it will stay."""
        transport = self._transport
        if self._needs_tls and not _is_encrypted(transport):
            raise NatsError("nats: the server does not offer TLS, which its address asks for")
        line = super()._connect_command()
        if self._signer is None:
            return line
        nonce = self._server_info.get("nonce")
        if not nonce:
            return line
        try:
            given: dict[str, Any] = json.loads(line.partition(b" ")[2])
            given.update(self._signer.fields(nonce))
        except LoginError as error:
            raise NatsError(f"nats: {error}") from None
        return b"CONNECT " + json.dumps(given, sort_keys=True).encode() + b"\r\n"

    # The server hands on what it gets. In the library a message that cannot be read ends the loop
    # that reads all others: it would stay connected and hear nothing, and one such message in a
    # queue would do so again after each reconnect.

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        """What can be read of them; none where nothing can."""
        try:
            found: dict[str, str] | None = await super()._process_headers(headers)
        except (ValueError, IndexError):
            log.info("a message came with headers that cannot be read")
            return None
        return found

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        """Subjects are text here: what is none is no name of anything, and answered nowhere."""
        named, answered = _as_text(subject), _as_text(reply)
        message: Msg = super()._build_message(sid, named, answered, data, headers)
        return message


def _as_text(raw: bytes) -> bytes:
    return raw if raw.isascii() else raw.decode(errors="replace").encode()


def _is_encrypted(transport: Any) -> bool:
    writer = getattr(transport, "_io_writer", None)
    return writer is not None and writer.get_extra_info("ssl_object") is not None


def _read(path: str) -> str:
    try:
        file = Path(path)
        if file.stat().st_mode & 0o077:
            raise LoginError(f"{path} can be read by others; run: chmod 600 {path}")
        with file.open("rb") as source:
            return source.read(FILE_BYTES_MAX).decode("ascii")
    except OSError as error:
        raise LoginError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise LoginError(f"{path} is not text") from None


def private_key(seed: str, source: str) -> Ed25519PrivateKey:
    """The key of an encoded user seed ("SU…"). Raises LoginError, which names `source` only."""
    try:
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except (ValueError, binascii.Error):
        raw = b""
    wrong = len(raw) != _SEED_BYTES or int.from_bytes(raw[-2:], "little") != _crc16(raw[:-2])
    if wrong or raw[0] & 0xF8 != _PREFIX_SEED or (raw[0] & 7) << 5 | raw[1] >> 3 != _PREFIX_USER:
        raise LoginError(f"{source} holds no seed of a user (SU…)")
    return Ed25519PrivateKey.from_private_bytes(raw[2:-2])


def public_nkey(key: Ed25519PrivateKey) -> str:
    """The encoded public key of a user ("U…")."""
    raw = bytes([_PREFIX_USER]) + key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return base64.b32encode(raw + _crc16(raw).to_bytes(2, "little")).decode().rstrip("=")


def encode_seed(raw: bytes) -> str:
    """32 bytes as an encoded user seed."""
    head = bytes([_PREFIX_SEED | _PREFIX_USER >> 5, (_PREFIX_USER & 31) << 3])
    return (
        base64.b32encode(head + raw + _crc16(head + raw).to_bytes(2, "little")).decode().rstrip("=")
    )


def _crc16(data: bytes) -> int:
    """CRC-16/XMODEM, as nkeys use it."""
    return binascii.crc_hqx(data, 0)
