"""One job: from settings to TLS, for clients (`ListenerTls`) and for servers (`NodeTls`).

Both refuse whatever came in clear behind the request to start TLS: it would otherwise count as
said by the authenticated peer (CVE-2021-3935). Sources: libpq's "SSL Support" page for what each
sslmode means, PostgreSQL's "Message Flow" page for SSLRequest and direct TLS.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from events.installation import Node, SslMode, Tls
from wire.errors import ProtocolViolation, ServerUnavailable
from wire.postgres.tls import ALPN, TlsEndpoint, certificate_binding

_UPGRADE: Final = b"S"
_REFUSAL: Final = b"N"


class ListenerTls:
    """TLS to clients. `binding` is what SCRAM-SHA-256-PLUS binds to, None if there is none."""

    def __init__(self, context: ssl.SSLContext, binding: bytes | None) -> None:
        self.context = context
        self.binding = binding

    def upgrade(self, leftover: bytes) -> TlsEndpoint:
        """After SSLRequest: answer `S`, then feed the endpoint. Raises ProtocolViolation.

        `leftover` is what came behind the request; it was in clear, so it must be nothing.
        """
        if leftover:
            raise ProtocolViolation(
                "received unencrypted data after SSL request",
                detail="This could be an attempted man-in-the-middle attack.",
            )
        return TlsEndpoint(self.context, server_side=True, binding=self.binding)

    def direct(self) -> TlsEndpoint:
        """For a connection that starts with TLS; its first bytes go to the endpoint."""
        return TlsEndpoint(self.context, server_side=True, binding=self.binding, require_alpn=True)


class NodeTls:
    """TLS to one PostgreSQL server."""

    def __init__(self, context: ssl.SSLContext, mode: SslMode, host: str) -> None:
        self.context = context
        self.mode = mode
        self.host = host

    def answered(self, answer: bytes) -> TlsEndpoint | None:
        """Take all that came back for SSLRequest; None means to go on in clear (prefer only).

        Raises ServerUnavailable. Send the endpoint's `start()` next.
        """
        if answer == _UPGRADE:
            return TlsEndpoint(self.context, server_side=False, server_hostname=self.host)
        if answer == _REFUSAL:
            if self.mode == "prefer":
                return None
            raise ServerUnavailable(
                "the PostgreSQL server does not support TLS, but sslmode requires it",
                hint='Switch on "ssl" in the server, or use sslmode=prefer or disable.',
            )
        raise ServerUnavailable("the PostgreSQL server gave a wrong answer to the request for TLS")

    def direct(self) -> TlsEndpoint:
        """For servers from PostgreSQL 17 on: no SSLRequest, one round trip less."""
        return TlsEndpoint(
            self.context, server_side=False, server_hostname=self.host, require_alpn=True
        )


def listener_tls(tls: Tls) -> ListenerTls | None:
    """What `[tls]` says, None when it is off. Raises ValueError, in a sentence, for bad files."""
    if not tls.enabled:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    # Sessions are not resumed: tickets cost each connection memory and a write.
    context.num_tickets = 0
    if not tls.cert_path or not tls.key_path:
        raise ValueError("TLS needs both cert_path and key_path")
    binding = _certificate_file_binding(tls.cert_path)
    try:
        context.load_cert_chain(tls.cert_path, tls.key_path, password=_no_passphrase)
    except (OSError, ValueError) as error:
        raise ValueError(
            f'cannot use certificate "{tls.cert_path}" with key "{tls.key_path}": {error}'
        ) from None
    if tls.ca_path:
        _load_ca(context, tls.ca_path)
        context.verify_mode = ssl.CERT_OPTIONAL
    if tls.require_client_cert:
        if not tls.ca_path:
            raise ValueError("require_client_cert needs ca_path, to verify certificates with")
        context.verify_mode = ssl.CERT_REQUIRED
    return ListenerTls(context, binding)


def node_tls(node: Node) -> NodeTls | None:
    """What a node's sslmode says, None for disable and Unix sockets. Raises ValueError.

    As in libpq: a given sslrootcert makes `require` verify, "system" means the machine's own
    authorities, and only verify-full compares the host name.
    """
    mode: SslMode = node.sslmode
    if mode == "disable" or node.host.startswith("/"):
        return None
    if mode == "require" and node.sslrootcert:
        mode = "verify-ca"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    context.check_hostname = mode == "verify-full"
    if mode in ("verify-ca", "verify-full"):
        context.verify_mode = ssl.CERT_REQUIRED
        if not node.sslrootcert:
            raise ValueError(
                f'sslmode={mode} needs sslrootcert: a file of certificate authorities, or "system"'
            )
        if node.sslrootcert == "system":
            context.set_default_verify_paths()
        else:
            _load_ca(context, node.sslrootcert)
    else:
        context.verify_mode = ssl.CERT_NONE
    return NodeTls(context, mode, node.host)


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols([ALPN])


def _load_ca(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(path)
    except OSError as error:
        raise ValueError(f'cannot read certificate authorities "{path}": {error}') from None


def _certificate_file_binding(path: str) -> bytes | None:
    """The binding of the first certificate in a PEM file, which is the one that is shown."""
    try:
        text = Path(path).read_text("ascii", "replace")
        begin = text.index(ssl.PEM_HEADER)
        end = text.index(ssl.PEM_FOOTER, begin) + len(ssl.PEM_FOOTER)
        return certificate_binding(ssl.PEM_cert_to_DER_cert(text[begin:end]))
    except (OSError, ValueError) as error:
        raise ValueError(f'cannot read certificate "{path}": {error}') from None


def _no_passphrase() -> str:
    # Otherwise OpenSSL asks on the terminal and the start hangs.
    raise ValueError("the key is protected by a passphrase, which is not supported")
