"""`tenantry demo`: a whole installation of its own, shown in a few checked steps, then served.

Files stay in the data directory, so a second run starts from what the first one left. The passwords
are printed: it listens on loopback and holds nothing of worth.
"""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psycopg

from admin.demo_screen import Screen
from admin.demo_stage import DATABASES, PASSWORD, USER, Stage, StepFailed
from admin.demo_steps import STEPS
from admin.engine_programs import packaged_programs
from admin.engines import EmbeddedNats, EmbeddedPostgres
from admin.failure import FAILED
from admin.supervisor import Supervisor
from events.log import ConfigLog
from events.stream import LogError
from wire.tasks import spawn

CONFIG: Final = Path(__file__).with_name("demo.toml")
INTERRUPTED: Final = 130
# The whole of the steps takes about five seconds; whoever is stuck should be told.
STEP_SECONDS: Final = 180.0


def run(data_dir: Path, *, once: bool, port: int | None) -> int:
    """Start, show, and serve until Ctrl-C, or with `once` stop after the steps. The exit code: 0,
    1 when a step was not as it should be. Raises admin.failure.Failure, EngineError."""
    screen = Screen()
    try:
        return asyncio.run(_run(screen, data_dir, once=once, port=port))
    except KeyboardInterrupt:
        return INTERRUPTED


async def _run(screen: Screen, data_dir: Path, *, once: bool, port: int | None) -> int:
    screen.say(f"Tenantry demo. Files are in {data_dir}, configuration is {CONFIG}.")
    started = datetime.now(UTC).isoformat(timespec="microseconds")
    supervisor = Supervisor(
        config=CONFIG,
        data_dir=data_dir,
        workers=1,
        say=screen.say,
        port=port,
        next_free=port is None,
    )
    running = await supervisor.start()
    try:
        stopped = spawn(supervisor.run_until_stopped(), name="run until stopped")
        shown = spawn(_show(screen, data_dir, running.host, running.port, started), name="steps")
        await asyncio.wait((stopped, shown), return_when=asyncio.FIRST_COMPLETED)
        if not shown.done():
            shown.cancel()
            with suppress(asyncio.CancelledError):
                await shown
            return INTERRUPTED
        if failure := shown.result():
            screen.console.print(f"\n{failure}", style="bold red", markup=False)
            return FAILED
        if once:
            screen.console.print("\nEvery step was as it should be.", style="bold")
            return 0
        invite(screen, data_dir, running.host, running.port)
        await stopped
        return 0
    finally:
        await supervisor.stop()


async def _show(screen: Screen, data_dir: Path, host: str, port: int, started: str) -> str:
    """Go through the steps. What went wrong, in a sentence with the step's name; "" for nothing."""
    postgres = EmbeddedPostgres(data_dir)
    log = await ConfigLog.connect([EmbeddedNats(data_dir).nats_url()], name="tenantry-demo")
    stage = Stage(screen, host, port, postgres.dsn, log, started)
    try:
        for number, (name, title, step) in enumerate(STEPS, 1):
            screen.step(number, len(STEPS), title)
            try:
                await asyncio.wait_for(step(stage), STEP_SECONDS)
            except (StepFailed, psycopg.Error, LogError, OSError, TimeoutError) as error:
                reason = str(error).strip() or type(error).__name__
                return f'Step {number} of the demo, "{name}", failed: {reason}'
    finally:
        await log.close()
    return ""


def psql_program() -> tuple[str, bool]:
    """What to call psql by, and whether it is the one that came with the embedded PostgreSQL."""
    found = shutil.which("psql")
    return ("psql", False) if found else (str(packaged_programs() / "psql"), True)


def psql_line(program: str, host: str, port: int, tenant: str) -> str:
    """A line to paste into a shell."""
    return (
        f"PGPASSWORD={PASSWORD} {program} -h {host} -p {port} "
        f"-U {tenant}.{USER} -d {DATABASES[tenant]}"
    )


def invite(screen: Screen, data_dir: Path, host: str, port: int) -> None:
    """How to go on by hand."""
    program, packaged = psql_program()
    screen.console.print(f"\nServing on {host}:{port}. Try it from another terminal:", style="bold")
    for tenant in DATABASES:
        screen.paste(psql_line(program, host, port, tenant))
    if packaged:
        screen.say("(there is no psql in your PATH; this one came with the embedded PostgreSQL)")
    screen.say(f"Tables: customers, products, orders. Events: {data_dir / 'nats'}. Ctrl-C ends it.")
