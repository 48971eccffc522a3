"""Reading the log as it grows: every sequence once and in order, whatever happens to the server."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import nats
import pytest
from support.engines import Nats
from support.nats import Line, NatsServer

from events import codec, connection, reader
from events.connection import Connection
from events.direct import DirectClient, Taker
from events.facts import Commit, TenantChanged, TenantCreated
from events.log import ConfigLog
from events.projection import Projection
from events.reader import decoded, delivery
from events.stream import STREAM, SUBJECT_PREFIX, LogGap, LogUnavailable, stream_config
from wire.tasks import spawn


def commit(number: int) -> Commit:
    return Commit(f"c{number}", "ann", "", (TenantChanged(changes={"name": str(number)}),))


class Notes:
    """Notes what is applied."""

    def __init__(self) -> None:
        self.sequences: list[int] = []

    def apply(self, sequence: int, kind: str, id: str, commit: Commit) -> None:
        self.sequences.append(sequence)

    async def has(self, last: int) -> None:
        await until(lambda: self.sequences[-1:] == [last])
        assert self.sequences == list(range(1, last + 1))


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def following(url: str, notes: Notes) -> AsyncIterator[ConfigLog]:
    log = await ConfigLog.connect([url])
    task = spawn(log.follow(1, notes.apply), name="test")
    try:
        yield log
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await log.close()


async def append(log: ConfigLog, *numbers: int) -> None:
    for number in numbers:
        await log.append("tenant", f"t{number}", commit(number), 0)


def test_what_was_there_and_what_comes_is_applied_once_in_order(nats_server: Nats) -> None:
    async def run() -> None:
        writer = await ConfigLog.connect([nats_server.url])
        await append(writer, *range(1, 6))
        notes = Notes()
        async with following(nats_server.url, notes):
            await notes.has(5)
            await append(writer, *range(6, 11))
            await notes.has(10)
        await writer.close()

    asyncio.run(run())


def test_a_server_killed_in_the_middle_leaves_no_gap_and_no_double(own_nats: NatsServer) -> None:
    async def run() -> None:
        notes = Notes()
        async with following(own_nats.url, notes) as log:
            for round in range(3):
                await append(log, 3 * round + 1, 3 * round + 2)
                own_nats.kill()
                own_nats.start()
                await append(log, 3 * round + 3)
                await notes.has(3 * round + 3)

    asyncio.run(run())


def test_connections_cut_again_and_again_leave_no_gap(nats_server: Nats) -> None:
    async def run() -> None:
        writer = await ConfigLog.connect([nats_server.url])
        notes = Notes()
        async with (
            Line(nats_server.url, nats_server.port) as line,
            following(line.url, notes),
        ):
            for round in range(5):
                await append(writer, *range(10 * round + 1, 10 * round + 11))
                line.cut()
            await notes.has(50)
        await writer.close()

    asyncio.run(run())


def test_a_line_that_goes_dead_without_a_word_is_noticed(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(reader, "HEARTBEAT_SECONDS", 0.1)

    async def run() -> None:
        writer = await ConfigLog.connect([nats_server.url])
        notes = Notes()
        async with Line(nats_server.url, nats_server.port) as line, following(line.url, notes):
            await append(writer, 1)
            await notes.has(1)
            line.drop_answers = True
            await append(writer, 2)
            await until(lambda: line.swallowed)
            # The connection lives again, but what was dropped is gone: only a new consumer helps.
            line.drop_answers = False
            await append(writer, 3)
            await notes.has(3)
        await writer.close()

    # Half a message may have been dropped; the client then resets the line, which is fine too.
    asyncio.run(run())


def test_a_lost_request_for_more_is_noticed_by_the_silence(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(reader, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(reader, "PULL_MESSAGES", 1)

    async def run() -> None:
        writer = await ConfigLog.connect([nats_server.url])
        notes = Notes()
        async with Line(nats_server.url, nats_server.port) as line, following(line.url, notes):
            await append(writer, 1)
            await notes.has(1)
            # Batch by batch the reader has to ask for the next one; that request is lost.
            line.drop_requests = True
            await append(writer, 2)
            await until(lambda: line.swallowed)
            line.drop_requests = False
            await append(writer, 3)
            await notes.has(3)
        await writer.close()

    asyncio.run(run())


def test_a_connection_that_the_server_refuses_is_dialled_anew(nats_server: Nats) -> None:
    async def run() -> None:
        writer = await ConfigLog.connect([nats_server.url])
        notes = Notes()
        async with (
            Line(nats_server.url, nats_server.port) as line,
            following(line.url, notes) as log,
        ):
            for round in range(3):
                await append(writer, 2 * round + 1)
                await notes.has(2 * round + 1)
                # At this the client library closes itself for good.
                line.say(b"-ERR 'maximum connections exceeded'\r\n")
                await until(lambda: log.nats.is_closed)
                await append(writer, 2 * round + 2)
                await notes.has(2 * round + 2)
        await writer.close()

    asyncio.run(run())


class DroppingLog(ConfigLog):
    """Loses every third message on its way to the reader, as a full queue in the client does; not
    the same one twice, or a reader might never get past it."""

    count = 0
    lost: frozenset[bytes] = frozenset()

    def drop(self, deliver: Taker) -> Taker:
        def sometimes(subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
            self.count += 1
            if self.count % 3 or not reply or data in self.lost:
                deliver(subject, reply, headers, data)
            else:
                self.lost |= {data}

        return sometimes


@pytest.mark.parametrize("subjects", [(), (f"{SUBJECT_PREFIX}tenant.>",)])
def test_messages_lost_in_the_client_are_read_again(
    nats_server: Nats, subjects: tuple[str, ...]
) -> None:
    async def run() -> None:
        writer = await ConfigLog.connect([nats_server.url])
        await append(writer, *range(1, 31))
        lossy = await DroppingLog.connect([nats_server.url])
        assert isinstance(lossy, DroppingLog)
        listen = lossy.nats.listen

        async def listen_lossily(subject: str, taker: Taker) -> Any:
            return await listen(subject, lossy.drop(taker))

        lossy.nats.listen = listen_lossily  # type: ignore[method-assign]
        notes = Notes()
        assert await lossy.scan(decoded(notes.apply), subjects=subjects) == 30
        await notes.has(30)
        assert lossy.count > 30
        await lossy.close()
        await writer.close()

    asyncio.run(run())


def test_a_message_that_is_really_gone_stops_reading(nats_server: Nats) -> None:
    async def run() -> None:
        client = DirectClient()
        await client.connect(nats_server.url)
        jetstream = client.jetstream()
        await jetstream.add_stream(stream_config(1).evolve(deny_delete=False))
        for number in range(1, 4):
            await jetstream.publish(f"{SUBJECT_PREFIX}tenant.t", codec.encode(commit(number)))
        await jetstream.delete_msg(STREAM, 2)
        notes = Notes()
        with pytest.raises(LogGap, match="behind sequence 1: sequence 3 was delivered after 1"):
            await ConfigLog(Connection(client)).read_all(1, notes.apply)
        assert notes.sequences == [1]
        await client.close()

    asyncio.run(run())


def test_reading_all_needs_a_server(own_nats: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PATIENCE_SECONDS", 0.3)

    async def run() -> None:
        log = await ConfigLog.connect([own_nats.url])
        own_nats.kill()
        with pytest.raises(LogUnavailable):
            await log.read_all(1, Notes().apply)
        own_nats.start()
        await log.close()

    asyncio.run(run())


def test_one_consumer_serves_many_pulls_and_large_messages(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "tenantry.log")
    monkeypatch.setattr(reader, "PULL_MESSAGES", 7)
    monkeypatch.setattr(reader, "PULL_BYTES", 100_000)

    async def run() -> None:
        log = await ConfigLog.connect([nats_server.url])
        for number in range(1, 31):
            text = "x" * (60_000 if number % 10 < 2 else 10)
            fact = TenantCreated(settings={"name": text})
            await log.append("tenant", f"t{number}", Commit(f"c{number}", "", "", (fact,)), 0)
        notes = Notes()
        publish, pulls = log.nats.publish, []

        async def count(subject: str, *rest: Any, **options: Any) -> None:
            pulls.append("CONSUMER.MSG.NEXT" in subject)
            await publish(subject, *rest, **options)

        log.nats.publish = count  # type: ignore[method-assign]
        assert await log.read_all(1, notes.apply) == 30
        await notes.has(30)
        assert "reading again" not in caplog.text
        # Thirty by sevens, some cut short by their size, and none asked for twice.
        assert sum(pulls) == 6
        await log.close()

    asyncio.run(run())


def test_staleness_tells_since_when_nothing_is_known(
    own_nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "HEARTBEAT_SECONDS", 0.1)

    async def run() -> None:
        notes = Notes()
        async with following(own_nats.url, notes) as log:
            assert log.staleness() == math.inf
            # Nothing is ever written: heartbeats alone say that the state is current.
            await until(lambda: log.staleness() < 0.1)
            own_nats.kill()
            await until(lambda: log.staleness() > 0.5)
            own_nats.start()
            await until(lambda: log.staleness() < 0.1)

    asyncio.run(run())


def test_an_error_of_the_one_who_applies_ends_following(nats_server: Nats) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    async def run() -> None:
        log = await ConfigLog.connect([nats_server.url])
        await append(log, 1)
        with pytest.raises(ZeroDivisionError):
            await log.follow(1, fail)
        await log.close()

    asyncio.run(run())


def test_a_reader_leaves_no_consumer_behind(nats_server: Nats) -> None:
    async def run() -> None:
        notes = Notes()
        async with following(nats_server.url, notes) as log:
            await append(log, 1)
            await notes.has(1)
            await log.read_all(1, lambda *_: None)
        client = await nats.connect(nats_server.url)
        async with asyncio.timeout(10):
            while await client.jetstream().consumers_info(STREAM):
                await asyncio.sleep(0.01)
        await client.close()

    asyncio.run(run())


def test_a_projection_emptied_and_filled_again_is_the_same(nats_server: Nats) -> None:
    async def run() -> None:
        log = await ConfigLog.connect([nats_server.url])
        first = Projection()
        for number in range(20):
            created = TenantCreated(settings={"name": str(number)})
            sequence = await log.append(
                "tenant", f"t{number}", Commit(f"c{number}", "", "", (created,)), 0
            )
            await log.append("tenant", f"t{number}", commit(100 + number), sequence)
        await log.read_all(1, first.apply)
        second = Projection()
        await log.read_all(1, second.apply)
        assert second.digest() == first.digest()
        assert (second.position, second.tenant_count()) == (40, 20)
        await log.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.S.C.1.42.7.1700000000.3",
        "$JS.ACK.hub.ACCOUNT.S.C.1.42.7.1700000000.3",
        "$JS.ACK._.ACCOUNT.S.C.1.42.7.1700000000.3.random",
    ],
)
def test_both_forms_of_acknowledgement_subjects_are_read(reply: str) -> None:
    assert delivery(reply) == (42, 7, 1700000000, 3)
