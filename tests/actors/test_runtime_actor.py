"""An actor's life when all goes well: start, tell, ask, lanes, stop, lookup.

Modelled on what pykka promises of its own runtimes, and on what this one adds.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pykka
import pytest
from pykka.messages import ProxyCall, ProxyGetAttr, ProxySetAttr

from actors.future import AsyncioFuture, WouldBlock
from actors.mailbox import CONTROL, MailboxFull, Verdict
from actors.reference import AsyncioActorRef, WrongThread, find, running, stop_all
from actors.runtime import TURN, AsyncioActor


class Recorder(AsyncioActor):
    """Writes down everything that happens to it."""

    mailbox_capacity = 4

    def __init__(self, *journal: list[object]) -> None:
        super().__init__()
        self.journal = journal[0] if journal else []

    def on_start(self) -> None:
        self.journal.append("start")

    def on_stop(self) -> None:
        self.journal.append("stop")

    def on_receive(self, message: object) -> object:
        self.journal.append(message)
        return f"heard {message}"


class Sleeper(AsyncioActor):
    """Handles each message only when the gate is opened."""

    def __init__(self, journal: list[object], gate: asyncio.Event) -> None:
        super().__init__()
        self.journal, self.gate = journal, gate

    async def on_start(self) -> None:
        self.journal.append("starting")
        await asyncio.sleep(0)
        self.journal.append("start")

    async def on_stop(self) -> None:
        await asyncio.sleep(0)
        self.journal.append("stop")

    async def on_receive(self, message: object) -> object:
        self.journal.append(("begin", message))
        await self.gate.wait()
        self.journal.append(("end", message))
        return message


def test_a_life_from_start_to_stop(run: Any) -> None:
    journal: list[object] = []

    async def scenario() -> None:
        ref = Recorder.start(journal)
        assert journal == [], "nothing runs inside start"
        ref.tell("one")
        assert await ref.ask("two") == "heard two"
        assert await ref.stop() is True
        assert await ref.stop() is False

    run(scenario())
    assert journal == ["start", "one", "two", "stop"]


def test_start_needs_a_running_loop() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        Recorder.start()


def test_any_object_is_a_message(run: Any) -> None:
    async def scenario() -> None:
        ref = Recorder.start()
        for message in (None, {}, {"a": 1}, "x", (), object(), 5):
            assert await ref.ask(message) == f"heard {message}"
        await ref.stop()

    run(scenario())


def test_an_answer_may_be_a_future(run: Any) -> None:
    class Forwarder(AsyncioActor):
        def on_receive(self, message: AsyncioActorRef[Any]) -> AsyncioFuture[Any]:
            return message.ask("forwarded")

    async def scenario() -> None:
        recorder, forwarder = Recorder.start(), Forwarder.start()
        assert await (await forwarder.ask(recorder)) == "heard forwarded"
        await stop_all()

    run(scenario())


def test_a_message_that_no_handler_wants_is_logged_and_answered_none(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        ref = AsyncioActor.start()
        assert await ref.ask("what?") is None
        await ref.stop()

    run(scenario())
    assert "Unexpected message" in caplog.text


# --- asynchronous handlers ------------------------------------------------------------------------


def test_messages_wait_while_a_handler_awaits_and_other_actors_go_on(run: Any) -> None:
    journal: list[object] = []

    async def scenario() -> None:
        gate = asyncio.Event()
        sleeper, other = Sleeper.start(journal, gate), Recorder.start(journal)
        first, second = sleeper.ask(1), sleeper.ask(2)
        for _ in range(5):
            await asyncio.sleep(0)
        await other.ask("meanwhile")
        assert not first.done()
        gate.set()
        assert [await first, await second] == [1, 2]
        await stop_all()

    run(scenario())
    handled = [entry for entry in journal if isinstance(entry, tuple)]
    assert handled == [("begin", 1), ("end", 1), ("begin", 2), ("end", 2)]
    assert journal.index("meanwhile") < journal.index(("end", 1))
    assert journal.index("start") < journal.index(("begin", 1)), "on_start comes first"
    assert journal[-1] == "stop"


def test_one_actor_may_have_plain_and_asynchronous_handlers(run: Any) -> None:
    class Both(AsyncioActor):
        def on_receive(self, message: int) -> Any:
            return self.slow(message) if message % 2 else -message

        async def slow(self, message: int) -> int:
            await asyncio.sleep(0)
            return message

    async def scenario() -> None:
        ref = Both.start()
        answers = [ref.ask(number) for number in range(6)]
        assert [await answer for answer in answers] == [0, 1, -2, 3, -4, 5]
        await ref.stop()

    run(scenario())


def test_a_handler_does_not_see_the_context_of_who_sends(run: Any) -> None:
    who = contextvars.ContextVar("who", default="nobody")

    class Curious(AsyncioActor):
        def on_receive(self, message: str) -> Any:
            return self.later() if message == "async" else who.get()

        async def later(self) -> str:
            return who.get()

    async def scenario() -> None:
        who.set("sender")
        ref = Curious.start()
        assert await ref.ask("plain") == "nobody"
        assert await ref.ask("async") == "nobody"
        await ref.stop()

    run(scenario())


def test_an_asker_that_is_cancelled_does_not_disturb_the_actor(run: Any) -> None:
    journal: list[object] = []

    async def scenario() -> None:
        gate = asyncio.Event()
        ref = Sleeper.start(journal, gate)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await ref.ask("given up")
        gate.set()
        assert await ref.ask("next") == "next"
        await ref.stop()

    run(scenario())
    assert ("end", "given up") in journal


# --- back-pressure --------------------------------------------------------------------------------


def test_a_full_mailbox_refuses_at_once_in_every_way_of_sending(run: Any) -> None:
    journal: list[object] = []

    async def scenario() -> None:
        ref = Recorder.start(journal)
        for number in range(4):
            assert ref.try_tell(number)
        assert ref.try_tell("too many") is Verdict.FULL
        with pytest.raises(MailboxFull, match="Recorder"):
            ref.tell("too many")
        with pytest.raises(MailboxFull):
            await ref.ask("too many")
        await asyncio.sleep(0)
        assert await ref.ask("room again") == "heard room again"
        await ref.stop()

    run(scenario())
    assert journal == ["start", 0, 1, 2, 3, "room again", "stop"]


def test_stop_finds_room_in_a_full_mailbox(run: Any) -> None:
    journal: list[object] = []

    async def scenario() -> None:
        ref = Recorder.start(journal)
        for number in range(4):
            ref.tell(number)
        assert await ref.stop() is True

    run(scenario())
    assert journal == ["start", 0, 1, 2, 3, "stop"]


def test_control_messages_go_first(run: Any) -> None:
    journal: list[object] = []

    async def scenario() -> None:
        ref = Recorder.start(journal)
        ref.tell("work 1")
        ref.tell("work 2")
        assert ref.try_tell("control", lane=CONTROL)
        await ref.stop()

    run(scenario())
    assert journal == ["start", "control", "work 1", "work 2", "stop"]


def test_a_flooded_actor_leaves_the_loop_to_others_after_a_turn(run: Any) -> None:
    class Busy(AsyncioActor):
        def __init__(self) -> None:
            super().__init__()
            self.seen = 0

        def on_receive(self, message: object) -> int:
            self.seen += 1
            return self.seen

    async def scenario() -> None:
        ref = Busy.start()
        for _ in range(3 * TURN):
            ref.tell("flood")
        actor = ref._inbox.actor
        assert isinstance(actor, Busy)
        await asyncio.sleep(0)
        assert actor.seen == TURN
        assert await ref.ask("last") == 3 * TURN + 1
        await ref.stop()

    run(scenario())


# --- stopping -------------------------------------------------------------------------------------


def test_what_came_before_stop_is_handled_and_what_comes_after_is_refused(run: Any) -> None:
    journal: list[object] = []

    async def scenario() -> None:
        ref = Recorder.start(journal)
        ref.tell("before")
        stopped = ref.stop()
        assert ref.is_alive()
        assert ref.is_stopping()
        assert ref.try_tell("after") is Verdict.DEAD
        with pytest.raises(pykka.ActorDeadError):
            ref.tell("after")
        with pytest.raises(pykka.ActorDeadError):
            await ref.ask("after")
        assert await stopped is True
        assert not ref.is_alive()
        with pytest.raises(pykka.ActorDeadError, match="Recorder"):
            ref.tell("much later")

    run(scenario())
    assert journal == ["start", "before", "stop"]


def test_everybody_who_asks_it_to_stop_is_answered(run: Any) -> None:
    async def scenario() -> None:
        ref = Recorder.start()
        assert [await each for each in [ref.stop(), ref.stop(), ref.stop()]] == [True, True, True]

    run(scenario())


def test_an_actor_can_stop_itself_in_on_start_and_in_a_handler(run: Any) -> None:
    class Shy(Recorder):
        def on_start(self) -> None:
            super().on_start()
            self.stop()
            self.stop()

    class Once(Recorder):
        def on_receive(self, message: object) -> object:
            self.stop()
            return super().on_receive(message)

    async def scenario() -> None:
        shy_journal: list[object] = []
        shy = Shy.start(shy_journal)
        await shy.stop()
        assert shy_journal == ["start", "stop"]

        once_journal: list[object] = []
        once = Once.start(once_journal)
        asked = [once.ask(number) for number in range(3)]
        assert [await each for each in asked] == ["heard 0", "heard 1", "heard 2"]
        await once.stop()
        assert once_journal == ["start", 0, 1, 2, "stop"]

    run(scenario())


def test_stop_waits_for_an_asynchronous_handler_and_hook(run: Any) -> None:
    journal: list[object] = []

    async def scenario() -> None:
        gate = asyncio.Event()
        ref = Sleeper.start(journal, gate)
        ref.tell("slow")
        stopped = ref.stop()
        await asyncio.sleep(0.01)
        assert not stopped.done()
        gate.set()
        await stopped

    run(scenario())
    assert journal[-2:] == [("end", "slow"), "stop"]


def test_kill_ends_an_actor_that_would_not_stop(run: Any) -> None:
    journal: list[object] = []

    async def scenario() -> None:
        ref = Sleeper.start(journal, asyncio.Event())
        current, waiting, stopped = ref.ask("current"), ref.ask("waiting"), ref.stop()
        while ("begin", "current") not in journal:
            await asyncio.sleep(0)
        ref.kill()
        ref.kill()
        for asked in (current, waiting):
            with pytest.raises(pykka.ActorDeadError):
                await asked
        assert await stopped
        assert not ref.is_alive()
        await asyncio.sleep(0)

    run(scenario())
    assert "stop" not in journal


def test_kill_cancels_what_the_actor_is_doing(run: Any) -> None:
    outcome: list[str] = []

    class Stuck(AsyncioActor):
        async def on_receive(self, message: object) -> None:
            outcome.append("begun")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                outcome.append("cancelled")
                raise

    async def scenario() -> None:
        ref = Stuck.start()
        ref.tell("forever")
        while not outcome:
            await asyncio.sleep(0)
        ref.kill()
        await asyncio.sleep(0)
        assert outcome == ["begun", "cancelled"]

    run(scenario())


def test_who_watches_is_told_once(run: Any) -> None:
    async def scenario() -> None:
        told: list[object] = []
        ref = Recorder.start()
        ref.watch(told.append)
        await ref.stop()
        assert told == [None]
        ref.watch(told.append)
        assert told == [None, None]

    run(scenario())


# --- nothing blocks -------------------------------------------------------------------------------


def test_blocking_is_refused_with_a_clear_error(run: Any) -> None:
    async def scenario() -> None:
        ref = Recorder.start()
        with pytest.raises(WouldBlock):
            ref.ask("x", block=True)
        with pytest.raises(WouldBlock):
            ref.ask("x", timeout=1.0)
        with pytest.raises(WouldBlock):
            ref.stop(block=True)
        with pytest.raises(WouldBlock):
            ref.ask("x").get()
        await ref.stop()

    run(scenario())


def test_another_thread_is_told_how_to_do_it(run: Any) -> None:
    journal: list[object] = []

    async def scenario() -> None:
        ref = Recorder.start(journal)
        caught: list[Exception] = []

        def elsewhere() -> None:
            try:
                ref.tell("from a thread")
            except WrongThread as error:
                caught.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert len(caught) == 1
        asyncio.get_running_loop().call_soon_threadsafe(ref.tell, "properly")
        await asyncio.sleep(0)
        await ref.stop()

    run(scenario())
    assert journal == ["start", "properly", "stop"]


# --- references and lookup ------------------------------------------------------------------------


def test_a_running_actor_is_found_and_a_stopped_one_is_not(run: Any) -> None:
    async def scenario() -> None:
        before = running()
        first, second = Recorder.start(), Recorder.start()
        assert first.actor_urn != second.actor_urn
        assert [ref for ref in running() if ref not in before] == [first, second]
        assert find(first.actor_urn) is first
        assert find("urn:tenantry:actor:0:1") is None
        assert find("nonsense") is None
        await first.stop()
        assert find(first.actor_urn) is None
        assert first not in running()
        await second.stop()

    run(scenario())


def test_pykkas_own_registry_stays_out_of_it(run: Any) -> None:
    async def scenario() -> None:
        ref = Recorder.start()
        assert pykka.ActorRegistry.get_all() == []
        await ref.stop()

    run(scenario())


def test_stop_all_stops_the_youngest_first(run: Any) -> None:
    stopped: list[str] = []

    class Named(AsyncioActor):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        async def on_stop(self) -> None:
            await asyncio.sleep(0)
            stopped.append(self.name)

    async def scenario() -> None:
        for name in "abc":
            Named.start(name)
        await stop_all()

    run(scenario())
    assert stopped == ["c", "b", "a"]


def test_a_reference_and_its_actor_tell_who_they_are(run: Any) -> None:
    async def scenario() -> None:
        ref = Recorder.start()
        actor = ref._actor_weakref()
        assert str(ref) == str(actor) == f"Recorder ({ref.actor_urn})"
        assert repr(ref) == f"<ActorRef for Recorder ({ref.actor_urn})>"
        assert ref.actor_class is Recorder
        assert not ref.actor_stopped.is_set()
        await ref.stop()
        assert ref.actor_stopped.is_set()
        assert ref._actor_weakref() is None, "a kept reference keeps no dead actor"

    run(scenario())


def test_pykkas_proxy_messages_and_proxies_work(run: Any) -> None:
    class Account(AsyncioActor):
        def __init__(self) -> None:
            super().__init__()
            self.balance = 1

        def add(self, amount: int) -> int:
            self.balance += amount
            return self.balance

        async def slowly(self) -> int:
            await asyncio.sleep(0)
            return self.balance

    async def scenario() -> None:
        ref = Account.start()
        assert await ref.ask(ProxyCall(("add",), (2,), {})) == 3
        await ref.ask(ProxySetAttr(("balance",), 10))
        assert await ref.ask(ProxyGetAttr(("balance",))) == 10
        proxy: Any = ref.proxy()
        assert await proxy.add(amount=5) == 15
        proxy.add.defer(1)
        assert await proxy.slowly() == 16
        assert await proxy.balance == 16
        await ref.stop()

    run(scenario())
