"""The command line by itself: help that teaches, errors with a remedy, answers for programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.serving import COMMAND, Home, environment, serving

from admin.cli.config import changes
from admin.cli.errors import explain
from admin.cli.main import main, parser
from admin.control import Control
from admin.engines.process import EngineError
from events.commands import CommandRefused, Mistake, PutInstallation, PutTenant
from events.facts import Commit, TenantCreated
from events.projection import Projection
from events.secrets import SecretError
from events.stream import LogUnavailable

WRONG = "[[nodes]]\nembeded = true\n[pool]\nmax_connections = 0\n"


@pytest.fixture
def bare() -> Iterator[Home]:
    """A home in which nothing runs."""
    made = Home()
    yield made
    made.remove()


def test_help_teaches_by_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    for taught in ("tenantry demo", "serve --config tenantry.toml", "psql -h", "apply", "tenants"):
        assert taught in text
    for command in ("serve", "demo", "config check", "apply", "tenants show", "engines up"):
        with pytest.raises(SystemExit) as left:
            main([*command.split(), "--help"])
        assert left.value.code == 0
        assert f"  tenantry {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("serve --workers many", "many is not a number from 0 to 256"),
        ("serve --port 65536", "65536 is not a number from 0 to 65535"),
        ("sevre", 'there is no command "sevre" here: did you mean "serve"?'),
        ("tenant list", 'did you mean "tenants"?'),
        ("tenants rm acme", 'did you mean "delete"?'),
        ("frobnicate", "here: use one of serve, demo, config"),
        ("tenants list --jsn", '--jsn (did you mean "--json"?)'),
        ("--data-dir here tenants list", "options stand behind the command"),
        ("users list", "for example: tenantry users list --tenant acme"),
        ("tokens create --role admn", "not one of viewer, tenant-admin, operator"),
        ("config", "tenantry config: name one of these commands"),
    ],
)
def test_wrong_usage_is_code_2(
    arguments: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments.split())
    assert left.value.code == 2
    assert complaint in capsys.readouterr().err


def test_the_data_directory_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENANTRY_DATA_DIR", raising=False)
    assert parser().parse_args(["serve"]).data_dir == Path(".tenantry")
    monkeypatch.setenv("TENANTRY_DATA_DIR", "/var/lib/x")
    assert parser().parse_args(["serve"]).data_dir == Path("/var/lib/x")
    assert parser().parse_args(["serve", "--data-dir", "here"]).data_dir == Path("here")


def test_config_check_for_people_and_for_programs(bare: Home) -> None:
    good = bare.run("config", "check", str(bare.config))
    assert good.returncode == 0
    assert "is correct: 2 tenants." in good.stdout
    assert "acme-secret" not in good.stdout

    bare.config.write_text(WRONG)
    people = bare.run("config", "check", str(bare.config))
    assert people.returncode == 2
    assert 'nodes[0].embeded: unknown key. Did you mean "embedded"?' in people.stdout
    programs = bare.run("config", "check", str(bare.config), "--json")
    assert programs.returncode == 2
    answer = json.loads(programs.stdout)
    assert not answer["correct"]
    assert {mistake["path"] for mistake in answer["mistakes"]} >= {"pool.max_connections"}


def test_commands_on_what_does_not_run_say_how_to_start_it(bare: Home) -> None:
    nothing = bare.run("tenants", "list")
    assert nothing.returncode == 1
    assert "There is no installation in" in nothing.stderr
    assert not bare.data.exists(), "looking creates nothing"
    bare.data.mkdir()
    (bare.data / "secret.key").write_text("a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=")
    (bare.data / "secret.key").chmod(0o600)
    stopped = bare.run("apply", str(bare.config))
    assert stopped.returncode == 1
    assert "does not run" in stopped.stderr
    assert "Traceback" not in stopped.stderr


def test_a_reader_that_leaves_early_is_no_accident(bare: Home) -> None:
    command = [*COMMAND, "config", "check", str(bare.config)]
    gone, pipe = os.pipe()
    os.close(gone)
    done = subprocess.run(
        command, stdout=pipe, stderr=subprocess.PIPE, env=environment(), check=False
    )
    os.close(pipe)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_dry_run_shows_paths_and_values_but_no_secret() -> None:
    control = Control.__new__(Control)
    control.projection = Projection()
    before = {"users": [{"name": "old", "scram": "s3cret"}], "pool": {"min_idle": 2}}
    created = TenantCreated(settings={"pool": before["pool"]})
    control.projection.apply(1, "tenant", "acme", Commit("c1", "test", "", (created,)))
    wanted = {"users": before["users"], "permissions": {"read_only": True}, "enabled": False}
    assert list(changes(control, PutTenant(id="acme", settings=wanted))) == [
        "tenant acme: pool = (default)",
        "tenant acme: enabled = false",
        "tenant acme: users = old",
        "tenant acme: permissions.read_only = true",
    ]
    assert list(changes(control, PutTenant(id="late", settings=wanted))) == ["tenant late: new"]
    nodes = {"nodes": [{"host": "db", "password": "s3cret"}, {"embedded": True}]}
    assert list(changes(control, PutInstallation(settings=nodes))) == [
        "installation: nodes = db:5432, embedded"
    ]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (EngineError("NATS did not start"), "NATS did not start."),
        (SecretError("the secret key is gone"), "The secret key is gone."),
        (LogUnavailable("away"), "does not answer: away. Nothing was changed. See that NATS runs"),
        (LogUnavailable("'Authorization Violation'"), "correct the user and password in [events]"),
        (LogUnavailable("nobody takes commands: is Tenantry running?"), "start `tenantry serve`"),
        (LogUnavailable("x", unknown=True), "It is not known whether this was stored: x. Look"),
        (CommandRefused([Mistake("a.b", "is wrong")]), "nothing was changed:\n  a.b: is wrong"),
        (FileNotFoundError(2, "No such file", "f.toml"), "f.toml: No such file."),
        (KeyError("odd"), "Unexpected KeyError: 'odd'. Run it again with --debug"),
    ],
)
def test_every_error_is_a_sentence(error: Exception, text: str) -> None:
    assert text in explain(error)


@pytest.mark.engine
def test_tenants_are_shown_without_their_secrets(home: Home) -> None:
    with serving(home) as proxy:
        shown = home.run("tenants", "show", "widgetco")
        assert shown.returncode == 0
        assert "database widgetco_db" in shown.stdout
        programs = json.loads(home.run("tenants", "show", "widgetco", "--json").stdout)
        assert programs["users"] == [{"name": "appuser"}]
        assert programs["role"] == "tenantry_widgetco"
        assert "SCRAM" not in shown.stdout + json.dumps(programs)
        assert "sealed" not in shown.stdout + json.dumps(programs)
        missing = home.run("tenants", "show", "nobody")
        assert missing.returncode == 3
        assert 'There is no tenant "nobody"' in missing.stderr
        near = home.run("tenants", "show", "acne")
        assert 'did you mean "acme"?' in near.stderr
        by_file = home.run("tenants", "list", "--config", str(home.config), "--json")
        assert [row["state"] for row in json.loads(by_file.stdout)] == ["active", "active"]
        proxy.signal(signal.SIGTERM)


@pytest.mark.engine
def test_engines_status_for_programs(home: Home) -> None:
    status = home.run("engines", "status", "--json")
    assert [row["running"] for row in json.loads(status.stdout)] == [True, True]
    assert "password" not in status.stdout


def test_version() -> None:
    assert main(["version"]) == 0
