"""A worker as a process: `python -m admin.worker_process`, started by the supervisor.

Standard input: its Assignment in one line, then nothing; its end means that the supervisor is gone,
and the worker goes as well. Standard output: one line of JSON, {"ready": true, "port": n} once it
listens, or {"failed": "why"}. SIGTERM drains, a second one stops at once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import time
from typing import Any, Final

import orjson
import uvloop

from admin.cli.failure import Failure
from admin.telemetry.logs import set_up
from admin.worker import Assignment, Worker
from events.secrets import SecretError
from events.stream import LogError
from wire.errors import TenantryError
from wire.tasks import spawn

log = logging.getLogger("tenantry.worker")

# An assignment is a few hundred bytes; a cluster's addresses make it longer.
ASSIGNMENT_BYTES: Final = 64 * 1024
# A worker without a supervisor tells its clients, and then must not stay.
ORPHAN_SECONDS: Final = 3.0


async def serve(assignment: Assignment) -> int:
    """Work until told to stop; the exit code."""
    loop = asyncio.get_running_loop()
    stop, now = asyncio.Event(), asyncio.Event()

    def told() -> None:
        (now if stop.is_set() else stop).set()

    def orphaned() -> None:
        log.error("the supervisor is gone; stopping")
        stop.set()
        now.set()

    loop.add_signal_handler(signal.SIGTERM, told)
    watcher = threading.Thread(target=_watch, args=(loop, orphaned), name="orphan", daemon=True)
    watcher.start()
    worker: Worker | None = None
    try:
        worker = Worker(assignment)
        port = await worker.start()
    except (LogError, SecretError, TenantryError, Failure, OSError, ValueError) as error:
        _report({"failed": str(error)})
        log.error("cannot start: %s", error)
        if worker is not None:
            await worker.stop(0.0)
        return 1
    # What lives now lives on: a full collection would look at it in vain, for 20 to 40 ms.
    gc.collect()
    gc.freeze()
    _report({"ready": True, "port": port})
    await stop.wait()
    await finish(worker, assignment.drain_seconds, now)
    return 0


async def finish(worker: Worker, drain_seconds: float, now: asyncio.Event) -> None:
    """Stop `worker`: with a drain, unless `now` is set before its end."""
    draining = spawn(worker.stop(drain_seconds), name="drain")
    hurry = spawn(now.wait(), name="hurry")
    await asyncio.wait({draining, hurry}, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not draining.done():
        draining.cancel()
        await asyncio.wait({draining})
        await worker.stop(0.0)


def _report(line: dict[str, Any]) -> None:
    """Tell the supervisor; one that is gone does not hear it, and the watcher sees to that."""
    try:
        os.write(1, orjson.dumps(line) + b"\n")
    except OSError:
        log.debug("nobody hears %s", line)


def _watch(loop: asyncio.AbstractEventLoop, orphaned: Any) -> None:
    """In a thread, so that it works even when the loop does not: wait for the supervisor's end."""
    while os.read(0, 4096):
        pass
    try:
        loop.call_soon_threadsafe(orphaned)
    except RuntimeError:
        return  # the loop is closed already: we are on our way out
    time.sleep(ORPHAN_SECONDS)
    os._exit(1)


def _read_assignment() -> bytes:
    """The first line, byte-exact: a buffered reader would be locked by the watching thread."""
    text = b""
    while not text.endswith(b"\n") and len(text) < ASSIGNMENT_BYTES:
        chunk = os.read(0, ASSIGNMENT_BYTES - len(text))
        if not chunk:
            break
        text += chunk
    return text


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor, which tells us
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    text = _read_assignment()
    if not text:
        sys.stderr.write("this program is started by `tenantry serve`\n")
        return 2
    assignment = Assignment.read(text)
    set_up(assignment.log_level, json=assignment.json_logs, who=f"worker {assignment.worker}")
    return uvloop.run(serve(assignment))


if __name__ == "__main__":
    sys.exit(main())
