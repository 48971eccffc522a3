"""`tenantry config check` shows the resolved model or all mistakes, and never a secret."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from admin.config.load import load
from admin.config.render import check_as_dict, render_check

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "config"

SECRETS = """
[events]
servers = ["nats://me:nats-hunter2@127.0.0.1:4222"]
[[nodes]]
host = "db"
password = "node-hunter2"
[[multi_tenancy.tenants]]
id = "acme"
users = [{ name = "appuser", password = "user-hunter2" }]
"""


def shown(path: Path) -> str:
    out = io.StringIO()
    render_check(load(path, {}), Console(file=out, width=100))
    return out.getvalue()


def row(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if f" {name} " in line)
    return [cell.strip() for cell in line.strip("│").split("│")][1:]


def test_a_correct_file_is_shown_with_every_limit_resolved() -> None:
    text = shown(FIXTURES / "heliosproxy-example.toml")

    assert row(text, "listen_address") == ["0.0.0.0:6432"]
    assert row(text, "rate_limits.max_result_size") == ["100 MB", "50 MB"]
    assert row(text, "rate_limits.max_query_duration") == ["1 min", "30 s"]
    assert row(text, "rate_limits.max_concurrent_queries") == ["unlimited", "unlimited"]
    assert row(text, "pool.dedicated_pool") == ["no", "yes"]
    assert row(text, "pool.mode") == ["transaction", "transaction"]
    assert "heliosproxy-example.toml:29: load_balancer.read_write_split: accepted" in text
    assert "heliosproxy-example.toml is correct: 2 tenants." in text


def test_a_wrong_file_is_answered_with_all_its_mistakes() -> None:
    text = shown(FIXTURES / "mistakes.toml")

    assert 'mistakes.toml:3: listen_adress: unknown key. Did you mean "listen_address"?' in text
    assert "30 mistakes in" in text
    assert "Installation" not in text


def test_the_answer_for_programs() -> None:
    good = check_as_dict(load(FIXTURES / "heliosproxy-example.toml", {}))
    bad = check_as_dict(load(FIXTURES / "mistakes.toml", {}))

    json.dumps([good, bad])
    assert good["correct"]
    acme = good["tenants"][0]
    assert acme["isolation"]["schema_name"] == "acme"
    assert acme["rate_limits"]["max_idle_in_transaction"] == 300.0
    assert acme["rate_limits"]["max_concurrent_queries"] is None
    assert not bad["correct"]
    assert bad["installation"] is None
    assert bad["mistakes"][1] == {
        "path": "listen_adress",
        "line": 3,
        "message": "unknown key",
        "remedy": 'Did you mean "listen_address"?',
    }


def test_secrets_are_masked_in_both(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text(SECRETS)

    text = shown(file)
    answer = check_as_dict(load(file, {}))
    assert row(text, "nodes[0].password") == ["********"]
    assert row(text, "users") == ["appuser"]
    assert "nats://me:********@127.0.0.1:4222" in text
    assert answer["installation"]["events"]["servers"] == ["nats://me:********@127.0.0.1:4222"]
    assert answer["tenants"][0]["users"] == [{"name": "appuser"}]
    assert "hunter2" not in text + json.dumps(answer)
