"""Whatever bytes a server sends, its client gets whole messages or an end, and nobody else is hit.

Invariant: any bytes from a server raise nothing but a TenantryError inside, keep no more than one
inspected message in memory, and leave, once the client has gone, nothing lent, running or pinned.
"""

from __future__ import annotations

import random

import pytest
from support.transcript import (
    BindComplete,
    Columns,
    Complete,
    CopyIn,
    CopyOut,
    Error,
    Notice,
    Parameter,
    Parse,
    ParseComplete,
    Query,
    Ready,
    Row,
    Stage,
    Sync,
    acted_on,
    one,
    packet,
)

from wire.postgres.protocol import MAX_INSPECTED_BYTES

SHORT, LONG = 300, 50_000
WORDS = (
    Columns("a"),
    Row("1"),
    Row("x" * 300),
    Complete("SELECT 1"),
    Complete("SET"),
    Ready(),
    Ready("T"),
    Ready("E"),
    Error("22012"),
    Error("57P01", "bye", "FATAL"),
    Notice("hello"),
    Parameter("TimeZone", "UTC"),
    ParseComplete,
    BindComplete,
    CopyIn,
    CopyOut,
    packet("d", b"1\n"),
    packet("c"),
    packet("s"),
    packet("n"),
    packet("I"),
    packet("3"),
    packet("V", b"\xff\xff\xff\xff"),
    packet("A", b"\0\0\0\1a\0b\0"),
)
REQUESTS = (
    Query("select 1"),
    Query("set work_mem = '1MB'; select 2"),
    one("select 1") + Sync,
    Parse("a", "select 1") + Sync,
    Query("begin"),
    Query("copy t from stdin"),
    Query("listen a"),
)


def play(stage: Stage, seed: int) -> None:
    dice = random.Random(seed)
    server = stage.server.connection
    for _ in range(30):
        if dice.random() < 0.5:
            stage.client >> dice.choice(REQUESTS)
        data = bytearray(b"".join(dice.choice(WORDS) for _ in range(dice.randint(1, 4))))
        for _ in range(dice.choice((0, 0, 0, 1, 3))):
            data[dice.randrange(len(data))] = dice.randrange(256)
        stage.server.says(bytes(data), dice.randint(1, len(data)))
        assert len(server.partial) <= MAX_INSPECTED_BYTES + 5
        if stage.server.transport.closed:
            break
    stage.client.connection.connection_lost(None)
    stage.at_rest()


def test_a_few() -> None:
    for seed in range(SHORT):
        acted_on(max_rows_per_query=50)(lambda stage, seed=seed: play(stage, seed))()


@pytest.mark.fuzz
def test_many() -> None:
    for seed in range(LONG):
        acted_on(max_rows_per_query=50)(lambda stage, seed=seed: play(stage, seed))()
