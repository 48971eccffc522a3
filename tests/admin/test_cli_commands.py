"""Changing a running installation from the command line, and a client that notices."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from support.serving import COMMAND, Home, Proxy, environment, serving, until


@pytest.fixture(scope="module")
def proxy(home: Home) -> Iterator[Proxy]:
    with serving(home) as made:
        yield made


def run(
    proxy: Proxy, *arguments: str, code: int = 0, given: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=40,
        input=given,
        cwd=proxy.home.folder,
        env={**environment(), "TENANTRY_DATA_DIR": str(proxy.home.data), **variables},
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def answer(proxy: Proxy, *arguments: str, **more: Any) -> Any:
    return json.loads(run(proxy, *arguments, "--json", **more).stdout)


def test_a_tenant_from_its_making_to_its_end(proxy: Proxy) -> None:
    made = run(proxy, "tenants", "create", "echo", "name=Echo Inc", "rate_limits.qps_limit=300")
    assert "echo is made" in made.stdout
    assert "rate_limits.qps_limit" in made.stdout
    run(proxy, "users", "add", "appuser", "--tenant", "echo", "--password-stdin", given="s3cret\n")
    with proxy.connect("echo", password="s3cret") as client:
        assert client.execute("select 1").fetchone() == (1,)
        run(proxy, "tenants", "disable", "echo")
        with pytest.raises(psycopg.OperationalError):
            proxy.connect("echo", password="s3cret")
    run(proxy, "tenants", "enable", "echo")
    proxy.connect("echo", password="s3cret").close()
    deleted = answer(proxy, "tenants", "delete", "echo")
    assert [each["type"] for each in deleted["events"]] == ["TenantDeleted"]
    run(proxy, "tenants", "undo", "echo", str(deleted["sequence"]))
    proxy.connect("echo", password="s3cret").close()
    run(proxy, "tenants", "delete", "echo")
    early = run(proxy, "tenants", "purge", "echo", code=2)
    assert "can be restored until" in early.stderr
    for more in (["--dry-run"], []):
        left = run(proxy, "tenants", "purge", "echo", "--force", *more).stdout
        assert "PostgreSQL still holds its data" in left
        assert 'DROP ROLE IF EXISTS "tenantry_echo", "tenantry-owner_echo";' in left
    assert "was deleted" in run(proxy, "tenants", "create", "echo", code=4).stderr


def test_settings_come_from_arguments_and_files_and_the_difference_is_shown(proxy: Proxy) -> None:
    run(proxy, "tiers", "put", "gold", "rate_limits.qps_limit=5000", "features.graphql=true")
    assert "already" not in run(proxy, "tiers", "list").stdout
    (proxy.home.folder / "delta.toml").write_text('name = "Delta"\n[rate_limits]\nqps_limit = 10\n')
    run(proxy, "tenants", "create", "delta", "--file", "delta.toml", "tier=gold")
    renamed = run(proxy, "tenants", "change", "delta", "name=Delta Two").stdout
    assert "name" in renamed
    assert "Delta  →  Delta Two" in renamed
    patch = json.dumps({"rate_limits": {"qps_limit": None}, "pool": {"min_idle": 0}})
    tried = run(proxy, "tenants", "change", "delta", "--file", "-", "--dry-run", given=patch)
    assert "would be: TenantChanged" in tried.stdout
    lines = {tuple(line.split()) for line in tried.stdout.splitlines()}
    assert ("rate_limits.qps_limit", "10", "→", "(not", "set)") in lines
    done = run(proxy, "tenants", "change", "delta", "--file", "-", given=patch)
    assert "delta is changed (event" in done.stdout
    assert run(proxy, "tenants", "change", "delta", "--file", "-", given=patch).stdout == (
        "nothing to change\n"
    )
    shown = answer(proxy, "tenants", "show", "delta")
    assert (shown["rate_limits"]["qps_limit"], shown["tier"]) == (5000, "gold")
    assert shown["features"] == {"graphql": True}
    assert "in use" in run(proxy, "tiers", "delete", "gold", code=2).stderr
    rows = answer(proxy, "tiers", "list")
    assert [(row["name"], row["tenants"]) for row in rows] == [("gold", 1)]


def test_all_mistakes_are_told_with_a_code_for_programs(proxy: Proxy) -> None:
    wrong = ("rate_limits.qps_limit=-1", "colour=red")
    told = run(proxy, "tenants", "create", "wrong", *wrong, code=2).stderr
    assert "rate_limits.qps_limit: " in told
    assert "colour: is not known" in told
    refused = answer(proxy, "tenants", "disable", "nobody", code=3)
    assert (refused["accepted"], refused["code"]) == (False, "missing")
    taken = ("isolation.strategy=schema", "isolation.schema_name=acme")
    told = run(proxy, "tenants", "create", "thief", *taken, code=2).stderr
    assert 'schema "acme" of database "shared_db" is taken by tenant acme' in told
    moved = run(proxy, "tenants", "change", "acme", "isolation.schema_name=other", code=2).stderr
    assert "would stay there" in moved
    for arguments in (("change", "acme"), ("change", "acme", "x"), ("create", "a", "--file", "no")):
        run(proxy, "tenants", *arguments, code=2)


def test_the_same_command_again_is_done_once(proxy: Proxy) -> None:
    again = ("tenants", "change", "acme", "metadata.a=b", "--command-id", "once-and-for-all")
    assert "is changed" in run(proxy, *again).stdout
    assert "done before" in run(proxy, *again).stdout


def test_tokens_are_made_used_and_revoked(proxy: Proxy) -> None:
    made = answer(proxy, "tokens", "create", "--role", "tenant-admin", "--tenant", "acme")
    token = made["token"]
    run(proxy, "tenants", "change", "acme", "metadata.by=bob", TENANTRY_TOKEN=token)
    limits = ("tenants", "change", "acme", "rate_limits.qps_limit=9")
    assert "may not change rate_limits" in run(proxy, *limits, code=5, TENANTRY_TOKEN=token).stderr
    listed = answer(proxy, "tokens", "list")
    assert made["jti"] in {row["jti"] for row in listed}
    assert token not in json.dumps(listed)
    run(proxy, "tokens", "revoke", made["jti"])
    run(proxy, "tenants", "change", "acme", "metadata.by=eve", code=5, TENANTRY_TOKEN=token)
    assert token not in proxy.log()
    plain = run(proxy, "tokens", "create", "--role", "viewer", "--ttl", "5min", "--name", "ann")
    assert len(plain.stdout.split(".")) == 3
    for wrong in (("--ttl", "1000d"), ("--tenant", "acme"), ("--name", "a b")):
        run(proxy, "tokens", "create", "--role", "viewer", *wrong, code=2)
    run(proxy, "operators", "put", "ann", "--role", "viewer")
    assert answer(proxy, "operators", "list") == [
        {
            "name": "ann",
            "tenants": [],
            "role": "viewer",
            "disabled": False,
            "sql": False,
        }
    ]
    run(proxy, "operators", "delete", "ann")


def test_users_are_listed_and_removed_and_passwords_are_no_arguments(proxy: Proxy) -> None:
    run(proxy, "users", "add", "second", "--tenant", "acme", "--password-stdin", given="pw\n")
    assert {"name": "second"} in answer(proxy, "users", "list", "--tenant", "acme")
    login = f"host=127.0.0.1 port={proxy.port} user=acme.second password=pw dbname=shared_db"
    psycopg.connect(login).close()
    run(proxy, "users", "remove", "second", "--tenant", "acme")
    assert {"name": "second"} not in answer(proxy, "users", "list", "--tenant", "acme")
    run(proxy, "users", "remove", "second", "--tenant", "acme", code=2)
    run(proxy, "users", "add", "x", "--tenant", "acme", "--password-stdin", given="\n", code=2)


def test_a_command_left_for_later_is_carried_out(proxy: Proxy) -> None:
    stored = run(proxy, "tenants", "change", "acme", "metadata.late=yes", "--later").stdout
    assert "it is carried out when Tenantry runs" in stored
    until(
        lambda: answer(proxy, "tenants", "show", "acme")["metadata"].get("late") == "yes",
        "to be carried out",
        proxy.log,
    )
