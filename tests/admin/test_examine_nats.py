"""What `tenantry doctor` finds out about the NATS servers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import orjson
import pytest
from support.desk import VAULT
from support.nats import NatsServer

from admin.control import Control
from admin.doctor.nats import Finding, examine
from events import bus_durable, keys
from events.connection import Connection
from events.log import ConfigLog


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    made = NatsServer(tmp_path)
    made.start()
    yield made
    made.stop()


def findings(
    server: NatsServer,
    prepare: Callable[[ConfigLog], Awaitable[None]] | None = None,
    **options: object,
) -> dict[str, Finding]:
    async def run() -> list[Finding]:
        log = ConfigLog(Connection.to([server.url]))
        await log.connection.open(5)
        if prepare is not None:
            await prepare(log)
        found = await examine(log, **options)  # type: ignore[arg-type]
        await log.close()
        return found

    return {each.name: each for each in asyncio.run(run())}


def test_a_running_installation_holds_what_can_be_told(server: NatsServer) -> None:
    async def start() -> None:
        control = await Control.open([server.url], VAULT)
        control.follow()
        await control.serve_commands()
        async with asyncio.timeout(10):
            for name in (bus_durable.STREAM, keys.STREAM):
                while await control.log.fetch(name, {"seq": 1}) is None:
                    info = orjson.dumps({"subject": ">"})
                    names = await control.log.request("$JS.API.STREAM.NAMES", info)
                    if name in (names["streams"] or ()):
                        break
                    await asyncio.sleep(0.02)
        await control.close()

    asyncio.run(start())
    found = findings(server)
    assert {name for name, each in found.items() if each.holds is False} == set()
    # What must not be taken for good because it was not asked.
    assert found["sync_interval"].holds is None
    assert "power failure" in found["sync_interval"].message
    assert found["TENANTRY_CONFIG replicas"].holds is None
    # Even of our own server only what it was started with is known.
    assert findings(server, embedded=True)["sync_interval"].holds is None
    assert findings(server, embedded=True, sync_interval="always")["sync_interval"].holds
    fast = findings(server, embedded=True, sync_interval="2m")["sync_interval"]
    assert fast.holds is False
    assert "--fast-engines" in fast.hint
    assert not findings(server, replicas=3)["TENANTRY_CONFIG replicas"].holds


def test_streams_that_could_lose_something_are_found(server: NatsServer) -> None:
    async def spoil(log: ConfigLog) -> None:
        for name, config in (
            ("TENANTRY_CONFIG", {"subjects": ["tenantry.config.>"], "max_age": 10**12}),
            ("TENANTRY_COMMANDS", {**bus_durable.stream_config(1), "retention": "limits"}),
            ("TENANTRY_KEYS", {**keys.stream_config(1), "deny_delete": True}),
            ("GREEDY", {"subjects": ["tenantry.request.>"]}),
        ):
            config = {"storage": "file", **config, "name": name}
            await log.request(f"$JS.API.STREAM.CREATE.{name}", orjson.dumps(config))

    found = findings(server, spoil)
    for name in ("TENANTRY_CONFIG", "TENANTRY_COMMANDS", "TENANTRY_KEYS", "requests"):
        assert found[name].holds is False, found[name]
        assert found[name].hint
    assert "GREEDY" in found["requests"].message


def test_an_empty_server_is_told_as_such(server: NatsServer) -> None:
    found = findings(server)
    assert found["TENANTRY_CONFIG"].holds is None
    assert found["JetStream"].holds
    assert found["max_payload"].holds
    assert found["transport"].message == "no TLS, on this machine only"
