"""Appending against a real JetStream: stored, conflict and unknown, none lost and none doubled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.engines import Nats
from support.nats import Line, NatsServer, free_port

from events import connection
from events.facts import Commit, TenantChanged, TenantCreated
from events.log import ConfigLog
from events.stream import (
    STREAM,
    CommandIdReused,
    CommitTooLarge,
    Conflict,
    LogMisconfigured,
    LogUnavailable,
    stream_config,
)
from wire.tasks import spawn


def commit(id: str, text: str = "x") -> Commit:
    return Commit(id, "ann", "2025-01-01T00:00:00+00:00", (TenantChanged(changes={"name": text}),))


async def stored(log: ConfigLog) -> list[tuple[int, str, str]]:
    found: list[tuple[int, str, str]] = []
    await log.read_all(1, lambda sequence, kind, id, one: found.append((sequence, id, one.id)))
    return found


def with_log(server: Nats | NatsServer, test: Callable[[ConfigLog], Awaitable[None]]) -> None:
    async def run() -> None:
        log = await ConfigLog.connect([server.url])
        try:
            await test(log)
        finally:
            await log.close()

    asyncio.run(run())


def test_what_is_appended_is_read_back(nats_server: Nats) -> None:
    async def test(log: ConfigLog) -> None:
        first = Commit("c1", "ann", "", (TenantCreated(settings={"name": "Acme ☃"}),))
        assert await log.append("tenant", "acme", first, 0) == 1
        assert await log.append("tenant", "acme", commit("c2"), 1) == 2
        assert await log.append("installation", "main", commit("c3"), 0) == 3
        seen: list[Any] = []
        assert await log.read_all(1, lambda *what: seen.append(what)) == 3
        assert seen[0] == (1, "tenant", "acme", first)
        assert [(what[0], what[1], what[2]) for what in seen[1:]] == [
            (2, "tenant", "acme"),
            (3, "installation", "main"),
        ]
        assert await log.read_all(4, lambda *what: seen.append(what)) == 3
        assert len(seen) == 3

    with_log(nats_server, test)


def test_of_two_writers_exactly_one_commits(nats_server: Nats) -> None:
    async def test(log: ConfigLog) -> None:
        other = await ConfigLog.connect([nats_server.url])
        for round in range(20):
            before = len(await stored(log))
            outcomes = await asyncio.gather(
                log.append("tenant", f"t{round}", commit(f"a{round}"), 0),
                other.append("tenant", f"t{round}", commit(f"b{round}"), 0),
                return_exceptions=True,
            )
            assert {type(outcome) for outcome in outcomes} == {Conflict, int}
            assert len(await stored(log)) == before + 1
        await other.close()

    with_log(nats_server, test)


def test_the_same_command_sent_again_is_stored_once(nats_server: Nats) -> None:
    async def test(log: ConfigLog) -> None:
        assert await log.append("tenant", "acme", commit("c1"), 0) == 1
        assert await log.append("tenant", "acme", commit("c1"), 0) == 1
        # Also when somebody else wrote behind it, and when it is decided anew on the later state.
        assert await log.append("tenant", "acme", commit("c2"), 1) == 2
        assert await log.append("tenant", "acme", commit("c1"), 0) == 1
        assert await log.append("tenant", "acme", commit("c1"), 2) == 1
        assert await stored(log) == [(1, "acme", "c1"), (2, "acme", "c2")]
        # At once, many times.
        many = [log.append("tenant", "other", commit("c3"), 0) for _ in range(50)]
        assert await asyncio.gather(*many) == [3] * 50

    with_log(nats_server, test)


def test_a_command_id_belongs_to_one_subject(nats_server: Nats) -> None:
    async def test(log: ConfigLog) -> None:
        await log.append("tenant", "acme", commit("c1"), 0)
        with pytest.raises(CommandIdReused):
            await log.append("tenant", "other", commit("c1"), 0)

    with_log(nats_server, test)


async def _over_a_line(
    server: Nats, test: Callable[[ConfigLog, ConfigLog, Line], Awaitable[None]]
) -> None:
    """`test` gets a log over a line that can be cut, and a second one with its own connection."""
    async with Line(server.url, server.port) as line:
        broken, sound = await ConfigLog.connect([line.url]), await ConfigLog.connect([server.url])
        try:
            await test(broken, sound, line)
        finally:
            await broken.close()
            await sound.close()


async def _until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("lost", ["request", "answer"])
@pytest.mark.parametrize("rival", [False, True])
def test_an_unknown_outcome_is_neither_lost_nor_doubled(
    nats_server: Nats, lost: str, rival: bool
) -> None:
    async def test(broken: ConfigLog, sound: ConfigLog, line: Line) -> None:
        await sound.append("tenant", "acme", commit("c1"), 0)
        line.drop_requests, line.drop_answers = lost == "request", lost == "answer"
        append = spawn(broken.append("tenant", "acme", commit("mine"), 1), name="test")
        await _until(lambda: line.swallowed)
        if rival:
            expected = 1 if lost == "request" else 2
            await sound.append("tenant", "acme", commit("rival"), expected)
        line.cut()
        names = [id for _, _, id in await stored(sound)]
        if lost == "request" and rival:
            with pytest.raises(Conflict):
                await append
            assert names == ["c1", "rival"]
        else:
            assert await append == 2
            names = [id for _, _, id in await stored(sound)]
            assert names == (["c1", "mine", "rival"] if rival else ["c1", "mine"])

    asyncio.run(_over_a_line(nats_server, test))


def test_an_outcome_that_stays_unknown_is_told_as_such_and_the_repeat_finds_it(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(connection, "ATTEMPT_SECONDS", 0.2)

    async def test(broken: ConfigLog, sound: ConfigLog, line: Line) -> None:
        line.drop_answers = True
        with pytest.raises(LogUnavailable, match="repeat the same command") as caught:
            await broken.append("tenant", "acme", commit("mine"), 0)
        assert caught.value.unknown
        assert await sound.append("tenant", "acme", commit("mine"), 0) == 1
        assert len(await stored(sound)) == 1
        line.cut()

    asyncio.run(_over_a_line(nats_server, test))


def test_while_the_server_is_away_appends_fail_and_are_not_sent_later(
    own_nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PATIENCE_SECONDS", 0.5)

    async def test(log: ConfigLog) -> None:
        await log.append("tenant", "acme", commit("c1"), 0)
        own_nats.kill()
        await _until(lambda: not log.connected)
        with pytest.raises(LogUnavailable, match="not connected") as caught:
            await log.append("tenant", "acme", commit("c2"), 1)
        assert not caught.value.unknown
        own_nats.start()
        await _until(lambda: log.connected)
        assert await log.append("tenant", "acme", commit("c3"), 1) == 2
        assert [id for _, _, id in await stored(log)] == ["c1", "c3"]

    with_log(own_nats, test)


def test_a_short_outage_is_only_a_delay(own_nats: NatsServer) -> None:
    async def test(log: ConfigLog) -> None:
        own_nats.kill()
        await _until(lambda: not log.connected)
        append = spawn(log.append("tenant", "acme", commit("c1"), 0), name="test")
        await asyncio.sleep(0)
        own_nats.start()
        assert await append == 1

    with_log(own_nats, test)


def test_acknowledged_commits_survive_kill_9(own_nats: NatsServer) -> None:
    async def test(log: ConfigLog) -> None:
        for number in range(5):
            await log.append("tenant", f"t{number}", commit(f"c{number}"), 0)
            own_nats.kill()
            own_nats.start()
        assert [id for _, _, id in await stored(log)] == [f"c{n}" for n in range(5)]

    with_log(own_nats, test)


def test_too_large_a_commit_is_refused_before_it_is_sent(nats_server: Nats) -> None:
    async def test(log: ConfigLog) -> None:
        with pytest.raises(CommitTooLarge):
            await log.append("tenant", "acme", commit("c1", "x" * 600_000), 0)
        assert await log.last_sequence() == 0

    with_log(nats_server, test)


def test_a_stream_that_could_lose_facts_is_refused(nats_server: Nats) -> None:
    async def run() -> None:
        log = await ConfigLog.connect([nats_server.url])
        jetstream = log.nats.jetstream()
        await jetstream.delete_stream(STREAM)
        careless = stream_config(1).evolve(deny_delete=False, max_age=60)
        await jetstream.add_stream(careless)
        with pytest.raises(LogMisconfigured, match="max_age is 60000000000, deny_delete is False"):
            await ConfigLog.connect([nats_server.url])
        await log.close()

    asyncio.run(run())


def test_nothing_stored_can_be_deleted_or_purged(nats_server: Nats) -> None:
    async def test(log: ConfigLog) -> None:
        await log.append("tenant", "acme", commit("c1"), 0)
        jetstream = log.nats.jetstream()
        for attempt in (jetstream.delete_msg(STREAM, 1), jetstream.purge_stream(STREAM)):
            with pytest.raises(Exception, match="not permitted"):
                await attempt
        assert len(await stored(log)) == 1

    with_log(nats_server, test)


def test_processes_that_start_at_once_share_one_stream(nats_server: Nats) -> None:
    async def run() -> None:
        logs = await asyncio.gather(*(ConfigLog.connect([nats_server.url]) for _ in range(8)))
        for log in logs:
            await log.close()

    asyncio.run(run())


def test_no_server_is_told_without_the_password(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def run() -> None:
        server = f"nats://ann:hunter2@127.0.0.1:{free_port()}"
        with pytest.raises(LogUnavailable, match=r"no NATS at 127\.0\.0\.1:\d+") as caught:
            await ConfigLog.connect([server], patience=0.5)
        assert "hunter2" not in str(caught.value)

    asyncio.run(run())
    assert "hunter2" not in caplog.text
