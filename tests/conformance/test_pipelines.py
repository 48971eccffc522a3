"""Pipelines of all sorts give through the proxy, byte for byte, what they give directly."""

from __future__ import annotations

import random

import pytest
from support.engines import Postgres
from support.proxy import WireProxy
from support.raw import raw
from support.transcript import (
    Bind,
    Close,
    Describe,
    Execute,
    Flush,
    Parse,
    Query,
    Sync,
    messages,
    one,
)

from wire.postgres import protocol as p

SEEDS = 60
WORDS = (
    Query("select 1; select 2"),
    Query("select 1/0"),
    Query("begin"),
    Query("commit"),
    Query("rollback"),
    Query("savepoint s"),
    Query("rollback to s"),
    Query(""),
    Query("set work_mem = '1MB'"),
    Query("show work_mem"),
    Query("prepare q as select 42"),
    Query("execute q"),
    Query("deallocate q"),
    Query("deallocate a"),
    Query("declare c cursor for select generate_series(1, 5)"),
    Query("fetch 2 from c"),
    Parse("", "select 1"),
    Parse("", "select 1/0"),
    Parse("a", "select generate_series(1, 5)"),
    Parse("b", "select 'two'"),
    Parse("r", "rollback"),
    Parse("", "select from from"),
    Bind(),
    Bind("", "a"),
    Bind("p", "a"),
    Bind("", "b"),
    Bind("", "r"),
    Bind("", "q"),
    Describe("S", "a"),
    Describe("P"),
    Execute(),
    Execute("", 2),
    Execute("p", 2),
    Close("S", "a"),
    Close("S", "q"),
    Close("P", "p"),
    one("select 1"),
    one("select 1/0"),
    one("show work_mem"),
    one("set work_mem = '2MB'"),
    Flush,
    Sync,
    Sync,
)


def names(word: bytes) -> bool:
    """Whether it gives a name to a statement, or takes it."""
    if word[:1] == b"Q":
        return b"prepare" in word
    return (word[:1] == b"P" and word[5:6] != b"\0") or (word[:1] == b"C" and word[5:6] == b"S")


def script(seed: int) -> list[list[bytes]]:
    """Some rounds of messages; each ends with a Sync.

    A Query comes after a Sync only: within a pipeline PostgreSQL 18 itself answers some of them
    with an internal error. And names are given and taken in a round of their own: the proxy looks
    up the names in what is sent ahead before it knows whether the Parse before a Sync has failed.
    """
    dice = random.Random(seed)
    rounds = []
    for _ in range(dice.randint(2, 6)):
        said: list[bytes] = []
        for _ in range(dice.randint(1, 9)):
            word = dice.choice(WORDS)
            if word[:1] == b"Q" and said and said[-1][:1] not in b"QS":
                word = Sync
            if names(word) and any(before == Sync or before[:1] == b"Q" for before in said):
                break
            said.append(word)
            ends = word == Sync or word[:1] == b"Q"
            if ends and any(names(before) for before in said):
                break
        rounds.append([*said, Sync])
    return rounds


def told(heard: bytes) -> list[str]:
    """The messages; of errors the code, and nothing of what may come at any time."""
    lines = []
    for kind, body in messages(heard):
        if kind == "E":
            lines.append("E " + p.error_fields(body)["C"])
        elif kind not in "NSA":
            lines.append(f"{kind} {body!r}")
    return lines


def play(place: WireProxy | Postgres, database: str, rounds: list[list[bytes]]) -> list[list[str]]:
    heard = []
    with raw(place, database) as client:
        for said in rounds:
            # What is skipped has no answer, so their number is not known before. This one has, in
            # any state of the transaction, and it is an error that tells its name.
            client >> b"".join(said) + Describe("S", "the end") + Sync
            answer = b""
            while b"the end" not in answer:
                answer += client.until("Z")
            heard.append(told(answer))
    return heard


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_same_answers_in_the_same_order(
    proxy: WireProxy, tenant_database: tuple[Postgres, str], seed: int
) -> None:
    server, database = tenant_database
    assert play(proxy, database, script(seed)) == play(server, database, script(seed))
