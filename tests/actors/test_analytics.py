"""The actor folds what is stored, then what comes, and answers from one consistent view."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

import nats
import pytest
from nats.aio.client import Client
from pykka import ActorDeadError
from support.engines import Nats

from actors.analytics import Analytics, Ready, ask
from actors.analytics_fold import View
from actors.reference import AsyncioActorRef
from events import tail
from events.usage import STREAM, SUBJECT_PREFIX, Delta, UsagePublisher


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    client = await nats.connect(url)
    try:
        yield client
    finally:
        await client.close()


async def until(actor: AsyncioActorRef[Analytics], condition: Callable[[View], bool]) -> None:
    async with asyncio.timeout(10):
        while not (await actor.ask(Ready()) and await ask(actor, condition)):
            await asyncio.sleep(0.01)


def test_stored_usage_and_new_usage_are_folded_once(nats_server: Nats) -> None:
    async def run() -> None:
        async with connected(nats_server.url) as client:
            publisher = UsagePublisher(client, "worker-0", stream_bytes=32 * 1024 * 1024)
            for _ in range(3):
                publisher.add("acme", Delta(queries=1))
                publisher.add("widgetco", Delta(queries=10))
                await publisher.flush()
            stored = await client.jetstream().get_msg(STREAM, 2)
            # Again, as after an answer that was lost long ago.
            await client.jetstream().publish(stored.subject or "", stored.data or b"")
            await client.jetstream().publish(SUBJECT_PREFIX + "acme", b"not usage")

            actor = Analytics.start(client)
            await until(actor, lambda view: view.position == 8)
            assert await ask(actor, lambda view: view.account("acme").total("queries")) == 3
            assert await ask(actor, lambda view: view.all.total("queries")) == 33
            assert await ask(actor, lambda view: (view.repeats, view.unread)) == (1, 1)

            publisher.add("acme", Delta(queries=100))
            await publisher.flush()
            await until(actor, lambda view: view.account("acme").total("queries") == 103)
            await actor.stop()

    asyncio.run(run())


def test_it_waits_for_a_stream_that_is_not_there_yet(nats_server: Nats) -> None:
    async def run() -> None:
        async with connected(nats_server.url) as client:
            actor = Analytics.start(client)
            await until(actor, lambda view: view.messages == 0)
            publisher = UsagePublisher(client, "worker-0", stream_bytes=32 * 1024 * 1024)
            publisher.add("acme", Delta(queries=1))
            await publisher.flush()
            await until(actor, lambda view: view.all.total("queries") == 1)
            await actor.stop()

    asyncio.run(run())


def test_a_bad_question_is_answered_and_changes_nothing(nats_server: Nats) -> None:
    async def run() -> None:
        async with connected(nats_server.url) as client:
            actor = Analytics.start(client)
            with pytest.raises(ZeroDivisionError):
                await ask(actor, lambda view: 1 / view.messages)
            assert await ask(actor, lambda view: view.messages) == 0
            await actor.stop()

    asyncio.run(run())


def test_it_does_not_go_on_answering_when_it_folds_no_more(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> AsyncGenerator[list[tail.Stored], None]:
        raise RuntimeError("cannot read")
        yield []

    monkeypatch.setattr(tail, "read", broken)

    async def run() -> None:
        async with connected(nats_server.url) as client:
            actor = Analytics.start(client)
            died: asyncio.Future[BaseException | None] = asyncio.Future()
            actor.watch(died.set_result)
            assert str(await died) == "cannot read"
            with pytest.raises(ActorDeadError):
                await ask(actor, lambda view: view.messages)

    asyncio.run(run())
