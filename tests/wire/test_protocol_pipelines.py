"""Pipelines, as bytes: who hears what, and when the server is free again."""

from __future__ import annotations

from support.transcript import (
    Bind,
    BindComplete,
    Close,
    CloseComplete,
    Columns,
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
    acted_on,
    codes,
    messages,
    one,
)

DONE = ParseComplete + BindComplete + Complete("SELECT 1")


@acted
def test_a_query_and_its_answer(stage: Stage) -> None:
    stage.client >> Query("select 1")
    stage.server << Query("select 1")
    stage.server >> Columns("a") + Row("1") + Complete("SELECT 1") + Ready()
    stage.client << Columns("a") + Row("1") + Complete("SELECT 1") + Ready()
    stage.at_rest()


@acted
def test_n_requests_in_one_write_get_n_answers_before_the_server_is_free(stage: Stage) -> None:
    stage.client >> Query("select 1") * 3
    stage.server << Query("select 1") * 3
    for _ in range(2):
        stage.server >> Complete("SELECT 1") + Ready()
        stage.client << Complete("SELECT 1") + Ready()
        assert stage.pool.lent
    stage.server >> Complete("SELECT 1") + Ready()
    stage.client << Complete("SELECT 1") + Ready()
    stage.at_rest()


@acted
def test_flush_without_sync_keeps_the_server(stage: Stage) -> None:
    stage.client >> one("select 1") + Flush
    stage.server << one("select 1") + Flush
    stage.server >> DONE
    stage.client << DONE
    assert stage.pool.lent
    stage.client >> Sync
    stage.server >> Ready()
    stage.client << Ready()
    stage.at_rest()


@acted
def test_an_error_before_a_delayed_sync_skips_what_comes_between(stage: Stage) -> None:
    stage.client >> one("select 1/0") + Flush
    stage.server.heard()
    stage.server >> ParseComplete + BindComplete + Error("22012")
    stage.client << ParseComplete + BindComplete + Error("22012")
    # PostgreSQL answers none of these; neither does it get to see them.
    stage.client >> one("select 2") + Parse("later", "select 3") + Query("select 4")
    stage.client >> Sync
    stage.server << Sync
    stage.server >> Ready()
    stage.client << Ready()
    stage.at_rest()
    stage.client >> Bind("", "later") + Sync
    assert codes(stage.client.heard()) == ["26000"]


@acted
def test_a_query_in_a_failed_pipeline_is_skipped_too(stage: Stage) -> None:
    stage.client >> one("select 1/0") + Query("select 4") + Sync
    stage.server >> ParseComplete + BindComplete + Error("22012") + Ready()
    stage.client << ParseComplete + BindComplete + Error("22012") + Ready()
    stage.at_rest()


@acted
def test_copy_data_sent_ahead_of_a_simple_copy_frees_the_server(stage: Stage) -> None:
    stage.client >> Query("copy t from stdin") + CopyData(b"1\n") + CopyDone
    stage.server >> CopyIn + Complete("COPY 1") + Ready()
    stage.client << CopyIn + Complete("COPY 1") + Ready()
    stage.at_rest()


@acted
def test_copy_in_the_extended_protocol_ignores_the_sync_before_its_end(stage: Stage) -> None:
    stage.client >> one("copy t from stdin") + Sync
    stage.server >> ParseComplete + BindComplete + CopyIn
    stage.client >> CopyData(b"1\n") + CopyDone + Sync
    stage.server >> Complete("COPY 1") + Ready()
    stage.client << ParseComplete + BindComplete + CopyIn + Complete("COPY 1") + Ready()
    stage.at_rest()


@acted
def test_copy_in_the_extended_protocol_that_fails_waits_for_the_late_sync(stage: Stage) -> None:
    stage.client >> one("copy t from stdin") + Sync
    stage.server >> ParseComplete + BindComplete + CopyIn
    stage.client >> CopyData(b"x\n")
    stage.server >> Error("22P02")
    stage.client >> CopyData(b"x\n") + CopyDone
    assert stage.pool.lent
    stage.client >> Sync
    stage.server >> Ready()
    stage.client << ParseComplete + BindComplete + CopyIn + Error("22P02") + Ready()
    stage.at_rest()


@acted
def test_the_server_stays_while_copy_data_is_half_way(stage: Stage) -> None:
    data = CopyData(b"x" * 1000)
    stage.client >> Query("copy t from stdin")
    stage.server >> CopyIn
    stage.client >> data + data[:500]
    stage.server >> Error("22P02") + Ready()
    assert stage.pool.lent, "the next client's query would be taken for COPY data"
    stage.client >> data[500:]
    stage.at_rest()
    assert stage.server.heard().endswith(data + data)


@acted
def test_a_client_lost_while_copy_data_is_half_way_takes_its_server_with_it(stage: Stage) -> None:
    stage.client >> Query("copy t from stdin")
    stage.server >> CopyIn
    stage.client >> CopyData(b"x" * 1000)[:500]
    stage.server >> Error("22P02") + Ready()
    stage.client.connection.connection_lost(None)
    stage.at_rest()
    assert stage.server.transport.closed


@acted
def test_a_refusal_with_a_borrowed_server_gives_the_server_back(stage: Stage) -> None:
    stage.client >> Parse("s", "select 1") + Sync
    stage.server >> ParseComplete + Ready()
    stage.client << ParseComplete + Ready()
    stage.client >> Parse("s", "select 2") + Sync
    assert [kind for kind, _ in messages(stage.client.heard())] == ["E", "Z"]
    stage.at_rest()


@acted_on(max_pinned_servers=1)
def test_a_refused_pin_gives_the_server_back(stage: Stage) -> None:
    stage.lease.max_pinned = 1
    stage.meter.pinned = 1
    stage.client >> Query("listen a")
    assert codes(stage.client.heard()) == ["53400"]
    stage.meter.pinned = 0
    stage.at_rest()


@acted_on(max_concurrent_queries=1)
def test_pipelined_queries_run_one_after_the_other_and_count_once(stage: Stage) -> None:
    stage.client >> Query("select 1") * 2 + one("select 1") * 2 + Sync
    stage.server << Query("select 1") * 2 + one("select 1") * 2 + Sync


@acted_on(3, max_concurrent_queries=2)
def test_a_third_query_at_a_time_is_refused(stage: Stage) -> None:
    clients = [stage.client, stage.new_client(), stage.new_client()]
    for client in clients:
        client >> Query("select 1")
    assert [codes(client.heard()) for client in clients] == [[], [], ["53400"]]


@acted_on(1, max_concurrent_queries=2)
def test_who_waits_for_a_server_counts_as_running(stage: Stage) -> None:
    clients = [stage.client, stage.new_client(), stage.new_client()]
    for client in clients:
        client >> Query("select 1")
    assert [codes(client.heard()) for client in clients] == [[], [], ["53400"]]


@acted
def test_a_long_pipeline_is_not_remembered_for_ever(stage: Stage) -> None:
    stage.client >> Query("select 1")
    for _ in range(100_000):
        stage.client >> Query("select 1")
        stage.server >> Complete("SELECT 1") + Ready()
        stage.client.heard()
        stage.server.heard()
    assert len(stage.server.connection.owed) < 10_000


@acted
def test_close_describe_and_parse_in_one_pipeline(stage: Stage) -> None:
    described = Describe("S", "a")
    stage.client >> Parse("a", "select 1") + described + Bind("", "a") + Execute() + Sync
    server_name = messages(stage.server.heard())[0][1].split(b"\0")[0].decode()
    answer = ParseComplete + Columns("x") + BindComplete + Complete("SELECT 1") + Ready()
    stage.server >> answer
    stage.client << answer
    stage.client >> Close("S", "a") + Parse("a", "select 1") + described + Sync
    stage.server << Describe("S", server_name) + Sync
    stage.server >> Columns("x") + Ready()
    stage.client << CloseComplete + ParseComplete + Columns("x") + Ready()
    stage.at_rest()
