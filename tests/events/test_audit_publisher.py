"""The audit reaches its stream in whole chains, whatever becomes of NATS and of its writers."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.js.errors import APIError
from support.engines import Nats
from support.nats import NatsServer

from events.audit import STREAM, AuditEvent, decode, stream_config
from events.audit_publisher import AuditPublisher, heads
from events.audit_sink import AuditSink, fingerprint
from events.audit_verify import Verifier
from events.spool import Spool, waiting_in
from events.tail import read

KEY = b"k" * 32


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


def publisher(client: Client, directory: Path, **options: Any) -> AuditPublisher:
    # Each test has an account of its own, and all reserve space on one server.
    config = stream_config(max_bytes=32 * 1024 * 1024)
    return AuditPublisher(client, directory, "worker-0", KEY, config=config, **options)


async def stored(client: Client, subject: str = "") -> list[AuditEvent]:
    found = []
    async for batch in read(client, STREAM, subject=subject):
        found += [decode(each.data) for each in batch]
    assert None not in found
    return [event for event in found if event is not None]


async def verified(client: Client, directory: Path) -> Verifier:
    verifier = Verifier(KEY, expired=False)
    async for batch in read(client, STREAM):
        for each in batch:
            verifier.take(each.sequence, each.subject, each.data)
    assert verifier.finish(heads(directory)) == []
    return verifier


def test_notes_are_stored_under_their_tenant(nats_server: Nats, tmp_path: Path) -> None:
    async def run() -> None:
        async with connected(nats_server.url) as client:
            audit = publisher(client, tmp_path, known=lambda id: id == "acme")
            audit.note("login", "acme", actor="app", address="10.0.0.1", outcome="ok")
            audit.note("login_failed", "no such tenant.>", actor="app", outcome="refused")
            audit.note("login_failed", "unknown", actor="app", outcome="refused")
            for _ in range(1000):
                audit.note(
                    *("refusal", "acme"),
                    actor="app",
                    fingerprint=fingerprint(b"DROP TABLE x"),
                    statement_kind="DROP",
                    sqlstate="42501",
                    outcome="refused",
                    reason="DDL is not allowed",
                    trace_id="0af7651916cd43dd8448eb211c80319c",
                    span_id="b7ad6b7169203331",
                )
            assert await audit.flush() == 4
            (login, refusal) = await stored(client, "tenantry.audit.acme")
            assert (login.kind, login.actor, login.address) == ("login", "app", "10.0.0.1")
            found = (refusal.count, refusal.sqlstate, refusal.statement_kind)
            assert found == (1000, "42501", "DROP")
            assert refusal.fingerprint == "12dbe400972f06f4", "the same for ever"
            opening, failed = await stored(client, "tenantry.audit._installation")
            assert (opening.kind, failed.kind, failed.count) == ("chain_open", "login_failed", 2)
            await audit.close()
            assert (await stored(client))[-1].kind == "chain_close"
            await verified(client, tmp_path)

    asyncio.run(run())


def test_a_plain_sink_forgets() -> None:
    AuditSink().note("refusal", "acme", reason="anything")


def test_nobody_deletes_from_the_stream(nats_server: Nats, tmp_path: Path) -> None:
    async def run() -> None:
        async with connected(nats_server.url) as client:
            audit = publisher(client, tmp_path)
            await audit.close()
            jetstream = client.jetstream()
            with pytest.raises(APIError, match="message delete not permitted"):
                await jetstream.delete_msg(STREAM, 1)
            with pytest.raises(APIError, match="stream purge not permitted"):
                await jetstream.purge_stream(STREAM)
            config = (await jetstream.stream_info(STREAM)).config
            assert config.max_age == 400 * 86400

    asyncio.run(run())


def test_while_nats_is_away_events_wait_on_disk(own_nats: NatsServer, tmp_path: Path) -> None:
    async def run() -> None:
        async with connected(own_nats.url) as client:
            audit = publisher(client, tmp_path)
            await audit.flush()
            own_nats.kill()
            for n in range(20):
                audit.note("command", "acme", actor="root", detail=f"command {n}")
                assert await audit.flush() == 0
            assert len(list(waiting_in(tmp_path / "spool"))) == 20
            own_nats.start()
            async with asyncio.timeout(10):
                while list(waiting_in(tmp_path / "spool")):
                    await audit.flush()
                    await asyncio.sleep(0.01)
            commands = [event.detail for event in await stored(client) if event.kind == "command"]
            assert commands == [f"command {n}" for n in range(20)]
            await audit.close()
            await verified(client, tmp_path)

    asyncio.run(run())


def test_when_the_disk_share_is_full_losses_are_counted_in_the_chain(
    own_nats: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("events.audit_fold.SINGLE_MAX", 10)

    async def run() -> None:
        async with connected(own_nats.url) as client:
            spool = Spool(tmp_path / "spool", bytes_max=9000)
            audit = publisher(client, tmp_path, spool=spool)
            await audit.flush()
            own_nats.kill()
            for n in range(100):
                audit.note("command", "acme", detail=str(n))
                await audit.flush()
                assert spool.used() <= 9000
            own_nats.start()
            async with asyncio.timeout(10):
                while audit.size() or spool.waiting():
                    await audit.flush()
                    await asyncio.sleep(0.01)
            events = [e for e in await stored(client) if e.kind in ("command", "lost")]
            assert sum(event.count for event in events) == 100
            assert any(event.kind == "lost" for event in events)
            await audit.close()
            await verified(client, tmp_path)

    asyncio.run(run())


KILLED = """
import asyncio, sys
from pathlib import Path
import nats
from events.audit_publisher import AuditPublisher

async def main():
    client = await nats.connect(sys.argv[1], max_reconnect_attempts=-1, reconnect_time_wait=0.05)
    audit = AuditPublisher(client, Path(sys.argv[2]), "worker-0", b"k" * 32)
    noted = 0
    while True:
        for _ in range(7):
            audit.note("command", "acme", detail=str(noted))
            noted += 1
        await audit.flush()
        print(noted, flush=True)

asyncio.run(main())
"""


def test_a_killed_writer_leaves_a_whole_chain(own_nats: NatsServer, tmp_path: Path) -> None:
    flushed = 0
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, own_nats.url, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(random.randint(3, 20))]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.read().splitlines()
        process.wait()
        process.stdout.close()
        flushed += int(lines[-1])

    async def look() -> None:
        async with connected(own_nats.url) as client:
            heir = publisher(client, tmp_path)
            await heir.close()
            verifier = await verified(client, tmp_path)
            assert len(verifier.chains) == 5
            commands = {
                (event.chain, event.detail)
                for event in await stored(client)
                if event.kind == "command"
            }
            assert flushed <= len(commands) <= flushed + 4 * 7
            assert list(waiting_in(tmp_path / "spool")) == []

    asyncio.run(look())
