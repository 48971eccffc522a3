"""A client of bytes on a real socket: `>>` sends, `ask` sends a Query and reads its answer.

    with raw(proxy) as client:
        client >> Query("select 1") * 3
        client.answers(3)      # all bytes up to the third ReadyForQuery

Works against the proxy and against PostgreSQL alike.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import Protocol

from support.transcript import Query, messages, packet, zeroed

from wire.postgres import protocol as p
from wire.postgres.auth import ServerLogin

# A test that waits longer for bytes has failed.
PATIENCE_SECONDS = 20.0


class Place(Protocol):
    host: str
    port: int
    user: str
    password: str


class Gone(Exception):
    """The peer has closed the connection."""


class Raw:
    """One logged-in connection."""

    def __init__(self, place: Place, database: str, version: int = p.PROTOCOL_3_0) -> None:
        self.place = place
        self.sock = socket.create_connection((place.host, place.port), timeout=PATIENCE_SECONDS)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.pid = 0
        self.key = b""
        login = ServerLogin(place.user, place.password, None, True)
        _ = self >> p.startup_message({"user": place.user, "database": database}, version)
        while True:
            kind, body = self.message()
            if kind == "R":
                answer = login.feed(body)
                if answer is not None:
                    _ = self >> packet("p", answer)
            elif kind == "K":
                self.pid, self.key = int.from_bytes(body[:4], "big"), body[4:]
            elif kind == "E":
                self.sock.close()
                raise PermissionError(p.error_fields(body)["C"])
            elif kind == "Z":
                return

    def __rshift__(self, data: bytes) -> Raw:
        self.sock.sendall(data)
        return self

    def receive(self, size: int = 65536) -> bytes:
        try:
            data = self.sock.recv(size)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Gone
        return data

    def message(self) -> tuple[str, bytes]:
        """The next message: type and body."""
        while len(self.buffer) < 5:
            self.buffer += self.receive()
        size = int.from_bytes(self.buffer[1:5], "big") + 1
        while len(self.buffer) < size:
            self.buffer += self.receive()
        whole, self.buffer = self.buffer[:size], self.buffer[size:]
        return chr(whole[0]), whole[5:]

    def until(self, wanted: str) -> bytes:
        """All up to the next message of this type, or to the end of the connection."""
        heard = b""
        with contextlib.suppress(Gone):
            while True:
                kind, body = self.message()
                heard += packet(kind, body)
                if kind == wanted:
                    break
        return heard

    def answers(self, count: int = 1) -> bytes:
        """All up to the next `count` ReadyForQuery."""
        return b"".join(self.until("Z") for _ in range(count))

    def ask(self, sql: str) -> str:
        """The first value of the last row, "error CODE", or the command tag."""
        _ = self >> Query(sql)
        return outcome(self.answers())

    def ask_bytes(self, sql: str) -> bytes:
        """All that answers one Query."""
        _ = self >> Query(sql)
        return self.answers()

    def cancel(self) -> None:
        """Ask on another connection to stop what this one runs; returns when that was taken."""
        body = struct.pack("!ii", p.CANCEL_REQUEST, self.pid) + self.key
        with socket.create_connection((self.place.host, self.place.port), PATIENCE_SECONDS) as line:
            line.sendall(struct.pack("!i", len(body) + 4) + body)
            with contextlib.suppress(ConnectionResetError):
                line.recv(1)

    def crash(self) -> None:
        """Go without a word: the peer gets a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.sendall(packet("X"))
        self.sock.close()


def outcome(heard: bytes) -> str:
    """What an answer comes to, in a word."""
    found = "nothing"
    for kind, body in messages(heard):
        if kind == "E":
            return "error " + p.error_fields(body)["C"]
        if kind == "D":
            size = int.from_bytes(body[2:6], "big", signed=True)
            found = "null" if size < 0 else body[6 : 6 + size].decode()
        elif kind == "C" and found == "nothing":
            found = body[:-1].decode()
    return found


@contextlib.contextmanager
def raw(place: Place, database: str = "", version: int = p.PROTOCOL_3_0) -> Iterator[Raw]:
    """A connection for a while; the database is the place's own unless another is named."""
    client = Raw(place, database or getattr(place, "database", "postgres"), version)
    try:
        yield client
    finally:
        client.close()


def startup(*words: str) -> bytes:
    """A startup packet of these names and values, of protocol 3.0."""
    body = struct.pack("!i", p.PROTOCOL_3_0) + zeroed(*words) + b"\0"
    return struct.pack("!i", len(body) + 4) + body
