"""The control plane with many tenants and a long log: starts, memory, snapshots, commands.

    python bench/control.py                                    10,000 tenants, 100,000 events
    python bench/control.py --tenants 100000 --events 1000000  the size that counts: 10 minutes

The log is filled as commands would have filled it (created, provisioned, then changed), but many at
once and unsynced, with a nats-server of its own. Each start is a process of its own, so that memory
is what that process has. Commands are timed one after another on a synced server (as in earnest) in
four situations: nothing else going on; while another process starts from the log; from the
snapshot; and while this process writes a snapshot.
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

from bench.machine import begin, machine, memory_of  # noqa: E402
from bench.replay import fill  # noqa: E402
from bench.tables import Table, amount  # noqa: E402
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


# --- one start, in a process of its own -----------------------------------------------------------


async def start(url: str, how: str) -> dict[str, Any]:
    """Start as control or as a worker does; what it cost."""
    deciding = "worker" not in how
    begun, cpu = time.perf_counter(), time.process_time()
    log = await ConfigLog.connect([url])
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
        took.sort()
        return {
            "commands": len(took),
            "p50_ms": took[len(took) // 2],
            "p99_ms": took[min(len(took) - 1, len(took) * 99 // 100)],
            "max_ms": took[-1],
        }

    async def while_(self, work: Awaitable[Any]) -> dict[str, Any]:
        task = spawn(_awaited(work), name="meanwhile")
        found = await self.latencies(task.done)
        await task
        return found


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


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
    for how in ("the log", "the snapshot"):
        apart = start_apart(synced.url, how)
        ended = asyncio.to_thread(finished, apart)
        situations[f"another process starts from {how}"] = await desk.while_(ended)
    saving = snapshot.save(log, VAULT, state)
    situations["a snapshot is written here"] = await desk.while_(saving)
    await log.close()
    return figures


def tables(figures: dict[str, Any]) -> list[Table]:
    size = f"{figures['tenants']:,} tenants, {figures['events']:,} events"
    kept = figures["snapshot"]
    starts = Table(
        f"Cold start with {size}",
        f"The snapshot was written in {kept['seconds']:.1f} s: {kept['raw_mib']:.0f} MiB, stored "
        f"as {kept['stored_mib']:.1f} MiB in {kept['pieces']} pieces.",
        ("from", "seconds", "CPU seconds", "events folded", "events a second", "memory MiB"),
    )
    for how, each in figures["starts"].items():
        rate = each["events"] / each["seconds"] if each["events"] else None
        starts.rows.append(
            [
                how,
                amount(each["seconds"], 2),
                amount(each["cpu_seconds"], 2),
                amount(each["events"], 0),
                amount(rate, 0),
                amount(each["memory_mib"], 0),
            ]
        )
    commands = Table(
        f"Commands with {size}",
        "Milliseconds from the call until the projection has it, each write synced to the disk.",
        ("while", "commands", "p50 ms", "p99 ms", "max ms"),
    )
    for situation, each in figures["commands"].items():
        row = [amount(each[name]) for name in ("p50_ms", "p99_ms", "max_ms")]
        commands.rows.append([situation, str(each["commands"]), *row])
    return [starts, commands]


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
    return {"machine": machine(), "tenants": tenants, "events": events, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tenants", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--json", action="store_true", help="keep the figures in bench/results")
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
    figures = run(options.tenants, max(options.events, 2 * options.tenants))
    for table in tables(figures):
        table.show()
    if options.json:
        day = datetime.datetime.now(datetime.UTC).date().isoformat()
        path = RESULTS / f"{day}-control-{figures['tenants']}.json"
        path.write_text(json.dumps(figures, indent=1) + "\n")
        print(f"kept in {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
