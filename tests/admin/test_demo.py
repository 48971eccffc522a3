"""`tenantry demo` as a newcomer runs it: once, again, with something broken, and until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from support.serving import COMMAND, Home, alive, children, until

from admin.config import load as config
from admin.demo import data as demo_data
from admin.demo import run as demo
from admin.demo import screen as demo_screen
from admin.demo import stage as demo_stage
from admin.demo.log import Entry, describe, repeated
from admin.demo.steps import STEPS
from admin.engines.both import EmbeddedPostgres, engines_status
from events.facts import Commit, TenantChanged, TenantCreated, TenantDisabled, TenantEnabled

RUN_SECONDS = 120.0
# What a run adds once all is set up: a limit over NATS, over HTTP and back, a tenant off and on.
EVENTS_OF_A_RUN = 5


@pytest.fixture(scope="module")
def place() -> Iterator[Home]:
    """A data directory of the demo's own; its engines start and stop with each run."""
    made = Home("")
    yield made
    made.remove()


def demo_once(place: Home) -> subprocess.CompletedProcess[str]:
    return place.run("demo", "--once", "--port", "0", seconds=RUN_SECONDS)


def nothing_runs(place: Home) -> bool:
    """Neither an engine nor any process that has the place in its command line."""
    if any(engine.running for engine in engines_status(place.data)):
        return False
    for name in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(place.data).encode() in name.read_bytes():
                return False
    return True


def number_of_events(output: str) -> int:
    found = re.search(r"(\d+) events; folded again they give the same state", output)
    assert found, output
    return int(found[1])


@pytest.mark.engine
def test_every_step_is_checked_and_nothing_is_left_running(place: Home) -> None:
    first = demo_once(place)
    assert first.returncode == 0, first.stdout + first.stderr
    for number, (_, title, _) in enumerate(STEPS, 1):
        assert f"[{number}/{len(STEPS)}] {title}" in first.stdout
    assert "first start: 11 events" in first.stdout
    assert "Every step was as it should be." in first.stdout
    assert first.stderr == ""
    assert nothing_runs(place)
    followed(first.stdout)
    assert "This log is younger than a minute" in first.stdout


def followed(output: str) -> None:
    """The change over NATS is one trace from who asked to what was refused, and it is undone."""
    told = re.search(r"The trace of the change over NATS is ([0-9a-f]{32})\.", output)
    assert told, output
    assert f"traceparent='00-{told[1]}-" in output
    for span in (
        "├─ command ChangeTenant +control",
        "│  └─ send tenantry.config.tenant.acme +control",
        "apply tenant +control",
        "apply tenant +worker-0",
        "SELECT shared_db +worker-0",
    ):
        assert re.search(rf"{span} +[0-9.]+ ms", output), output
    table = [line.split("|") for line in output.splitlines() if line.count("|") == 6]
    limits = {row[1].strip(): row[5].strip() for row in table}
    assert limits["before the changes"] == limits["now"] == "100,000"
    assert (limits["after that over NATS"], limits["after that over HTTP"]) == ("2", "5")


@pytest.mark.engine
def test_a_second_run_goes_on_from_there_without_an_event_twice(place: Home) -> None:
    before = number_of_events(demo_once(place).stdout)
    second = demo_once(place)
    assert second.returncode == 0, second.stdout + second.stderr
    assert f"an earlier run left: {before} events, none added" in second.stdout
    assert "rows are there from an earlier run" in second.stdout
    followed(second.stdout)
    assert number_of_events(second.stdout) == before + EVENTS_OF_A_RUN


@pytest.mark.engine
def test_it_serves_until_ctrl_c_and_its_psql_line_works(place: Home) -> None:
    log = place.folder / "demo.log"
    with log.open("wb") as output:
        running = subprocess.Popen(
            [*COMMAND, "demo", "--port", "0", "--data-dir", str(place.data)],
            stdout=output,
            stderr=output,
            cwd=place.folder,
        )
    try:
        until(
            lambda: "Ctrl-C ends it" in log.read_text() or running.poll() is not None,
            "to invite",
            log.read_text,
            RUN_SECONDS,
        )
        line = next(line for line in log.read_text().splitlines() if "PGPASSWORD=" in line)
        answer = subprocess.run(
            f"{line.strip()} -At -c {shlex.quote('SELECT name FROM customers WHERE id = 2')}",
            shell=True,
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.stdout == "Coyote Supply\n", answer.stderr
        workers = children(running.pid)
        assert workers
        running.send_signal(signal.SIGINT)
        assert running.wait(RUN_SECONDS) == 0
    finally:
        if running.poll() is None:
            running.terminate()
            running.wait(RUN_SECONDS)
    assert not any(alive(pid) for pid in workers)
    assert nothing_runs(place)


@pytest.mark.engine
def test_sigterm_in_the_middle_leaves_nothing_running(place: Home) -> None:
    log = place.folder / "cut.log"
    with log.open("wb") as output:
        running = subprocess.Popen(
            [*COMMAND, "demo", "--port", "0", "--data-dir", str(place.data)],
            stdout=output,
            stderr=output,
            cwd=place.folder,
        )
    until(lambda: "[2/" in log.read_text(), "to begin", log.read_text, RUN_SECONDS)
    running.terminate()
    assert running.wait(RUN_SECONDS) == demo.INTERRUPTED, log.read_text()
    assert "Traceback" not in log.read_text()
    assert nothing_runs(place)


@pytest.mark.engine
def test_a_step_that_is_not_as_it_should_be_is_named(place: Home) -> None:
    assert demo_once(place).returncode == 0
    postgres = EmbeddedPostgres(place.data)
    postgres.up()
    try:
        with psycopg.connect(postgres.dsn("widgetco_db"), autocommit=True) as admin:
            admin.execute("ALTER TABLE orders RENAME quantity TO amount")
        broken = demo_once(place)
    finally:
        postgres.up()
        with psycopg.connect(postgres.dsn("widgetco_db"), autocommit=True) as admin:
            admin.execute("ALTER TABLE orders RENAME amount TO quantity")
        postgres.down()
    assert broken.returncode == 1
    assert 'Step 3 of the demo, "question", failed: column o.quantity' in broken.stdout
    assert "[4/" not in broken.stdout
    assert nothing_runs(place)


# --- its parts -----------------------------------------------------------------------------------

USERS = {"users": [{"name": "appuser", "scram": "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy"}]}


def entry(sequence: int, *facts: object) -> Entry:
    commit = Commit(f"c{sequence}", "tester", "2026-01-02T03:04:05.000000+00:00", tuple(facts))  # type: ignore[arg-type]
    return Entry(sequence, "tenant", "acme", commit)


def test_an_event_that_changes_nothing_is_found() -> None:
    log = [
        entry(1, TenantCreated(settings=USERS)),
        entry(2, TenantDisabled()),
        entry(3, TenantDisabled()),
        entry(4, TenantEnabled()),
        entry(5, TenantChanged(changes={"name": "Acme"})),
        entry(6, TenantChanged(changes={"name": "Acme"})),
    ]
    assert repeated(log) == ["#3 tenant acme", "#6 tenant acme"]


def test_events_are_told_without_their_verifiers() -> None:
    created = describe(entry(1, TenantCreated(settings=USERS)))
    changed = describe(
        entry(2, TenantChanged(changes={**USERS, "rate_limits": {"qps_limit": 5, "b": None}}))
    )
    assert "SCRAM" not in created + changed
    assert "03:04:05  tester" in created
    assert changed.endswith(
        "tenant acme: changed, users, rate_limits.qps_limit = 5, rate_limits.b = default"
    )


def test_the_configuration_is_a_file_to_copy() -> None:
    loaded = config.load(demo.CONFIG, {})
    assert (loaded.mistakes, loaded.warnings) == ([], [])
    assert {id for id, _ in loaded.tenants} == set(demo_stage.DATABASES)
    assert set(loaded.passwords.values()) == {demo_stage.PASSWORD}


def test_the_tenants_have_different_rows() -> None:
    acme, widgetco = demo_data.ACME.tables(), demo_data.WIDGETCO.tables()
    assert list(acme) == list(demo_data.INSERTS)
    for table, rows in acme.items():
        assert not set(rows) & set(widgetco[table])


def test_what_the_server_said_is_shown_without_the_drivers_words() -> None:
    text = 'connection failed: connection to server at "127.0.0.1", port 1 failed: FATAL:  no\n'
    assert demo_screen.told(psycopg.OperationalError(text)) == "no"


def test_a_statement_that_is_not_refused_fails_the_step() -> None:
    class Cursor:
        description = None

    class Agreeable:
        async def execute(self, _: bytes) -> Cursor:
            return Cursor()

    with pytest.raises(demo_stage.StepFailed, match="was not refused: DROP TABLE orders"):
        asyncio.run(demo_stage.refusal(Agreeable(), "DROP TABLE orders"))  # type: ignore[arg-type]
