"""`tenantry doctor`: what is sound is told to be, what is broken is named with a cure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certificates import Authority
from support.serving import CONFIG, Home, Proxy, home, serving

from admin.doctor import files as doctor_files
from admin.doctor import postgres as doctor_postgres
from admin.doctor.log import compared, skew
from events.installation import Installation

__all__ = ["home"]


@pytest.fixture(scope="module")
def proxy(home: Home) -> Iterator[Proxy]:
    home.config.write_text(CONFIG)
    with serving(home, "--workers", "2") as made:
        yield made


def examined(home: Home, *arguments: str) -> dict[str, list[dict[str, str]]]:
    """Findings by their level."""
    done = home.run("doctor", "--json", *arguments)
    told = json.loads(done.stdout)
    found: dict[str, list[dict[str, str]]] = {}
    for each in told["findings"]:
        found.setdefault(each["level"], []).append(each)
    assert done.returncode == (1 if found.get("error") else 0), done.stderr
    return found


def areas(found: list[dict[str, str]]) -> set[str]:
    return {each["area"] for each in found}


def test_all_that_is_examined(proxy: Proxy, home: Home) -> None:
    found = examined(home, "--config", str(home.config))
    fine = areas(found["ok"])
    for area in (
        *("configuration", "secret.key", "data directory", "disk", "event log", "workers"),
        *("projection", "provisioning", "clocks", "postgres: version", "postgres: max_connections"),
        "nats: JetStream",
    ):
        assert area in fine, (area, found)
    assert sum(each["area"] == "workers" for each in found["ok"]) == 2
    # The engines of tests give up durability; a doctor must say so.
    assert areas(found.get("error", [])) == {
        *("postgres: fsync", "postgres: full_page_writes", "nats: sync_interval"),
    }
    assert all(each["fix"] for each in found.get("error", []))


def test_a_key_that_others_can_read(proxy: Proxy, home: Home) -> None:
    key = home.data / "secret.key"
    key.chmod(0o644)
    try:
        wrong = [each for each in examined(home)["error"] if each["area"] == "secret.key"]
        assert "chmod 600" in wrong[0]["fix"]
        plain = home.run("doctor")
        assert "error   secret.key: others can read" in plain.stdout
        assert plain.returncode == 1
    finally:
        key.chmod(0o600)


def test_mistakes_of_a_file_are_told(proxy: Proxy, home: Home) -> None:
    (home.folder / "bad.toml").write_text(CONFIG.replace("qps_limit", "qps_limt", 1))
    found = examined(home, "--config", str(home.folder / "bad.toml"))
    assert "qps_limt" in str([e for e in found["error"] if e["area"] == "configuration"])


def test_nothing_runs(tmp_path: Path) -> None:
    made = Home()
    try:
        assert areas(examined(made)["error"]) == {"data directory"}
        # With a file, what it names is looked at before the first start; nothing is made.
        found = examined(made, "--config", str(made.config))
        assert "error" not in found
        assert "data directory" in areas(found["note"])
        assert not made.data.exists()
    finally:
        made.remove()


def test_settings_that_would_log_tokens() -> None:
    settings = {
        "log_statement": "all",
        "log_min_duration_statement": "-1",
        "log_min_duration_sample": "-1",
        "log_parameter_max_length": "-1",
        "log_parameter_max_length_on_error": "0",
    }
    assert [each.level for each in doctor_postgres._logging(settings)] == ["warning"]
    settings["log_parameter_max_length"] = "0"
    assert [each.level for each in doctor_postgres._logging(settings)] == ["ok"]


@pytest.mark.parametrize(
    ("seconds", "level"), [(0.3, "ok"), (-4.0, "warning"), (25.0, "error"), (-25.0, "error")]
)
def test_clocks(seconds: float, level: str) -> None:
    assert skew("NATS", seconds, 0.1).level == level


@pytest.mark.parametrize(("days", "level"), [(3, "error"), (20, "warning"), (90, "ok")])
def test_certificates_that_end(tmp_path: Path, days: int, level: str) -> None:
    path = Authority(tmp_path).issue("localhost", days=days + 0.1).cert_path
    installation = Installation.model_validate({"tls": {"ca_path": path}})
    found = [
        each for each in doctor_files.certificates(installation) if each.area == "certificates"
    ]
    assert [each.level for each in found] == [level]


def test_a_worker_that_holds_something_else_is_named() -> None:
    def row(worker: int, position: int, digest: str) -> dict[str, object]:
        return {"node": "n", "worker": worker, "position": position, "digest": digest}

    (fine,) = compared([row(0, 7, "a"), row(1, 6, "b")], 7, "a")
    assert (fine.level, fine.what) == ("ok", "1 workers hold what the log says, at event 7")
    (wrong,) = compared([row(0, 7, "a"), row(1, 7, "b")], 7, "a")
    assert wrong.level == "error"
    assert "worker 1 of node n holds another configuration than the log" in wrong.what
