"""What a client has set: kept through transactions, found again, never seen by another."""

from __future__ import annotations

from support.transcript import (
    Complete,
    CopyData,
    CopyIn,
    Error,
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

from wire.postgres.session import PROBE_SQL

PROBE = Query(PROBE_SQL.decode())


def said(stage: Stage, sql: str, *answer: bytes) -> None:
    """The client says `sql`; the server hears it (after what else it hears) and answers."""
    stage.client >> Query(sql)
    assert stage.server.heard().endswith(Query(sql))
    stage.server >> b"".join(answer)
    stage.client << b"".join(answer)


@acted
def test_a_setting_is_undone_for_the_next_client_and_set_again(stage: Stage) -> None:
    said(stage, "set work_mem = '8MB'", Complete("SET"), Ready())
    other = stage.new_client()
    other >> Query("select 1")
    stage.server << Query('RESET "work_mem"')
    stage.server >> Complete("RESET") + Ready()
    stage.server << Query("select 1")
    stage.server >> Complete("SELECT 1") + Ready()
    other << Complete("SELECT 1") + Ready()
    stage.client >> Query("select 2")
    stage.server << Query("set work_mem = '8MB'")
    stage.server >> Complete("SET") + Ready()
    stage.server << Query("select 2")
    assert stage.meter.running == 1
    stage.server >> Complete("SELECT 1") + Ready()
    stage.at_rest()


@acted
def test_what_cannot_be_set_again_is_an_error_and_the_server_is_closed(stage: Stage) -> None:
    said(stage, "set role nobody", Complete("SET"), Ready())
    stage.server.connection.state = {}
    stage.client >> Query("select 1")
    stage.server << Query("set role nobody")
    stage.server >> Error("22023") + Ready()
    assert codes(stage.client.heard()) == ["58000"]
    assert stage.server.transport.closed
    stage.at_rest()


@acted
def test_savepoints_and_rollbacks_are_followed(stage: Stage) -> None:
    said(stage, "begin", Complete("BEGIN"), Ready("T"))
    said(stage, "set work_mem = '1MB'", Complete("SET"), Ready("T"))
    said(stage, "savepoint a", Complete("SAVEPOINT"), Ready("T"))
    said(stage, "set work_mem = '2MB'", Complete("SET"), Ready("T"))
    said(stage, "rollback to a", Complete("ROLLBACK"), Ready("T"))
    assert stage.client.connection.session.state == {"guc:work_mem": b"set work_mem = '1MB'"}
    said(stage, "rollback", Complete("ROLLBACK"), Ready())
    assert stage.client.connection.session.state == {}


@acted
def test_an_implicit_transaction_that_fails_takes_its_settings_along(stage: Stage) -> None:
    said(stage, "set work_mem = '1MB'; select 1/0", Complete("SET"), Error("22012"), Ready())
    assert stage.client.connection.session.state == {}
    stage.client >> one("set work_mem = '1MB'") + one("select 1/0") + Sync
    from support.transcript import BindComplete, ParseComplete

    done = ParseComplete + BindComplete
    stage.server >> done + Complete("SET") + done + Error("22012") + Ready()
    assert stage.client.connection.session.state == {}


@acted
def test_a_pinned_client_is_let_go_when_the_probe_finds_nothing(stage: Stage) -> None:
    said(stage, "create temp table t ()", Complete("CREATE TABLE"), Ready())
    assert stage.pool.lent
    assert stage.meter.pinned == 1
    said(stage, "drop table t", Complete("DROP TABLE"), Ready())
    stage.server << PROBE
    stage.server >> Complete("SELECT 0") + Ready()
    stage.client << b""
    stage.at_rest()


@acted
def test_a_probe_that_finds_something_keeps_the_pin(stage: Stage) -> None:
    said(stage, "create temp table t ()", Complete("CREATE TABLE"), Ready())
    said(stage, "drop table other", Complete("DROP TABLE"), Ready())
    stage.server >> Row("1") + Complete("SELECT 1") + Ready()
    assert stage.pool.lent
    stage.client << b""


@acted
def test_what_is_pinned_while_the_probe_runs_stays_pinned(stage: Stage) -> None:
    said(stage, "create temp table t ()", Complete("CREATE TABLE"), Ready())
    said(stage, "drop table t", Complete("DROP TABLE"), Ready())
    stage.client >> Query("create temp table u ()")
    stage.server >> Complete("SELECT 0") + Ready()
    stage.server >> Complete("CREATE TABLE") + Ready()
    stage.client << Complete("CREATE TABLE") + Ready()
    assert stage.pool.lent, "u would be the next client's"


@acted
def test_a_probe_that_fails_shows_nothing(stage: Stage) -> None:
    said(stage, "create temp table t ()", Complete("CREATE TABLE"), Ready())
    said(stage, "drop table other", Complete("DROP TABLE"), Ready())
    stage.server >> Error("57014") + Ready()
    stage.client << b""
    assert stage.pool.lent


@acted
def test_a_cancel_does_not_hit_the_probe(stage: Stage) -> None:
    said(stage, "create temp table t ()", Complete("CREATE TABLE"), Ready())
    said(stage, "drop table other", Complete("DROP TABLE"), Ready())
    stage.server << PROBE
    stage.client.connection.cancel()
    assert stage.server.connection.cancels == 0


@acted
def test_a_pin_that_fails_is_looked_into(stage: Stage) -> None:
    said(stage, "create temp table t as select 1/0", Error("22012"), Ready())
    stage.server << PROBE
    stage.server >> Complete("SELECT 0") + Ready()
    stage.at_rest()


@acted_on(max_rows_per_query=1)
def test_settings_after_a_result_over_its_limit_reach_nobody_else(stage: Stage) -> None:
    stage.client >> Query("select 1; set work_mem = '1MB'")
    # The cancel came too late: all of it ran.
    stage.server >> Row("1") + Row("2") + Complete("SELECT 2") + Complete("SET") + Ready()
    heard = stage.client.heard()
    assert [kind for kind, _ in messages(heard)] == ["D", "E", "Z"]
    assert stage.server.transport.closed
    stage.at_rest()


@acted_on(max_query_duration=10)
def test_settings_of_a_query_that_ended_before_its_cancel_are_kept(stage: Stage) -> None:
    stage.client >> Query("set work_mem = '1MB'")
    stage.pool.sweep(stage.server.connection.busy_since + 11)
    stage.server >> Complete("SET") + Ready()
    stage.client << Complete("SET") + Ready()
    assert "guc:work_mem" in stage.client.connection.session.state
    assert "guc:work_mem" in stage.server.connection.state


@acted
def test_discard_all_forgets_everything(stage: Stage) -> None:
    said(stage, "set work_mem = '1MB'", Complete("SET"), Ready())
    said(stage, "select set_config('a.b', 'c', false)", Complete("SELECT 1"), Ready())
    assert stage.meter.pinned == 1
    said(stage, "discard all", Complete("DISCARD ALL"), Ready())
    stage.server >> Complete("SELECT 0") + Ready()
    assert stage.client.connection.session.state == {}
    stage.at_rest()


@acted
def test_a_client_that_goes_in_the_middle_of_copy_takes_its_server_along(stage: Stage) -> None:
    stage.client >> Query("copy t from stdin")
    stage.server >> CopyIn
    stage.client >> CopyData(b"1\n")
    stage.client.connection.connection_lost(None)
    assert stage.server.transport.aborted
    stage.at_rest()


@acted
def test_a_server_lost_in_the_hand_over_is_an_error_not_the_end(stage: Stage) -> None:
    said(stage, "set work_mem = '1MB'", Complete("SET"), Ready())
    other = stage.new_client()
    other >> Query("select 1")
    stage.server.connection.connection_lost(None)
    assert codes(other.heard()) == ["57P03"]
    assert not other.transport.closed
    stage.at_rest()
