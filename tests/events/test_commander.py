"""Commands over a real log: decided on current state, stored once, readable when they return."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from support.engines import Nats
from support.nats import NatsServer

from events import connection
from events.commander import Commander
from events.commands import (
    ChangeTenant,
    CommandRefused,
    DeleteTenant,
    DisableTenant,
    PutInstallation,
    PutTenant,
)
from events.facts import TenantChanged, TenantCreated, TenantDisabled
from events.log import ConfigLog
from events.projection import Projection
from events.stream import CommandIdReused, LogUnavailable
from wire.tasks import spawn


class Office:
    """A commander with its own log and projection."""

    def __init__(self, log: ConfigLog) -> None:
        self.log = log
        self.projection = Projection()
        self.commander = Commander(log, self.projection)

    def name(self, id: str) -> str | None:
        tenant = self.projection.tenant(id)
        return None if tenant is None else tenant.name


def with_offices(
    server: Nats | NatsServer, count: int, test: Callable[..., Awaitable[None]]
) -> None:
    async def run() -> None:
        offices = [Office(await ConfigLog.connect([server.url])) for _ in range(count)]
        try:
            await test(*offices)
        finally:
            for office in offices:
                await office.log.close()

    asyncio.run(run())


def test_what_was_commanded_can_be_read_at_once(nats_server: Nats) -> None:
    async def test(office: Office) -> None:
        accepted = await office.commander.execute(
            PutTenant(id="acme", settings={"name": "A"}), "ann"
        )
        assert (accepted.sequence, accepted.events) == (1, (TenantCreated(settings={"name": "A"}),))
        assert office.name("acme") == "A"
        again = await office.commander.execute(PutTenant(id="acme", settings={"name": "A"}), "ann")
        assert (again.sequence, again.events) == (1, ())
        assert await office.log.last_sequence() == 1

    with_offices(nats_server, 1, test)


def test_what_was_commanded_can_be_read_at_once_also_behind_what_others_did(
    nats_server: Nats,
) -> None:
    async def test(one: Office, two: Office) -> None:
        await one.commander.execute(PutTenant(id="acme", settings={"name": "A"}), "ann")
        accepted = await two.commander.execute(PutTenant(id="other", settings={"name": "O"}), "bob")
        assert accepted.sequence == 2
        assert (two.name("acme"), two.name("other")) == ("A", "O")

    with_offices(nats_server, 2, test)


def test_another_ones_change_is_seen_before_deciding(nats_server: Nats) -> None:
    async def test(one: Office, two: Office) -> None:
        await one.commander.execute(PutTenant(id="acme", settings={"name": "A"}), "ann")
        # Neither refused for a tenant that is unknown here, nor "nothing to do" on old state.
        accepted = await two.commander.execute(DisableTenant(id="acme"), "bob")
        assert accepted.events == (TenantDisabled(),)
        accepted = await one.commander.execute(
            PutTenant(id="acme", settings={"name": "A", "enabled": True}), "ann"
        )
        assert [fact.TYPE for fact in accepted.events] == ["TenantEnabled"]

    with_offices(nats_server, 2, test)


def test_conflicts_converge(nats_server: Nats) -> None:
    async def test(one: Office, two: Office) -> None:
        await one.commander.execute(PutTenant(id="acme"), "ann")
        for round in range(10):
            patches = [{"pool": {"min_idle": 2 + round}}, {"name": f"n{round}"}]
            await asyncio.gather(
                one.commander.execute(ChangeTenant(id="acme", patch=patches[0]), "ann"),
                two.commander.execute(ChangeTenant(id="acme", patch=patches[1]), "bob"),
            )
        await one.commander.catch_up()
        await two.commander.catch_up()
        assert one.projection.digest() == two.projection.digest()
        tenant = one.projection.tenant("acme")
        assert tenant is not None
        assert (tenant.name, tenant.pool.min_idle) == ("n9", 11)
        assert one.projection.position == 21

    with_offices(nats_server, 2, test)


def test_a_command_id_works_once_for_ever_and_for_one_tenant(nats_server: Nats) -> None:
    async def test(one: Office, two: Office) -> None:
        await one.commander.execute(PutTenant(id="acme", settings={"name": "A"}), "ann")
        rename = ChangeTenant(id="acme", patch={"name": "B"}, command_id="rename-1")
        first = await one.commander.execute(rename, "ann")
        await one.commander.execute(ChangeTenant(id="acme", patch={"name": "C"}), "ann")

        for office in (one, two):
            repeated = await office.commander.execute(rename, "ann")
            assert (repeated.sequence, repeated.events) == (first.sequence, ())
            assert office.name("acme") == "C"
        stolen = PutTenant(id="other", command_id="rename-1")
        with pytest.raises(CommandIdReused):
            await two.commander.execute(stolen, "bob")

    with_offices(nats_server, 2, test)


def test_with_a_follower_beside_it(nats_server: Nats) -> None:
    async def test(one: Office, two: Office) -> None:
        heard: list[str] = []
        one.projection.subscribe(lambda kind, id: heard.append(id))
        follower = spawn(one.log.follow(1, one.projection.apply), name="test")
        await asyncio.gather(
            *(one.commander.execute(PutTenant(id=f"a{n}"), "ann") for n in range(20)),
            *(two.commander.execute(PutTenant(id=f"b{n}"), "bob") for n in range(20)),
        )
        assert all(one.projection.tenant(f"a{n}") for n in range(20))
        await one.commander.catch_up()
        assert sorted(heard) == sorted(f"{x}{n}" for x in "ab" for n in range(20))
        follower.cancel()
        with pytest.raises(asyncio.CancelledError):
            await follower

    with_offices(nats_server, 2, test)


def test_a_whole_file_is_carried_out_once_or_refused_whole(nats_server: Nats) -> None:
    file = [
        PutInstallation(settings={"defaults": {"rate_limits": {"qps_limit": 9}}}),
        PutTenant(id="acme", settings={"name": "A"}),
        PutTenant(id="widgetco"),
    ]

    async def test(one: Office, two: Office) -> None:
        accepted = await one.commander.execute_all(file, "file")
        assert [len(each.events) for each in accepted] == [1, 1, 1]
        # A restart reads the same file: new command ids, no second event.
        renewed = [
            command.model_copy(update={"command_id": f"r{n}"}) for n, command in enumerate(file)
        ]
        accepted = await two.commander.execute_all(renewed, "file")
        assert [len(each.events) for each in accepted] == [0, 0, 0]
        assert await one.log.last_sequence() == 3

        await one.commander.execute(DeleteTenant(id="widgetco"), "ann")
        wrong = [
            PutTenant(id="fine"),
            PutTenant(id="widgetco"),
            PutTenant(id="acme", settings={"colour": "red", "pool": {"min_idle": -1}}),
        ]
        with pytest.raises(CommandRefused) as caught:
            await two.commander.execute_all(wrong, "file")
        assert [mistake.path for mistake in caught.value.mistakes] == [
            "tenant.widgetco.id",
            "tenant.acme.pool.min_idle",
            "tenant.acme.colour",
        ]
        assert two.projection.tenant("fine") is None

    with_offices(nats_server, 2, test)


def test_without_the_log_commands_fail_and_reading_goes_on(
    own_nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PATIENCE_SECONDS", 0.3)

    async def test(office: Office) -> None:
        await office.commander.execute(PutTenant(id="acme", settings={"name": "A"}), "ann")
        own_nats.kill()
        while office.log.connected:
            await asyncio.sleep(0.01)
        for command in (
            ChangeTenant(id="acme", patch={"name": "B"}),
            ChangeTenant(id="acme", patch={"name": "A"}),
            ChangeTenant(id="unknown", patch={}),
        ):
            with pytest.raises(LogUnavailable):
                await office.commander.execute(command, "ann")
        assert office.name("acme") == "A"
        own_nats.start()
        while not office.log.connected:
            await asyncio.sleep(0.01)
        accepted = await office.commander.execute(
            ChangeTenant(id="acme", patch={"name": "B"}), "ann"
        )
        assert accepted.events == (TenantChanged(changes={"name": "B"}),)

    with_offices(own_nats, 1, test)
