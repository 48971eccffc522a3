"""The control plane with many tenants and a long log: starts, memory, snapshots, commands.

    python bench/control.py                  10,000 tenants, 100,000 events
    python bench/control.py --sizes 1000,10000,100000 --json     how cost grows: ten minutes

Ten events for each tenant. The log is filled as commands would have filled it (created,
provisioned, then changed), but many at once and unsynced, with a nats-server of its own. Each start
is a process of its own, so that memory is what that process has; two workers also start at once, as
they do. Commands are timed one after another on a synced server (as in earnest) in four situations:
nothing else going on; while a worker starts from the log; from the snapshot; and while this process
writes a snapshot. The loop's delay is how much later than due a timer of this process was.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.nats import NatsServer  # noqa: E402

from bench.control_report import growth, tables, write_control  # noqa: E402
from bench.machine import begin, machine, memory_of  # noqa: E402
from bench.replay import fill  # noqa: E402
from events import snapshot  # noqa: E402
from events.commander import Commander  # noqa: E402
from events.commands import ChangeTenant  # noqa: E402
from events.log import ConfigLog  # noqa: E402
from events.projection import Projection  # noqa: E402
from events.secrets import Vault  # noqa: E402
from wire.tasks import spawn  # noqa: E402

RESULTS = ROOT / "bench" / "results"
VAULT = Vault(b"k" * 32)
# A command that is timed, and a pause, so that they are as rare as people make them.
COMMANDS = 300
PAUSE_SECONDS = 0.002
STARTS = ("the log", "the log, as a worker", "the snapshot", "the snapshot, as a worker")
AT_ONCE = 2
EVENTS_A_TENANT = 10
BEAT_SECONDS = 0.001
# One takes less time than it takes to measure anything.
SAVES = 5


# --- one start, in a process of its own -----------------------------------------------------------


async def start(url: str, how: str) -> dict[str, Any]:
    """Start as control or as a worker does; what it cost."""
    deciding = "worker" not in how
    begun, cpu = time.perf_counter(), time.process_time()
    log = await ConfigLog.connect([url])
    base = memory_of(os.getpid())["rss"]
    projection = None
    if "snapshot" in how:
        projection = await snapshot.load(log, VAULT, remember_commands=deciding)
        assert projection is not None, "the snapshot was not used"
    loaded = 0 if projection is None else projection.position
    state = projection or Projection(remember_commands=deciding)
    await log.read_all(state.position + 1, state.apply)
    seconds = time.perf_counter() - begun
    found = {
        "seconds": seconds,
        "cpu_seconds": time.process_time() - cpu,
        "events": state.position - loaded,
        "memory_mib": memory_of(os.getpid())["rss"] / 1024,
        "base_mib": base / 1024,
        "tenants": state.tenant_count(),
        "digest": state.digest(),
    }
    await log.close()
    return found


def start_apart(url: str, how: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--start", how, "--url", url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    said, _ = process.communicate()
    assert process.returncode == 0
    answer: dict[str, Any] = json.loads(said)
    return answer


# --- commands -------------------------------------------------------------------------------------


class Desk:
    """Where commands are carried out, as in the control process."""

    def __init__(self, log: ConfigLog, projection: Projection) -> None:
        self.log = log
        self.projection = projection
        self.commander = Commander(log, projection)
        self._number = 0

    async def latencies(self, until: Callable[[], bool] | None) -> dict[str, Any]:
        """Milliseconds of commands: COMMANDS of them, or as many as fit before `until`."""
        delays: list[float] = []
        beat = spawn(_beat(delays), name="beat")
        ids = [id for id, _ in zip(self.projection.ids(), range(1000), strict=False)]
        took: list[float] = []
        while len(took) < COMMANDS if until is None else not took or not until():
            self._number += 1
            patch = {"metadata": {"n": str(self._number)}}
            command = ChangeTenant(id=ids[self._number % len(ids)], patch=patch)
            begun = time.perf_counter()
            await self.commander.execute(command, "bench")
            took.append((time.perf_counter() - begun) * 1000)
            await asyncio.sleep(PAUSE_SECONDS)
        beat.cancel()
        took.sort()
        delays.sort()
        return {
            "commands": len(took),
            "p50_ms": took[len(took) // 2],
            "p99_ms": took[min(len(took) - 1, len(took) * 99 // 100)],
            "max_ms": took[-1],
            "delay_p99_ms": delays[len(delays) * 99 // 100],
            "delay_max_ms": delays[-1],
        }

    async def while_(self, work: Awaitable[Any]) -> dict[str, Any]:
        task = spawn(_awaited(work), name="meanwhile")
        found = await self.latencies(task.done)
        await task
        return found


async def _beat(delays: list[float]) -> None:
    """Notes how much later than due each of many short sleeps ends, in milliseconds."""
    while True:
        begun = time.perf_counter()
        await asyncio.sleep(BEAT_SECONDS)
        delays.append((time.perf_counter() - begun - BEAT_SECONDS) * 1000)


async def _awaited(work: Awaitable[Any]) -> Any:
    await asyncio.sleep(5 * BEAT_SECONDS)  # so that what it does first is noticed
    return await work


async def saved_often(log: ConfigLog, state: Projection) -> None:
    for _ in range(SAVES):
        await snapshot.save(log, VAULT, state)


# --- all of it ------------------------------------------------------------------------------------


async def measure(server: NatsServer, synced: NatsServer) -> dict[str, Any]:
    """`server` keeps the long log, `synced` is the same after a restart with every write synced."""
    figures: dict[str, Any] = {"starts": {}, "commands": {}}
    log = await ConfigLog.connect([server.url])
    state = Projection()
    await log.read_all(1, state.apply)
    begun = time.perf_counter()
    manifest = await snapshot.save(log, VAULT, state)
    assert manifest is not None
    info = await log.request(f"$JS.API.STREAM.INFO.{snapshot.STREAM}", b"")
    figures["snapshot"] = {
        "seconds": time.perf_counter() - begun,
        "pieces": len(manifest.pieces) + len(manifest.command_pieces),
        "raw_mib": manifest.raw_bytes / 2**20,
        "stored_mib": info["state"]["bytes"] / 2**20,
    }
    for how in STARTS:
        figures["starts"][how] = finished(start_apart(server.url, how))
    for how in STARTS[1::2]:
        both = [start_apart(server.url, how) for _ in range(AT_ONCE)]
        slower = max(map(finished, both), key=lambda each: each["seconds"])
        figures["starts"][f"{how}, {AT_ONCE} at once"] = slower
    digests = {each["digest"] for each in figures["starts"].values()}
    assert digests == {state.digest()}, "the starts do not agree"
    await log.close()

    server.stop()
    os.sync()  # or the first command would wait until all that was written unsynced is on the disk
    synced.start()
    log = await ConfigLog.connect([synced.url])
    desk = Desk(log, state)
    situations = figures["commands"]
    situations["nothing else going on"] = await desk.latencies(None)
    for how in STARTS[1::2]:
        apart = start_apart(synced.url, how)
        ended = asyncio.to_thread(finished, apart)
        situations[f"another process starts from {how}"] = await desk.while_(ended)
    situations["a snapshot is written here"] = await desk.while_(saved_often(log, state))
    await log.close()
    return figures


def run(tenants: int, events: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        server = NatsServer(Path(directory), sync_always=False)
        server.start()
        synced = server
        try:
            begun = time.perf_counter()
            filling = [sys.executable, __file__, "--fill", f"{tenants},{events}"]
            subprocess.run([*filling, "--url", server.url], check=True)
            print(f"filled in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
            synced = NatsServer(Path(directory), sync_always=True)
            figures = asyncio.run(measure(server, synced))
        finally:
            server.stop()
            synced.stop()
    return {"tenants": tenants, "events": events, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="10000", help="tenants, with commas between")
    told = "keep figures, tables and chart there; bench/results when no folder is named"
    parser.add_argument("--json", nargs="?", const=RESULTS, type=Path, metavar="DIR", help=told)
    for hidden in ("--url", "--start", "--fill"):
        parser.add_argument(hidden, default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    begin()
    if options.start:
        print(json.dumps(asyncio.run(start(options.url, options.start))))
        return
    if options.fill:
        tenants, events = map(int, options.fill.split(","))
        asyncio.run(fill(options.url, events, tenants))
        return
    found: dict[str, Any] = {"machine": machine(), "sizes": []}
    for tenants in map(int, options.sizes.split(",")):
        figures = run(tenants, EVENTS_A_TENANT * tenants)
        found["sizes"].append(figures)
        for table in tables(figures):
            table.show()
        if options.json:  # each size as soon as it is there: the last takes the longest
            keep(found, options.json)
    growth(found["sizes"]).show()


def keep(found: dict[str, Any], folder: Path) -> None:
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    path = folder / f"{day}-control.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    write_control(found, path)
    print(f"kept in {path}")


if __name__ == "__main__":
    main()
