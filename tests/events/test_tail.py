"""A stream that expires is read without loss, from anywhere, by subject, and through outages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.api import StreamConfig
from support.engines import Nats
from support.nats import Line, NatsServer

from events import tail
from events.stream import LogUnavailable


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    async def quiet(_: Exception) -> None: ...

    client = await nats.connect(
        url, max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=quiet
    )
    try:
        yield client
    finally:
        await client.close()


async def fill(client: Client, count: int) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(StreamConfig(name="S", subjects=["s.>"], max_msgs=5000))
    futures = [
        await jetstream.publish_async(f"s.{'even' if n % 2 == 0 else 'odd'}", b"%d" % n)
        for n in range(1, count + 1)
    ]
    await asyncio.gather(*futures)


async def insist(client: Client, n: int) -> None:
    """Publish once, whatever becomes of the tries."""
    while True:
        with contextlib.suppress(NatsError, OSError):
            await client.jetstream().publish(
                "s.odd", b"%d" % n, timeout=0.2, headers={"Nats-Msg-Id": str(n)}
            )
            return
        await asyncio.sleep(0.01)


async def consumers(client: Client) -> int:
    info = await tail.info(client, "S")
    assert info is not None
    count: int = info["state"]["consumer_count"]
    return count


async def collect(client: Client, **options: object) -> list[int]:
    found = []
    async for batch in tail.read(client, "S", **options):  # type: ignore[arg-type]
        found += [int(stored.data) for stored in batch]
    return found


def test_all_of_it_a_part_of_it_none_of_it(nats_server: Nats) -> None:
    async def run() -> None:
        async with connected(nats_server.url) as client:
            assert await tail.info(client, "S") is None
            assert await collect(client) == [], "a stream that is not there is empty"
            await fill(client, 1234)
            assert await collect(client) == list(range(1, 1235))
            assert await collect(client, after=1200) == list(range(1201, 1235))
            assert await collect(client, subject="s.even") == list(range(2, 1235, 2))
            assert await collect(client, after=1234) == []
            assert await collect(client, since=4e9) == []
            assert await collect(client, since=1.0) == list(range(1, 1235))
            async with asyncio.timeout(10):
                while await consumers(client):
                    await asyncio.sleep(0.01)

    asyncio.run(run())


def test_a_stream_whose_beginning_has_expired(nats_server: Nats) -> None:
    async def run() -> None:
        async with connected(nats_server.url) as client:
            await fill(client, 5600)
            assert await collect(client) == list(range(601, 5601))

    asyncio.run(run())


def test_following_goes_on_through_an_outage(own_nats: NatsServer) -> None:
    async def run() -> None:
        async with connected(own_nats.url) as client, connected(own_nats.url) as writer:
            await fill(writer, 700)
            found: list[int] = []
            async with (
                aclosing(tail.read(client, "S", follow=True)) as batches,
                asyncio.timeout(20),
            ):
                async for batch in batches:
                    found += [int(stored.data) for stored in batch]
                    if found[-1] == 700:
                        own_nats.kill()
                        own_nats.start()
                        for n in range(701, 705):
                            await insist(writer, n)
                    if found[-1] == 704:
                        break
            assert found == list(range(1, 705))

    asyncio.run(run())


def test_a_message_lost_on_the_way_is_read_again(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[Msg] = []
    original = Subscription.next_msg

    async def losing(self: Subscription, timeout: float | None = 1.0) -> Msg:
        message = await original(self, timeout)
        if not lost and message.data == b"50":
            # As the client's bounded queue drops one.
            lost.append(message)
            return await original(self, timeout)
        return message

    monkeypatch.setattr(Subscription, "next_msg", losing)

    async def run() -> None:
        async with connected(nats_server.url) as client:
            await fill(client, 100)
            assert await collect(client) == list(range(1, 101))
            assert lost

    asyncio.run(run())


def test_reading_once_gives_up_when_nobody_answers(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "ATTEMPT_SECONDS", 0.1)

    async def run() -> None:
        async with Line(nats_server.url, nats_server.port) as line, connected(line.url) as client:
            line.drop_answers = True
            with pytest.raises(LogUnavailable):
                await collect(client)
            with pytest.raises(LogUnavailable):
                await tail.info(client, "S")

    asyncio.run(run())
