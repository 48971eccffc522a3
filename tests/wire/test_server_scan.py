"""What a server says, in any pieces, and what a hostile one may not say."""

from __future__ import annotations

import random

import pytest
from support.transcript import (
    Actor,
    BindComplete,
    Columns,
    Complete,
    CopyOut,
    Error,
    Notice,
    Parameter,
    Parse,
    ParseComplete,
    PortalSuspended,
    Query,
    Ready,
    Row,
    Stage,
    Sync,
    acted,
    acted_on,
    codes,
    messages,
    one,
    packet,
)

ANSWER = (
    Notice("hear")
    + Columns("a", "b")
    + Row("1", "x" * 300)
    + Parameter("TimeZone", "UTC")
    + Row("2", "")
    + Complete("SELECT 2")
    + Columns("c")
    + Error("22012", "y" * 500)
    + Ready()
)


@pytest.mark.parametrize("sizes", [(1,), (2, 3), (5,), (7, 1, 1), (4096,), (len(ANSWER),)])
def test_any_pieces_give_the_same_answer(sizes: tuple[int, ...]) -> None:
    @acted
    def play(stage: Stage) -> None:
        stage.client >> Query("select 1; select 1/0")
        stage.server.says(ANSWER, *sizes)
        stage.client << ANSWER
        stage.at_rest()

    play()


@acted
def test_random_pieces_give_the_same_answer(stage: Stage) -> None:
    dice = random.Random(1)
    for _ in range(50):
        stage.client >> Query("select 1; select 1/0")
        stage.server.says(ANSWER, *(dice.randint(1, 60) for _ in range(40)))
        stage.client << ANSWER
    stage.at_rest()


@acted
def test_a_large_row_is_passed_on_as_it_comes(stage: Stage) -> None:
    row = Row("x" * 1_000_000)
    stage.client >> Query("select 1")
    stage.server >> row[:500_000]
    assert len(stage.client.transport.written) == 500_000
    stage.server >> row[500_000:] + Complete("SELECT 1") + Ready()
    stage.client << row + Complete("SELECT 1") + Ready()


@acted
def test_a_large_error_is_passed_on_whole(stage: Stage) -> None:
    error = Error("22012", "x" * 300_000)
    stage.client >> Query("select 1")
    stage.server.says(error + Ready(), 50_000)
    stage.client << error + Ready()
    stage.at_rest()


@acted
def test_many_parameter_reports_in_one_segment(stage: Stage) -> None:
    reports = b"".join(Parameter(f"p{n}", "x") for n in range(30))
    stage.client >> Query("select 1")
    stage.server >> reports + Complete("SELECT 1") + Ready()
    stage.client << reports + Complete("SELECT 1") + Ready()
    other = stage.new_client()
    other >> Query("select 1")
    other << reports


@acted_on(max_rows_per_query=2)
def test_a_result_over_its_rows_ends_with_one_error(stage: Stage) -> None:
    stage.client >> Query("select a")
    stage.server >> Columns("a") + Row("1") * 5
    heard = stage.client.heard()
    assert [kind for kind, _ in messages(heard)] == ["T", "D", "D", "E"]
    assert codes(heard) == ["54000"]
    stage.server >> Row("6") + Error("57014") + Ready()
    stage.client << Ready()
    assert stage.server.connection.cancels == 1
    assert stage.meter.running == 0


@acted_on(max_result_size=100)
def test_a_result_over_its_bytes_ends_in_the_middle_of_no_row(stage: Stage) -> None:
    stage.client >> one("select a") + Sync
    stage.server >> ParseComplete + BindComplete + Row("x" * 200)[:50]
    stage.server >> Row("x" * 200)[50:] + Error("57014") + Ready()
    heard = stage.client.heard()
    assert [kind for kind, _ in messages(heard)] == ["1", "2", "E", "Z"]


@acted_on(max_rows_per_query=1)
def test_over_the_limit_in_a_block_the_block_is_failed(stage: Stage) -> None:
    stage.client >> Query("begin")
    stage.server >> Complete("BEGIN") + Ready("T")
    stage.client.heard()
    stage.client >> Query("select a")
    stage.server.heard()
    # It had ended before our cancel came.
    stage.server >> Row("1") + Row("2") + Complete("SELECT 2") + Ready("T")
    assert codes(stage.client.heard()) == ["54000"]
    stage.server << Query("tenantry refused this statement")
    stage.server >> Error("42601") + Ready("E")
    stage.client << Ready("E")


@acted_on(max_rows_per_query=2)
def test_a_cursor_fetched_a_few_rows_at_a_time_is_within_the_limit(stage: Stage) -> None:
    from support.transcript import Bind, Execute

    stage.client >> Parse("", "select a") + Bind() + (Execute("", 2) * 3) + Sync
    part = Row("1") + Row("2") + PortalSuspended
    stage.server >> ParseComplete + BindComplete + part + part + Complete("SELECT 0") + Ready()
    assert codes(stage.client.heard()) == []
    stage.at_rest()


def fails(server: Actor, said: bytes) -> None:
    server >> said
    assert server.transport.closed


HOSTILE = {
    "row out of turn": Row("1"),
    "completion out of turn": Complete("SELECT 1"),
    "ready out of turn": Ready(),
    "unknown message": packet("?", b"x"),
    "login again": packet("R", b"\0\0\0\0"),
    "replication": packet("W", b"\0\0\0"),
    "length too small": b"D\0\0\0\3",
    "length too large": b"D\x7f\xff\xff\xff",
    "bad status": packet("Z", b"?"),
    "bad parameter": packet("S", b"x"),
    "encoding that hides quotes": Parameter("client_encoding", "SJIS"),
    "strings read otherwise": Parameter("standard_conforming_strings", "off"),
    "endless parameters": b"".join(Parameter(f"p{n}", "x") for n in range(5000)),
    "endless description": b"T\x3f\xff\xff\xff" + b"x" * 100,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_idle_server_is_closed(what: str) -> None:
    @acted
    def play(stage: Stage) -> None:
        fails(stage.server, HOSTILE[what])
        stage.at_rest()

    play()


@pytest.mark.parametrize(
    "what",
    sorted(
        set(HOSTILE)
        - {"row out of turn", "completion out of turn", "ready out of turn", "endless description"}
    ),
)
def test_a_hostile_server_in_a_query_is_closed_and_its_client_told(what: str) -> None:
    @acted
    def play(stage: Stage) -> None:
        stage.client >> Query("select 1")
        fails(stage.server, HOSTILE[what])
        heard = messages(stage.client.heard())
        assert heard[-1][0] == "E"
        assert stage.client.transport.closed
        stage.at_rest()

    play()


@acted
def test_the_last_word_never_stands_inside_a_row(stage: Stage) -> None:
    row = Row("x" * 100)
    stage.client >> Query("select 1")
    stage.server >> row[:50]
    stage.server.connection.connection_lost(None)
    assert stage.client.heard() == row[:50]
    assert stage.client.transport.closed
    stage.at_rest()


@acted
def test_a_fatal_error_is_the_last_word(stage: Stage) -> None:
    fatal = Error("57P01", "terminating", "FATAL")
    stage.client >> Query("select 1")
    stage.server >> fatal
    stage.server.connection.connection_lost(None)
    stage.client << fatal
    stage.at_rest()


@acted
def test_a_server_that_dies_in_the_probe_does_not_go_in_silence(stage: Stage) -> None:
    stage.client >> Query("listen a")
    stage.server >> Complete("LISTEN") + Ready()
    stage.client >> Query("unlisten a")
    stage.server >> Complete("UNLISTEN") + Ready()
    stage.client.heard()
    stage.server >> Error("57P01", "terminating", "FATAL")
    stage.server.connection.connection_lost(None)
    assert codes(stage.client.heard()) == ["08006"]
    stage.at_rest()


@acted
def test_copy_out_is_passed_on(stage: Stage) -> None:
    answer = CopyOut + packet("d", b"1\n") * 3 + packet("c") + Complete("COPY 3") + Ready()
    stage.client >> Query("copy t to stdout")
    stage.server.says(answer, 3)
    stage.client << answer
    stage.at_rest()


@acted_on(max_query_duration=10)
def test_a_long_pipeline_of_short_queries_is_not_a_long_query(stage: Stage) -> None:
    stage.client >> Query("select 1") * 3
    began = stage.server.connection.busy_since
    stage.pool.sweep(began + 6)
    stage.server >> Complete("SELECT 1") + Ready()
    stage.pool.sweep(began + 8)
    stage.pool.sweep(began + 12)
    assert stage.server.connection.cancels == 0
    stage.pool.sweep(began + 19)
    assert stage.server.connection.cancels == 1


@acted_on(max_idle_in_transaction=10)
def test_an_implicit_transaction_left_open_is_a_transaction(stage: Stage) -> None:
    from support.transcript import Flush

    stage.client >> one("insert into t values (1)") + Flush
    stage.server >> ParseComplete + BindComplete + Complete("INSERT 0 1")
    stage.client.heard()
    stage.pool.sweep(stage.server.connection.idle_since + 11)
    assert codes(stage.client.heard()) == ["25P03"]
    stage.at_rest()
