"""The dispatcher: activation, passivation, routing, supervision, with small tenants of its own."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from actors import dispatcher as limits
from actors.dispatcher import Dispatcher
from actors.mailbox import Verdict
from actors.messages import (
    ConfigChanged,
    ConnectionClosed,
    ConnectionOpened,
    OpenLease,
    StatementsCompleted,
    Tick,
)
from actors.reference import AsyncioActorRef
from actors.runtime import AsyncioActor
from wire.errors import (
    RateExceeded,
    ServerUnavailable,
    ShuttingDown,
    TenantryError,
    TooManyConnections,
)
from wire.tasks import spawn


class World:
    """What the tenants of one test share: the clock, and how they are to behave."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.started: list[str] = []
        self.journal: list[tuple[str, object]] = []
        self.on_start: dict[str, BaseException] = {}
        self.on_lease: dict[str, BaseException] = {}
        self.factory: dict[str, BaseException] = {}
        # Cleared: an actor that starts, stops or grants a lease waits for it.
        self.gate = asyncio.Event()
        self.gate.set()
        self.hangs = False

    def start_actor(self, tenant_id: str) -> AsyncioActorRef[Any]:
        self.started.append(tenant_id)
        if tenant_id in self.factory:
            raise self.factory[tenant_id]
        return Small.start(tenant_id, self)

    def dispatcher(self) -> Dispatcher:
        return Dispatcher(self.start_actor, idle_seconds=60.0, clock=lambda: self.now)

    def told(self, tenant_id: str) -> list[str]:
        return [type(message).__name__ for tenant, message in self.journal if tenant == tenant_id]


class Small(AsyncioActor):
    """A tenant that counts connections."""

    answers = (TenantryError,)
    mailbox_capacity = 8

    def __init__(self, tenant_id: str, world: World) -> None:
        super().__init__()
        self.tenant_id, self.world = tenant_id, world
        self.connections: set[object] = set()

    async def on_start(self) -> None:
        await self.world.gate.wait()
        if self.tenant_id in self.world.on_start:
            raise self.world.on_start[self.tenant_id]

    async def on_stop(self) -> None:
        self.world.journal.append((self.tenant_id, "stop"))
        await self.world.gate.wait()
        if self.world.hangs:
            await asyncio.Event().wait()

    async def on_receive(self, message: object) -> object:
        self.world.journal.append((self.tenant_id, message))
        if isinstance(message, BaseException):
            raise message
        if isinstance(message, OpenLease):
            await self.world.gate.wait()
            if self.tenant_id in self.world.on_lease:
                raise self.world.on_lease[self.tenant_id]
            self.connections.add(message.connection)
            return self, len(self.connections)
        if isinstance(message, ConnectionOpened):
            self.connections.add(message.connection)
        elif isinstance(message, ConnectionClosed):
            self.connections.discard(message.connection)
        return None


async def settle() -> None:
    """Let everything that can happen without time passing happen."""
    for _ in range(300):
        await asyncio.sleep(0)


def play(run: Any, scenario: Any) -> World:
    """Run the scenario with a world and a dispatcher, and close the dispatcher after it."""
    worlds: list[World] = []

    async def whole() -> None:
        world = World()
        worlds.append(world)
        dispatcher = world.dispatcher()
        try:
            await scenario(world, dispatcher)
        finally:
            world.gate.set()
            await dispatcher.close()
            await settle()

    run(whole())
    return worlds[0]


# --- activation and routing -----------------------------------------------------------------------


def test_first_use_activates_and_later_uses_find_the_same_actor(run: Any) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        first: Any = await dispatcher.open_lease("acme", "c1")
        second: Any = await dispatcher.open_lease("acme", "c2")
        assert first[0] is second[0]
        assert second[1] == 2
        await dispatcher.open_lease("widgetco", "c3")
        assert world.started == ["acme", "widgetco"]
        assert dispatcher.active() == ["acme", "widgetco"]
        assert dispatcher.connections("acme") == 2

    play(run, scenario)


def test_concurrent_first_uses_activate_exactly_one_actor(run: Any) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        world.gate.clear()
        async with asyncio.TaskGroup() as tasks:
            opened = [tasks.create_task(dispatcher.open_lease("acme", n)) for n in range(5)]
            await settle()
            world.gate.set()
        assert world.started == ["acme"]
        results: list[Any] = [task.result() for task in opened]
        assert [count for _, count in results] == [1, 2, 3, 4, 5]

    play(run, scenario)


def test_events_go_to_their_own_tenant(run: Any) -> None:
    def batch(tenant: str) -> StatementsCompleted:
        return StatementsCompleted(tenant, 3, 0, 10, 100, 1000, 0.5)

    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        assert dispatcher.send("acme", batch("acme")) is Verdict.ACCEPTED
        assert dispatcher.send("widgetco", batch("widgetco"))
        await settle()
        assert world.told("acme") == world.told("widgetco") == ["StatementsCompleted"]
        assert all(message.tenant == tenant for tenant, message in world.journal)  # type: ignore[attr-defined]

    play(run, scenario)


def test_a_closed_connection_is_told_and_may_be_told_twice(run: Any) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        actor: Any
        actor, _ = await dispatcher.open_lease("acme", "c1")  # type: ignore[misc]
        dispatcher.connection_closed("acme", "c1")
        dispatcher.connection_closed("acme", "c1")
        dispatcher.connection_closed("nobody", "c1")
        await settle()
        assert actor.connections == set()
        assert dispatcher.connections("acme") == 0

    play(run, scenario)


def test_config_changed_goes_to_active_actors_only_and_overtakes_work(run: Any) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        dispatcher.config_changed("asleep")
        assert world.started == []
        dispatcher.send("acme", "work 1")
        dispatcher.send("acme", "work 2")
        dispatcher.config_changed("acme")
        await settle()
        assert world.told("acme") == ["ConfigChanged", "str", "str"]

    play(run, scenario)


def test_a_change_that_found_no_room_is_told_at_the_next_tick(run: Any) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        world.gate.clear()
        dispatcher.send("acme", "wake up")
        for _ in range(65):
            dispatcher.config_changed("acme")
        world.gate.set()
        await settle()
        assert world.told("acme").count("ConfigChanged") == 64
        dispatcher.tick()
        dispatcher.tick()
        await settle()
        assert world.told("acme").count("ConfigChanged") == 65

    play(run, scenario)


def test_a_refusal_of_the_actor_is_what_the_client_gets(run: Any) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        world.on_lease["acme"] = RateExceeded("slow down")
        with pytest.raises(RateExceeded, match="slow down"):
            await dispatcher.open_lease("acme", "c1")
        assert dispatcher.connections("acme") == 0
        assert dispatcher.active() == ["acme"]

    play(run, scenario)


def test_a_full_mailbox_is_too_many_connections(run: Any) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        world.gate.clear()
        waiting = [spawn(dispatcher.open_lease("acme", n), name="client") for n in range(8)]
        await settle()
        with pytest.raises(TooManyConnections):
            await dispatcher.open_lease("acme", "one more")
        assert dispatcher.send("acme", "event") is Verdict.FULL
        world.gate.set()
        assert len(await asyncio.gather(*waiting)) == 8

    play(run, scenario)


def test_a_cancelled_opening_is_taken_back_from_the_actor(run: Any) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        actor: Any
        actor, _ = await dispatcher.open_lease("acme", "stays")  # type: ignore[misc]
        world.gate.clear()
        opening = spawn(dispatcher.open_lease("acme", "leaves"), name="client")
        await settle()
        opening.cancel()
        await settle()
        world.gate.set()
        await settle()
        assert opening.cancelled()
        assert actor.connections == {"stays"}
        assert dispatcher.connections("acme") == 1

    play(run, scenario)


def test_a_connection_that_closes_while_it_is_opened_gets_no_lease(run: Any) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        world.gate.clear()
        opening = spawn(dispatcher.open_lease("acme", "c1"), name="client")
        await settle()
        dispatcher.connection_closed("acme", "c1")
        world.gate.set()
        with pytest.raises(ShuttingDown):
            await opening
        assert dispatcher.connections("acme") == 0

    play(run, scenario)


# --- passivation ----------------------------------------------------------------------------------


def test_an_idle_tenant_is_put_to_sleep_and_wakes_up_again(run: Any) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        await dispatcher.open_lease("acme", "c1")
        dispatcher.connection_closed("acme", "c1")
        world.now += 59
        dispatcher.tick()
        await settle()
        assert dispatcher.active() == ["acme"]
        world.now += 1
        dispatcher.tick()
        await settle()
        assert dispatcher.active() == []
        assert ("acme", "stop") in world.journal
        assert dispatcher._entries == {}, "a sleeping tenant costs nothing"
        await dispatcher.open_lease("acme", "c2")
        assert world.started == ["acme", "acme"]

    play(run, scenario)


def test_a_tenant_with_a_connection_stays_awake_however_long_it_is_quiet(run: Any) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        await dispatcher.open_lease("acme", "c1")
        world.now += 10_000
        dispatcher.tick()
        await settle()
        assert dispatcher.active() == ["acme"]
        assert world.told("acme") == ["OpenLease", "Tick"]

    play(run, scenario)


def test_a_tenant_that_is_used_while_it_falls_asleep_never_has_two_actors(run: Any) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        dispatcher.send("acme", "wake up")
        await settle()
        world.now += 60
        world.gate.clear()
        dispatcher.tick()
        await settle()
        opening = spawn(dispatcher.open_lease("acme", "c1"), name="client")
        await settle()
        assert world.started == ["acme"], "the first is still stopping"
        assert dispatcher.send("acme", "event") is Verdict.DEAD
        world.gate.set()
        await opening
        assert world.started == ["acme", "acme"]

    play(run, scenario)


def test_an_actor_that_does_not_stop_is_killed(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STOP_SECONDS", 0.01)

    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        dispatcher.send("acme", "wake up")
        await settle()
        world.hangs = True
        world.now += 60
        dispatcher.tick()
        await settle()
        await dispatcher.open_lease("acme", "c1")
        assert world.started == ["acme", "acme"]

    play(run, scenario)


def test_the_timer_ticks_by_itself(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TICK_SECONDS", 0.001)

    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        await dispatcher.open_lease("acme", "c1")
        async with asyncio.timeout(5):
            while world.told("acme").count("Tick") < 2:
                await asyncio.sleep(0.001)

    play(run, scenario)


# --- supervision ----------------------------------------------------------------------------------


def test_failing_under_tell_restarts_with_fresh_state_and_known_connections(run: Any) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        before: Any
        before, _ = await dispatcher.open_lease("acme", "c1")  # type: ignore[misc]
        dispatcher.send("acme", ValueError("broken"))
        await settle()
        assert dispatcher.active() == ["acme"], "at once, for c1 needs it"
        after, count = await dispatcher.open_lease("acme", "c2")  # type: ignore[misc]
        assert after is not before
        assert count == 2, "c1 outlived the actor that granted its lease"
        assert world.started == ["acme", "acme"]

    play(run, scenario)


def test_a_failed_tenant_without_connections_is_restarted_by_its_next_use(run: Any) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        dispatcher.send("acme", ValueError("broken"))
        await settle()
        assert dispatcher.active() == []
        await dispatcher.open_lease("acme", "c1")
        assert world.started == ["acme", "acme"]

    play(run, scenario)


def test_failing_under_ask_costs_the_asker_its_lease_and_nobody_else(run: Any) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        await dispatcher.open_lease("widgetco", "w")
        world.on_lease["acme"] = ZeroDivisionError("internal detail")
        world.gate.clear()
        poisoned = spawn(dispatcher.open_lease("acme", "c1"), name="client")
        behind = spawn(dispatcher.open_lease("acme", "c2"), name="client")
        await settle()
        world.gate.set()
        with pytest.raises(ServerUnavailable) as caught:
            await poisoned
        assert "internal" not in caught.value.message
        world.on_lease.clear()
        assert await behind, "asked again, of the restarted actor"
        assert world.started == ["widgetco", "acme", "acme"]
        assert dispatcher.connections("acme") == 1

    play(run, scenario)


def test_failing_in_on_start_is_tried_again_until_the_tenant_is_closed(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        world.on_start["acme"] = OSError("no state")
        with pytest.raises(ServerUnavailable):
            await dispatcher.open_lease("acme", "c1")
        assert len(world.started) == limits.RESTARTS + 1
        assert await dispatcher.open_lease("widgetco", "c2"), "others are served"

    play(run, scenario)
    assert [record.levelno for record in caplog.records if "ALERT" in record.message] == [
        logging.CRITICAL
    ]


def test_a_tenant_that_refuses_to_start_is_asked_every_time_and_never_closed(run: Any) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        world.on_start["acme"] = ShuttingDown("the tenant is not available")
        world.factory["ghost"] = ShuttingDown("the tenant is not available")
        for _ in range(limits.RESTARTS + 2):
            with pytest.raises(ShuttingDown, match="the tenant is not available"):
                await dispatcher.open_lease("acme", "c1")
            with pytest.raises(ShuttingDown, match="the tenant is not available"):
                await dispatcher.open_lease("ghost", "c1")
        assert dispatcher._entries == {}
        world.on_start.clear()
        assert await dispatcher.open_lease("acme", "c1")

    play(run, scenario)


def test_a_refusal_raised_by_a_running_actor_under_tell_is_a_failure(run: Any) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        for _ in range(limits.RESTARTS + 1):
            dispatcher.send("acme", RateExceeded("not for you"))
            await settle()
        with pytest.raises(ServerUnavailable):
            await dispatcher.open_lease("acme", "c1")

    play(run, scenario)


def test_a_factory_that_fails_counts_as_a_failing_actor(run: Any) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        world.factory["acme"] = OSError("no socket")
        for _ in range(limits.RESTARTS + 3):
            with pytest.raises(ServerUnavailable):
                await dispatcher.open_lease("acme", "c1")
        assert len(world.started) == limits.RESTARTS + 1

    play(run, scenario)


async def fail_times(world: World, dispatcher: Dispatcher, times: int, apart: float = 0.0) -> None:
    for _ in range(times):
        dispatcher.send("acme", ValueError("broken"))
        await settle()
        world.now += apart


def test_too_many_failures_close_the_tenant_and_the_cool_down_opens_it(run: Any) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        await fail_times(world, dispatcher, limits.RESTARTS)
        assert await dispatcher.open_lease("acme", "c1"), "as often as that is allowed"
        await fail_times(world, dispatcher, 1)
        assert dispatcher.active() == []
        world.now += 1
        with pytest.raises(ServerUnavailable, match="not available") as caught:
            await dispatcher.open_lease("acme", "c2")
        assert caught.value.hint == f"Try again in {limits.COOL_DOWN - 1:g} s."
        assert dispatcher.send("acme", "event") is Verdict.DEAD
        world.now += limits.COOL_DOWN - 1
        _, count = await dispatcher.open_lease("acme", "c2")  # type: ignore[misc]
        assert count == 2, "c1 is still connected"

    play(run, scenario)


def test_failures_that_are_far_apart_are_forgiven(run: Any) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        apart = limits.RESTART_WINDOW / limits.RESTARTS
        await fail_times(world, dispatcher, 4 * limits.RESTARTS, apart)
        assert len(world.started) == 4 * limits.RESTARTS, "restarted each time"
        assert await dispatcher.open_lease("acme", "c1")

    play(run, scenario)


def test_a_closed_tenant_is_forgotten_after_its_cool_down(run: Any) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        await fail_times(world, dispatcher, limits.RESTARTS + 1)
        dispatcher.tick()
        assert list(dispatcher._entries) == ["acme"]
        world.now += limits.COOL_DOWN
        dispatcher.tick()
        assert dispatcher._entries == {}

    play(run, scenario)


# --- the end --------------------------------------------------------------------------------------


def test_close_stops_every_actor_and_refuses_what_comes_after(run: Any) -> None:
    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        for tenant in ("acme", "widgetco"):
            await dispatcher.open_lease(tenant, "c1")
        dispatcher.send("acme", "the last event")
        await dispatcher.close()
        assert ("acme", "the last event") in world.journal
        stopped = {tenant for tenant, what in world.journal if what == "stop"}
        assert stopped == {"acme", "widgetco"}
        with pytest.raises(ShuttingDown):
            await dispatcher.open_lease("acme", "c2")
        assert dispatcher.send("acme", "event") is Verdict.DEAD
        dispatcher.connection_closed("acme", "c1")
        dispatcher.config_changed("acme")

    play(run, scenario)


def test_close_does_not_wait_for_ever(
    run: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "STOP_SECONDS", 0.01)

    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        await dispatcher.open_lease("acme", "c1")
        world.hangs = True
        await dispatcher.close()

    play(run, scenario)
    assert "was killed" in caplog.text


def test_more_tenants_than_the_limit_are_refused(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ACTIVE_TENANTS", 2)

    async def scenario(world: World, dispatcher: Dispatcher) -> None:
        await dispatcher.open_lease("a", 1)
        await dispatcher.open_lease("b", 1)
        with pytest.raises(TooManyConnections):
            await dispatcher.open_lease("c", 1)
        assert await dispatcher.open_lease("a", 2)

    play(run, scenario)


def test_messages_are_what_their_names_say() -> None:
    """Frozen and slotted: what was sent stays as it was, and costs little."""
    for message in (OpenLease("t", 1), ConfigChanged("t"), Tick()):
        with pytest.raises((AttributeError, TypeError)):
            message.tenant = "other"  # type: ignore[misc,union-attr]
        assert not hasattr(message, "__dict__")
