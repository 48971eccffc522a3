"""Queries that take too long: cancelled, told again, and ended with their connection at last."""

from __future__ import annotations

from time import monotonic

from support.transcript import Error, Query, Ready, Stage, acted_on, codes

from actors.durations import CANCEL_AGAIN_SECONDS, CANCEL_GRACE_SECONDS, check_duration


@acted_on(max_query_duration=1)
def test_a_cancel_that_is_not_heard_is_sent_again(stage: Stage) -> None:
    stage.client >> Query("select pg_sleep(30)")
    server = stage.server.connection
    late = monotonic() + 2
    check_duration(server, late)
    assert server.cancels == 1
    check_duration(server, late + CANCEL_AGAIN_SECONDS / 2)
    assert server.cancels == 1
    check_duration(server, late + CANCEL_AGAIN_SECONDS * 1.5)
    assert server.cancels == 2
    stage.server >> Error("57014", "canceling statement due to user request") + Ready()
    heard = stage.client.heard()
    assert codes(heard) == ["57014"]
    assert b"query took longer than 1 seconds" in heard
    assert not stage.client.connection.closed


@acted_on(max_query_duration=1)
def test_whoever_looks_late_still_gives_the_cancel_its_time(stage: Stage) -> None:
    """As after a pause of the whole machine: the query's own time is long over."""
    stage.client >> Query("select pg_sleep(30)")
    server = stage.server.connection
    late = monotonic() + 60
    check_duration(server, late)
    check_duration(server, late + CANCEL_GRACE_SECONDS / 2)
    assert not stage.client.connection.closed
    check_duration(server, late + CANCEL_GRACE_SECONDS + 1)
    assert stage.client.connection.closed
