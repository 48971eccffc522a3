"""The one way to start a background task: named, kept alive, and never failing silently."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

log = logging.getLogger("tenantry.tasks")

# Longer than any task takes to clean up, which a second cancellation would break off.
AGAIN_SECONDS: Final = 5.0

# The event loop keeps only weak references to tasks; without this set a running one can be
# collected (https://docs.python.org/3/library/asyncio-task.html#creating-tasks).
_running: set[asyncio.Task[Any]] = set()


def spawn(work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
    """Run `work` in the background as a task called `name`; its failure is logged."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    _running.add(task)
    task.add_done_callback(_finished)
    return task


async def end(*tasks: asyncio.Task[Any], again: float = AGAIN_SECONDS) -> None:
    """Cancel `tasks` and return when all are over; how they ended is told by the log only.

    They are cancelled once more every `again` seconds: before Python 3.12, asyncio.wait_for (which
    the client of NATS uses) swallows a cancellation that comes together with what it waits for
    (https://github.com/python/cpython/issues/86296), and waiting would never end.
    """
    left = set(tasks)
    while left := {task for task in left if not task.done()}:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=again)


def _finished(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task %s failed: %r", task.get_name(), error, exc_info=error)
