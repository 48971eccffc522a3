"""What the NATS client library does wrong, and that it does us no harm."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path
from typing import Any

import nats
import orjson
import pytest
from nats.errors import NoRespondersError
from support.engines import Nats
from support.nats import Line, NatsServer

from events import connection, reader
from events.facts import Commit, TenantCreated
from events.log import ConfigLog
from events.stream import STREAM, SUBJECT_PREFIX, LogUnavailable
from wire.tasks import spawn

PACKAGES = ("events", "actors", "admin")
ROOT = Path(__file__).parent.parent.parent


def created(id: str, size: int = 0) -> Commit:
    return Commit(id, "ann", "", (TenantCreated(settings={"name": "x" * size}),))


@pytest.mark.parametrize("subjects", [(), (f"{SUBJECT_PREFIX}tenant.>",)])
def test_its_queue_which_drops_messages_when_full_is_not_read_from(
    nats_server: Nats, caplog: pytest.LogCaptureFixture, subjects: tuple[str, ...]
) -> None:
    """It counts a message before it drops it, so its own count shows nothing."""
    caplog.set_level(logging.DEBUG, "tenantry.log")

    async def run() -> None:
        log = await ConfigLog.connect([nats_server.url])
        for number in range(200):
            await log.append("tenant", f"t{number}", created(f"c{number}"), 0)
        subscribe, errors = log.nats.subscribe, []

        async def narrow(subject: str, **options: Any) -> Any:
            return await subscribe(subject, **options, pending_msgs_limit=5)

        async def note(error: Exception) -> None:
            errors.append(error)

        log.nats.subscribe = narrow  # type: ignore[method-assign]
        log.nats._error_cb = note
        seen: list[int] = []
        take = lambda stored: seen.append(stored.sequence)  # noqa: E731
        assert await log.scan(take, subjects=subjects) == 200
        assert seen == list(range(1, 201))
        assert not errors
        assert "reading again" not in caplog.text
        await log.close()

    asyncio.run(run())


def test_its_ordered_and_push_consumers_are_not_used() -> None:
    """They recreate themselves in a task that nobody holds, and read one form of subjects only."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            assert not re.search(r"ordered_consumer|OrderedConsumer|\.key_value\(", text), path
            assert not re.search(r"jetstream\([^)]*\)\.(pull_)?subscribe|js\.subscribe", text), path


def test_headers_that_are_sent_again_are_the_same(nats_server: Nats) -> None:
    """Its own publish writes into the caller's headers."""

    async def run() -> None:
        async with Line(nats_server.url, nats_server.port) as line:
            log = await ConfigLog.connect([line.url])
            sent: list[dict[str, str]] = []
            request = log.nats.request

            async def note(subject: str, payload: bytes = b"", **options: Any) -> Any:
                if options.get("headers"):
                    sent.append(dict(options["headers"]))
                return await request(subject, payload, **options)

            log.nats.request = note  # type: ignore[method-assign]
            headers = {"traceparent": "00-1"}
            line.drop_answers = True
            task = spawn(log.append("tenant", "acme", created("c1"), 0, headers), name="test")
            while not line.swallowed:
                await asyncio.sleep(0.01)
            line.cut()
            assert await task == 1
            assert headers == {"traceparent": "00-1"}
            assert len(sent) == 2
            assert sent[0] == sent[1]
            await log.close()

    asyncio.run(run())


def test_a_stream_without_a_leader_is_waited_for(
    nats_server: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails at once when nobody answers, as during an election; other clients wait."""
    monkeypatch.setattr(connection, "PATIENCE_SECONDS", 5.0)

    async def run() -> None:
        log, other = (
            await ConfigLog.connect([nats_server.url]),
            await nats.connect(nats_server.url),
        )
        with pytest.raises(NoRespondersError):
            await other.request("late.answer", b"")
        asking = spawn(log.request("late.answer", b""), name="test")
        await asyncio.sleep(0.2)
        assert not asking.done()

        async def answer(message: Any) -> None:
            await message.respond(b'{"state": "elected"}')

        await other.subscribe("late.answer", cb=answer)
        assert await asking == {"state": "elected"}
        monkeypatch.setattr(connection, "PATIENCE_SECONDS", 0.2)
        with pytest.raises(LogUnavailable, match="the stream has no leader"):
            await log.request("no.answer", b"")
        await other.close()
        await log.close()

    asyncio.run(run())


def test_settings_that_the_client_does_not_know_outlive_every_start(nats_server: Nats) -> None:
    """It drops the fields that it does not know, so writing back what it read would unset them."""

    async def run() -> None:
        log = await ConfigLog.connect([nats_server.url])
        config = (await log.info())["config"]
        operators = {"metadata": {"owner": "the operator"}, "compression": "s2"}
        wanted = orjson.dumps({**config, **operators})
        await log.request(f"$JS.API.STREAM.UPDATE.{STREAM}", wanted)
        again = await ConfigLog.connect([nats_server.url])
        found = (await again.info())["config"]
        assert found["compression"] == "s2"
        assert found["metadata"]["owner"] == "the operator"
        await again.close()
        await log.close()

    asyncio.run(run())


def test_a_greeting_that_fails_leaves_no_connection_open(
    own_nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes another connection then and forgets the first; the warning would fail this test."""
    monkeypatch.setattr(reader, "SILENCE_SECONDS", 0.5)

    async def run() -> None:
        async with Line(own_nats.url, own_nats.port) as line:
            log = await ConfigLog.connect([line.url])
            for _ in range(3):
                # The connection is lost, and the next one hears no greeting until it is cut, too.
                line.cut()
                line.drop_answers = True
                swallowed = line.swallowed
                while line.swallowed == swallowed:
                    await asyncio.sleep(0.01)
                line.cut()
                while not log.connected:
                    await asyncio.sleep(0.01)
            assert await log.last_sequence() == 0
            await log.close()

    asyncio.run(run())
