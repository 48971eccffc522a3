"""Changing a running installation from the command line, and a client that notices."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from support.serving import COMMAND, Home, Proxy, environment, serving


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
    run(proxy, "tenants", "purge", "echo", "--force")
    assert "was deleted" in run(proxy, "tenants", "create", "echo", code=4).stderr
