"""An actor whose code fails: it may die, nobody else does, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pykka
import pytest

from actors.reference import find, stop_all
from actors.runtime import AsyncioActor, HandlerCancelled
from wire.errors import RateExceeded, TenantryError


class Fragile(AsyncioActor):
    """Raises what it is told, at once or after awaiting."""

    def __init__(self, journal: list[object] | None = None) -> None:
        super().__init__()
        self.journal = [] if journal is None else journal

    def on_receive(self, message: object) -> Any:
        if isinstance(message, BaseException):
            raise message
        if isinstance(message, tuple):
            return self.later(*message)
        return message

    async def later(self, error: BaseException) -> None:
        await asyncio.sleep(0)
        raise error

    def on_stop(self) -> None:
        self.journal.append("stop")

    def on_failure(self, kind: Any, error: Any, traceback: Any) -> None:
        self.journal.append((kind, str(error), traceback is not None))


def at_once(error: BaseException) -> object:
    return error


def after_awaiting(error: BaseException) -> object:
    return (error,)


both = pytest.mark.parametrize("fail", [at_once, after_awaiting])
Fail = Callable[[BaseException], object]


@both
def test_failing_under_tell_kills_the_actor_and_calls_on_failure(run: Any, fail: Fail) -> None:
    journal: list[object] = []

    async def scenario() -> None:
        deaths: list[object] = []
        ref = Fragile.start(journal)
        ref.watch(deaths.append)
        error = ValueError("spilt")
        ref.tell(fail(error))
        assert await ref.stop() is True
        assert not ref.is_alive()
        assert find(ref.actor_urn) is None
        assert deaths == [error]

    run(scenario())
    assert journal == [(ValueError, "spilt", True)]


@both
def test_failing_under_ask_is_an_answer_and_the_actor_lives(run: Any, fail: Fail) -> None:
    journal: list[object] = []

    async def scenario() -> None:
        ref = Fragile.start(journal)
        with pytest.raises(ValueError, match="spilt"):
            await ref.ask(fail(ValueError("spilt")))
        assert await ref.ask("still here") == "still here"
        await ref.stop()

    run(scenario())
    assert journal == ["stop"]


@both
def test_an_actor_with_narrow_answers_dies_of_a_surprise_under_ask(run: Any, fail: Fail) -> None:
    class Strict(Fragile):
        answers = (TenantryError,)

    async def scenario() -> None:
        ref = Strict.start()
        with pytest.raises(RateExceeded):
            await ref.ask(fail(RateExceeded("slow down")))
        assert await ref.ask("still here") == "still here"
        with pytest.raises(ZeroDivisionError):
            await ref.ask(fail(ZeroDivisionError()))
        assert not ref.is_alive()

    run(scenario())


@both
def test_messages_behind_a_failure_are_answered_with_its_cause(run: Any, fail: Fail) -> None:
    async def scenario() -> None:
        ref = Fragile.start()
        error = ValueError("spilt")
        ref.tell(fail(error))
        behind = [ref.ask(1), ref.ask(2)]
        for asked in behind:
            with pytest.raises(pykka.ActorDeadError, match="before handling") as caught:
                await asked
            assert caught.value.__cause__ is error
        with pytest.raises(pykka.ActorDeadError) as caught:
            ref.tell("too late")
        assert caught.value.__cause__ is error

    run(scenario())


def test_messages_that_nobody_will_handle_are_counted_in_the_log(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        ref = Fragile.start()
        ref.tell(ValueError())
        ref.tell(1)
        ref.tell(2)
        await ref.stop()

    run(scenario())
    assert "2 messages that nobody will handle" in caplog.text


@both
def test_a_cancelled_handler_stops_no_other_actor(run: Any, fail: Fail) -> None:
    async def scenario() -> None:
        bystander, asked, told = Fragile.start(), Fragile.start(), Fragile.start()
        with pytest.raises(HandlerCancelled):
            await asked.ask(fail(asyncio.CancelledError()))
        assert await asked.ask("lives") == "lives"
        told.tell(fail(asyncio.CancelledError()))
        await told.stop()
        assert not told.is_alive()
        assert await bystander.ask("fine") == "fine"
        await stop_all()

    run(scenario())


def test_a_handlers_task_that_is_cancelled_before_its_first_step_is_a_failure(run: Any) -> None:
    async def scenario() -> None:
        ref = Fragile.start()
        await ref.ask("started")
        asked = ref.ask((ValueError(),))
        while ref._inbox.task is None:
            await asyncio.sleep(0)
        ref._inbox.task.cancel()
        with pytest.raises(HandlerCancelled):
            await asked
        assert await ref.ask("next") == "next"
        await ref.stop()

    run(scenario())


@pytest.mark.parametrize("fatal", [SystemExit, KeyboardInterrupt])
def test_an_order_to_exit_goes_through_to_the_loop(fatal: type[BaseException]) -> None:
    refs = []

    async def scenario() -> None:
        ref = Fragile.start()
        refs.append(ref)
        ref.tell(fatal())
        await asyncio.sleep(5)

    with pytest.raises(fatal):
        asyncio.run(scenario())
    assert not refs[0].is_alive()


class BadStart(Fragile):
    def on_start(self) -> None:
        raise OSError("no state")


class BadAsyncStart(Fragile):
    async def on_start(self) -> None:  # type: ignore[override]  # narrower on purpose
        await asyncio.sleep(0)
        raise OSError("no state")


@pytest.mark.parametrize("kind", [BadStart, BadAsyncStart])
def test_failing_in_on_start_kills_it_before_its_first_message(
    run: Any, kind: type[Fragile], caplog: pytest.LogCaptureFixture
) -> None:
    journal: list[object] = []

    async def scenario() -> None:
        deaths: list[object] = []
        ref = kind.start(journal)
        ref.watch(deaths.append)
        with pytest.raises(pykka.ActorDeadError) as caught:
            await ref.ask("hello")
        assert isinstance(caught.value.__cause__, OSError)
        assert deaths == [caught.value.__cause__]
        assert not ref.has_started()

    run(scenario())
    assert journal == [], "neither on_stop nor on_failure"
    assert "could not start" in caplog.text


def test_failing_hooks_are_logged_and_the_actor_is_dead_all_the_same(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class BadEnd(Fragile):
        def on_stop(self) -> None:
            raise OSError("cannot stop")

        def on_failure(self, kind: Any, error: Any, traceback: Any) -> None:
            raise OSError("cannot fail")

    class BadAsyncEnd(Fragile):
        async def on_stop(self) -> None:  # type: ignore[override]
            raise OSError("cannot stop later")

        async def on_failure(self, kind: Any, error: Any, tb: Any) -> None:  # type: ignore[override]
            raise asyncio.CancelledError

    async def scenario() -> None:
        for kind in (BadEnd, BadAsyncEnd):
            stopping, failing = kind.start(), kind.start()
            assert await stopping.stop()
            failing.tell(ValueError("first"))
            assert await failing.stop()
            assert not stopping.is_alive()
            assert not failing.is_alive()

    run(scenario())
    assert "cannot stop" in caplog.text
    assert "cannot fail" in caplog.text
    assert "cannot stop later" in caplog.text


def test_an_asynchronous_on_failure_is_over_before_the_actor_is_buried(run: Any) -> None:
    journal: list[object] = []

    class Careful(Fragile):
        async def on_failure(self, kind: Any, error: Any, tb: Any) -> None:  # type: ignore[override]
            await asyncio.sleep(0)
            self.journal.append("cleaned up")

    async def scenario() -> None:
        ref = Careful.start(journal)
        ref.watch(lambda _cause: journal.append("buried"))
        ref.tell(ValueError())
        await ref.stop()

    run(scenario())
    assert journal == ["cleaned up", "buried"]
