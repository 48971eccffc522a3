"""Keeps one embedded engine alive: when it dies it is started again, on the same port."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from admin.engines.both import EmbeddedNats, EmbeddedPostgres
from admin.engines.process import EngineError
from admin.restarts import Restarts
from wire.tasks import spawn

log = logging.getLogger("tenantry.supervisor")

Moved = Callable[[], Awaitable[None]]


class EngineKeeper:
    """`moved` is awaited when the engine came back on another port: its own was taken meanwhile."""

    def __init__(self, engine: EmbeddedPostgres | EmbeddedNats, moved: Moved) -> None:
        self._engine = engine
        self._moved = moved
        self._task: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """From now on; the engine runs already."""
        self._task = spawn(self._keep(), name=f"keeps {self._engine.name}")

    async def close(self) -> None:
        """Look away, so that somebody can stop the engine."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _keep(self) -> None:
        engine, restarts = self._engine, Restarts()
        while True:
            port = engine.port()
            await engine.wait_gone()
            pause = restarts.pause(time.monotonic())
            log.error("%s has died; starting it again in %g s", engine.name, pause)
            await asyncio.sleep(pause)
            try:
                await engine.start()
            except (EngineError, OSError) as error:
                log.error("%s does not come back: %s", engine.name, error)
                continue
            log.warning("%s is back on port %s", engine.name, engine.port())
            if engine.port() != port:
                try:
                    await self._moved()
                except Exception:
                    log.exception("what uses %s could not follow it", engine.name)
