"""Proxies that apply one file to an empty log at once all end well, and the log holds each thing
once; and who opens a log takes the number of copies from it."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from support.engines import Nats
from support.nats_cluster import NatsCluster

from admin.config.load import Loaded, load
from admin.control import Applied, Control
from events import codec
from events.commands import Command, CommandRefused, PutTenant
from events.facts import Commit
from events.log import ConfigLog
from events.reader import Stored
from events.secrets import Vault

VAULT = Vault(bytes(range(32)))
PROXIES = 3
FILE = """
[[nodes]]
host = "db"
password = "node-secret"
[multi_tenancy.default.rate_limits]
qps_limit = 50
""" + "".join(
    f'[[multi_tenancy.tenants]]\nid = "t{number}"\nname = "T"\n'
    'users = [{ name = "u", password = "user-secret" }]\n'
    for number in range(6)
)


def load_text(folder: Path, text: str) -> Loaded:
    file = folder / "proxy.toml"
    file.write_text(text)
    return load(file, {})


async def commits(log: ConfigLog) -> list[tuple[str, Commit]]:
    found: list[tuple[str, Commit]] = []

    def take(stored: Stored) -> None:
        found.append((stored.subject, codec.decode(stored.data)))

    await log.scan(take)
    return found


def spoiled(command: Command) -> Command:
    """What is refused, as it would be if the other proxy had another idea of a tenant."""
    if not isinstance(command, PutTenant):
        return command
    return command.model_copy(update={"settings": {"colour": "red"}})


def test_proxies_that_start_together_write_each_thing_once(
    nats_server: Nats, tmp_path: Path
) -> None:
    loaded = load_text(tmp_path, FILE)

    async def run() -> None:
        proxies = [await Control.open([nats_server.url], VAULT) for _ in range(PROXIES)]
        try:
            done = await asyncio.gather(*(each.apply(loaded) for each in proxies))
            assert all(isinstance(each, Applied) and not each.refused for each in done)
            stored = await commits(proxies[0].log)
            assert set(Counter(subject for subject, _ in stored).values()) == {1}
            assert len(stored) == 7
            for each in proxies:
                assert (await each.plan(loaded)).commands == []
        finally:
            for each in proxies:
                await each.close()

    asyncio.run(run())


def test_another_proxy_between_reading_and_writing_is_no_error(
    nats_server: Nats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is done with the file when this one is about to write."""
    loaded = load_text(tmp_path, FILE)

    async def run() -> None:
        one, other = [await Control.open([nats_server.url], VAULT) for _ in range(2)]
        planned, plan = [], one.plan

        async def late(given: Loaded):  # type: ignore[no-untyped-def]
            made = await plan(given)
            planned.append(len(made.commands))
            if len(planned) == 1:
                await other.apply(loaded)
                made.commands[:] = map(spoiled, made.commands)
            return made

        monkeypatch.setattr(one, "plan", late)
        try:
            await one.apply(loaded)
            assert planned[0] == 7
            assert len(planned) == 2
            assert (await plan(loaded)).commands == []
        finally:
            await one.close()
            await other.close()

    asyncio.run(run())


def test_what_is_refused_for_its_own_sake_is_refused_at_once(
    nats_server: Nats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_text(tmp_path, FILE)

    async def run() -> None:
        one = await Control.open([nats_server.url], VAULT)
        tries, plan = [], one.plan

        async def wrong(given: Loaded):  # type: ignore[no-untyped-def]
            made = await plan(given)
            tries.append(made)
            made.commands[:] = map(spoiled, made.commands)
            return made

        monkeypatch.setattr(one, "plan", wrong)
        try:
            with pytest.raises(CommandRefused):
                await one.apply(loaded)
            assert len(tries) == 1
            assert await one.log.last_sequence() == 0
        finally:
            await one.close()

    asyncio.run(run())


def test_copies_are_as_many_as_the_log_has(tmp_path: Path) -> None:
    cluster = NatsCluster(tmp_path)

    async def run() -> None:
        first = await ConfigLog.connect(cluster.urls, replicas=3, patience=20)
        await first.close()
        control = await Control.open(cluster.urls, VAULT, patience=20)
        try:
            assert control.log.replicas == 3
        finally:
            await control.close()

    try:
        cluster.start()
        asyncio.run(run())
    finally:
        cluster.stop()
