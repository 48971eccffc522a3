"""A file becomes commands for what differs from the log, and for nothing else."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

import pytest

from admin.config.apply import Plan, plan
from admin.config.load import Loaded, load
from events.commands import Command, DeleteTenant, DisableTenant, PutInstallation, PutTenant, decide
from events.facts import Commit
from events.projection import Projection
from events.secrets import KEY_BYTES, Vault, is_sealed
from wire.postgres.scram import verify_password

ROOT = Path(__file__).parents[2]

FILE = """
[[nodes]]
host = "db"
password = "node-secret"
[multi_tenancy.default.rate_limits]
max_rows_per_query = "unlimited"
[[multi_tenancy.tenants]]
id = "acme"
name = "Acme"
users = [{ name = "appuser", password = "user-secret" }]
[multi_tenancy.tenants.rate_limits]
qps_limit = 100
max_result_size = "unlimited"
[[multi_tenancy.tenants]]
id = "widgetco"
isolation = { strategy = "database" }
"""


class Log:
    """A folded log without NATS: commands are decided and folded at once."""

    def __init__(self) -> None:
        self.state = Projection()
        self.vault = Vault(os.urandom(KEY_BYTES))
        self.sequence = count(1)

    def accept(self, *commands: Command) -> None:
        for command in commands:
            facts = tuple(decide(self.state, command))
            assert facts, f"{command!r} changes nothing"
            commit = Commit(command.command_id, "test", "2026-01-01T00:00:00Z", facts)
            self.state.apply(next(self.sequence), command.KIND, command.subject_id, commit)

    def plan(self, loaded: Loaded) -> Plan:
        return plan(loaded, self.state, self.vault)


@pytest.fixture
def log() -> Log:
    return Log()


def load_text(tmp_path: Path, text: str) -> Loaded:
    file = tmp_path / "proxy.toml"
    file.write_text(text)
    loaded = load(file, {})
    assert loaded.mistakes == []
    return loaded


def test_an_empty_log_gets_everything_in_order(tmp_path: Path, log: Log) -> None:
    commands = log.plan(load_text(tmp_path, FILE)).commands

    kinds = [(type(command), command.subject_id) for command in commands]
    assert kinds == [(PutInstallation, "main"), (PutTenant, "acme"), (PutTenant, "widgetco")]
    log.accept(*commands)
    acme = log.state.tenant("acme")
    assert acme is not None
    assert acme.rate_limits.max_result_size is None
    assert acme.rate_limits.max_rows_per_query is None


@pytest.mark.parametrize(
    "name", ["docs/example.toml", "tests/fixtures/config/heliosproxy-example.toml"]
)
def test_the_same_file_again_gives_nothing(name: str, log: Log) -> None:
    log.accept(*log.plan(load(ROOT / name, {})).commands)

    assert log.plan(load(ROOT / name, {})).commands == []


def test_secrets_are_sealed_or_hashed_and_kept(tmp_path: Path, log: Log) -> None:
    commands = log.plan(load_text(tmp_path, FILE)).commands
    log.accept(*commands)

    assert is_sealed(log.state.installation_settings()["nodes"][0]["password"])
    acme = log.state.tenant("acme")
    assert acme is not None
    assert verify_password("user-secret", acme.users[0].scram)
    assert "secret" not in "".join(command.model_dump_json() for command in commands).replace(
        "secret:", ""
    )
    assert log.plan(load_text(tmp_path, FILE)).commands == []


def test_a_new_password_changes_its_user_only(tmp_path: Path, log: Log) -> None:
    log.accept(*log.plan(load_text(tmp_path, FILE)).commands)
    changed = log.plan(load_text(tmp_path, FILE.replace("user-secret", "changed"))).commands

    assert [command.subject_id for command in changed] == ["acme"]
    log.accept(*changed)
    acme = log.state.tenant("acme")
    assert acme is not None
    assert verify_password("changed", acme.users[0].scram)


def test_a_new_node_password_changes_the_installation(tmp_path: Path, log: Log) -> None:
    log.accept(*log.plan(load_text(tmp_path, FILE)).commands)
    changed = log.plan(load_text(tmp_path, FILE.replace("node-secret", "changed"))).commands

    assert [command.subject_id for command in changed] == ["main"]


def test_one_changed_limit_is_one_command(tmp_path: Path, log: Log) -> None:
    log.accept(*log.plan(load_text(tmp_path, FILE)).commands)
    same = FILE.replace("qps_limit = 100", "qps_limit = 100.0")
    lower = FILE.replace("qps_limit = 100", "qps_limit = 50")

    assert log.plan(load_text(tmp_path, same)).commands == []
    log.accept(*log.plan(load_text(tmp_path, lower)).commands)
    acme = log.state.tenant("acme")
    assert acme is not None
    assert acme.rate_limits.qps_limit == 50


def test_a_key_taken_out_of_the_file_goes_back_to_its_default(tmp_path: Path, log: Log) -> None:
    log.accept(*log.plan(load_text(tmp_path, FILE)).commands)
    log.accept(*log.plan(load_text(tmp_path, FILE.replace('name = "Acme"', ""))).commands)

    acme = log.state.tenant("acme")
    assert acme is not None
    assert acme.name == ""


def test_tenants_missing_from_the_file_are_left_alone_and_reported(
    tmp_path: Path, log: Log
) -> None:
    log.accept(*log.plan(load_text(tmp_path, FILE)).commands)
    shorter = FILE.partition('[[multi_tenancy.tenants]]\nid = "widgetco"')[0]

    result = log.plan(load_text(tmp_path, shorter))
    assert result.commands == []
    assert result.unlisted == ["widgetco"]


def test_what_an_operator_disabled_stays_so_until_the_file_says_otherwise(
    tmp_path: Path, log: Log
) -> None:
    log.accept(*log.plan(load_text(tmp_path, FILE)).commands, DisableTenant(id="acme"))
    assert log.plan(load_text(tmp_path, FILE)).commands == []

    log.accept(
        *log.plan(load_text(tmp_path, FILE.replace('"Acme"', '"Acme"\nenabled = true'))).commands
    )
    acme = log.state.tenant("acme")
    assert acme is not None
    assert acme.enabled


def test_a_deleted_id_is_refused(tmp_path: Path, log: Log) -> None:
    log.accept(*log.plan(load_text(tmp_path, FILE)).commands, DeleteTenant(id="acme"))

    result = log.plan(load_text(tmp_path, FILE))
    assert result.commands == []
    assert result.refused == [
        'tenant "acme" was deleted, and an id is never used again. Choose another id.'
    ]
