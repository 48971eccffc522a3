"""`tenantry events …` and the past of tenants, on a log with a known history."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
from support.engines import roomy_memory

from admin.cli.main import main
from admin.engines.both import EmbeddedNats
from events.commander import Commander
from events.commands import (
    ChangeTenant,
    DeleteTenant,
    DisableTenant,
    PutInstallation,
    PutTenant,
    RecordProvisioned,
)
from events.facts import Commit, TenantCreated
from events.history import moment_of, sequence_at
from events.log import ConfigLog
from events.projection import Projection
from events.secrets import Vault, tenant_purpose
from events.stream import SUBJECT_PREFIX

pytestmark = pytest.mark.engine

VERIFIER = "SCRAM-SHA-256$4096:" + "s" * 24 + "$" + "k" * 44 + ":" + "v" * 44


class Place:
    """A data directory with a log, of which no Tenantry serves anything."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tenantry-events-", dir=roomy_memory()))
        self.nats = EmbeddedNats(self.folder, fast=True)
        self.vault = Vault.load(self.folder)
        self.nats.up()

    def remove(self) -> None:
        self.nats.down()
        shutil.rmtree(self.folder)

    def in_log(self, work: Callable[[ConfigLog], object]) -> object:
        async def run() -> object:
            log = await ConfigLog.connect([self.nats.nats_url()])
            try:
                return await work(log)  # type: ignore[misc]
            finally:
                await log.close()

        return asyncio.run(run())

    def moment(self, sequence: int) -> str:
        """When the event was stored, as the command line takes it; nothing else was so then."""

        async def look(log: ConfigLog) -> str:
            stored = await log.get(sequence)
            assert stored is not None
            at = moment_of(stored).isoformat()
            return at if await sequence_at(log, moment_of(stored)) == sequence else ""

        at = self.in_log(look)
        assert isinstance(at, str)
        return at


async def history(log: ConfigLog, vault: Vault) -> None:
    """Seven events: installation, acme, widgetco, acme provisioned, faster, disabled; -widgetco."""
    commander = Commander(log, Projection())
    user = {"name": "appuser", "scram": VERIFIER}
    secret = vault.seal("hunter2", tenant_purpose("acme"))
    for command in (
        PutInstallation(settings={"defaults": {"pool": {"min_idle": 3}}}),
        PutTenant(id="acme", settings={"name": "Acme", "users": [user]}),
        PutTenant(id="widgetco", settings={}),
        RecordProvisioned(id="acme", role="tenantry_acme", secret=secret),
        ChangeTenant(id="acme", patch={"rate_limits": {"qps_limit": 500.0}}),
        DisableTenant(id="acme"),
        DeleteTenant(id="widgetco"),
    ):
        await commander.execute(command, "ann")
        # So that no two share a microsecond, to which times are given.
        await asyncio.sleep(0.002)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    made = Place()
    made.in_log(lambda log: history(log, made.vault))
    yield made
    made.remove()


class Run:
    """One command: its exit code and what it said."""

    def __init__(self, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
        self._place = place
        self._capsys = capsys

    def __call__(self, *arguments: str, code: int = 0) -> str:
        assert main([*arguments, "--data-dir", str(self._place.folder)]) == code
        said = self._capsys.readouterr()
        assert "ERROR" not in said.err, "what is told is not logged beside it"
        return said.out + said.err

    def json(self, *arguments: str, code: int = 0) -> object:
        return json.loads(self(*arguments, "--json", code=code))


@pytest.fixture
def run(place: Place, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(place, capsys)


def test_events_are_listed_newest_last(run: Run) -> None:
    lines = run("events", "list").splitlines()
    assert len(lines) == 7
    assert lines[0].startswith("#1 ")
    assert lines[0].endswith("ann                 installation main: configured")
    assert lines[4].endswith("tenant acme: changed, rate_limits.qps_limit = 500.0")
    assert lines[5].endswith("tenant acme: disabled")
    assert [line.split()[0] for line in run("events", "list", "--limit", "2").splitlines()] == [
        "#6",
        "#7",
    ]


def test_events_are_found_by_tenant_kind_and_time(run: Run, place: Place) -> None:
    def found(*arguments: str) -> list[int]:
        return [row["sequence"] for row in run.json("events", "list", *arguments)]  # type: ignore[attr-defined,index]

    assert found("--tenant", "acme") == [2, 4, 5, 6]
    assert found("--tenant", "acme", "--limit", "1") == [6]
    assert found("--kind", "installation") == [1]
    assert found("--kind", "TenantCreated") == [2, 3]
    assert found("--kind", "tenantcreated", "--tenant", "widgetco") == [3]
    assert found("--until", place.moment(3)) == [1, 2, 3]
    assert found("--since", place.moment(3)) == [4, 5, 6, 7]
    assert found("--since", place.moment(2), "--until", place.moment(5)) == [3, 4, 5]
    assert found("--since", "5 minutes ago", "--kind", "TenantDeleted") == [7]
    assert run("events", "list", "--until", "2020-01-01") == "There are no such events.\n"


@pytest.mark.parametrize(
    ("arguments", "complaint", "code"),
    [
        (("list", "--since", "soon"), '"soon" is not a time', 2),
        (("list", "--tenant", "../x"), "is not a tenant id", 2),
        (("list", "--tenant", "acme", "--kind", "tier"), "of the kind tenant, not tier", 2),
        (("show", "99"), "There is no event 99", 3),
        (("replay", "--to", "99"), "There is no event 99: the last one is 7", 3),
        (("import", "nowhere.jsonl"), "nowhere.jsonl: No such file", 1),
    ],
)
def test_what_cannot_be_is_a_sentence(
    run: Run, arguments: tuple[str, ...], complaint: str, code: int
) -> None:
    assert complaint in run("events", *arguments, code=code)


def test_one_event_is_shown_whole_but_for_its_secrets(run: Run) -> None:
    shown = run("events", "show", "2")
    assert "actor       ann" in shown
    assert "TenantCreated (version 1)" in shown
    assert '"name": "Acme"' in shown
    assert '"scram": "(hidden)"' in shown
    provisioned = run("events", "show", "4") + str(run.json("events", "show", "4"))
    assert "tenantry_acme" in provisioned
    everything = shown + provisioned + str(run.json("events", "list"))
    for secret in ("sealed:", "hunter2", VERIFIER):
        assert secret not in everything


def test_a_replay_tells_what_the_log_comes_to(run: Run, place: Place) -> None:
    whole = run.json("events", "replay")
    assert isinstance(whole, dict)
    assert (whole["sequence"], whole["tenants"], whole["parked"]) == (7, 1, [])
    part = run.json("events", "replay", "--to", "3")
    assert isinstance(part, dict)
    assert (part["sequence"], part["tenants"]) == (3, 2)
    assert run.json("events", "replay", "--at", place.moment(3))["digest"] == part["digest"]  # type: ignore[index]
    assert f"digest   {whole['digest']}" in run("events", "replay")
    assert "in order: 7 events" in run("events", "verify", "--digest", whole["digest"])
    assert "and not to 00" in run("events", "verify", "--digest", "00", code=1)


def test_trouble_is_told_and_is_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    place = Place()
    try:

        async def spoil(log: ConfigLog) -> None:
            created = Commit("c1", "ann", "", (TenantCreated(settings={}),))
            await log.append("tenant", "acme", created, 0)
            await log.nats.jetstream().publish(f"{SUBJECT_PREFIX}tenant.acme", b"rubbish")

        place.in_log(spoil)
        run = Run(place, capsys)
        told = run("events", "verify", code=1)
        assert "trouble: event 2 (tenant acme) cannot be read: not a commit" in told
        assert "trouble: tenant acme is parked since event 2" in told
        answer = run.json("events", "verify", code=1)
        assert isinstance(answer, dict)
        assert (answer["correct"], len(answer["troubles"])) == (False, 2)
    finally:
        place.remove()


def test_tenants_are_shown_as_they_were(run: Run, place: Place) -> None:
    def qps(at: str) -> object:
        return run.json("tenants", "show", "acme", "--at", at)["rate_limits"]["qps_limit"]  # type: ignore[index]

    assert (qps(place.moment(4)), qps(place.moment(5)), qps("now")) == (100.0, 500.0, 500.0)
    # By the defaults of that time, too.
    assert run.json("tenants", "show", "acme", "--at", place.moment(2))["pool"]["min_idle"] == 3  # type: ignore[index]
    assert 'There was no tenant "acme" at' in run(
        "tenants", "show", "acme", "--at", place.moment(1), code=3
    )
    rows = run.json("tenants", "list", "--at", place.moment(3))
    assert isinstance(rows, list)
    assert [row["id"] for row in rows] == ["acme", "widgetco"]
    assert [row["id"] for row in run.json("tenants", "list")] == ["acme"]  # type: ignore[attr-defined,index]
    assert "There were no tenants." in run("tenants", "list", "--at", "2020-01-01")


def test_two_times_of_a_tenant_are_compared(run: Run, place: Place) -> None:
    told = run("tenants", "diff", "acme", "--from", place.moment(4), "--to", place.moment(6))
    assert "rate_limits.qps_limit  100   →  500" in told
    assert "enabled                true  →  false" in told
    changes = run.json("tenants", "diff", "acme", "--from", place.moment(4), "--to", "now")
    assert {"path": "enabled", "before": True, "after": False} in changes  # type: ignore[operator]
    created = run("tenants", "diff", "acme", "--from", "2020-01-01")
    assert "It was created meanwhile." in created
    everything = created + str(run.json("tenants", "diff", "acme", "--from", "2020-01-01"))
    assert VERIFIER not in everything
    deleted = run("tenants", "diff", "widgetco", "--from", place.moment(3))
    assert "It was deleted meanwhile." in deleted
    same = run("tenants", "diff", "acme", "--from", place.moment(6), "--to", place.moment(7))
    assert "Nothing differs." in same
    assert "at either time" in run("tenants", "diff", "nobody", "--from", "yesterday", code=3)


def test_two_times_of_everything_are_compared(run: Run, place: Place) -> None:
    told = run("events", "diff", "--from", place.moment(3))
    assert "tenant acme: changed (3 events)" in told
    assert "rate_limits.qps_limit  (not set)  →  500" in told
    assert "tenant widgetco: deleted (1 event)" in told
    rows = run.json("events", "diff", "--from", place.moment(5), "--to", place.moment(6))
    assert isinstance(rows, dict)
    assert [(row["id"], row["what"]) for row in rows["changed"]] == [("acme", "changed")]
    assert run("events", "diff", "--from", "now") == "Nothing was changed.\n"


def test_a_log_is_moved_to_another_server(
    run: Run, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "backup.jsonl"
    assert f"7 events are in {file}" in run("events", "export", str(file))
    assert "is whole: 7 events" in run("events", "import", str(file), "--verify-only")
    digest = run.json("events", "replay")["digest"]  # type: ignore[index]
    other = Place()
    try:
        there = Run(other, capsys)
        strange = there("events", "import", str(file), code=1)
        assert f"sealed with the key {place.vault.key_id}" in strange
        shutil.copy(place.folder / "secret.key", other.folder / "secret.key")
        assert "is in the log: 7 events" in there("events", "import", str(file))
        assert there.json("events", "replay")["digest"] == digest  # type: ignore[index]
        assert "0 were new to it" in there("events", "import", str(file))
        # Its past is where it was.
        assert there.json("tenants", "show", "acme", "--at", place.moment(4))["enabled"] is True  # type: ignore[index]
    finally:
        other.remove()
    text = file.read_bytes()
    file.write_bytes(text.replace(b"Acme", b"Acne"))
    broken = run("events", "import", str(file), code=1)
    assert "was not imported: its checksum is wrong" in broken
    assert b"hunter2" not in text
    assert orjson.loads(text.splitlines()[0])["version"] == 1


def test_help_of_each_command_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("list", "show", "diff", "replay", "verify", "export", "import"):
        with pytest.raises(SystemExit) as left:
            main(["events", name, "--help"])
        assert left.value.code == 0
        assert f"  tenantry events {name}" in capsys.readouterr().out
