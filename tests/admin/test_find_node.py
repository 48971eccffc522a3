"""`protect` and `audit isolation` as commands: they find the server by a file or by the log, and
answer with exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.engines import Postgres
from support.provisioning import lone_postgres
from support.serving import Home, serving
from support.shared_rows import Shared

from admin.cli.main import main

__all__ = ["lone_postgres"]


@pytest.fixture
def file(lone_postgres: Postgres, tmp_path: Path) -> tuple[Path, Shared]:
    """A configuration file that names the tenants of a shared database."""
    shared = Shared(lone_postgres, "CREATE TABLE t (tenant_id text, id serial PRIMARY KEY)")
    text = f"""
[[nodes]]
host = "127.0.0.1"
port = {lone_postgres.port}
user = "postgres"
password = "{lone_postgres.password}"
"""
    for value, each in shared.tenants.items():
        text += f"""
[[multi_tenancy.tenants]]
id = "{each.id}"
isolation = {{ strategy = "row", database_name = "{shared.database}", tenant_value = "{value}" }}
users = [{{ name = "app", password = "secret" }}]
"""
    path = tmp_path / "tenantry.toml"
    path.write_text(text)
    return path, shared


def test_protect_and_audit_by_a_file(
    file: tuple[Path, Shared], capsys: pytest.CaptureFixture[str]
) -> None:
    path, shared = file
    config = ["--config", str(path), "--json"]
    command = ["protect", "--database", shared.database, *config]
    assert main(command) == 1
    assert json.loads(capsys.readouterr().out)["complete"] is False
    assert main([*command, "--apply", "--accept-primary-keys"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["protected"] == ["t"]
    assert "accepted: t.t_pkey" in said.err
    assert main(command) == 0

    capsys.readouterr()
    assert main(["audit", "isolation", *config]) == 0
    assert json.loads(capsys.readouterr().out)["examined"] == [shared.database]
    shared.sql("GRANT TRUNCATE ON t TO PUBLIC")
    assert main(["audit", "isolation", *config]) == 1
    capsys.readouterr()
    assert main(["protect", "--database", "nowhere", "--config", str(path)]) == 1
    assert 'Database "nowhere" on 127.0.0.1' in capsys.readouterr().err


def test_what_cannot_be_examined_is_code_2(
    file: tuple[Path, Shared], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = file
    wrong = path.read_text().replace('user = "postgres"', 'user = "nobody"')
    path.write_text(wrong)
    assert main(["audit", "isolation", "--config", str(path)]) == 2
    assert "Not examined" in capsys.readouterr().err
    assert main(["audit", "isolation", "--data-dir", str(tmp_path / "none")]) == 2
    assert "There is no installation in" in capsys.readouterr().err
    embedded = tmp_path / "embedded.toml"
    embedded.write_text("[[nodes]]\nembedded = true\n")
    where = ["--config", str(embedded), "--data-dir", str(tmp_path / "none")]
    assert main(["audit", "isolation", *where]) == 2
    assert "does not run" in capsys.readouterr().err


def test_a_running_installation_is_found_by_its_log(home: Home) -> None:
    with serving(home):
        audited = home.run("audit", "isolation", "--json")
        assert audited.returncode in (0, 1), audited.stderr
        assert json.loads(audited.stdout)["examined"] == ["shared_db", "widgetco_db"]
        protected = home.run("protect", "--database", "shared_db")
        assert protected.returncode == 1
        assert (
            'has no seal yet: it comes with the first tenant of strategy "row"' in protected.stderr
        )
