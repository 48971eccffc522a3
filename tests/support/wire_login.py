"""Both ends of a login over a blocking socket, with only the parts under test in between."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

from wire.errors import TenantryError
from wire.postgres.auth import ServerLogin
from wire.postgres.scram import ScramServer
from wire.postgres.tls import TlsEndpoint, is_direct_tls
from wire.postgres.tls_setup import ListenerTls, NodeTls

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
PROTOCOL_3_0 = 196608


class Line:
    """A socket, under TLS once `endpoint` is set."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.endpoint: TlsEndpoint | None = None
        self.mechanism = ""
        self._buffer = b""

    def shake_hands(self, first: bytes = b"") -> None:
        assert self.endpoint is not None
        self.sock.sendall(self.endpoint.start())
        while not self.endpoint.handshake_done:
            try:
                plain, to_send = self.endpoint.received(first or self._receive())
            except TenantryError:
                self.sock.sendall(self.endpoint.alert())
                raise
            first = b""
            self._buffer += plain
            self.sock.sendall(to_send)

    def read(self, count: int) -> bytes:
        while len(self._buffer) < count:
            data = self._receive()
            if self.endpoint is not None:
                data, to_send = self.endpoint.received(data)
                self.sock.sendall(to_send)
            self._buffer += data
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def write(self, data: bytes) -> None:
        self.sock.sendall(self.endpoint.send(data) if self.endpoint else data)

    def read_message(self) -> tuple[bytes, bytes]:
        kind = self.read(1)
        (length,) = struct.unpack("!i", self.read(4))
        return kind, self.read(length - 4)

    def write_message(self, kind: bytes, payload: bytes) -> None:
        self.write(kind + struct.pack("!i", len(payload) + 4) + payload)

    def _receive(self) -> bytes:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError
        return data


def log_in(
    sock: socket.socket,
    user: str,
    password: str,
    *,
    tls: NodeTls | None = None,
    allow_plain: bool = True,
) -> Line:
    """Log in to a server with ServerLogin; give the line when it is ready for queries."""
    line = Line(sock)
    binding = None
    if tls is not None:
        sock.sendall(SSL_REQUEST)
        line.endpoint = tls.answered(sock.recv(100))
        if line.endpoint is not None:
            line.shake_hands()
            binding = line.endpoint.server_end_point()
    body = b"".join(part.encode() + b"\0" for part in ("user", user, "database", "postgres", ""))
    line.write(struct.pack("!ii", len(body) + 8, PROTOCOL_3_0) + body)
    login = ServerLogin(user, password, binding, allow_plain)
    while True:
        kind, payload = line.read_message()
        if kind == b"R":
            answer = login.feed(payload)
            if answer is not None:
                line.mechanism = line.mechanism or answer.partition(b"\0")[0].decode()
                line.write_message(b"p", answer)
        elif kind == b"E":
            raise PermissionError(payload.replace(b"\0", b" ").decode())
        elif kind == b"Z":
            assert login.done
            return line


def query(line: Line, sql: str) -> list[bytes]:
    """The messages that answer one simple query, payloads only."""
    line.write_message(b"Q", sql.encode() + b"\0")
    answers = []
    while True:
        kind, payload = line.read_message()
        if kind == b"Z":
            return answers
        answers.append(payload)


def admit(
    sock: socket.socket, tls: ListenerTls | None, prove: Callable[[str, bool], ScramServer]
) -> Line:
    """Let one client in with ScramServer, up to ReadyForQuery; `prove(user, tls)` makes it."""
    line = Line(sock)
    first = sock.recv(65536)
    if tls is not None and is_direct_tls(first):
        line.endpoint = tls.direct()
        line.shake_hands(first)
    else:
        if first[:8] == SSL_REQUEST:
            if tls is None:
                sock.sendall(b"N")
            else:
                line.endpoint = tls.upgrade(first[8:])
                sock.sendall(b"S")
                line.shake_hands()
            first = b""
        line._buffer += first
    (length,) = struct.unpack("!i", line.read(4))
    words = line.read(length - 4)[4:].split(b"\0")
    user = words[words.index(b"user") + 1].decode()
    proving = prove(user, line.endpoint is not None)
    names = b"".join(name.encode() + b"\0" for name in proving.mechanisms())
    line.write_message(b"R", struct.pack("!i", 10) + names + b"\0")
    payload = line.read_message()[1]
    mechanism, _, rest = payload.partition(b"\0")
    answer = proving.first(rest[4:], mechanism.decode())
    line.write_message(b"R", struct.pack("!i", 11) + answer)
    signature = proving.final(line.read_message()[1])
    line.write_message(b"R", struct.pack("!i", 12) + signature)
    line.write_message(b"R", struct.pack("!i", 0))
    for name, value in (("server_version", "18.0"), ("client_encoding", "UTF8")):
        line.write_message(b"S", name.encode() + b"\0" + value.encode() + b"\0")
    line.write_message(b"Z", b"I")
    return line
