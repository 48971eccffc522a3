"""Usage reaches its stream once, and waits in bounded memory while NATS is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import nats
import orjson
import pytest
from nats.aio.client import Client
from support.engines import Nats
from support.nats import Line, NatsServer

from events import usage
from events.usage import STREAM, Delta, UsagePublisher


async def connect(url: str) -> Client:
    async def quiet(_: Exception) -> None: ...

    return await nats.connect(
        url, max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=quiet
    )


async def stored(url: str) -> list[dict[str, Any]]:
    client = await connect(url)
    jetstream = client.jetstream()
    state = (await jetstream.stream_info(STREAM)).state
    found = [await jetstream.get_msg(STREAM, n) for n in range(1, state.last_seq + 1)]
    await client.close()
    return [orjson.loads(message.data) for message in found]


def with_publisher(url: str, test: Callable[[UsagePublisher], Awaitable[None]]) -> None:
    async def run() -> None:
        client = await connect(url)
        try:
            await test(UsagePublisher(client, "worker-1"))
        finally:
            await client.close()

    asyncio.run(run())


def total(messages: list[dict[str, Any]], tenant: str, field: str) -> float:
    return sum(message[field] for message in messages if message["tenant"] == tenant)


def test_deltas_of_a_tenant_become_one_message(nats_server: Nats) -> None:
    async def test(publisher: UsagePublisher) -> None:
        publisher.add("acme", Delta(queries=2, bytes_out=10, busy_seconds=0.25))
        publisher.add("acme", Delta(queries=1, errors=1))
        publisher.add("widgetco", Delta(connections=1))
        assert publisher.waiting() == 2
        assert await publisher.flush() == 2
        assert await publisher.flush() == 0
        publisher.add("acme", Delta(queries=4))
        assert await publisher.flush() == 1
        messages = await stored(nats_server.url)
        assert [(m["tenant"], m["n"], m["queries"]) for m in messages] == [
            ("acme", 1, 3),
            ("widgetco", 2, 0),
            ("acme", 3, 4),
        ]
        assert (messages[0]["worker"], messages[0]["errors"], messages[0]["busy_seconds"]) == (
            "worker-1",
            1,
            0.25,
        )
        assert messages[0]["from"] <= messages[0]["to"] <= messages[2]["from"] <= messages[2]["to"]

    with_publisher(nats_server.url, test)


def test_the_callers_delta_is_not_touched(nats_server: Nats) -> None:
    async def test(publisher: UsagePublisher) -> None:
        delta = Delta(queries=1)
        publisher.add("acme", delta)
        publisher.add("acme", Delta(queries=5))
        assert delta == Delta(queries=1)

    with_publisher(nats_server.url, test)


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_what_is_lost_on_the_way_is_counted_once(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    monkeypatch.setattr(usage, "ATTEMPT_SECONDS", 0.3)

    async def run() -> None:
        async with Line(nats_server.url, nats_server.port) as line:
            client = await connect(line.url)
            publisher = UsagePublisher(client, "worker-1")
            publisher.add("acme", Delta(queries=1))
            await publisher.flush()

            publisher.add("acme", Delta(queries=10))
            line.drop_requests, line.drop_answers = lost == "request", lost == "answer"
            assert await publisher.flush() == 0
            publisher.add("acme", Delta(queries=100))
            assert await publisher.flush() == 0
            line.cut()
            async with asyncio.timeout(10):
                while publisher.waiting():
                    await publisher.flush()
                    await asyncio.sleep(0.01)
            await client.close()
        messages = await stored(nats_server.url)
        assert [message["queries"] for message in messages] == [1, 10, 100]

    asyncio.run(run())


def test_while_nats_is_away_usage_is_merged_and_sent_when_it_is_back(own_nats: NatsServer) -> None:
    async def test(publisher: UsagePublisher) -> None:
        own_nats.kill()
        for _ in range(1000):
            publisher.add("acme", Delta(queries=1))
        for _ in range(5):
            assert await publisher.flush() == 0
        assert publisher.waiting() == 1
        own_nats.start()
        async with asyncio.timeout(10):
            while publisher.waiting():
                await publisher.flush()
                await asyncio.sleep(0.01)
        assert total(await stored(own_nats.url), "acme", "queries") == 1000

    with_publisher(own_nats.url, test)


def test_what_waits_is_bounded_and_what_is_lost_is_counted(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(usage, "TENANTS_WAITING_MAX", 3)

    async def test(publisher: UsagePublisher) -> None:
        for number in range(5):
            publisher.add(f"t{number}", Delta(queries=1))
        publisher.add("t0", Delta(queries=1))
        assert (publisher.waiting(), publisher.lost) == (3, 2)
        assert "losing some" in caplog.text
        assert await publisher.flush() == 3

    with_publisher(nats_server.url, test)


def test_many_tenants_at_once(nats_server: Nats) -> None:
    async def test(publisher: UsagePublisher) -> None:
        for number in range(1000):
            publisher.add(f"t{number}", Delta(queries=number))
        assert await publisher.flush() == 1000
        client = await connect(nats_server.url)
        info = await client.jetstream().stream_info(STREAM)
        assert info.state.messages == 1000
        assert (info.config.max_age, info.config.max_bytes) == (90 * 86400, 1024**3)
        await client.close()

    with_publisher(nats_server.url, test)
