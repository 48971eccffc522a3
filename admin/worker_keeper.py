"""Keeps one worker process alive: starts it, waits until it listens, starts it again when it dies.

A worker keeps its number for life, because cancel keys and its socket carry it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import site
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from typing import Final

import orjson

from admin.cli.failure import Failure
from admin.restarts import Restarts
from admin.worker import Assignment
from wire.tasks import spawn

log = logging.getLogger("tenantry.supervisor")

# From start to listening: reading a log of 100,000 tenants takes some seconds.
READY_SECONDS: Final = 120.0
# What a worker gets beyond its drain to hand in what was metered; then it is killed.
STOP_SECONDS: Final = 10.0
# What it gets when told to stop at once.
HURRY_SECONDS: Final = 2.0


class WorkerKeeper:
    """Worker `number`. `assign` answers what it is to do, asked anew at each start."""

    def __init__(self, number: int, assign: Callable[[int], Assignment]) -> None:
        self.number = number
        self._assign = assign
        self._process: Process | None = None
        self._restarts = Restarts()
        self._watching: asyncio.Task[None] | None = None
        self._closing = False
        self._launching = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """The process that serves now, None while there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start it and return when it listens. Raises Failure."""
        self._process = await self._launch()
        self._watching = spawn(self._keep(), name=f"worker {self.number}")

    async def replace(self) -> None:
        """Let a new process take over, then let the old one drain. Raises Failure when the new one
        does not come up; the old one stays then."""
        async with self._launching:
            fresh = await self._launch()
            old, self._process = self._process, fresh
        if old is not None and old.returncode is None:
            await self._end(old, self._assign(self.number).drain_seconds)

    async def stop(self, drain_seconds: float) -> None:
        """Drain and end it; 0.0 ends it at once, also while another stop drains it."""
        self._closing = True
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        if self._process is not None and self._process.returncode is None:
            await self._end(self._process, drain_seconds)

    def hurry(self) -> None:
        """Tell it a second time: it stops at once."""
        if self._process is not None:
            _tell(self._process, signal.SIGTERM)

    # --- the life of it --------------------------------------------------------------------------

    async def _keep(self) -> None:
        while not self._closing:
            process = self._process
            assert process is not None
            code = await process.wait()
            if self._closing:
                return
            if process is not self._process:
                continue  # it was replaced
            pause = self._restarts.pause(time.monotonic())
            log.error("worker %d %s; starting it again in %g s", self.number, _death(code), pause)
            await self._bring_back(pause)

    async def _bring_back(self, pause: float) -> None:
        while True:
            await asyncio.sleep(pause)
            try:
                async with self._launching:
                    if self.pid is None:  # nobody has replaced it meanwhile
                        self._process = await self._launch()
            except Failure as failure:
                pause = self._restarts.pause(time.monotonic())
                log.error("%s Trying again in %g s.", failure, pause)
            else:
                log.warning("worker %d serves again", self.number)
                return

    async def _launch(self) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # a folder named `admin` where the user stands is not ours
            "-m",
            "admin.worker_process",
            stdin=PIPE,
            stdout=PIPE,
            start_new_session=True,  # Ctrl-C is for the supervisor alone
            env=environment(),
        )
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._introduce(process)
        except BaseException as error:
            _tell(process, signal.SIGKILL)
            await process.wait()
            if isinstance(error, TimeoutError):
                raise Failure(
                    f"Worker {self.number} was not ready within {READY_SECONDS:g} s."
                ) from None
            raise
        return process

    async def _introduce(self, process: Process) -> None:
        """Hand over the assignment, hear whether it listens. Standard input stays open: its end
        tells the worker that we are gone."""
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(self._assign(self.number).text())
            await process.stdin.drain()
        line = await process.stdout.readline()
        try:
            answer = orjson.loads(line)
        except ValueError:
            answer = {"failed": "it ended without a word"}
        if not answer.get("ready"):
            why = str(answer.get("failed", "")).rstrip(".")
            raise Failure(f"Worker {self.number} cannot start: {why}.")

    async def _end(self, process: Process, drain_seconds: float) -> None:
        """SIGTERM, a second one when there is no drain, SIGKILL when that is not enough."""
        _tell(process, signal.SIGTERM)
        if not drain_seconds:
            _tell(process, signal.SIGTERM)
        limit = drain_seconds + STOP_SECONDS if drain_seconds else HURRY_SECONDS
        try:
            async with asyncio.timeout(limit):
                await process.wait()
        except TimeoutError:
            log.error("worker %d did not stop within %g s; killing it", self.number, limit)
        finally:
            if process.returncode is None:
                _tell(process, signal.SIGKILL)
            await asyncio.shield(process.wait())


def _tell(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _death(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with code {code}"


def environment() -> dict[str, str]:
    """Ours for a child; sources that are not installed are found where we found them."""
    root = str(Path(__file__).absolute().parent.parent)
    known = os.environ.get("PYTHONPATH", "")
    if root in site.getsitepackages() or root == known.partition(os.pathsep)[0]:
        return dict(os.environ)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, known)))}
