"""Whatever bytes a client sends, the proxy ends in protocol errors only, and counts right after.

Invariant: any bytes from a logged-in client leave the client answered or closed, no exception but a
TenantryError inside, and, once it has gone, no server lent, no query running, nothing pinned.
"""

from __future__ import annotations

import random

import pytest
from support.transcript import (
    Bind,
    BindComplete,
    Close,
    Complete,
    CopyData,
    CopyDone,
    CopyIn,
    Describe,
    Error,
    Execute,
    Flush,
    Parse,
    ParseComplete,
    Query,
    Ready,
    Row,
    Stage,
    Sync,
    acted,
    messages,
    packet,
)

SHORT, LONG = 150, 20_000
WORDS = (
    Query("select 1"),
    Query("begin"),
    Query("commit"),
    Query("set work_mem = '1MB'"),
    Query("listen a"),
    Query("unlisten a"),
    Query("copy t from stdin"),
    Query("select pg_read_file('x')"),
    Query("deallocate a"),
    Query("deallocate all; select 1"),
    Parse("", "select 1"),
    Parse("a", "select 1"),
    Parse("b", "select 2"),
    Parse("c", "rollback"),
    Bind(),
    Bind("", "a"),
    Bind("p", "b"),
    Bind("", "c"),
    Describe("S", "a"),
    Describe("P"),
    Execute(),
    Execute("p", 1),
    Close("S", "a"),
    Close("P", "p"),
    Sync,
    Flush,
    CopyData(b"1\n"),
    CopyDone,
    packet("F", (952).to_bytes(4, "big") + b"\0\0"),
)
# Anything else than COPY data within COPY ends the connection, as PostgreSQL has it.
SANE = tuple(word for word in WORDS if b"copy t" not in word)
REPLIES = {
    "P": ParseComplete,
    "B": BindComplete,
    "D": Error("34000"),
    "E": Row("1") + Complete("SELECT 1"),
    "C": packet("3"),
}


class Backend:
    """Answers as PostgreSQL would, roughly: enough to keep the proxy's book in order."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.skipping = False
        self.copying = False
        self.status = "I"
        self.rest = b""

    def answer(self, data: bytes) -> bytes:
        data = self.rest + data
        said = b""
        while len(data) >= 5:
            size = int.from_bytes(data[1:5], "big") + 1
            if len(data) < size:
                break
            said += self.one(chr(data[0]), data[5:size])
            data = data[size:]
        self.rest = data
        return said

    def one(self, kind: str, body: bytes) -> bytes:
        if self.copying:
            if kind == "c":
                self.copying = False
                return Complete("COPY 1") + Ready(self.status)
            return b""
        if kind == "S":
            self.skipping = False
            return Ready(self.status)
        if self.skipping or kind in "Hdcf":
            return b""
        if kind == "F":
            return packet("V", b"\xff\xff\xff\xff") + Ready(self.status)
        fails = b"refused" in body or self.dice.random() < 0.15
        if kind == "Q":
            if fails:
                self.status = "E" if self.status != "I" else "I"
                return Error("22012") + Ready(self.status)
            if body.startswith(b"copy"):
                self.copying = True
                return CopyIn
            if body.startswith(b"begin"):
                self.status = "T"
            elif body.startswith(b"commit"):
                self.status = "I"
            return Complete("SELECT 1") + Ready(self.status)
        if fails or kind == "D":
            self.skipping = True
            self.status = "E" if self.status != "I" else "I"
            return Error("22012")
        return REPLIES[kind]


def sane(stage: Stage, seed: int) -> None:
    """Messages that are right, in an order that is not, cut anywhere; answers come at any time."""
    dice = random.Random(seed)
    backends = {server: Backend(dice) for server in stage.servers}

    def serve() -> None:
        for server, backend in backends.items():
            for _ in range(10):
                said = backend.answer(server.heard())
                if not said or server.transport.closed:
                    break
                server.says(said, dice.randint(1, 40))

    for _ in range(40):
        data = b"".join(dice.choice(SANE) for _ in range(dice.randint(1, 8)))
        stage.client.says(data, dice.randint(1, len(data)))
        if dice.random() < 0.7:
            serve()
    serve()
    assert not any(server.transport.closed for server in stage.servers), (
        "a correct server was taken for a broken one"
    )
    messages(stage.client.heard())
    stage.client.connection.connection_lost(None)
    stage.at_rest()


def hostile(stage: Stage, seed: int) -> None:
    """Bytes of all kinds, some of them almost right."""
    dice = random.Random(seed)
    for _ in range(20):
        data = bytearray(b"".join(dice.choice(WORDS) for _ in range(3)))
        for _ in range(dice.randint(0, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        if dice.random() < 0.2:
            data = bytearray(dice.randbytes(dice.randint(1, 50)))
        stage.client.says(bytes(data), dice.randint(1, len(data)))
        if stage.client.transport.closed:
            break
    messages(stage.client.heard())
    stage.client.connection.connection_lost(None)
    stage.at_rest()


@pytest.mark.parametrize("play", [sane, hostile])
def test_a_few(play) -> None:
    for seed in range(SHORT):
        acted(lambda stage, seed=seed: play(stage, seed))()


@pytest.mark.fuzz
@pytest.mark.parametrize("play", [sane, hostile])
def test_many(play) -> None:
    for seed in range(LONG):
        acted(lambda stage, seed=seed: play(stage, seed))()
