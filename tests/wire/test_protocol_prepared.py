"""Prepared statements as bytes: names, other servers, eviction, failing pipelines."""

from __future__ import annotations

from support.transcript import (
    Actor,
    Bind,
    BindComplete,
    Close,
    CloseComplete,
    Complete,
    Describe,
    Error,
    Execute,
    Flush,
    NoData,
    Parse,
    ParseComplete,
    Query,
    Ready,
    Stage,
    Sync,
    acted,
    acted_on,
    codes,
    messages,
    one,
)


def parsed(server: Actor) -> list[str]:
    """Names under which the server was asked to prepare, since the last time."""
    return [body.split(b"\0")[0].decode() for kind, body in messages(server.heard()) if kind == "P"]


def prepare(stage: Stage, name: str, sql: str) -> str:
    """The client prepares; the statement's name on the server."""
    stage.client >> Parse(name, sql) + Sync
    (server_name,) = parsed(stage.server)
    stage.server >> ParseComplete + Ready()
    stage.client << ParseComplete + Ready()
    return server_name


@acted_on(2)
def test_a_statement_follows_its_client_to_another_server(stage: Stage) -> None:
    stage.client >> Parse("a", "select 1") + Sync
    first = next(server for server in stage.servers if server.transport.written)
    second = next(server for server in stage.servers if server is not first)
    first >> ParseComplete + Ready()
    name = parsed(first)[0]
    other = stage.new_client()
    other >> Query("begin")
    first << Query("begin")
    stage.client.heard()
    stage.client >> Bind("", "a") + Execute() + Sync
    second << Parse(name, "select 1") + Bind("", name) + Execute() + Sync
    second >> ParseComplete + BindComplete + Complete("SELECT 1") + Ready()
    stage.client << BindComplete + Complete("SELECT 1") + Ready()


@acted_on(2)
def test_the_unnamed_statement_follows_its_client_too(stage: Stage) -> None:
    stage.client >> Parse("", "select 1") + Sync
    first = next(server for server in stage.servers if server.transport.written)
    second = next(server for server in stage.servers if server is not first)
    first >> ParseComplete + Ready()
    stage.new_client() >> Query("begin")
    stage.client.heard()
    stage.client >> Bind() + Execute() + Sync
    second << Parse("", "select 1") + Bind() + Execute() + Sync


@acted
def test_an_unknown_name_is_an_error_and_the_rest_is_skipped(stage: Stage) -> None:
    stage.client >> Bind("", "nix") + Execute() + Sync
    assert [kind for kind, _ in messages(stage.client.transport.written)] == ["E", "Z"]
    assert codes(stage.client.heard()) == ["26000"]
    stage.at_rest()


@acted_on(max_prepared=2)
def test_an_evicted_statement_is_closed_and_prepared_again(stage: Stage) -> None:
    a, b = prepare(stage, "a", "select 1"), prepare(stage, "b", "select 2")
    stage.client >> Parse("c", "select 3") + Sync
    heard = messages(stage.server.heard())
    assert heard[0] == ("C", b"S" + a.encode() + b"\0")
    stage.server >> CloseComplete + ParseComplete + Ready()
    stage.client << ParseComplete + Ready()
    stage.client >> Bind("", "a") + Execute() + Sync
    assert messages(stage.server.heard())[:2] == [
        ("C", b"S" + b.encode() + b"\0"),
        messages(Parse(a, "select 1"))[0],
    ]
    stage.server >> CloseComplete + ParseComplete + BindComplete + Complete("SELECT 1") + Ready()
    stage.client << BindComplete + Complete("SELECT 1") + Ready()
    stage.at_rest()


@acted_on(max_prepared=2)
def test_an_eviction_that_a_failed_pipeline_skipped_has_not_happened(stage: Stage) -> None:
    a = prepare(stage, "a", "select 1")
    prepare(stage, "b", "select 2")
    stage.client >> one("select 1/0") + Parse("c", "select 3") + Sync
    stage.server >> ParseComplete + BindComplete + Error("22012") + Ready()
    stage.client << ParseComplete + BindComplete + Error("22012") + Ready()
    stage.server.heard()
    # The server still has it, and would refuse a second one of that name.
    stage.client >> Bind("", "a") + Execute() + Sync
    stage.server << Bind("", a) + Execute() + Sync


@acted
def test_a_close_that_a_failed_pipeline_skipped_has_not_happened(stage: Stage) -> None:
    a = prepare(stage, "a", "select 1")
    stage.client >> one("select 1/0") + Close("S", "a") + Parse("a", "select 2") + Sync
    stage.server >> ParseComplete + BindComplete + Error("22012") + Ready()
    stage.client << ParseComplete + BindComplete + Error("22012") + Ready()
    stage.server.heard()
    stage.client >> Bind("", "a") + Execute() + Sync
    stage.server << Bind("", a) + Execute() + Sync


@acted
def test_preparing_what_the_server_knows_in_a_failed_block(stage: Stage) -> None:
    a = prepare(stage, "a", "select 1")
    stage.client >> Query("begin")
    stage.server >> Complete("BEGIN") + Ready("T")
    stage.client >> Query("select 1/0")
    stage.server >> Error("22012") + Ready("E")
    stage.client.heard()
    stage.server.heard()
    stage.client >> Parse("again", "select 1") + Sync
    stage.server >> Error("25P02") + Ready("E")
    stage.client << Error("25P02") + Ready("E")
    assert a not in parsed(stage.server), "it would be taken for unknown after the failure"
    stage.client >> Query("rollback")
    stage.server >> Complete("ROLLBACK") + Ready()
    stage.client.heard()
    stage.server.heard()
    stage.client >> Parse("again", "select 1") + Bind("", "again") + Execute() + Sync
    stage.server << Bind("", a) + Execute() + Sync


@acted
def test_rollback_prepared_earlier_can_be_prepared_in_a_failed_block(stage: Stage) -> None:
    name = prepare(stage, "r", "rollback")
    stage.client >> Query("begin") + Query("select 1/0")
    stage.server >> Complete("BEGIN") + Ready("T") + Error("22012") + Ready("E")
    stage.client.heard()
    stage.server.heard()
    stage.client >> Parse("r2", "rollback") + Bind("", "r2") + Execute() + Sync
    stage.server << Bind("", name) + Execute() + Sync
    stage.server >> BindComplete + Complete("ROLLBACK") + Ready()
    stage.client << ParseComplete + BindComplete + Complete("ROLLBACK") + Ready()
    stage.at_rest()


@acted
def test_deallocate_of_a_protocol_statement_in_a_simple_query(stage: Stage) -> None:
    prepare(stage, "a", "select 1")
    stage.client >> Query("deallocate a")
    stage.client << Complete("DEALLOCATE") + Ready()
    stage.at_rest()
    stage.client >> Bind("", "a") + Sync
    assert codes(stage.client.heard()) == ["26000"]


@acted
def test_deallocate_behind_other_queries_frees_the_server(stage: Stage) -> None:
    prepare(stage, "a", "select 1")
    stage.client >> Query("select 1") + Query("deallocate a")
    stage.server << Query("select 1")
    stage.server >> Complete("SELECT 1") + Ready()
    stage.client << Complete("SELECT 1") + Ready() + Complete("DEALLOCATE") + Ready()
    stage.at_rest()


@acted
def test_deallocate_of_a_protocol_statement_in_the_extended_protocol(stage: Stage) -> None:
    prepare(stage, "a", "select 1")
    stage.client >> Parse("", "deallocate a") + Bind() + Describe("P") + Execute() + Sync
    stage.server << Parse("", "deallocate a") + Bind() + Describe("P") + Sync
    stage.server >> ParseComplete + BindComplete + NoData + Ready()
    stage.client << ParseComplete + BindComplete + NoData + Complete("DEALLOCATE") + Ready()
    stage.at_rest()
    stage.client >> Bind("", "a") + Sync
    assert codes(stage.client.heard()) == ["26000"]


@acted_on(mode="session")
def test_session_pooling_a_name_is_free_after_deallocate(stage: Stage) -> None:
    prepare(stage, "a", "select 1")
    stage.client >> Query("deallocate a")
    stage.server >> Complete("DEALLOCATE") + Ready()
    stage.client.heard()
    stage.server.heard()
    stage.client >> Parse("a", "select 2") + Sync
    stage.server << Parse("a", "select 2") + Sync


@acted
def test_a_stale_plan_is_prepared_anew_after_its_error(stage: Stage) -> None:
    a = prepare(stage, "a", "select * from t")
    stage.client >> Bind("", "a") + Execute() + Sync
    stage.server.heard()
    stale = Error("0A000", "cached plan must not change result type")
    stage.server >> stale + Ready()
    stage.client << stale + Ready()
    stage.client >> Bind("", "a") + Execute() + Sync
    (again,) = parsed(stage.server)
    assert again != a


@acted
def test_closing_a_sql_statement_without_a_server_drops_it(stage: Stage) -> None:
    stage.client >> Query("prepare q as select 1")
    stage.server >> Complete("PREPARE") + Ready()
    stage.client.heard()
    stage.server.heard()
    stage.client >> Close("S", "q") + Sync
    stage.client << CloseComplete + Ready()
    stage.client >> Query("select 1")
    stage.server << Query('DEALLOCATE "q"')


@acted
def test_local_answers_wait_for_a_description_that_comes_in_pieces(stage: Stage) -> None:
    from support.transcript import Columns

    prepare(stage, "a", "select 1")
    wide = Columns(*(f"column_{n}" for n in range(1600)))
    stage.client >> Describe("S", "a") + Close("S", "a") + Sync
    stage.server.says(wide + Ready(), 1000)
    stage.client << wide + CloseComplete + Ready()


@acted
def test_a_refused_parse_in_a_pipeline_is_answered_in_its_turn(stage: Stage) -> None:
    refused = Parse("", "select pg_read_file('x')") + Bind() + Execute()
    stage.client >> one("select 1") + refused + Sync
    kinds = [kind for kind, _ in messages(stage.server.heard())]
    assert kinds == ["P", "B", "E", "P", "B", "E", "S"]
    stage.server >> ParseComplete + BindComplete + Complete("SELECT 1")
    stage.server >> Error("42601") + Ready()
    heard = stage.client.heard()
    assert [kind for kind, _ in messages(heard)] == ["1", "2", "C", "E", "Z"]
    assert codes(heard) == ["42501"]
    stage.at_rest()


@acted
def test_flush_after_a_parse_that_was_answered_here(stage: Stage) -> None:
    prepare(stage, "a", "select 1")
    stage.client >> Parse("b", "select 1") + Flush
    stage.client << ParseComplete
    stage.client >> Sync
    stage.server >> Ready()
    stage.client << Ready()
    stage.at_rest()
