"""The future: awaited by any number of tasks, never blocking, as composable as pykka's."""

from __future__ import annotations

import asyncio
from typing import Any

import pykka
import pytest

from actors.future import AlreadySet, AsyncioFuture, WouldBlock


def answered(value: Any) -> AsyncioFuture[Any]:
    future: AsyncioFuture[Any] = AsyncioFuture()
    future.set(value)
    return future


def later(value: Any) -> AsyncioFuture[Any]:
    """Answered in a later turn of the loop."""
    future: AsyncioFuture[Any] = AsyncioFuture()
    asyncio.get_running_loop().call_later(0.001, future.set, value)
    return future


def test_await_gives_the_value_that_is_there_and_the_value_that_comes(run: Any) -> None:
    async def scenario() -> None:
        assert await answered("now") == "now"
        assert await later("later") == "later"
        assert await later(None) is None

    run(scenario())


def test_await_lets_others_go_on(run: Any) -> None:
    async def scenario() -> None:
        seen: list[str] = []
        future: AsyncioFuture[str] = AsyncioFuture()

        async def waiter() -> None:
            seen.append(await future)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(waiter())
            await asyncio.sleep(0)
            seen.append("others")
            future.set("answer")
        assert seen == ["others", "answer"]

    run(scenario())


def test_many_tasks_can_await_one_future_many_times(run: Any) -> None:
    async def scenario() -> None:
        future = later("x")

        async def twice() -> list[Any]:
            return [await future, await future]

        assert await asyncio.gather(twice(), twice(), twice()) == [["x", "x"]] * 3

    run(scenario())


def test_a_cancelled_waiter_leaves_the_others_alone(run: Any) -> None:
    async def scenario() -> None:
        future: AsyncioFuture[str] = AsyncioFuture()

        async def wait() -> str:
            return await future

        async with asyncio.TaskGroup() as tasks:
            first, second = tasks.create_task(wait()), tasks.create_task(wait())
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.sleep(0)
            assert first.cancelled()
            assert future._waiters is not None
            assert len(future._waiters) == 1
            future.set("still")
        assert second.result() == "still"

    run(scenario())


def test_an_exception_is_raised_with_the_traceback_of_where_it_happened(run: Any) -> None:
    def culprit() -> None:
        raise KeyError("gone")

    async def scenario() -> None:
        future: AsyncioFuture[None] = AsyncioFuture()
        try:
            culprit()
        except KeyError:
            future.set_exception()
        with pytest.raises(KeyError) as caught:
            await future
        assert "culprit" in [entry.name for entry in caught.traceback]

    run(scenario())


def test_set_exception_needs_an_exception() -> None:
    with pytest.raises(ValueError, match="no exception"):
        AsyncioFuture[None]().set_exception()


def test_get_returns_what_is_there_and_refuses_to_wait() -> None:
    assert answered(3).get() == 3
    pending: AsyncioFuture[int] = AsyncioFuture()
    for timeout in (None, 0.0, 5.0):
        with pytest.raises(WouldBlock, match="await"):
            pending.get(timeout=timeout)


def test_a_future_takes_one_result() -> None:
    future = answered(1)
    with pytest.raises(AlreadySet):
        future.set(2)
    with pytest.raises(AlreadySet):
        future.fail(ValueError())
    with pytest.raises(AlreadySet):
        future.set_get_hook(lambda _timeout: 2)
    assert future.get() == 1


def test_a_hook_computes_once_even_if_it_gives_none(run: Any) -> None:
    calls: list[float | None] = []

    async def scenario() -> None:
        future: AsyncioFuture[None] = AsyncioFuture()
        future.set_get_hook(calls.append)
        assert await future is None
        assert await future is None
        with pytest.raises(AlreadySet):
            future.set(None)

    run(scenario())
    assert calls == [None]


def test_derived_futures_wait_for_their_sources(run: Any) -> None:
    async def scenario() -> None:
        assert await later(10).map(lambda value: value + 1) == 11
        assert await later(range(6)).filter(lambda value: value > 3) == [4, 5]
        assert await later(["a", "b"]).reduce(lambda left, right: left + right, "-") == "-ab"
        assert await later(1).join(later(2), answered(3)) == [1, 2, 3]
        assert await later(1).map(lambda v: v + 1).map(lambda v: v * 10) == 20

    run(scenario())


def test_a_derived_future_raises_what_its_source_raises(run: Any) -> None:
    async def scenario() -> None:
        source: AsyncioFuture[int] = AsyncioFuture()
        derived = source.map(lambda value: value + 1)
        asyncio.get_running_loop().call_soon(source.fail, KeyError("gone"))
        with pytest.raises(KeyError):
            await derived
        with pytest.raises(TypeError):
            await later(None).map(len)

    run(scenario())


def test_a_derived_future_does_not_block_before_its_source_is_done() -> None:
    source: AsyncioFuture[int] = AsyncioFuture()
    derived = source.map(lambda value: value + 1)
    with pytest.raises(WouldBlock):
        derived.get()
    source.set(1)
    assert derived.get() == 2


def test_pykka_get_all_works_on_what_is_done() -> None:
    assert list(pykka.get_all([answered(1), answered(2)])) == [1, 2]


def test_a_future_in_a_future_stays_one(run: Any) -> None:
    async def scenario() -> None:
        assert await (await answered(later("inner"))) == "inner"

    run(scenario())
