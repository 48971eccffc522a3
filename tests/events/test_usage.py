"""Usage reaches its stream once, and waits in bounded memory while NATS is away."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import nats
import orjson
import pytest
from nats.aio.client import Client
from support.engines import Nats
from support.nats import Line, NatsServer

from events import outlet, usage
from events.spool import Spool
from events.usage import STREAM, Delta, UsagePublisher
from events.usage_delta import COUNTERS, Usage, decode


async def connect(url: str) -> Client:
    async def quiet(_: Exception) -> None: ...

    return await nats.connect(
        url, max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=quiet
    )


async def stored(url: str) -> list[dict[str, Any]]:
    """The messages of the stream, with all counters, those that are 0 too."""
    client = await connect(url)
    jetstream = client.jetstream()
    state = (await jetstream.stream_info(STREAM)).state
    found = [await jetstream.get_msg(STREAM, n) for n in range(1, state.last_seq + 1)]
    await client.close()
    zeros = dict.fromkeys(COUNTERS, 0)
    return [zeros | orjson.loads(message.data) for message in found]


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
        assert (messages[0]["worker"], messages[0]["errors"]) == ("worker-1", 1)
        assert messages[0]["busy_us"] == 250_000
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
    monkeypatch.setattr(outlet, "ATTEMPT_SECONDS", 0.3)

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


def test_a_message_says_all_that_a_delta_holds() -> None:
    delta = Delta(
        queries=9,
        rows_written=3,
        slow_queries=1,
        busy_seconds=0.1 + 0.2,
        connection_seconds=1.5,
        latency_seconds=0.25,
        limits={"qps": 2},
        latency={0: 8, 40: 1},
        clients=3,
        servers=2,
    )
    found = decode(usage.encode("acme", "worker-0", "b", 7, 10.0, 20.0, delta))
    assert found is not None
    counted = {name: n for name, n in zip(COUNTERS, found.counters, strict=True) if n}
    assert counted == {
        "queries": 9,
        "rows_written": 3,
        "slow_queries": 1,
        "busy_us": 300_000,
        "connection_ms": 1_500,
        "latency_us": 250_000,
    }
    assert (found.tenant, found.n, found.since, found.until) == ("acme", 7, 10.0, 20.0)
    assert (found.limits, found.latency, found.now) == ({"qps": 2}, {0: 8, 40: 1}, (3, 2, 0))


def test_messages_of_the_first_version_are_read_for_ever() -> None:
    old = (
        b'{"v":1,"tenant":"acme","worker":"worker-1","boot":"b","n":1,"from":1.5,"to":2.5,'
        b'"queries":3,"errors":1,"refused":0,"rows_out":5,"bytes_in":6,"bytes_out":7,'
        b'"transactions":2,"busy_seconds":0.25,"connections":1}'
    )
    found = decode(old)
    assert found == Usage(
        "acme", "worker-1", "b", 1, 1.5, 2.5, [3, 1, 0, 5, 0, 6, 7, 2, 250_000, 1, 0, 0, 0], {}, {}
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"v":3,"tenant":"a","worker":"w","boot":"b","n":1,"from":1,"to":2}',
        b'{"v":2,"tenant":"a","worker":"w","boot":"b","n":"x","from":1,"to":2}',
        b'{"v":2,"tenant":7,"worker":"w","boot":"b","n":1,"from":1,"to":2}',
        b'{"v":2,"tenant":"a","worker":"w","boot":"b","n":1,"from":1,"to":2,"latency":[1]}',
        b'{"v":2,"tenant":"a","worker":"w","boot":"b","n":1,"from":1,"to":2,"now":[1]}',
    ],
)
def test_what_is_no_message_is_none(data: bytes) -> None:
    assert decode(data) is None


def test_while_nats_is_away_usage_is_kept_on_disk_for_the_next_process(
    own_nats: NatsServer, tmp_path: Path
) -> None:
    async def run() -> None:
        client = await connect(own_nats.url)
        killed = UsagePublisher(client, "worker-1", spool=Spool(tmp_path / "spool"))
        killed.add("acme", Delta(queries=1))
        assert await killed.flush() == 1
        own_nats.kill()
        killed.add("acme", Delta(queries=10))
        assert await killed.flush() == 0
        killed.add("acme", Delta(queries=100))
        assert await killed.flush() == 0
        assert killed.waiting() == 0, "all is on disk"
        await client.close()
        killed.close()  # as the end of the process would

        own_nats.start()
        client = await connect(own_nats.url)
        heir = UsagePublisher(client, "worker-2", spool=Spool(tmp_path / "spool"))
        heir.add("acme", Delta(queries=1000))
        assert await heir.flush() == 3
        assert [m["queries"] for m in await stored(own_nats.url)] == [1, 1000, 10, 100]
        assert list((tmp_path / "spool").iterdir()) == []
        heir.close()
        await client.close()

    asyncio.run(run())


def test_a_full_spool_loses_nothing_while_the_process_lives(
    own_nats: NatsServer, tmp_path: Path
) -> None:
    async def run() -> None:
        client = await connect(own_nats.url)
        spool = Spool(tmp_path / "spool", bytes_max=1000)
        publisher = UsagePublisher(client, "worker-1", spool=spool)
        await publisher.flush()
        own_nats.kill()
        for _ in range(50):
            publisher.add("acme", Delta(queries=1))
            await publisher.flush()
            assert spool.used() <= 1000
        own_nats.start()
        async with asyncio.timeout(10):
            while publisher.waiting() or spool.waiting():
                await publisher.flush()
                await asyncio.sleep(0.01)
        messages = await stored(own_nats.url)
        assert total(messages, "acme", "queries") == 50
        assert len(messages) < 20, "what found no room was merged"
        publisher.close()
        await client.close()

    asyncio.run(run())


KILLED = """
import asyncio, sys
from pathlib import Path
import nats
from events.spool import Spool
from events.usage import Delta, UsagePublisher

async def main():
    client = await nats.connect(sys.argv[1], max_reconnect_attempts=-1, reconnect_time_wait=0.05)
    publisher = UsagePublisher(client, "worker-1", spool=Spool(Path(sys.argv[2])))
    added = 0
    while True:
        for _ in range(10):
            publisher.add("acme", Delta(queries=1))
            added += 1
        print("added", added, flush=True)
        if await publisher.flush():
            print("stored", added, flush=True)

asyncio.run(main())
"""


def test_a_killed_worker_loses_no_more_than_its_last_interval(
    own_nats: NatsServer, tmp_path: Path
) -> None:
    added = known = 0
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, own_nats.url, str(tmp_path / "spool")],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(random.randint(8, 40))]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.read().splitlines()
        process.wait()
        process.stdout.close()
        said = {word: int(n) for word, n in (line.split() for line in lines)}
        added, known = added + said["added"], known + said["stored"]
    kept = total(asyncio.run(stored(own_nats.url)), "acme", "queries")
    assert known <= kept <= added
