"""`tenantry demo`: a whole installation of its own, shown in a few checked steps, then served.

Files stay in the data directory, so a second run starts from what the first one left. The passwords
are printed: it listens on loopback and holds nothing of worth.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psycopg
from nats.errors import Error as NatsError

from admin.cli.failure import FAILED
from admin.demo.screen import Screen
from admin.demo.stage import ACTOR, DATABASES, PASSWORD, USER, Stage, StepFailed
from admin.demo.steps import STEPS
from admin.demo.traces import Traces, collecting
from admin.engines.programs import packaged_programs
from admin.supervisor import Running, Supervisor
from events.log import ConfigLog
from events.secrets import Vault
from events.stream import LogError
from events.tokens import TokenSigner

CONFIG: Final = Path(__file__).with_name("demo.toml")
INTERRUPTED: Final = 130
# The whole of the steps takes about ten seconds; whoever is stuck should be told.
STEP_SECONDS: Final = 180.0
# Of the token for the demo's own changes.
TOKEN_SECONDS: Final = 3600.0
# Clients that are in a transaction when it ends; nobody waits long for a demo.
DRAIN_SECONDS: Final = 2.0


def run(data_dir: Path, *, once: bool, port: int | None) -> int:
    """Start, show, and serve until Ctrl-C, or with `once` stop after the steps. The exit code: 0,
    1 when a step was not as it should be, 130 when interrupted before.

    Raises what Supervisor.start raises.
    """
    screen = Screen()
    # It tells of every statement that Ctrl-C cuts short.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    try:
        with collecting() as traces:
            return asyncio.run(_run(screen, traces, data_dir, once=once, port=port))
    except (KeyboardInterrupt, asyncio.CancelledError):
        screen.say("interrupted")
        return INTERRUPTED


async def _run(
    screen: Screen, traces: Traces, data_dir: Path, *, once: bool, port: int | None
) -> int:
    _end_on_signals()
    screen.say(f"Files are in {data_dir}, the configuration is {CONFIG}.")
    started = datetime.now(UTC).isoformat(timespec="microseconds")
    supervisor = Supervisor(
        config=CONFIG,
        data_dir=data_dir,
        workers=1,
        say=screen.say,
        port=port,
        next_free=port is None,
        next_free_api=True,
        drain_seconds=DRAIN_SECONDS,
        # What the steps provoke is shown by them.
        log_level="ERROR",
    )
    running = await supervisor.start()
    try:
        token, _ = TokenSigner(Vault.load(running.data_dir)).make(
            ACTOR, "operator", seconds=TOKEN_SECONDS
        )
        failure = await _show(screen, supervisor, running, started, traces, token)
        if failure:
            screen.console.print(f"\n{failure}", style="bold red", markup=False)
            return FAILED
        if once:
            screen.console.print("\nEvery step was as it should be.", style="bold")
            return 0
        invite(screen, running.host, running.port)
        await supervisor.run_until_stopped()
        return 0
    finally:
        await supervisor.stop()


def _end_on_signals() -> None:
    """Ctrl-C and SIGTERM end the start and the steps, once: what follows must stop the engines.
    While it serves the supervisor handles them."""
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    assert main is not None
    told = False

    def end() -> None:
        nonlocal told
        if not told:
            told = True
            main.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)


async def _show(
    screen: Screen,
    supervisor: Supervisor,
    running: Running,
    started: str,
    traces: Traces,
    token: str,
) -> str:
    """Go through the steps. What went wrong, in a sentence with the step's name; "" for nothing."""
    log = await ConfigLog.connect(running.nats_urls, name="tenantry-demo")
    stage = Stage(
        screen,
        running.host,
        running.port,
        running.node,
        log,
        started,
        lambda: supervisor.api_url,
        token,
        traces,
    )
    try:
        for number, (name, title, step) in enumerate(STEPS, 1):
            screen.step(number, len(STEPS), title)
            try:
                await asyncio.wait_for(step(stage), STEP_SECONDS)
            except (StepFailed, psycopg.Error, LogError, NatsError, OSError, TimeoutError) as error:
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


def invite(screen: Screen, host: str, port: int) -> None:
    """How to go on by hand."""
    program, packaged = psql_program()
    screen.console.print(f"\nServing on {host}:{port}. From another terminal:", style="bold")
    for tenant in DATABASES:
        screen.paste(psql_line(program, host, port, tenant))
    if packaged:
        screen.say("There is no psql in your PATH; this one came with the embedded PostgreSQL.")
    screen.say("acme and widgetco have the tables customers, products and orders.")
    screen.say("Ctrl-C ends it; the files stay, and the next start goes on from there.")
