"""The attacker's connection: sends an attack in one of several ways and keeps all it receives."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from support.raw import Gone, Raw, outcome
from support.transcript import Bind, CopyData, CopyDone, Execute, Query, Sync, packet

WAYS: Final = ("simple", "extended", "named")
# A named statement is run this often, and another tenant uses the server between.
RUNS: Final = 2


@dataclass(frozen=True)
class Login:
    """Where and as whom: what support.raw asks for."""

    host: str
    port: int
    user: str
    password: str
    database: str


class Attacker:
    """One connection, opened again when an attack has cost it."""

    def __init__(self, login: Login, entry: Callable[[Attacker], None]) -> None:
        self.login = login
        self.entry = entry
        self.complaints: list[str] = []
        self.used = 0
        self.open()

    def open(self) -> None:
        self.raw = Raw(self.login, self.login.database)
        self.gone = False
        self.entry(self)

    def close(self) -> None:
        self.raw.close()

    def ask(self, sql: str) -> str:
        return self.raw.ask(sql)

    # --- ways -------------------------------------------------------------------------------------

    def run(
        self,
        way: str,
        texts: tuple[str, ...],
        values: tuple[bytes, ...],
        data: bytes,
        other: Callable[[], None],
    ) -> bytes:
        """All that answers these statements, sent in this way."""
        heard = b""
        try:
            if way == "simple":
                for text in texts:
                    heard += self._send(_query(text), data, extended=False)
            elif way == "extended":
                for text in texts:
                    one = _parse("", text) + Bind("", "", values) + Execute() + Sync
                    heard += self._send(one, data, extended=True)
            else:
                heard += self._named(texts, values, data, other)
        except Gone:
            heard += self._lost(heard)
        return heard + self._settle()

    def _named(
        self,
        texts: tuple[str, ...],
        values: tuple[bytes, ...],
        data: bytes,
        other: Callable[[], None],
    ) -> bytes:
        heard = b""
        names: dict[int, str] = {}
        for _ in range(RUNS):
            for number, text in enumerate(texts):
                if number not in names:
                    self.used += 1
                    names[number] = f"s{self.used}"
                    heard += self._send(_parse(names[number], text) + Sync, data, extended=True)
                one = Bind("", names[number], values) + Execute() + Sync
                heard += self._send(one, data, extended=True)
            other()
        return heard

    def call(self, oid: int, values: tuple[bytes, ...]) -> bytes:
        """A FunctionCall with arguments as text."""
        body = struct.pack("!ihh", oid, 0, len(values))
        for value in values:
            body += struct.pack("!i", len(value)) + value
        try:
            heard = self._send(packet("F", body + struct.pack("!h", 0)), b"", extended=False)
        except Gone:
            heard = self._lost(b"")
        return heard + self._settle()

    def _send(self, data: bytes, copied: bytes, *, extended: bool) -> bytes:
        """All up to ReadyForQuery; COPY FROM is given its data."""
        heard = b""
        _ = self.raw >> data
        while True:
            try:
                kind, body = self.raw.message()
            except Gone:
                self._heard = heard
                raise
            heard += packet(kind, body)
            if kind == "G":
                # The Sync before was for COPY, which takes no notice of it.
                _ = self.raw >> CopyData(copied) + CopyDone + (Sync if extended else b"")
            elif kind == "Z":
                self._heard = b""
                return heard

    def _lost(self, heard: bytes) -> bytes:
        """The connection has ended: it must have been told why."""
        last = self._heard
        self.gone = True
        self.raw.close()
        if b"FATAL" not in last:
            self.complaints.append(f"the connection ended without a word: {last[-200:]!r}")
        return last

    def _settle(self) -> bytes:
        """Out of whatever block the attack has left, on a connection that works."""
        if self.gone:
            self.open()
            return b""
        try:
            heard = self._send(Query("ROLLBACK"), b"", extended=False)
            answer = self._send(Query("SELECT 'still here'"), b"", extended=False)
        except Gone:
            heard, answer = self._lost(b""), b"still here"
            self.open()
        if b"still here" not in answer:
            self.complaints.append(f"the connection is of no use any more: {answer!r}")
            self.close()
            self.open()
        return heard

    def rest(self) -> bytes:
        """What comes with the next answer: notifications, and who one is."""
        heard = self._send(Query("SELECT DISTINCT tenant_id FROM orders"), b"", extended=False)
        if outcome(heard) == "vexillum":
            self.complaints.append("the attacker has become the victim")
        return heard

    def renew(self) -> None:
        """As new for the next attack."""
        self.complaints = []
        with contextlib.suppress(Gone):
            if outcome(self._send(Query("DISCARD ALL"), b"", extended=False)) == "DISCARD ALL":
                self.entry(self)
                return
        self.close()
        self.open()


def _raw_text(sql: str) -> bytes:
    # \\udcXX stands for the byte XX, so that texts may be of no encoding at all.
    return sql.encode("utf-8", "surrogateescape")


def _query(sql: str) -> bytes:
    return packet("Q", _raw_text(sql) + b"\0")


def _parse(name: str, sql: str) -> bytes:
    return packet("P", name.encode() + b"\0" + _raw_text(sql) + b"\0" + struct.pack("!h", 0))
