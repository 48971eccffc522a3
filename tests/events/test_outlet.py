"""The way into a stream: made when missing, as large as there is room, each message stored once."""

from __future__ import annotations

import asyncio
import logging

import nats
import pytest
from nats.js.api import StreamConfig
from support.engines import Nats
from support.nats import NatsServer

from events import outlet
from events.outlet import Outlet
from events.spool import Message


def config(max_bytes: int = 2**25) -> StreamConfig:
    return StreamConfig(name="O", subjects=["o.>"], max_bytes=max_bytes, duplicate_window=60.0)


def test_a_stream_is_made_smaller_where_there_is_no_room(
    own_nats: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        client = await nats.connect(own_nats.url)
        assert await Outlet(client, config(2**60)).open()
        info = await client.jetstream().stream_info("O")
        assert 2**24 <= (info.config.max_bytes or 0) < 2**60
        assert "NATS has no room for O" in caplog.text
        await client.close()

    asyncio.run(run())


def test_not_smaller_than_is_of_use(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outlet, "STREAM_BYTES_MIN", 2**59)

    async def run() -> None:
        client = await nats.connect(nats_server.url)
        refused = Outlet(client, config(2**60))
        for _ in range(3):
            assert not await refused.open()
        assert caplog.text.count("O cannot be made: insufficient storage") == 1
        await client.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())


def test_a_stream_that_is_there_is_left_as_it_is(nats_server: Nats) -> None:
    async def run() -> None:
        client = await nats.connect(nats_server.url)
        await client.jetstream().add_stream(StreamConfig(name="O", subjects=["o.>"], max_msgs=7))
        assert await Outlet(client, config()).open()
        assert (await client.jetstream().stream_info("O")).config.max_msgs == 7
        await client.close()

    asyncio.run(run())


def test_two_that_make_it_at_once_both_succeed(nats_server: Nats) -> None:
    async def run() -> None:
        client = await nats.connect(nats_server.url)
        ways = [Outlet(client, config(2**25 + n)) for n in range(8)]
        assert all(await asyncio.gather(*(way.open() for way in ways)))
        await client.close()

    asyncio.run(run())


def test_repeats_are_stored_once_and_what_is_refused_comes_back(nats_server: Nats) -> None:
    async def run() -> None:
        client = await nats.connect(nats_server.url)
        way = Outlet(client, config())
        assert await way.open()
        messages = [Message(f"o.{n % 3}", f"id.{n}", b"x") for n in range(700)]
        assert await way.store(messages) == []
        assert await way.store(messages[:300]) == []
        elsewhere = Message("not.ours", "id", b"x")
        assert await way.store([*messages[:2], elsewhere]) == [elsewhere]
        assert (await client.jetstream().stream_info("O")).state.messages == 700
        await client.close()

    asyncio.run(run())
