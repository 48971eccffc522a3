"""What the NATS client library gets wrong, and that it does not get at us.

Each test first shows the defect in the library as it is installed (2.16.0 when this was written):
when such an assertion fails, the library was mended and the care taken for it may go.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from typing import Any

import nats
import orjson
import pytest
from nats.aio import client as library
from nats.errors import NoRespondersError, OutboundBufferLimitError
from nats.js import api
from nats.js.client import JetStreamContext
from nats.js.errors import NoStreamResponseError
from support.engines import Nats
from support.nats import Line, NatsServer

from events.bus_durable import STREAM as COMMANDS
from events.bus_durable import ensure_stream, stream_config
from events.commander import Commander
from events.commands import PutTenant
from events.connection import Connection
from events.facts import Commit, TenantChanged
from events.log import ConfigLog
from events.projection import Projection
from events.stream import STREAM, LogUnavailable


def commit(id: str) -> Commit:
    return Commit(id, "ann", "", (TenantChanged(changes={"name": "x"}),))


def test_1_messages_dropped_by_the_client_look_as_if_nothing_had_been(nats_server: Nats) -> None:
    """The ordered consumer counts a message before its bounded queue drops it. Ours checks each
    sequence (tests/events/test_follow.py: messages lost in the client are read again)."""
    source = inspect.getsource(library.Client._process_msg)
    assert source.index("_sseq") < source.index("SlowConsumerError")

    async def run() -> None:
        log = await ConfigLog.connect([nats_server.url])
        for number in range(50):
            await log.append("tenant", f"t{number}", commit(f"c{number}"), 0)
        client = await nats.connect(nats_server.url)
        got: list[int] = []

        async def slowly(message: Any) -> None:
            got.append(message.metadata.sequence.stream)
            await asyncio.sleep(0.005)

        await client.jetstream().subscribe(
            "tenantry.config.>",
            ordered_consumer=True,
            cb=slowly,
            pending_msgs_limit=5,
        )
        await asyncio.sleep(0.6)
        assert len(got) < 50  # and nobody was told
        seen: list[int] = []
        await log.read_all(1, lambda sequence, *rest: seen.append(sequence))
        assert seen == list(range(1, 51))
        await client.close()
        await log.close()

    asyncio.run(run())


def test_2_the_longer_acknowledgement_subject_is_not_understood() -> None:
    """ADR-15's form with domain and account; ours reads both (test_follow, test_bus_durable)."""
    source = inspect.getsource(library.Client._process_msg)
    assert "tokens[5]" in source
    assert "tokens[6]" in source


def test_3_the_ordered_consumers_task_is_held_by_nobody() -> None:
    """asyncio.create_task without a reference, in the reset of the ordered consumer, which we do
    not use: every task of ours is kept (ruff bans asyncio.create_task)."""
    source = inspect.getsource(JetStreamContext._JSI.reset_ordered_consumer)
    assert "asyncio.create_task(" in source
    assert "= asyncio.create_task(" not in source


def test_4_publish_writes_into_the_callers_headers(nats_server: Nats) -> None:
    async def run() -> None:
        log = await ConfigLog.connect([nats_server.url])
        client = await nats.connect(nats_server.url)
        mine = {"a": "b"}
        await client.jetstream().publish(
            "tenantry.config.tenant.x", b"", stream=STREAM, headers=mine
        )
        assert mine != {"a": "b"}
        ours = {"a": "b"}
        await log.connection.exchange("$JS.API.INFO", b"", 2.0, ours)
        await log.append("tenant", "acme", commit("c"), 0, ours)
        assert ours == {"a": "b"}
        await client.close()
        await log.close()

    asyncio.run(run())


def test_5_while_there_is_no_leader_the_library_gives_up_at_once(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No responders, as while a cluster elects: the library fails, we try again."""

    async def run() -> None:
        client = await nats.connect(nats_server.url)
        with pytest.raises(NoStreamResponseError):
            await client.jetstream().publish("nobody.listens", b"")
        log = await ConfigLog.connect([nats_server.url])
        ask = log.connection.ask
        failures = 3

        async def electing(*arguments: Any, **more: Any) -> dict[str, Any]:
            nonlocal failures
            if failures:
                failures -= 1
                raise NoRespondersError
            return await ask(*arguments, **more)

        monkeypatch.setattr(log.connection, "ask", electing)
        assert await log.append("tenant", "acme", commit("c"), 0) == 1
        await client.close()
        await log.close()

    asyncio.run(run())


def test_6_what_is_published_while_the_server_is_away_is_sent_whenever(
    own_nats: NatsServer,
) -> None:
    """The library keeps it (up to 2 MiB) and sends it long after the caller was told that it
    failed. A command of ours fails, and stays failed."""

    async def run() -> None:
        client = await nats.connect(own_nats.url, max_reconnect_attempts=-1)
        log = await ConfigLog.connect([own_nats.url])
        commander = Commander(log, Projection())
        await commander.catch_up()
        own_nats.kill()
        await asyncio.sleep(0.1)
        await client.publish("late", b"late")  # no error
        with pytest.raises(OutboundBufferLimitError):
            for _ in range(40):
                await client.publish("late", b"x" * 65536)
        with pytest.raises(LogUnavailable) as caught:
            await commander.execute(PutTenant(id="acme"), "ann")
        assert not caught.value.unknown
        own_nats.start()
        async with asyncio.timeout(20):
            while not log.connected:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        assert await log.last_sequence() == 0
        with contextlib.suppress(OSError):  # it still wants to send what it kept
            await client.close()
        await log.close()

    asyncio.run(run())


def test_7_settings_newer_than_the_library_are_lost_when_it_writes_them_back(
    nats_server: Nats,
) -> None:
    """So a stream is made and checked, and never updated, and the check reads what the server
    said."""
    read = api.StreamConfig.from_response({"name": "x", "brand_new_setting": True})
    assert "brand_new_setting" not in read.as_dict()

    async def run() -> None:
        log = await ConfigLog.connect([nats_server.url])
        config = {**stream_config(1), "metadata": {"owner": "somebody"}}
        await log.request(f"$JS.API.STREAM.CREATE.{COMMANDS}", orjson.dumps(config))
        await ensure_stream(log, 1)
        info = await log.request(f"$JS.API.STREAM.INFO.{COMMANDS}", b"")
        assert info["config"]["metadata"]["owner"] == "somebody"
        await log.close()

    asyncio.run(run())


def test_8_dialling_again_would_collect_addresses(nats_server: Nats) -> None:
    async def run() -> None:
        plain = library.Client()
        for _ in range(3):
            await plain.connect([nats_server.url])
            await plain.close()
        assert len(plain._server_pool) == 3
        connection = Connection.to([nats_server.url])
        await connection.open(5)
        for _ in range(3):
            await connection.client.close()
            await connection._dial()
        assert len(connection.client._server_pool) == 1
        await connection.close()

    asyncio.run(run())


def test_9_an_answer_that_does_not_come_is_not_waited_for_when_the_line_is_cut(
    nats_server: Nats,
) -> None:
    """The library sits out the whole timeout of a request whose connection is gone."""

    async def run() -> None:
        async with Line(nats_server.url, nats_server.port) as line:
            log = await ConfigLog.connect([line.url])
            line.drop_answers = True
            asking = asyncio.get_running_loop().create_task(
                log.connection.exchange("$JS.API.INFO", b"", 60.0)
            )
            await asyncio.sleep(0.1)
            line.cut()
            async with asyncio.timeout(20):
                with pytest.raises((ConnectionResetError, OSError)):
                    await asking
            await log.close()

    asyncio.run(run())


def test_10_a_flush_overtakes_what_it_is_to_flush(nats_server: Nats) -> None:
    """Its PING is written past the buffer that a subscription waits in, so the PONG says nothing of
    it. With ours, whoever asks after `flush` finds who listens."""

    async def order(client: library.Client) -> list[bytes]:
        written: list[bytes] = []
        transport = client._transport
        write, writelines = transport.write, transport.writelines

        def note(data: bytes) -> None:
            written.append(data[:4])
            write(data)

        def note_lines(lines: list[bytes]) -> None:
            written.extend(line[:4] for line in lines)
            writelines(lines)

        transport.write, transport.writelines = note, note_lines
        await client.subscribe("somewhere")
        await client.flush()
        await client.close()
        return written

    async def run() -> None:
        theirs = await order(await nats.connect(nats_server.url))
        assert theirs.index(b"PING") < theirs.index(b"SUB ")
        log = await ConfigLog.connect([nats_server.url])
        ours = await order(log.nats)
        assert ours.index(b"SUB ") < ours.index(b"PING")
        await log.close()

    asyncio.run(run())
