"""What a client says, in any pieces, and what a hostile one may not say."""

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
    CopyFail,
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
    Terminate,
    acted,
    acted_on,
    codes,
    messages,
    one,
    packet,
    zeroed,
)

REQUESTS = (
    Query("select 1")
    + Query("insert into t values ('" + "x" * 500 + "')")
    + Parse("", "select $1", (25,))
    + Bind("", "", (b"y" * 700,))
    + Describe("P")
    + Execute("", 10)
    + Close("P")
    + Flush
    + Sync
    + Query("")
)


@pytest.mark.parametrize("sizes", [(1,), (2, 3), (5,), (7, 1, 1), (4096,), (len(REQUESTS),)])
def test_any_pieces_give_the_same_requests(sizes: tuple[int, ...]) -> None:
    @acted
    def play(stage: Stage) -> None:
        stage.client.says(REQUESTS, *sizes)
        stage.server << REQUESTS

    play()


@acted
def test_random_pieces_give_the_same_requests(stage: Stage) -> None:
    dice = random.Random(2)
    for _ in range(50):
        stage.client.says(REQUESTS, *(dice.randint(1, 60) for _ in range(40)))
        stage.server << REQUESTS


def renamed(stage: Stage) -> bytes:
    stage.client >> Parse("a", "select $1") + Sync
    name = messages(stage.server.heard())[0][1].split(b"\0")[0]
    stage.server >> ParseComplete + Ready()
    stage.client.heard()
    return name


@acted
def test_a_large_bind_is_passed_on_as_it_comes_with_its_name_changed(stage: Stage) -> None:
    name = renamed(stage).decode()
    value = b"z" * 1_000_000
    stage.client.says(Bind("", "a", (value,)) + Execute() + Sync, 10_000)
    stage.server << Bind("", name, (value,)) + Execute() + Sync


@acted
def test_a_large_bind_does_not_wait_for_its_end(stage: Stage) -> None:
    renamed(stage)
    stage.client >> Bind("", "a", (b"z" * 1_000_000,))[:500_000]
    assert len(stage.server.transport.written) > 499_000


@acted
def test_a_large_bind_that_is_refused_is_skipped_to_its_end(stage: Stage) -> None:
    stage.client.says(Bind("", "nix", (b"z" * 1_000_000,)) + Execute() + Sync, 10_000)
    stage.server << b""
    assert codes(stage.client.heard()) == ["26000"]
    stage.client >> Query("select 1")
    stage.server << Query("select 1")


@acted_on(max_statement_size=1000)
def test_a_statement_over_its_size_is_not_even_gathered(stage: Stage) -> None:
    query = Query("select '" + "x" * 5_000_000 + "'")
    stage.client >> query[:100_000]
    assert codes(stage.client.transport.written) == ["54000"]
    stage.client.says(query[100_000:], 100_000)
    assert [kind for kind, _ in messages(stage.client.heard())] == ["E", "Z"]
    stage.server << b""
    stage.client >> Query("select 1")
    stage.server << Query("select 1")


@acted_on(max_statement_size=1000)
def test_a_large_parse_over_its_size_skips_to_sync(stage: Stage) -> None:
    parse = Parse("", "select '" + "x" * 5_000_000 + "'")
    stage.client.says(parse + Bind() + Execute() + Sync, 100_000)
    heard = stage.client.heard()
    assert [kind for kind, _ in messages(heard)] == ["E", "Z"]
    assert codes(heard) == ["54000"]
    stage.at_rest()


@acted_on(max_statement_size=1000)
def test_too_large_in_a_block_aborts_the_block(stage: Stage) -> None:
    stage.client >> Query("begin")
    stage.server >> Complete("BEGIN") + Ready("T")
    stage.client.heard()
    stage.server.heard()
    stage.client.says(Query("select '" + "x" * 500_000 + "'"), 100_000)
    stage.server << Query("tenantry refused this statement")
    stage.server >> Error("42601") + Ready("E")
    heard = stage.client.heard()
    assert codes(heard) == ["54000"]
    assert heard.endswith(Ready("E"))


@acted
def test_a_refused_statement_in_a_block_aborts_it(stage: Stage) -> None:
    refused = "select pg_read_file('x')"
    stage.client >> Query("begin") + Query(refused) + Query("commit")
    stage.server << Query("begin") + Query("tenantry refused this statement") + Query("commit")
    stage.server >> Complete("BEGIN") + Ready("T") + Error("42601") + Ready("E")
    stage.server >> Complete("ROLLBACK") + Ready()
    heard = stage.client.heard()
    assert [kind for kind, _ in messages(heard)] == ["C", "Z", "E", "Z", "C", "Z"]
    assert codes(heard) == ["42501"]
    stage.at_rest()


@acted
def test_a_refused_statement_alone_reaches_no_server(stage: Stage) -> None:
    stage.client >> Query("select pg_read_file('x')")
    assert [kind for kind, _ in messages(stage.client.heard())] == ["E", "Z"]
    stage.server << b""
    stage.at_rest()


@acted_on(rate=1.0)
def test_over_the_rate_in_the_extended_protocol(stage: Stage) -> None:
    stage.bucket.tokens = 0.0
    stage.client >> one("select 1") + Sync
    heard = stage.client.heard()
    assert [kind for kind, _ in messages(heard)] == ["E", "Z"]
    assert codes(heard) == ["53400"]
    stage.at_rest()
    stage.bucket.tokens = 1.0
    stage.client >> one("select 1") * 2 + Sync
    assert [kind for kind, _ in messages(stage.server.heard())] == [*"PBEPB", "P", "S"]
    done = ParseComplete + BindComplete + Complete("SELECT 1")
    stage.server >> done + ParseComplete + BindComplete + Error("42601") + Ready()
    assert codes(stage.client.heard()) == ["53400"]
    stage.at_rest()


@acted
def test_requests_wait_for_a_server_and_go_on_in_order(stage: Stage) -> None:
    other = stage.new_client()
    other >> Query("begin")
    stage.client >> Parse("", "select 1") + Bind()
    stage.client >> Execute() + Sync + Query("select 2")
    assert not stage.client.transport.reading
    stage.server << Query("begin")
    stage.server >> Complete("BEGIN") + Ready("T")
    other >> Query("rollback")
    stage.server << Query("rollback")
    stage.server >> Complete("ROLLBACK") + Ready()
    stage.server << one("select 1") + Sync + Query("select 2")
    assert stage.client.transport.reading


@acted
def test_a_cancel_ends_the_wait_for_a_server(stage: Stage) -> None:
    other = stage.new_client()
    other >> Query("begin")
    stage.client >> Query("select 1")
    stage.client.connection.cancel()
    heard = stage.client.heard()
    assert [kind for kind, _ in messages(heard)] == ["E", "Z"]
    assert codes(heard) == ["57014"]
    assert not stage.pool.waiters
    assert stage.client.transport.reading


@acted
def test_the_wait_for_a_server_ends_with_an_error(stage: Stage) -> None:
    from time import monotonic

    stage.pool.acquire_seconds = 5
    stage.new_client() >> Query("begin")
    stage.client >> one("select 1") + Sync
    stage.pool.sweep(monotonic() + 6)
    heard = stage.client.heard()
    assert [kind for kind, _ in messages(heard)] == ["E", "Z"]
    assert codes(heard) == ["53300"]


@acted
def test_a_client_that_takes_no_answers_says_nothing_more_and_blocks_nobody(stage: Stage) -> None:
    stage.client >> Query("select 1")
    stage.client.connection.pause_writing()
    assert not stage.server.transport.reading
    stage.server >> Row("1") + Complete("SELECT 1") + Ready()
    stage.at_rest()
    other = stage.new_client()
    other >> Query("select 2")
    assert stage.server.transport.reading
    assert not stage.client.transport.reading
    stage.client.connection.resume_writing()
    assert stage.client.transport.reading


@acted
def test_a_client_whose_server_took_nothing_more_is_not_held_for_ever(stage: Stage) -> None:
    stage.client >> Query("copy t from stdin")
    stage.server >> CopyIn
    stage.client >> CopyData(b"1\n")
    stage.server.connection.pause_writing()
    assert not stage.client.transport.reading
    stage.server >> Error("22P02") + Ready()
    stage.at_rest()
    assert stage.client.transport.reading


@acted
def test_a_client_with_too_many_requests_waits(stage: Stage) -> None:
    from wire.postgres.owed import MAX_OUTSTANDING

    stage.client >> one("select 1") + Sync
    block = Sync * 50_000
    for _ in range(MAX_OUTSTANDING // 50_000):
        stage.client >> block
        stage.server.heard()
    assert not stage.client.transport.reading
    stage.server >> ParseComplete + BindComplete + Complete("SELECT 1")
    for _ in range(MAX_OUTSTANDING // 50_000 // 2 + 1):
        stage.server >> Ready() * 50_000
    assert stage.client.transport.reading


LARGE_OBJECT_WRITE = packet("F", (955).to_bytes(4, "big") + b"\0\0\0\2" + b"x" * 100_000)


@acted
def test_a_large_object_is_written_as_it_comes(stage: Stage) -> None:
    stage.client >> LARGE_OBJECT_WRITE[:50_000]
    assert len(stage.server.transport.written) == 50_000
    stage.client >> LARGE_OBJECT_WRITE[50_000:]
    stage.server << LARGE_OBJECT_WRITE
    stage.server >> packet("V", b"\0\0\0\4\0\0\0\1") + Ready()
    stage.at_rest()


@acted
def test_other_functions_are_refused(stage: Stage) -> None:
    stage.client >> packet("F", (1).to_bytes(4, "big") + b"\0\0\0\0\0\0")
    heard = stage.client.heard()
    assert [kind for kind, _ in messages(heard)] == ["E", "Z"]
    assert codes(heard) == ["0A000"]


@acted
def test_copy_fail_reaches_the_server(stage: Stage) -> None:
    stage.client >> Query("copy t from stdin")
    stage.server >> CopyIn
    stage.client >> CopyData(b"1\n") + CopyFail("changed my mind")
    assert stage.server.heard().endswith(CopyFail("changed my mind"))
    stage.server >> Error("57014") + Ready()
    stage.client << CopyIn + Error("57014") + Ready()
    stage.at_rest()


@acted
def test_late_copy_data_goes_nowhere(stage: Stage) -> None:
    stage.client >> CopyData(b"1\n") + CopyDone + CopyFail("x") + Flush + Sync
    stage.server << b""
    stage.client << Ready()


@acted
def test_terminate_in_a_query_takes_the_server_along(stage: Stage) -> None:
    stage.client >> Query("select 1") + Terminate
    assert stage.client.transport.closed
    assert stage.server.transport.closed
    stage.at_rest()


HOSTILE = {
    "length 0": b"Q\0\0\0\0",
    "length 3": b"Q\0\0\0\3",
    "length 2 GiB": b"Q\x80\0\0\0",
    "length 1 GiB": b"Q\x40\0\0\0",
    "unknown type": packet("?"),
    "password": packet("p", b"x"),
    "query without its end": packet("Q", b"select 1"),
    "empty query message": packet("Q"),
    "two strings": packet("Q", zeroed("select 1", "select 2")),
    "parse without a text": packet("P", b"x\0"),
    "parse without anything": packet("P"),
    "bind without a name": packet("B", b"\0"),
    "bind without anything": packet("B"),
    "bind with an endless name": b"B\0\1\0\0" + b"x" * 5000,
    "describe nothing": packet("D"),
    "describe something else": packet("D", b"X\0"),
    "describe without an end": packet("D", b"Sx"),
    "close nothing": packet("C"),
    "execute nothing": packet("E"),
    "function call without a function": packet("F"),
    "long sync": b"S\0\1\0\0",
    "long terminate": b"X\0\1\0\0",
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("when", ["idle", "in a query", "in a failed pipeline"])
def test_a_hostile_client_is_told_and_closed(what: str, when: str) -> None:
    @acted
    def play(stage: Stage) -> None:
        if when != "idle":
            stage.client >> one("select 1")
        if when == "in a failed pipeline":
            stage.client >> Flush
            stage.server >> ParseComplete + BindComplete + Error("22012")
            stage.client.heard()
        stage.client >> HOSTILE[what]
        heard = stage.client.heard()
        if when == "in a failed pipeline" and not stage.client.transport.closed:
            # PostgreSQL does not look into what it skips either.
            assert not heard
            stage.client.connection.connection_lost(None)
        else:
            assert codes(heard) == ["08P01"]
            assert stage.client.transport.closed
        stage.at_rest()

    play()


@acted
def test_a_client_that_leaves_while_it_waits_leaves_the_queue(stage: Stage) -> None:
    stage.new_client() >> Query("begin")
    stage.client >> Query("select 1")
    assert stage.pool.waiters
    stage.client.connection.connection_lost(None)
    assert not stage.pool.waiters


def test_nothing_is_kept_of_a_long_stream_of_copy_data() -> None:
    @acted
    def play(stage: Stage) -> None:
        stage.client >> Query("copy t from stdin")
        stage.server >> CopyIn
        piece = CopyData(b"x" * 65_000)
        stage.client.says(piece * 20, 60_000)
        assert (
            stage.client.connection.rest is None or sum(map(len, stage.client.connection.rest)) < 10
        )
        assert stage.server.heard().endswith(piece * 20)

    play()
