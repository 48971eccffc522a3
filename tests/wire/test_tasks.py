"""Background tasks end when they are told to."""

from __future__ import annotations

import asyncio

from wire.tasks import end, spawn


def test_a_task_that_misses_its_cancellation_ends_all_the_same() -> None:
    async def test() -> None:
        missed = 0

        async def work() -> None:
            nonlocal missed
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                missed += 1  # as asyncio.wait_for did before Python 3.12
            await asyncio.sleep(3600)

        task = spawn(work(), name="work")
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await end(task, again=0.01)
        assert missed == 1
        assert task.cancelled()
        await end(task)

    asyncio.run(test())


def test_how_a_task_failed_is_not_its_end_to_tell() -> None:
    async def test() -> None:
        async def work() -> None:
            raise ValueError("broken")

        task = spawn(work(), name="work")
        await asyncio.sleep(0)
        await end(task)
        assert isinstance(task.exception(), ValueError)

    asyncio.run(test())
